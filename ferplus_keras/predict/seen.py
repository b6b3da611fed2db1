"""Which names were seen, in eight bytes a name: a million names take 8 MB, where a set of them takes over 100."""

from __future__ import annotations

import os
from hashlib import blake2b

import numpy as np

#: Names that are kept in a set before they are sorted in.
RECENT = 1 << 14


class Seen:
    """A set of file names that only grows.

    It keeps 64 bits of each name's hash: among a million names, two share theirs with a probability of 3e-8.
    """

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, name: str) -> bool:
        return self._has(_number(name))

    def add(self, name: str) -> bool:
        """Add ``name``; whether it is new."""
        number = _number(name)
        if self._has(number):
            return False
        self._recent.add(number)
        if len(self._recent) >= max(RECENT, len(self._sorted) // 8):
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, recent]))
            self._recent.clear()
        return True

    def _has(self, number: int) -> bool:
        if number in self._recent:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(number)))
        return place < len(self._sorted) and int(self._sorted[place]) == number


def _number(name: str) -> int:
    """64 bits of the hash of the place that ``name`` names: ``a.png`` and ``./a.png`` are one."""
    return int.from_bytes(blake2b(os.fsencode(os.path.abspath(name)), digest_size=8).digest(), "little")  # noqa: PTH100
