"""A parity result for a terminal."""

from __future__ import annotations

from typing import Any

from ferplus_keras.networks.keras_vggface import KERAS_VGGFACE
from ferplus_keras.wording import counted, in_columns

WORDS = {True: "pass", False: "FAIL", None: "-"}


def as_text(result: dict[str, Any]) -> str:
    """The levels of proof with their verdicts, the references, and the cause where something is wrong."""
    standin = "  STAND-IN weights" if result["standin"] else ""
    lines = [
        f"{result['model']['name']} against {result['source']['name']}: {result['network']}, {result['head']}, "
        f"{counted(result['images']['count'], 'image')}{standin}"
    ]
    for level in result["levels"]:
        first, *rest = level["summary"].split("; ")
        lines.append(f"  {WORDS[level['passed']]:<4}  {level['title']:<24}  {first}")
        lines += [f"{'':34}{each}" for each in rest]
    if len({run["backend"] for run in result["runs"]}) > 1:
        lines += ["", *(f"  {line}".rstrip() for line in _backends(result["runs"])), ""]
    if not result["pairing"]["plain"]:
        lines.append(f"  pairing: {result['pairing']['summary']}")
    for known in result["references"]:
        independent = "independent" if known["independent"] else "not independent"
        lines.append(f"  reference: {known['name']}, {independent}: {known['note']}")
    provenance = result["model"]["provenance"] or {}
    if provenance.get("layout") == KERAS_VGGFACE:
        lines.append(f"  layout: {provenance['notes'][0] if provenance['notes'] else KERAS_VGGFACE}")
    if found := result["diagnosis"]:
        lines.append(f"  cause: {found['cause']} ({found['confidence']}; {found['evidence']})")
        lines += [f"  behind it: {each}" for each in found.get("further", ())]
    return "\n".join(lines)


def _backends(runs: list[dict[str, Any]]) -> list[str]:
    """A table: one row for each backend, precision and reference."""
    rows = [("backend", "precision", "reference", "worst layer", "logits", "same class", "")]
    for run in runs:
        worst = run["worst_layer"]
        rows.append(
            (
                run["backend"], run["dtype"], run["reference"], f"{_figure(worst)} {worst['layer']}",
                _figure(run["logits"]), f"{100 * run['decisions']['agreement']:.0f} %", WORDS[run["passed"]],
            )
        )  # fmt: skip
    return in_columns(rows)


def _figure(entry: dict[str, Any]) -> str:
    return f"{entry['relative']:.1e}" if entry["finite"] else "none"
