"""JSON out of files from anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

#: What an integer of 64 bits reaches, signed or not; larger ones overflow wherever they become numbers of NumPy's.
MOST = 1 << 64


def parse_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The value that ``text`` says; ``pairs`` makes the objects, as ``json.loads`` has it.

    Raises ``ValueError`` when it is not valid JSON, nested too deep, or has an integer of more than 64 bits.
    """
    try:
        return json.loads(text, parse_int=_integer, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(number := int(digits)) >= MOST:
        raise ValueError(f"the number {digits[:12]}... has more than 64 bits")
    return number
