"""Markdown for a CI job's summary. Whatever comes from a file is text in it, and never markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: GitHub takes a summary of 1 MiB and shows nothing of a larger one.
LARGEST = 1 << 20

_SPECIAL = re.compile(r"([\\`*_\[\]|~$@]|^[#+-])")


def text(value: object) -> str:
    """``value`` as prose on one line: no character of it is markup, HTML, a mention or a link."""
    plain = _one_line(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain).replace("://", ":&#47;/").replace("www.", "www&#46;")


def code(value: object) -> str:
    """``value`` as code on one line, in a table too."""
    plain = _one_line(value)
    runs = [len(run) for run in re.findall(r"`+", plain)]
    fence = "`" * next(length for length in range(1, len(runs) + 2) if length not in runs)
    pad = " " if plain.startswith("`") or plain.endswith("`") or not plain.strip() else ""
    # A pipe would end a table's cell, in code as well; GitHub's tables take it with a backslash.
    return f"{fence}{pad}{plain}{pad}{fence}".replace("|", "\\|")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """A table of cells that are markdown already (:func:`text`, :func:`code`); columns ``right`` align right."""
    rule = ["--:" if index in right else "---" for index in range(len(columns))]
    return [f"| {' | '.join(row)} |" for row in (columns, rule, *rows)]


def document(lines: Sequence[str]) -> str:
    """The whole, cut at GitHub's limit should it ever come to that."""
    whole = "\n".join([*lines, ""])
    if len(whole.encode("utf-8")) < LARGEST:
        return whole
    kept = whole.encode("utf-8")[: LARGEST - 200].decode("utf-8", "ignore")
    return f"{kept}\n\n(cut: the whole is in report.html)\n"


def _one_line(value: object) -> str:
    # C0 and C1 controls, line and paragraph separators, and the marks that turn the direction of writing around.
    return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+", " ", str(value)).strip()
