"""A parity result for CI systems: JUnit cases and a job summary."""

from __future__ import annotations

from typing import Any

from ferplus_keras.durations import duration
from ferplus_keras.wording import counted
from verify.report import junit, markdown, numbers
from verify.report.markdown import code, text
from verify.report.parity_page import STANDIN
from verify.report.parts import versions
from verify.result import Result, run_label

#: Rows of the summary's table of layers.
WORST = 10


def junit_xml(result: Result) -> str:
    """One suite for the levels, one for each run; a case for each level and each layer. Failures only when red."""
    model = result["model"]["name"]
    about = [
        ("model", model), ("model.sha256", result["model"]["sha256"]), ("source", result["source"]["name"]),
        ("source.sha256", result["source"]["sha256"]), ("standin", str(result["standin"]).lower()),
        ("command", result["command"]), ("tool", result["tool"]), ("schema", str(result["schema"])),
    ]  # fmt: skip
    cause = _cause(result)
    levels = [
        junit.Case(
            level["title"], f"parity.{level['name']}", failure="" if level["passed"] else level["summary"],
            kind=level["name"], details=cause,
        )
        for level in result["levels"]
    ]  # fmt: skip
    suites = [junit.Suite("parity: levels", levels, about)]
    for run in result["runs"]:
        suites.append(junit.Suite(f"parity: {run_label(run)}", _cases(run, cause)))
    return junit.to_xml(f"parity: {model}", suites, result["created"])


def _cases(run: dict[str, Any], cause: str) -> list[junit.Case]:
    group = f"parity.{run['backend']}.{run['reference']}.{run['dtype']}"
    checked = [(each["layer"], each) for each in run["layers"]] + [("logits", run["logits"])]
    if run["probabilities"]:
        checked.append(("probabilities", run["probabilities"]))
    each_seconds = run["seconds"] / (len(checked) + 1)  # all are computed together: the sum is right, the parts alike
    cases = []
    for name, entry in checked:
        # In float32 a layer's figure is rounding and no verdict, unless there is no figure at all.
        asked = run["dtype"] == "float64" or entry is run["logits"] or entry is run["probabilities"]
        wrong = not entry["passed"] if asked else not entry["finite"]
        failure = f"off by {numbers.of_entry(entry)}, {run['tolerance']:.0e} is allowed" if wrong else ""
        cases.append(junit.Case(name, group, each_seconds, failure, details=cause if name == run["first_over"] else ""))
    decisions = run["decisions"]
    different = "" if decisions["agreement"] == 1.0 else (
        f"the same top class for {numbers.share(decisions['agreement'])} of {counted(decisions['images'], 'image')}"
    )  # fmt: skip
    return [*cases, junit.Case("decisions", group, each_seconds, different)]


def _cause(result: Result) -> str:
    found = result["diagnosis"]
    if not found:
        return ""
    further = "".join(f"; behind it: {each}" for each in found.get("further", ()))
    return f"cause: {found['cause']} ({found['confidence']}; {found['evidence']}){further}"


def summary(result: Result) -> str:
    """The result in Markdown, for a CI job's page."""
    standin = " of STAND-IN weights" if result["standin"] else ""
    verdict = f"PASS: the same function{standin}" if result["passed"] else f"FAIL: not the same function{standin}"
    model, source = result["model"], result["source"]
    images = counted(result["images"]["count"], "image")
    lines = [f"# {verdict}", "", f"{code(model['name'])} against {code(source['name'])}: "
             f"{text(result['network'])}, {text(result['head'])}, {images}."]  # fmt: skip
    if result["standin"]:
        lines += ["", f"> **STAND-IN weights.** {STANDIN}"]
    if found := result["diagnosis"]:
        lines += ["", "## Cause", "", f"**{text(found['cause'])}** ({text(found['confidence'])}: "
                  f"{text(found['evidence'])}). First layer that differs: {code(found['layer'])}."]  # fmt: skip
        if further := found.get("further"):
            lines += ["", "Behind it:", "", *(f"- {text(each)}" for each in further)]
    lines += ["", "## Levels of proof", ""]
    lines += markdown.table(
        ("level", "verdict", "finding"),
        [
            (text(level["title"]), "pass" if level["passed"] else "**FAIL**",
             "<br>".join(text(each) for each in level["summary"].split("; ")))
            for level in result["levels"]
        ],
    )  # fmt: skip
    if not result["pairing"]["plain"]:
        lines += ["", f"Layers of the model: {text(result['pairing']['summary'])}."]
    lines += ["", "## References", ""]
    lines += [
        f"- {text(known['name'])}, **{'independent' if known['independent'] else 'not independent'}**: "
        f"{text(known['note'])}"
        for known in result["references"]
    ]
    lines += ["", "## Worst layers", "", *_worst_layers(result)]
    lines += ["", "## Files", ""]
    lines += markdown.table(
        ("file", "size", "SHA-256"),
        [(code(file["name"]), numbers.size(file["size"]), code(file["sha256"])) for file in (model, source)],
        right=(1,),
    )
    return markdown.document([*lines, *repetition(result)])


def repetition(result: Result) -> list[str]:
    """The command that made ``result``, and what it took."""
    return [
        "", "Repeat with:", "", code(result["command"]), "",
        f"{text(result['tool'])}, {text(numbers.moment(result['created']))}, took {duration(result['seconds'])} on "
        f"{text(result['machine'])} ({text(versions(result))}).",
    ]  # fmt: skip


def _worst_layers(result: Result) -> list[str]:
    found = [(run, each) for run in result["runs"] for each in run["layers"]]
    found.sort(key=lambda pair: (pair[1]["finite"], -_over(*pair)))
    return markdown.table(
        ("layer", "run", "error", "rounding can do", "allowed"),
        [
            (code(each["layer"]), text(run_label(run)), text(numbers.of_entry(each)),
             text(numbers.relative(each["bound"])), f"{run['tolerance']:.0e}")
            for run, each in found[:WORST]
        ],
        right=(2, 3, 4),
    )  # fmt: skip


def _over(run: dict[str, Any], entry: dict[str, Any]) -> float:
    """How far an error is over what is allowed: float32 and float64 side by side."""
    return float(entry["relative"] or 0.0) / float(run["tolerance"])
