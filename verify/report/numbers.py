"""Figures as people read them, the same in every report."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

#: What stands where there is no number.
NONE = "–"


def relative(value: float | None) -> str:
    """A relative difference: two digits, for more mean nothing. Zero is said in a word."""
    if value is None:
        return NONE
    return "equal" if value == 0 else f"{value:.1e}"


def of_entry(entry: Mapping[str, Any]) -> str:
    """The relative difference of one layer of a result, or why it has none."""
    return relative(entry["relative"]) if entry["finite"] else str(entry["problem"])


def plain(value: float | None) -> str:
    """An absolute figure, to two digits; zero is 0."""
    if value is None:
        return NONE
    return "0" if value == 0 else f"{value:.1e}"


def ratio(value: float | None) -> str:
    """How many times: 0.43, 7.10, 8,600, 1e+09."""
    if value is None:
        return NONE
    if value >= 1e6:
        return f"{value:.0e}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def size(count: int | None) -> str:
    """Bytes, in the unit that suits them; powers of ten, as file managers show them."""
    if count is None:
        return NONE
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count} bytes"


def moment(iso: str) -> str:
    """An ISO time as a person writes it."""
    time = datetime.fromisoformat(iso)
    return f"{time.day} {time:%B %Y, %H:%M:%S %Z}"


def share(value: float) -> str:
    """A part of one in percent; 100 % only when it is all."""
    text = f"{value:.0%}"
    return text if text != "100%" or value == 1.0 else "below 100%"
