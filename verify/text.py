"""A parity result for a terminal."""

from __future__ import annotations

from typing import Any

WORDS = {True: "pass", False: "FAIL", None: "-"}


def as_text(result: dict[str, Any]) -> str:
    """The levels of proof with their verdicts, the references, and the cause where something is wrong."""
    standin = "  STAND-IN weights" if result["standin"] else ""
    lines = [
        f"{result['model']['name']} against {result['source']['name']}: {result['network']}, {result['head']}, "
        f"{result['images']['count']} images{standin}"
    ]
    for level in result["levels"]:
        first, *rest = level["summary"].split("; ")
        lines.append(f"  {WORDS[level['passed']]:<4}  {level['title']:<24}  {first}")
        lines += [f"{'':34}{each}" for each in rest]
    if set(result["pairing"]["by"]) != {"name"}:
        lines.append(f"  pairing: {result['pairing']['summary']}")
    for known in result["references"]:
        independent = "independent" if known["independent"] else "not independent"
        lines.append(f"  reference: {known['name']}, {independent}: {known['note']}")
    if found := result["diagnosis"]:
        lines.append(f"  cause: {found['cause']} ({found['confidence']}; {found['evidence']})")
    return "\n".join(lines)
