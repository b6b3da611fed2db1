"""Protobuf's wire format, as much of it as an ONNX file needs, read in place.

A message is a row of fields, each a number, a kind and a value; a message within a message is a stretch of bytes. So
nothing is decoded but what is asked for, a tensor's numbers stay where they lie in the file, and a file cannot claim
more than it holds.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

from ferplus_keras.errors import DamagedError

#: More fields than any of these files has (about 10,000): reading them would only keep somebody busy.
MAX_FIELDS = 500_000

#: Bytes of the longest text that is read: a record of provenance has some thousands.
MAX_TEXT = 1 << 20

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Span:
    """A stretch of a file: the content of a field that has a length."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


class Message:
    """The fields of messages in ``view``. One object for a file, for it counts what was read."""

    def __init__(self, view: mmap.mmap | bytes) -> None:
        self.view = view
        self.left = MAX_FIELDS

    def fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """(field number, value) in the file's order; a value is a number, or the stretch where it lies.

        Raises :class:`DamagedError` when the bytes are not a message.
        """
        position = span.start
        while position < span.end:
            self.left -= 1
            if self.left < 0:
                raise DamagedError("it has far too many entries")
            key, position = self._varint(position, span.end)
            number, kind = key >> 3, key & 7
            if not number:
                raise DamagedError("a field has the number 0")
            value: int | Span
            if kind == VARINT:
                value, position = self._varint(position, span.end)
            elif kind in (BYTES, FIXED32, FIXED64):
                length = {FIXED32: 4, FIXED64: 8}.get(kind)
                if length is None:
                    length, position = self._varint(position, span.end)
                value = Span(position, position + length)
                position += length
                if position > span.end:
                    raise DamagedError(f"it ends {position - span.end:,} bytes too early")
            else:
                raise DamagedError(f"a field is of the kind {kind}, which ONNX does not use")
            yield number, value

    def text(self, span: int | Span) -> str:
        """The string in ``span``."""
        if isinstance(span, Span) and len(span) > MAX_TEXT:
            raise DamagedError(f"a name in it has {len(span):,} bytes")
        return self.bytes(span).decode("utf-8", "replace")

    def bytes(self, span: int | Span) -> bytes:
        """A copy of the bytes in ``span``."""
        if isinstance(span, int):
            raise DamagedError("a number stands where text or a message belongs")
        return self.view[span.start : span.end]

    def integers(self, value: int | Span) -> Iterator[int]:
        """One value of a repeated int64 field: a number, or a packed row of them."""
        if isinstance(value, int):
            yield signed(value)
            return
        position = value.start
        while position < value.end:
            self.left -= 1
            if self.left < 0:
                raise DamagedError("it has far too many entries")
            number, position = self._varint(position, value.end)
            yield signed(number)

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        result = shift = 0
        while position < end:
            byte = self.view[position]
            position += 1
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result & (1 << 64) - 1, position
            shift += 7
            if shift > 63:
                raise DamagedError("a number in it has more than 64 bits")
        raise DamagedError("it ends in the middle of a number")


def signed(value: int) -> int:
    """A varint as the int64 that it stands for."""
    return value - (1 << 64) if value >> 63 else value
