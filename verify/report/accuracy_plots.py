"""What only an accuracy report shows: rates with intervals, a confusion matrix, a reliability plot, a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.wording import counted, percent
from verify.accuracy_text import interval
from verify.report import parts
from verify.report.page import render
from verify.scores import Rate

if TYPE_CHECKING:
    from markupsafe import Markup


#: From as many images on, a bin of the reliability plot is solid: chance moves its accuracy by 5 points at most.
SOLID = 400


@dataclass(frozen=True)
class RateRow:
    """A named rate: its dictionary has ``n``, ``correct``, ``accuracy``, ``interval``."""

    name: str
    rate: dict[str, Any]
    note: str = ""
    strong: bool = False


def rates(title: str, caption: str, rows: Sequence[RateRow], mark: float | None = None) -> Markup:
    """Rates one under the other on one scale from 0 to 100 %; ``mark`` is a percentage to draw a line at."""
    shown = []
    for row in rows:
        low, high = row.rate["interval"] or (0.0, 0.0)
        accuracy = row.rate["accuracy"]
        detail = f"{row.rate['correct']:,} of {row.rate['n']:,}"
        if accuracy is not None:
            detail += f"; 95 %: {interval(row.rate)}"
        shown.append(
            {"name": row.name, "note": row.note, "strong": row.strong, "value": percent(accuracy), "detail": detail,
             "at": None if accuracy is None else 100 * accuracy, "low": 100 * low, "high": 100 * high}
        )  # fmt: skip
    return render("rates.html.j2", title=title, caption=caption, rows=shown, mark=mark)


def confusion(id: str, split: dict[str, Any]) -> Markup:
    """The confusion matrix as an image: rows are labels, shaded by their share of the row."""
    names = [row["name"] for row in split["classes"]]
    step, cells = 100 / len(names), []
    worst: tuple[int, str, str] = (0, "", "")
    for index, row in enumerate(split["confusion"]):
        total = sum(row)
        for place, count in enumerate(row):
            share = count / total if total else 0.0
            text = f"{names[index]}, decided {names[place]}: {count:,} of {total:,} ({percent(share, 1)})"
            cells.append(
                {"x": step * place, "y": step * index, "share": share, "count": f"{count:,}" if count else "",
                 "diagonal": index == place, "text": text}
            )  # fmt: skip
            if index != place:
                worst = max(worst, (count, names[index], names[place]))
    common = f" The most frequent mistake: {worst[1]} taken for {worst[2]}, {worst[0]:,} times." if worst[0] else ""
    return render(
        "confusion.html.j2", id=id, title="Confusion matrix", names=names, step=step, cells=cells,
        caption=f"Rows are labels, columns decisions; a cell is shaded by its share of the row.{common}",
        summary=f"Counts of decisions by label, the same as in the table of figures.{common}",
    )  # fmt: skip


def reliability(id: str, split: dict[str, Any]) -> Markup:
    """How often it was right, by how sure it was; the fewer images, the paler the bar."""
    found = split["calibration"]
    bins = []
    for each in found["bins"]:
        if not each["n"]:
            continue
        share = each["n"] / split["n"]
        low, high = Rate(round(each["n"] * each["accuracy"]), each["n"]).interval or (0.0, 1.0)
        text = (
            f"{percent(each['low'], 0)} to {percent(each['high'], 0)} sure: right {percent(each['accuracy'], 1)} of "
            f"the time, {percent(each['confidence'], 1)} sure on average; {counted(each['n'], 'image')} "
            f"({percent(share, 1)})"
        )
        bins.append(
            {"x": 100 * each["low"], "width": 100 * (each["high"] - each["low"]), "accuracy": 100 * each["accuracy"],
             "confidence": 100 * each["confidence"], "share": 100 * share, "text": text,
             "low": 100 * low, "high": 100 * high, "solid": max(0.15, min(1.0, each["n"] / SOLID) ** 0.5)}
        )  # fmt: skip
    summary = f"{percent(found['confidence'], 1)} sure on average and right {percent(split['accuracy'], 1)} of the time"
    return render(
        "reliability.html.j2", id=id, title="Reliability", bins=bins,
        caption=f"Expected calibration error {percent(found['ece'])}: {summary}. The fewer images "
        "a bin has, the paler it is; whiskers: Wilson's 95 % interval. Dotted: the share of images in a bin.",
        summary=f"Bars of accuracy over bins of confidence. {summary}.",
    )  # fmt: skip


def contact_sheet(split: dict[str, Any], classes: Sequence[str], images: np.ndarray) -> Markup:
    """The most confident mistakes, as images inside the page."""
    space = "\N{NO-BREAK SPACE}"
    shown = [
        {
            "source": parts.image_source(images[each["row"]]),
            "name": each["name"], "copied": each["copied"], "decision": each["decision"],
            "confidence": percent(each["confidence"], 1).replace(" ", space), "votes": _votes(each["votes"], classes),
        }
        for each in split["mistakes"]
    ]  # fmt: skip
    return render(
        "sheet.html.j2", title="The most confident mistakes", shown=shown,
        caption="What it decided, how sure it was, and what people voted, who may be mistaken too.",
    )  # fmt: skip


def _votes(votes: Sequence[int], classes: Sequence[str]) -> str:
    """The emotions with votes, the most first: "sadness 6, neutral 3"."""
    named = [*zip((*classes, "unknown", "no face"), votes, strict=True)]
    return ", ".join(f"{name} {count}" for name, count in sorted(named, key=lambda pair: -pair[1]) if count)
