"""A parity result as an HTML page: the verdict, the proof step by step, and every figure behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ferplus_keras.durations import duration
from ferplus_keras.wording import counted
from verify.report import numbers, parts, plots
from verify.report.page import Fact, Page, Section, Verdict, html
from verify.result import Result, run_label

if TYPE_CHECKING:
    from markupsafe import Markup

#: What each precision is there for; said above its plot.
PURPOSE = {
    "float64": "The proof. Rounding is 1e-16 here, so that a mistake in the mapping has nowhere to hide: every layer "
    "must stay below the dashed line.",
    "float32": "What users run. What is left here is rounding, to be read beside the grey line; the tolerance holds "
    "for the logits.",
}

STANDIN = (
    "Made-up weights with the published names, shapes and format. This checks the conversion and nothing else: the "
    "network was never trained, and its predictions mean nothing."
)


def parity_page(result: Result) -> Page:
    """The page of one result, of one backend or several."""
    sections = [
        Section("levels", "Five levels of proof", parts.levels(result["levels"])),
        Section(
            "layers", "Error at every layer",
            html("{}", html("").join(plots.log_plot(panel) for panel in panels(result))),
            "The largest difference of a layer's output from the reference's, divided by the reference's largest "
            "magnitude in that layer, over all images.",
        ),
        Section("runs", "Runs", _runs(result)),
        Section(
            "references", "References", _references(result),
            "What the file was compared with. An independent reference shares neither our code nor our understanding "
            "of the network.",
        ),
        Section("files", "Both files", _files(result)),
        Section(
            "repeat", "How to repeat this",
            parts.repetition(result, ("Images", f"{result['images']['count']}: {result['images']['origin']}")),
        ),
        Section("figures", "Every figure", _figures(result), "Click a heading to sort; errors sort worst first."),
    ]  # fmt: skip
    if not result["pairing"]["plain"]:
        lead = "The file is not one of ours. Its layers were found by their places in the graph, or by their names."
        sections.insert(2, Section("pairing", "Which layer is which", _pairing(result), lead))
    if not result["passed"]:
        sections.insert(0, Section("cause", "Where they differ, and why", _cause(result), tone="fail"))
    return Page(
        kind="Parity",
        subject=f"{result['model']['name']} against {result['source']['name']}",
        verdict=_verdict(result),
        sections=sections,
        standin=STANDIN if result["standin"] else "",
        footer=(
            f"Written by {result['tool']} on {numbers.moment(result['created'])}.",
            f"For programs: parity.json (schema {result['schema']}) and junit.xml, beside this page.",
        ),
    )


# --- the verdict ----------------------------------------------------------------------------------------------------


def _verdict(result: Result) -> Verdict:
    model, source = result["model"]["name"], result["source"]["name"]
    network = f"{result['network']}, {result['head']}"
    if result["passed"]:
        sentence = html(
            "<code>{}</code> ({}) computes what <code>{}</code> computes. All five levels of proof hold.",
            model, network, source,
        )  # fmt: skip
        return Verdict(True, "The same function", sentence, _facts(result))
    failed = ", ".join(level["title"].lower() for level in result["levels"] if not level["passed"])
    found = result["diagnosis"]
    cause = html(" The cause: {}.", found["cause"]) if found and found["confidence"] == "certain" else ""
    sentence = html(
        "<code>{}</code> ({}) does not compute what <code>{}</code> computes. Failed: {}.{} Do not use the file.",
        model, network, source, failed, cause,
    )  # fmt: skip
    return Verdict(False, "Not the same function", sentence, _facts(result))


def _facts(result: Result) -> list[Fact]:
    found = []
    for dtype, runs in by_dtype(result).items():
        tolerance = runs[0]["tolerance"]
        if dtype == "float64":
            layer = worst([run["worst_layer"] for run in runs])
            note = f"{layer['layer']}; {tolerance:.0e} allowed"
            found.append(Fact("Worst layer, float64", numbers.of_entry(layer), note, layer["passed"]))
        logits = worst([run["logits"] for run in runs])
        note = f"of the largest; {tolerance:.0e} allowed"
        found.append(Fact(f"Logits, {dtype}", numbers.of_entry(logits), note, logits["passed"]))
    decisions = [run["decisions"] for run in result["runs"]]
    if decisions:
        least = min(decisions, key=lambda each: each["agreement"])
        margin = min((each["closest_margin"] for each in decisions if each["closest_margin"] is not None), default=None)
        note = "" if margin is None else f"closest call: {margin:.2g} of the largest logit"
        same = f"{round(least['agreement'] * least['images'])} of {least['images']}"
        found.append(Fact("Same top class", same, note, least["agreement"] == 1.0))
    return found


def _cause(result: Result) -> Markup:
    paragraphs: list[Markup] = []
    if found := result["diagnosis"]:
        further = found.get("further", ())
        paragraphs.append(html('<p class="cause">{}.</p>', _sentence_case(found["cause"])))
        run = next((run for run in result["runs"] if run["first_over"] == found["layer"]), None)
        if run is not None:
            names = [each["layer"] for each in run["layers"]]
            index = names.index(found["layer"])
            before = html("From the image up to <code>{}</code> both sides agree. ", names[index - 1]) if index else ""
            entry = run["layers"][index]
            bound = f", and rounding can do {entry['bound']:.1e}" if entry["bound"] else ""
            paragraphs.append(
                html(
                    "<p>{}<code>{}</code> is the first layer that differs, by {} in {} ({:.0e} is allowed{}). {}</p>",
                    before, found["layer"], numbers.of_entry(entry), run["dtype"], run["tolerance"], bound,
                    "After it, more is wrong:" if further else "Later differences follow from that.",
                )
            )  # fmt: skip
        if further:
            paragraphs.append(html("<ul>{}</ul>", html("").join(html("<li>{}.</li>", each) for each in further)))
        paragraphs.append(
            html(
                "<p>The cause is {}: {}. Known faults tried: {}; the name for programs is <code>{}</code>.</p>",
                found["confidence"], found["evidence"], found["tried"], found["fault"],
            )
        )  # fmt: skip
    else:
        for level in result["levels"]:
            if not level["passed"]:
                paragraphs.append(html("<p><strong>{}:</strong> {}.</p>", level["title"], level["summary"]))
    return html('<div class="prose">{}</div>', html("").join(paragraphs))


def _sentence_case(text: str) -> str:
    """A layer's name keeps its small letter."""
    return text if re.match(r"\w*\d", text) else text[:1].upper() + text[1:]


# --- sections -------------------------------------------------------------------------------------------------------


def panels(result: Result) -> list[plots.Panel]:
    """One plot for each precision, with every backend and reference in it."""
    names = result["pairing"]["names"]
    return [_panel(dtype, runs, names) for dtype, runs in by_dtype(result).items()]


def _panel(dtype: str, runs: Sequence[dict[str, Any]], own: dict[str, str]) -> plots.Panel:
    axis = max(runs, key=lambda run: len(run["layers"]))["layers"]  # a module from elsewhere may not show every layer
    bound = [each["bound"] for each in axis]
    first = next((run["first_over"] for run in runs if not run["passed"] and run["first_over"]), None)
    names = [each["layer"] for each in axis]
    series = []
    for run in runs:
        of_layer = {each["layer"]: each for each in run["layers"]}
        points = [_point(of_layer[name], run) if name in of_layer else None for name in names]
        against = f" against {run['reference']}" if len({each["reference"] for each in runs}) > 1 else ""
        series.append(plots.Series(f"{run['backend']}{against}", points))
    largest = worst([run["worst_layer"] for run in runs])
    return plots.Panel(
        id=f"plot-{dtype}",
        title=dtype,
        caption=PURPOSE.get(dtype, ""),
        summary=f"{len(axis)} layers from input to output. The largest error is {numbers.of_entry(largest)}, at "
        f"{largest['layer']}. " + (f"The first layer beyond the tolerance is {first}." if first else
                                   "No layer is beyond the tolerance that applies."),
        positions=[_position(each, own.get(each["layer"])) for each in axis],
        series=series,
        bound=bound,
        bound_name="what rounding can do",
        limit=runs[0]["tolerance"],
        limit_name=f"allowed{'' if dtype == 'float64' else ' at the logits'}: {runs[0]['tolerance']:.0e}",
        bands=plots.bands([_stage(name) for name in names]),
        flag=(names.index(first), "first difference") if first in names else None,
        unit="relative error",
    )  # fmt: skip


def _position(entry: dict[str, Any], own: str | None) -> str:
    return f"{entry['layer']} ({entry['kind']})" + (f", in the model {own}" if own else "")


def _point(entry: dict[str, Any], run: dict[str, Any]) -> plots.Point:
    bound = f", rounding can do {numbers.relative(entry['bound'])}" if entry["bound"] else ""
    return plots.Point(
        entry["relative"] if entry["finite"] else None,
        f"{numbers.of_entry(entry)}{bound}",
        not entry["passed"] and not run["passed"],
    )


def _stage(layer: str) -> str:
    """``conv4_2_3x3_bn`` and ``pool4`` are of stage 4; what has no number is the head."""
    found = re.match(r"[a-z]+(\d)", layer)
    return f"conv{found.group(1)}" if found else "head"


def _runs(result: Result) -> Markup:
    columns = [
        parts.Column("Verdict", "verdict"), parts.Column("Backend"), parts.Column("Precision"),
        parts.Column("Reference"), parts.Column("Worst layer", "code"),
        parts.Column("its error", "number", "relative", down_first=True),
        parts.Column("Logits", "number", "largest difference, relative to the largest logit", down_first=True),
        parts.Column("Allowed", "number"), parts.Column("Same class", "number"),
        parts.Column("Time", "number"),
    ]  # fmt: skip
    rows = []
    for run in result["runs"]:
        layer, logits, same = run["worst_layer"], run["logits"], run["decisions"]
        rows.append(
            [
                parts.Cell("pass" if run["passed"] else "FAIL", None, run["passed"]),
                parts.Cell(run["backend"]), parts.Cell(run["dtype"]), parts.Cell(run["reference"]),
                parts.Cell(layer["layer"]), _error(layer, layer["passed"] or run["passed"]),
                _error(logits, logits["passed"]),
                parts.Cell(f"{run['tolerance']:.0e}", run["tolerance"]),
                parts.Cell(numbers.share(same["agreement"]), same["agreement"], same["agreement"] == 1.0 and None),
                parts.Cell(duration(run["seconds"]), run["seconds"]),
            ]
        )  # fmt: skip
    return parts.table(
        parts.Table("Each backend, precision and reference, on the same images", columns, rows, row_header=1)
    )


def _error(entry: dict[str, Any], passed: bool) -> parts.Cell:
    return parts.Cell(numbers.of_entry(entry), _key(entry["relative"], entry["finite"]), None if passed else False)


def _key(value: float | None, finite: bool = True) -> float:
    """To sort by: what has no number is worse than any number."""
    return value if finite and value is not None else 1e308


def _references(result: Result) -> Markup:
    return parts.remarks(
        [
            parts.Remark(
                known["name"], "independent" if known["independent"] else "not independent",
                f"{_sentence_case(known['note'])}.", known["independent"] or None,
            )
            for known in result["references"]
        ]
    )  # fmt: skip


def _pairing(result: Result) -> Markup:
    pairing = result["pairing"]
    word = "sure" if pairing["sure"] else "not sure"
    remark = parts.Remark("Pairing", word, f"{_sentence_case(pairing['summary'])}.", pairing["sure"] or None)
    columns = [parts.Column("Layer of the network", "code"), parts.Column("called in the model", "code")]
    rows = [[parts.Cell(ours), parts.Cell(theirs)] for ours, theirs in pairing["names"].items()]
    table = parts.Table("Layers that have another name in the model", columns, rows, tall=True)
    return html("{}{}", parts.remarks([remark]), parts.fold("Names", parts.table(table)) if rows else "")


def _files(result: Result) -> Markup:
    return parts.file_cards(
        [
            parts.File(role, file["name"], list(_of_file(file, result)), file["sha256"], result["standin"])
            for role, file in (("The converted file", result["model"]), ("Its source", result["source"]))
        ]
    )


def _of_file(file: dict[str, Any], result: Result) -> list[tuple[str, str]]:
    """What is known of a file. Its provenance was written by whoever wrote the file: any field may be anything."""
    found = [("Size", f"{numbers.size(file['size'])} ({file['size']:,} bytes)"), ("Format", file["format"])]
    if not (provenance := file["provenance"]):
        return [*found, ("Provenance", "none: the file says nothing of where it comes from")]
    source, origin = provenance["source"], provenance["origin"]
    same = source["sha256"] == result["source"]["sha256"]
    tie = "the source here: same SHA-256" if same else f"ANOTHER file: SHA-256 {_in_words(source['sha256'])}"
    found.append(("Made from", f"{_in_words(source['name'])}, {tie}"))
    if origin["sha256"] != source["sha256"]:
        found.append(("First of all", f"{_in_words(origin['name'])}, SHA-256 {_in_words(origin['sha256'])}"))
    head = f"{provenance['network']}, {provenance['head']} of {provenance['units']}"
    head += f", returns {_in_words(provenance['output'])}"
    found += [("Made by", _in_words(provenance["tool"])), ("Network", head)]
    for name, key in (("Dropout", "dropout"), ("Classes", "labels"), ("Preprocessing", "preprocessing")):
        if provenance[key]:
            found.append((name, _in_words(provenance[key])))
    return [*found, *(("Note", _in_words(note)) for note in provenance["notes"])]


def _in_words(value: Any, longest: int = 600) -> str:
    """Any value of a file in words, cut where somebody has written a book."""
    if isinstance(value, dict):
        text = "; ".join(f"{str(key).replace('_', ' ')} {_in_words(each)}" for key, each in value.items())
    elif isinstance(value, list | tuple):
        text = ", ".join(str(each).removesuffix(".0") for each in value)
    else:
        text = str(value)
    return text if len(text) <= longest else f"{text[:longest]} ..."


def _figures(result: Result) -> Markup:
    failed = [run for run in result["runs"] if not run["passed"]]
    shown = (failed or result["runs"] or [None])[0]
    return html("").join(
        parts.fold(f"{run_label(run)}: {len(run['layers'])} layers", _layer_table(run), open=run is shown)
        for run in result["runs"]
    )


def _layer_table(run: dict[str, Any]) -> Markup:
    columns = [
        parts.Column("#", "number", "position in the network"), parts.Column("Layer", "code"), parts.Column("Kind"),
        parts.Column("Error", "number", "largest difference over the reference's largest magnitude", down_first=True),
        parts.Column("Rounding can do", "number", "bound of what rounding alone can do", down_first=True),
        parts.Column("Error / that", "number", "the error as a share of that bound", down_first=True),
        parts.Column("Absolute", "number", "largest absolute difference", down_first=True),
        parts.Column("RMS", "number", "root of the mean squared difference", down_first=True),
        parts.Column("1 − cosine", "number", "of the angle between the two outputs", down_first=True),
        parts.Column("Tolerance", "verdict"),
    ]  # fmt: skip
    rows = []
    for index, each in enumerate(run["layers"], 1):
        fine = each["passed"] or run["passed"]
        share = each["relative"] / each["bound"] if each["finite"] and each["bound"] else None
        angle = None if each["cosine"] is None else max(0.0, 1 - each["cosine"])
        rows.append(
            [
                parts.Cell(str(index), index), parts.Cell(each["layer"]), parts.Cell(each["kind"]), _error(each, fine),
                parts.Cell(numbers.relative(each["bound"]), _key(each["bound"])),
                parts.Cell(numbers.ratio(share), _key(share)),
                *(parts.Cell(numbers.plain(value), _key(value))
                  for value in (each["absolute"], each["rms"], angle)),
                parts.Cell("within" if each["passed"] else "beyond" if not fine else "not asked", None,
                           True if each["passed"] else None if fine else False),
            ]
        )  # fmt: skip
    caption = f"{run_label(run)}: every layer, the worst of {counted(run['decisions']['images'], 'image')}"
    return parts.table(parts.Table(caption, columns, rows, row_header=1, tall=True))


# --- the result, looked at from the side ----------------------------------------------------------------------------


def by_dtype(result: Result) -> dict[str, list[dict[str, Any]]]:
    """The runs of each precision, the finest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in sorted(result["runs"], key=lambda run: -int(re.sub(r"\D", "", run["dtype"]) or 0)):
        found.setdefault(run["dtype"], []).append(run)
    return found


def worst(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The entry that is furthest off; one without a number is further off than any."""
    return max(entries, key=lambda each: _key(each["relative"], each["finite"]))
