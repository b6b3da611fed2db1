"""FlatBuffers' binary format, as much of it as a TensorFlow Lite file needs, read in place.

A table is a place in the file with a vtable beside it that says at which offset each field lies; a vector is a length
and what follows. Every offset is checked against the file before it is followed, and offsets lead forward only (but
for the vtable's), so nothing can loop. :func:`verify` goes through all of a file by its schema: whoever reads it
afterwards without looking stays within it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping

from ferplus_keras.errors import DamagedError

#: Tables of a schema: name -> field number -> kind. A kind is the bytes of a number ("1", "4", "8"), "text", a vector
#: of numbers ("[4]"), the name of a table, or a vector of tables ("[Tensor]").
Schema = Mapping[str, Mapping[int, str]]

MAX_ENTRIES = 1 << 16

#: Tables in a file; one of these networks' has some thousands.
MAX_TABLES = 200_000


class Table:
    """A table at ``position`` of ``view``; fields are numbered as in the schema, from 0."""

    def __init__(self, view: mmap.mmap | bytes, position: int) -> None:
        self.view, self.position = view, position
        self.vtable = position - number(view, position, "<i")
        self.vtable_size = number(view, self.vtable, "<H")
        self.size = number(view, self.vtable + 2, "<H")
        bad = position % 4 or self.vtable % 2 or self.vtable_size % 2 or self.vtable_size < 4 or self.size < 4
        if bad or self.vtable + self.vtable_size > len(view) or position + self.size > len(view):
            raise DamagedError("a table in it is none")

    @classmethod
    def root(cls, view: mmap.mmap | bytes) -> Table:
        return cls(view, number(view, 0, "<I"))

    def fields(self) -> Iterator[int]:
        """The numbers of the fields that are there."""
        for field in range((self.vtable_size - 4) // 2):
            if self.place(field) is not None:
                yield field

    def place(self, field: int, width: int = 1) -> int | None:
        """Where the field lies, ``width`` bytes long; None where it is left out."""
        entry = 4 + 2 * field
        if entry + 2 > self.vtable_size:
            return None
        offset = number(self.view, self.vtable + entry, "<H")
        if offset and (offset < 4 or offset + width > self.size):
            raise DamagedError("a field lies outside its table")
        return self.position + offset if offset else None

    def scalar(self, field: int, form: str, default: int = 0) -> int:
        """A number of ``struct``'s format ``form``."""
        place = self.place(field, struct.calcsize(form))
        return default if place is None else number(self.view, place, form)

    def followed(self, field: int) -> int | None:
        """The place that the field's offset leads to; None where the field is left out."""
        place = self.place(field, 4)
        return None if place is None else place + number(self.view, place, "<I")

    def length(self, field: int, width: int = 1) -> int:
        """Number of elements, ``width`` bytes each, of a vector that lies within the file; 0 where there is none."""
        place = self.followed(field)
        if place is None:
            return 0
        size = number(self.view, place, "<I")
        if place % 4 or place + 4 + size * width > len(self.view):
            raise DamagedError(f"a field claims {size:,} entries")
        return size

    def content(self, field: int, limit: int) -> bytes:
        """A vector of bytes, or a string. Raises :class:`DamagedError` when it is longer than ``limit``."""
        size = self.length(field)
        if size > limit:
            raise DamagedError(f"a field claims {size:,} bytes")
        place = self.followed(field)
        return b"" if place is None else bytes(self.view[place + 4 : place + 4 + size])

    def text(self, field: int, limit: int = 1 << 16) -> str:
        return self.content(field, limit).decode("utf-8", "replace")

    def numbers(self, field: int, limit: int = 64, form: str = "i") -> list[int]:
        """A vector of numbers of ``struct``'s format ``form``, 32-bit integers if nothing else is said."""
        width = struct.calcsize(f"<{form}")
        size = self.length(field, width)
        if size > limit:
            raise DamagedError(f"a list claims {size:,} numbers")
        place = self.followed(field)
        return [] if place is None else list(struct.unpack_from(f"<{size}{form}", self.view, place + 4))

    def table(self, field: int) -> Table | None:
        """The table that the field leads to."""
        place = self.followed(field)
        return None if place is None else Table(self.view, place)

    def tables(self, field: int, limit: int = MAX_ENTRIES) -> Iterator[Table]:
        """A vector of tables."""
        size = self.length(field, 4)
        if size > limit:
            raise DamagedError(f"a list claims {size:,} entries")
        start = (self.followed(field) or 0) + 4
        for entry in range(start, start + 4 * size, 4):
            yield Table(self.view, entry + number(self.view, entry, "<I"))


def verify(root: Table, name: str, schema: Schema) -> None:
    """Go through ``root``, a table ``name`` of ``schema``, and all that hangs on it.

    Raises :class:`DamagedError` when anything leads out of the file or is not in the schema.
    """
    waiting = [(root, name)]
    seen = 0
    while waiting:
        table, name = waiting.pop()
        seen += 1
        if seen > MAX_TABLES:
            raise DamagedError("it has far too many tables")
        for field in table.fields():
            kind = schema[name].get(field)
            if kind is None:
                raise DamagedError(f"its {name} has a field {field} that is not known")
            if kind.isdigit():
                table.place(field, int(kind))
            elif kind == "text":
                size, place = table.length(field), table.followed(field)
                assert place is not None
                if number(table.view, place + 4 + size, "<B"):  # whoever reads it as C's strings looks for a zero
                    raise DamagedError("a text in it has no end")
            elif kind in schema:
                inner = table.table(field)
                waiting += [(inner, kind)] if inner else []
            elif kind[1:-1] in schema:
                waiting += [(inner, kind[1:-1]) for inner in table.tables(field)]
            else:
                table.length(field, int(kind[1:-1]))


def number(view: mmap.mmap | bytes, place: int, form: str) -> int:
    """The number at ``place``. Raises :class:`DamagedError` when the file ends before it."""
    size = struct.calcsize(form)
    if place < 0 or place + size > len(view):
        raise DamagedError("it ends too early")
    value: int = struct.unpack_from(form, view, place)[0]
    return value
