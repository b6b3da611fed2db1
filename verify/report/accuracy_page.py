"""An accuracy result as an HTML page: the figure, what it is worth, and where the network is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.wording import counted, percent
from verify.accuracy_text import interval
from verify.report import accuracy_plots as plots
from verify.report import numbers, parts
from verify.report.accuracy_plots import RateRow
from verify.report.page import Fact, Page, Section, Verdict, html
from verify.result import Result

if TYPE_CHECKING:
    from markupsafe import Markup

STANDIN = (
    "Made-up weights with the published names, shapes and format. The network was never trained, and its accuracy says "
    "nothing about the published one; what is shown here is that the evaluation runs."
)


def accuracy_page(result: Result, images: np.ndarray) -> Page:
    """The page of one result; ``images`` are the data set's, of which the mistakes are shown."""
    sections = []
    if result["levels"]:
        sections.append(Section("asked", "What was asked", parts.levels(result["levels"])))
    if result["notes"]:
        sections.append(Section("notes", "Read this first", parts.notes(result["notes"])))
    for split in result["splits"]:
        sections.append(
            Section(f"on-{split['split']}", f"On {split['split']}", _split(split, result, images), _lead(split, result))
        )
    if result["versus"]:
        sections.append(Section("versus", "Compared with the other network", _versus(result)))
    if result["resizers"]:
        sections.append(
            Section(
                "resize", "What resizing changes", _resizers(result),
                "The same network on the same images, resized from 48 x 48 to 224 x 224 in each of four ways.",
            )
        )  # fmt: skip
    sections += [
        Section(
            "protocol", "What counts as right", _protocol(result),
            "Ten people voted on each image. Figures under different protocols are not comparable.",
        ),
        Section("data", "Data", _data(result)),
        Section("files", "The network", _files(result)),
        Section("repeat", "How to repeat this", parts.repetition(result, ("Pace", _pace(result)))),
    ]  # fmt: skip
    return Page(
        kind=f"Accuracy on FERPlus (protocol {result['protocol']['name']})",
        subject=result["model"]["name"],
        verdict=_verdict(result),
        sections=sections,
        standin=STANDIN if result["standin"] else "",
        footer=(
            f"Written by {result['tool']} on {numbers.moment(result['created'])}.",
            f"For programs: accuracy.json (schema {result['schema']}) and junit.xml, beside this page.",
        ),
        style="accuracy.css",
    )


def _verdict(result: Result) -> Verdict:
    accuracies = " and ".join(f"{percent(split['accuracy'])} on {split['split']}" for split in result["splits"])
    network = f" ({result['model']['network']})" if result["model"]["network"] else ""
    counts = "; ".join(
        f"{split['correct']:,} of {counted(split['n'], split['split'] + ' image')} right" for split in result["splits"]
    )
    sentence = html(
        "<code>{}</code>{}, run by {}, under the protocol <strong>{}</strong>: {}.",
        result["model"]["name"], network, result["model"]["run_by"], result["protocol"]["name"], counts,
    )  # fmt: skip
    facts = []
    for split in result["splits"]:
        where, clean = split["split"], split["without_copies"]
        expected = next((each for each in result["expectations"] if each["split"] == where), None)
        note = f"95 %: {interval(split)}"
        if expected:
            note += f"; {expected['percent']:g} ± {expected['tolerance']:g} expected"
        facts.append(
            Fact(f"Accuracy, {where}", percent(split["accuracy"]), note, expected["passed"] if expected else None)
        )
        left_out = f"{counted(split['copies']['n'], where + ' image')} left out"
        facts.append(Fact("without duplicates", percent(clean["accuracy"]), left_out))
        if len(result["splits"]) == 1:
            average, loss = split["macro"], split["calibration"]
            facts.append(Fact("Macro recall", percent(average["recall"]), "every class counts the same"))
            facts.append(Fact("Calibration error", percent(loss["ece"]), "confidence minus accuracy, on average"))
    if not result["levels"]:
        return Verdict(None, accuracies, sentence, facts)
    if result["passed"]:
        return Verdict(
            True, f"{accuracies}, as expected" if result["expectations"] else "The same decisions", sentence, facts
        )
    missed = any(not each["passed"] for each in result["expectations"])
    return Verdict(False, f"{accuracies}: not as expected" if missed else "Not the same decisions", sentence, facts)


def _lead(split: dict[str, Any], result: Result) -> str:
    resize = result["preprocessing"]["resize"]
    return (
        f"Protocol {result['protocol']['name']}, {resize['title']}. Always deciding for the commonest class would be "
        f"right {percent(split['always_the_commonest'], 1)} of the time."
    )


def _split(split: dict[str, Any], result: Result, images: np.ndarray) -> Markup:
    name, ties = split["split"], split["ties"]
    before = "train or val" if name == "test" else "train"
    expected = next((each["percent"] for each in result["expectations"] if each["split"] == name), None)
    rows = [
        RateRow("All images", split, strong=True),
        RateRow(f"without copies of {before}", split["without_copies"], strong=True),
        RateRow(f"copies of {before} alone", split["copies"]),
        *(
            [RateRow(f"without {' and '.join(split['missing'])}, which it does not know", split["without_missing"])]
            if split["missing"]
            else []
        ),
        RateRow("one emotion has the most votes", ties["untied"]),
        RateRow("two have equally many", ties["tied"], "first counts"),
        RateRow("two have equally many", ties["tied_either"], "either counts"),
    ]
    caption = "Whiskers: Wilson's 95 % interval." + (
        "" if expected is None else f" Dashed: the {expected:g} % that were expected."
    )
    figure = plots.rates("Accuracy, and of which images", caption, rows, expected)
    pair = html(
        '<div class="pair">{}{}</div>',
        plots.confusion(f"confusion-{name}", split), plots.reliability(f"reliability-{name}", split),
    )  # fmt: skip
    sheet = plots.contact_sheet(split, result["classes"], images) if split["mistakes"] else html("")
    return html(
        "{}{}{}{}{}", figure, pair, _classes(split), sheet, parts.fold("Confusion matrix in numbers", _matrix(split))
    )


def _classes(split: dict[str, Any]) -> Markup:
    columns = [
        # A telephone shows the first columns.
        parts.Column("Class"), parts.Column("Images", "number", "with that label", down_first=True),
        parts.Column("Recall", "number", "of the class's images, how many it found"),
        parts.Column("F1", "number", "harmonic mean of recall and precision"),
        parts.Column("Precision", "number", "of its decisions for the class, how many are right"),
        parts.Column("Decided", "number", "how often the network decided so", down_first=True),
        parts.Column("Right", "number", down_first=True),
    ]  # fmt: skip
    rows = [
        [
            parts.Cell(row["name"]), _count(row["support"]),
            *(parts.Cell(percent(row[key]), -1 if row[key] is None else row[key])
              for key in ("recall", "f1", "precision")),
            _count(row["decided"]), _count(row["correct"]),
        ]
        for row in split["classes"]
    ]  # fmt: skip
    loss, average = split["log_loss"], split["macro"]
    caption = (
        f"By class. Macro averages: precision {percent(average['precision'])}, recall {percent(average['recall'])}, F1 "
        f"{percent(average['f1'])}. Log loss against the protocol's targets {loss['cross_entropy']:.3f} nats; no "
        f"prediction could have less than their entropy, {loss['entropy']:.3f}."
    )
    return parts.table(parts.Table(caption, columns, rows))


def _count(count: int) -> parts.Cell:
    return parts.Cell(f"{count:,}", count)


def _matrix(split: dict[str, Any]) -> Markup:
    names = [row["name"] for row in split["classes"]]
    columns = [parts.Column("label"), *(parts.Column(name, "number", down_first=True) for name in names)]
    rows = [
        [parts.Cell(name), *(parts.Cell(f"{count:,}", count) for count in row)]
        for name, row in zip(names, split["confusion"], strict=True)
    ]
    return parts.table(parts.Table("Rows: labels. Columns: decisions.", columns, rows))


def _versus(result: Result) -> Markup:
    versus = result["versus"]
    columns = [
        parts.Column("Split"), parts.Column("Same decision", "number"), parts.Column("differ by rounding", "number"),
        parts.Column("This one", "number"), parts.Column("The other", "number"),
        parts.Column("Only this right", "number"), parts.Column("Only the other right", "number"),
        parts.Column("McNemar p", "number", "exact, two-sided: could chance alone make one so much better?"),
        parts.Column("Verdict", "verdict"),
    ]  # fmt: skip
    own = {split["split"]: split for split in result["splits"]}
    rows = []
    for each in versus["splits"]:
        test = each["mcnemar"]
        rows.append(
            [
                parts.Cell(each["split"]), parts.Cell(f"{each['same']:,} of {each['n']:,}", each["same"]),
                parts.Cell(str(each["near_ties"]), each["near_ties"]),
                parts.Cell(percent(own[each["split"]]["accuracy"])), parts.Cell(percent(each["accuracy"])),
                parts.Cell(str(test["only_first"]), test["only_first"]),
                parts.Cell(str(test["only_second"]), test["only_second"]), parts.Cell(f"{test['p']:.2g}", test["p"]),
                parts.Cell("same" if each["passed"] else "DIFFERENT", None, each["passed"]),
            ]
        )  # fmt: skip
    other = versus["model"]
    return parts.table(parts.Table(f"The other: {other['name']}, run by {other['run_by']}", columns, rows))


def _resizers(result: Result) -> Markup:
    columns = [
        parts.Column("Resize"), parts.Column("Split"), parts.Column("Accuracy", "number"),
        parts.Column("Decisions that differ", "number", "from those with the resize used above", down_first=True),
        parts.Column("newly right", "number"), parts.Column("newly wrong", "number"),
        parts.Column("McNemar p", "number"), parts.Column("What it is"),
    ]  # fmt: skip
    rows = []
    for each in result["resizers"]:
        for split in each["splits"]:
            test = split["mcnemar"]
            rows.append(
                [
                    parts.Cell(f"{each['name']}{' (used)' if each['used'] else ''}"), parts.Cell(split["split"]),
                    parts.Cell(percent(split["accuracy"]), split["accuracy"]),
                    parts.Cell(f"{split['changed']:,}", split["changed"]),
                    parts.Cell(str(test["only_second"]), test["only_second"]),
                    parts.Cell(str(test["only_first"]), test["only_first"]),
                    parts.Cell(f"{test['p']:.2g}", test["p"]), parts.Cell(each["text"]),
                ]
            )  # fmt: skip
    return parts.table(parts.Table("Each way of resizing", columns, rows))


def _protocol(result: Result) -> Markup:
    protocol = result["protocol"]
    kept = ", ".join(f"{count:,} {split}" for split, count in protocol["kept"].items())
    return parts.facts(
        [
            ("Protocol", f"{protocol['name']}: {protocol['title']}"), ("Source", protocol["source"]),
            ("Rule", protocol["rule"]), ("Ties", "go to the emotion listed first"),
            ("Keeps", f"{kept}; drops {protocol['dropped']:,} of the published label file's rows"),
        ]
    )  # fmt: skip


def _data(result: Result) -> Markup:
    data, resize = result["data"], result["preprocessing"]["resize"]
    copies = "; ".join(
        f"{each['rows']:,} {each['split']} rows ({each['images']:,} distinct images) are also in {each['also_in']}"
        for each in data["copies"]
    )
    return parts.facts(
        [
            ("Read from", data["origin"]), ("Images", f"{data['rows']:,}"),
            ("Votes", f"{data['labels']}, {data['label_rows']:,} rows"), ("Exact copies", copies),
            ("Preprocessing", result["preprocessing"]["text"]),
            ("Resize", f"{resize['name']}: {resize['title']}; {resize['text']}"),
        ]
    )  # fmt: skip


def _files(result: Result) -> Markup:
    cards = [_card("The network", result["model"])]
    if result["versus"]:
        cards.append(_card("The other", result["versus"]["model"]))
    return parts.file_cards(cards)


def _card(role: str, model: dict[str, Any]) -> parts.File:
    found = [
        ("Size", f"{numbers.size(model['size'])} ({model['size']:,} bytes)"), ("Format", model["format"]),
        ("Run by", model["run_by"]), ("Network", model["network"] or "not said"),
        ("Classes", ", ".join(model["labels"])),
    ]  # fmt: skip
    if provenance := model["provenance"]:
        found.append(("Made from", f"{provenance['source']['name']}, SHA-256 {provenance['source']['sha256']}"))
    return parts.File(role, model["name"], found, model["sha256"], model["standin"])


def _pace(result: Result) -> str:
    return "; ".join(
        f"{split['split']}: {split['timing']['per_second']:.1f} images/s, "
        f"{_share(split['timing'])} of the time on the images themselves"
        for split in result["splits"]
    )


def _share(timing: dict[str, Any]) -> str:
    total = timing["data_seconds"] + timing["network_seconds"]
    return percent(timing["data_seconds"] / total if total else None, 1)
