"""Text that came from elsewhere made fit to be shown, and numbers of things in plain English."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

#: What continuous integration takes for a command: ``::error::`` at the start of a line, ``##[error]`` anywhere.
COMMAND = re.compile(r"^(\s*)::|##(?=\w*\[)")


def printable(text: str) -> str:
    """``text`` as one line that any terminal can take.

    Control characters, line ends and halves of characters become escapes, and so does what a log would obey.
    """
    if not text.isprintable():
        text = "".join(
            each if each.isprintable() else each.encode("unicode_escape", "surrogatepass").decode("ascii")
            for each in text
        )
    return COMMAND.sub(lambda found: "#\\x23" if found[0] == "##" else f"{found[1]}\\x3a:", text)


def all_printable(value: Any) -> Any:
    """Plain data with every text in it made printable, names of fields included."""
    if isinstance(value, dict):
        return {all_printable(key): all_printable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(all_printable(item) for item in value)
    return printable(value) if isinstance(value, str) else value


def percent(share: float | None, digits: int = 2) -> str:
    """``share`` of 1 as ``87.19 %``; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """``rows`` as lines whose cells stand under each other."""
    widths = [max(map(len, column)) for column in zip(*rows)]  # noqa: B905 (Python 3.9)
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def only_output(taken: str, others: Sequence[str]) -> str:
    """What is said of a network with several outputs, of which one is its classes; names come from its file."""
    shown = " and ".join(others[:3]) + f" and {len(others) - 3} more" * (len(others) > 3)
    return printable(f"of its {len(others) + 1} outputs only {taken} is used, not {shown}"[:300])


def counted(number: int, thing: str, things: str = "") -> str:
    """``1 file``, ``2 files``, ``1,000 files``; ``things`` where the plural is not made with an s."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"
