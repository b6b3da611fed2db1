"""An accuracy result for CI systems: JUnit cases and a job summary."""

from __future__ import annotations

from typing import Any

from ferplus_keras.wording import percent
from verify.accuracy_text import interval
from verify.report import junit, markdown
from verify.report.markdown import code, text
from verify.report.parity_texts import repetition
from verify.result import Result


def junit_xml(result: Result) -> str:
    """A case for each thing that was asked; where nothing was, one that says what was measured."""
    model = result["model"]
    figures = [
        (f"{split['split']}.{key}", str(value))
        for split in result["splits"]
        for key, value in (
            ("accuracy", split["accuracy"]), ("correct", split["correct"]), ("n", split["n"]),
            ("accuracy_without_copies", split["without_copies"]["accuracy"]),
        )
    ]  # fmt: skip
    about = [
        ("model", model["name"]), ("model.sha256", model["sha256"]), ("standin", str(result["standin"]).lower()),
        ("protocol", result["protocol"]["name"]), ("resize", result["preprocessing"]["resize"]["name"]),
        ("command", result["command"]), ("tool", result["tool"]), ("schema", str(result["schema"])), *figures,
    ]  # fmt: skip
    each_seconds = result["seconds"] / max(1, len(result["levels"]))
    cases = [
        junit.Case(
            level["title"], f"accuracy.{result['protocol']['name']}", each_seconds,
            failure="" if level["passed"] else level["summary"], kind=level["name"],
        )
        for level in result["levels"]
    ]  # fmt: skip
    if not cases:
        cases = [junit.Case("evaluation", f"accuracy.{result['protocol']['name']}", result["seconds"])]
    return junit.to_xml(
        f"accuracy: {model['name']}",
        [junit.Suite(f"accuracy: {result['protocol']['name']}", cases, about)],
        result["created"],
    )


def summary(result: Result) -> str:
    """The result in Markdown, for a CI job's page."""
    model, protocol = result["model"], result["protocol"]
    standin = " of STAND-IN weights" if result["standin"] else ""
    accuracies = " and ".join(f"{percent(split['accuracy'])} on {split['split']}" for split in result["splits"])
    word = "" if not result["levels"] else "PASS: " if result["passed"] else "FAIL: "
    lines = [f"# {word}{accuracies}{standin}", "",
             f"{code(model['name'])}, run by {text(model['run_by'])}. Protocol **{text(protocol['name'])}**: "
             f"{text(protocol['rule'])} Resize: {text(result['preprocessing']['resize']['title'])}."]  # fmt: skip
    if result["standin"]:
        lines += ["", "> **STAND-IN weights.** Made-up weights: the accuracy says nothing about the published network."]
    if result["levels"]:
        lines += ["", "## What was asked", ""]
        lines += markdown.table(
            ("asked", "verdict", "finding"),
            [(text(each["question"]), "pass" if each["passed"] else "**FAIL**", text(each["summary"]))
             for each in result["levels"]],
        )  # fmt: skip
    lines += ["", "## Figures", ""]
    lines += markdown.table(
        ("split", "images", "right", "accuracy", "95 % interval"),
        [row for split in result["splits"] for row in _rates(split)],
        right=(2, 3, 4),
    )
    for split in result["splits"]:
        lines += ["", f"## By class, {split['split']}", ""]
        lines += markdown.table(
            ("class", "images", "precision", "recall", "F1"),
            [(row["name"], f"{row['support']:,}", *(percent(row[key]) for key in ("precision", "recall", "f1")))
             for row in split["classes"]],
            right=(1, 2, 3, 4),
        )  # fmt: skip
        loss = split["log_loss"]
        lines += ["", f"Macro recall {percent(split['macro']['recall'])}, F1 {percent(split['macro']['f1'])}; "
                  f"calibration error {percent(split['calibration']['ece'])}; log loss {loss['cross_entropy']:.3f} "
                  f"against the protocol's targets (their entropy: {loss['entropy']:.3f})."]  # fmt: skip
    if result["resizers"]:
        lines += ["", "## What resizing changes", ""]
        lines += markdown.table(
            ("resize", "split", "accuracy", "decisions that differ"),
            [(code(each["name"]), split["split"], percent(split["accuracy"]), f"{split['changed']:,}")
             for each in result["resizers"] for split in each["splits"]],
            right=(2, 3),
        )  # fmt: skip
    if result["notes"]:
        lines += ["", "## Read this first", "", *(f"- {text(note)}." for note in result["notes"])]
    lines += ["", f"{code(model['sha256'])} is the file's SHA-256.", *repetition(result)]
    return markdown.document(lines)


def _rates(split: dict[str, Any]) -> list[tuple[str, ...]]:
    ties = split["ties"]
    named = [
        ("all", split), ("without exact copies that training may have seen", split["without_copies"]),
        ("one emotion has the most votes", ties["untied"]), ("two have equally many: the first counts", ties["tied"]),
        ("two have equally many: either counts", ties["tied_either"]),
    ]  # fmt: skip
    return [
        (split["split"], name, f"{rate['correct']:,} of {rate['n']:,}", percent(rate["accuracy"]), interval(rate))
        for name, rate in named
    ]
