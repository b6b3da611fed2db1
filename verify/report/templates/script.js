"use strict";
// Tables sort by their headings, and plots show what stands under the pointer or the arrow keys. Nothing else: the
// page is whole without this.

for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort === undefined ? cell.textContent : Number(cell.dataset.sort);
  };
  const before = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a - b;
    if (typeof a === "number" || typeof b === "number") return typeof a === "number" ? -1 : 1;
    return a.localeCompare(b, "en", { numeric: true });
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const down = now ? now === "ascending" : head.hasAttribute("data-down");
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row, index) => ({ row, index, key: key(row, column) }));
      rows.sort((a, b) => (down ? before(b.key, a.key) : before(a.key, b.key)) || a.index - b.index);
      body.append(...rows.map((each) => each.row));
    });
  });
}

for (const canvas of document.querySelectorAll("[data-plot]")) {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  canvas.append(tip);
  const columns = [...canvas.querySelectorAll(".col")];
  const texts = columns.map((column) => {
    const title = column.querySelector("title");
    const lines = title.textContent.split("\n").map((line) => line.trim()).filter(Boolean);
    title.remove(); // the browser's own, later and smaller tooltip would stand over ours
    return lines;
  });
  let current = -1;
  const show = (index) => {
    columns[current]?.classList.remove("on");
    current = index;
    tip.hidden = index < 0;
    if (index < 0) return;
    columns[index].classList.add("on");
    const [name, ...rest] = texts[index];
    const title = document.createElement("b");
    title.textContent = name;
    tip.replaceChildren(title, ...rest.map((line) => {
      const span = document.createElement("span");
      span.textContent = line;
      return span;
    }));
    // Beside the column, on the side where there is room, and never beyond the plot's own box.
    const place = ((index + 0.5) / columns.length) * canvas.clientWidth;
    const left = place < canvas.clientWidth / 2 ? place + 10 : place - tip.offsetWidth - 10;
    tip.style.left = `${Math.max(-40, Math.min(left, canvas.clientWidth - tip.offsetWidth))}px`;
  };
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "group");
  canvas.setAttribute("aria-label", `${canvas.querySelector("title").textContent}: left and right arrow keys read the figures`);
  columns.forEach((column, index) => column.addEventListener("pointerenter", () => show(index)));
  canvas.addEventListener("pointerleave", () => show(-1));
  canvas.addEventListener("focus", () => { if (current < 0) show(0); });
  canvas.addEventListener("blur", () => show(-1));
  canvas.addEventListener("keydown", (event) => {
    const last = columns.length - 1;
    const next = { ArrowRight: Math.min(current + 1, last), ArrowLeft: Math.max(current - 1, 0), Home: 0, End: last, Escape: -1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show(next);
  });
}
