"""Work on many arrays in two threads: numpy, zlib and the disk release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_halves(
    work: Callable[[Sequence[Item]], Result], items: Sequence[Item], bytes_of: Callable[[Item], int]
) -> tuple[Result, Result]:
    """``work`` on the first and the remaining items at the same time, with about as many bytes in each.

    Each thread gets its half at once: handing out 300 arrays one by one would take as long as the work. Exceptions of
    ``work`` are raised here.
    """
    first, second = split(items, bytes_of)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(work, second)
        return work(first), other.result()


def split(items: Sequence[Item], bytes_of: Callable[[Item], int]) -> tuple[Sequence[Item], Sequence[Item]]:
    """``items`` split where half of their bytes are reached."""
    ends = list(accumulate(map(bytes_of, items)))
    cut = sum(2 * end <= ends[-1] for end in ends) if ends else 0
    return items[:cut], items[cut:]
