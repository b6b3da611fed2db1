"""FlatBuffers' binary format, as much of it as a TensorFlow Lite file needs, read in place.

A table is a place in the file with a vtable beside it that says at which offset each field lies; a vector is a length
and what follows. Every offset is checked against the file before it is followed, and offsets lead forward only (but
for the vtable's), so nothing can loop.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator


class DamagedError(ValueError):
    """An offset or a length leads out of the file."""


class Table:
    """A table at ``position`` of ``view``; fields are numbered as in the schema, from 0."""

    def __init__(self, view: mmap.mmap | bytes, position: int) -> None:
        self.view, self.position = view, position
        self.vtable = position - number(view, position, "<i")
        self.vtable_size = number(view, self.vtable, "<H")

    @classmethod
    def root(cls, view: mmap.mmap | bytes) -> Table:
        return cls(view, number(view, 0, "<I"))

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self.vtable_size:
            return None
        offset = number(self.view, self.vtable + entry, "<H")
        return self.position + offset if offset else None

    def scalar(self, field: int, form: str, default: int = 0) -> int:
        """A number of ``struct``'s format ``form``."""
        place = self._place(field)
        return default if place is None else number(self.view, place, form)

    def _followed(self, field: int) -> int | None:
        place = self._place(field)
        return None if place is None else place + number(self.view, place, "<I")

    def length(self, field: int) -> int:
        """Number of elements of a vector; 0 where there is none."""
        place = self._followed(field)
        return 0 if place is None else number(self.view, place, "<I")

    def content(self, field: int, limit: int) -> bytes:
        """A vector of bytes, or a string. Raises :class:`DamagedError` when it is longer than ``limit``."""
        place = self._followed(field)
        if place is None:
            return b""
        size = number(self.view, place, "<I")
        if size > limit or place + 4 + size > len(self.view):
            raise DamagedError(f"a field claims {size:,} bytes")
        return bytes(self.view[place + 4 : place + 4 + size])

    def text(self, field: int, limit: int = 1 << 16) -> str:
        return self.content(field, limit).decode("utf-8", "replace")

    def numbers(self, field: int, limit: int = 64) -> list[int]:
        """A vector of 32-bit integers."""
        place = self._followed(field)
        if place is None:
            return []
        size = number(self.view, place, "<I")
        if size > limit:
            raise DamagedError(f"a list claims {size:,} numbers")
        return [number(self.view, place + 4 + 4 * index, "<i") for index in range(size)]

    def tables(self, field: int, limit: int = 1 << 16) -> Iterator[Table]:
        """A vector of tables."""
        place = self._followed(field)
        if place is None:
            return
        size = number(self.view, place, "<I")
        if size > limit:
            raise DamagedError(f"a list claims {size:,} entries")
        for index in range(size):
            entry = place + 4 + 4 * index
            yield Table(self.view, entry + number(self.view, entry, "<I"))


def number(view: mmap.mmap | bytes, place: int, form: str) -> int:
    """The number at ``place``. Raises :class:`DamagedError` when the file ends before it."""
    size = struct.calcsize(form)
    if place < 0 or place + size > len(view):
        raise DamagedError("it ends too early")
    value: int = struct.unpack_from(form, view, place)[0]
    return value


__all__ = ["DamagedError", "Table", "number"]
