"""Durations as people say them, in one way for every command and every report."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """``seconds`` in words: "0.2 s", "12 s", "1 min 05 s", "2 h 01 min"."""
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60:02} min" if hours else f"{whole // 60} min {whole % 60:02} s"
