"""Several networks side by side as an HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ferplus_keras.wording import counted, percent
from verify.accuracy_text import interval
from verify.report import numbers, parts
from verify.report.page import Page, Section, Verdict, html
from verify.result import Result

if TYPE_CHECKING:
    from markupsafe import Markup


def comparison_page(result: Result) -> Page:
    """The page of a result of :func:`verify.comparing.compare`."""
    first = result["protocols"][0]
    networks = result["networks"]
    best = max(networks, key=lambda network: network["protocols"][first]["all"]["accuracy"] or 0.0)
    rate = best["protocols"][first]["all"]
    notes = [(network["name"], note) for network in networks for note in network["notes"]]
    sections = []
    if result["notes"] or notes:
        sections.append(Section("notes", "Read this first", parts.notes(result["notes"], notes)))
    sections += [
        Section(
            "table", "Accuracy, size and pace", _table(result),
            f"FERPlus {result['split']}. Figures under different protocols cannot be compared: read down, not across.",
        ),
        Section("classes", "Recall by class", _classes(result), f"Under {first}."),
        Section(
            "pairs", "Is one better than another?", _pairs(result),
            f"McNemar's exact test on the same images, under {first}: below 0.05, chance is an unlikely explanation.",
        ),
        Section("files", "The networks", parts.file_cards([_card(each) for each in networks])),
        Section("repeat", "How to repeat this", parts.command(result["command"])),
    ]  # fmt: skip
    return Page(
        kind="Networks compared on FERPlus",
        subject=", ".join(network["name"] for network in networks),
        verdict=Verdict(
            None, f"{best['name']}: {percent(rate['accuracy'])} under {first}",
            html("The best of {} on {}; 95 %: {}.", len(networks), counted(rate["n"], "image"), interval(rate)),
        ),
        sections=sections,
        standin="At least one of the networks has made-up weights." if any(n["standin"] for n in networks) else "",
        footer=(f"Written by {result['tool']} on {numbers.moment(result['created'])}.",),
        style="accuracy.css",
    )  # fmt: skip


def _number(value: float | None) -> parts.Cell:
    return parts.Cell(percent(value), -1 if value is None else value)


def _table(result: Result) -> Markup:
    columns = [parts.Column("Network")]
    for name in result["protocols"]:
        columns.append(parts.Column(name, "number", f"accuracy under {name}", down_first=True))
        columns.append(parts.Column("without copies", "number", "of images in train or val", down_first=True))
        columns.append(parts.Column("its classes", "number", "images of emotions that it has", down_first=True))
    columns += [
        parts.Column("Macro recall", "number", down_first=True), parts.Column("Calibration error", "number"),
        parts.Column("Size", "number"), parts.Column("Images/s", "number", "here, in one run", down_first=True),
    ]  # fmt: skip
    rows = []
    for network in result["networks"]:
        row = [parts.Cell(network["name"])]
        for name in result["protocols"]:
            scored = network["protocols"][name]
            row += [_number(scored[key]["accuracy"]) for key in ("all", "without_copies", "without_missing")]
        row += [
            _number(network["macro"]["recall"]), _number(network["ece"]),
            parts.Cell(numbers.size(network["size"]), network["size"]),
            parts.Cell(f"{network['per_second']:,.1f}", network["per_second"]),
        ]  # fmt: skip
        rows.append(row)
    return parts.table(parts.Table("Each network on the same images", columns, rows))


def _classes(result: Result) -> Markup:
    networks = result["networks"]
    columns = [parts.Column("Class"), parts.Column("Images", "number", down_first=True)]
    columns += [parts.Column(network["name"], "number", down_first=True) for network in networks]
    rows = [
        [
            parts.Cell(row["name"]), parts.Cell(f"{row['support']:,}", row["support"]),
            *(_number(network["classes"][place]["recall"]) for network in networks),
        ]
        for place, row in enumerate(networks[0]["classes"])
    ]  # fmt: skip
    return parts.table(parts.Table("Of the class's images, how many each network found", columns, rows))


def _pairs(result: Result) -> Markup:
    columns = [
        parts.Column("One"), parts.Column("Other"), parts.Column("Only the one right", "number"),
        parts.Column("Only the other right", "number"), parts.Column("p", "number"),
    ]  # fmt: skip
    names = [network["name"] for network in result["networks"]]
    rows = [
        [
            parts.Cell(names[pair["first"]]), parts.Cell(names[pair["second"]]),
            parts.Cell(f"{pair['only_first']:,}", pair["only_first"]),
            parts.Cell(f"{pair['only_second']:,}", pair["only_second"]), parts.Cell(f"{pair['p']:.2g}", pair["p"]),
        ]
        for pair in result["pairs"]
    ]  # fmt: skip
    return parts.table(parts.Table("Every pair of networks", columns, rows))


def _card(network: dict[str, Any]) -> parts.File:
    found = [
        ("Size", f"{numbers.size(network['size'])} ({network['size']:,} bytes)"), ("Run by", network["run_by"]),
        ("Takes", network["takes"]), ("Classes", ", ".join(network["labels"])),
    ]  # fmt: skip
    return parts.File("Network", network["name"], found, network["sha256"], network["standin"])
