"""The curves for TensorBoard, written without it: a file of records, each an ``Event`` in protocol buffers.

TensorFlow need not be there, nor its hand on the GPU when another backend runs. The file is written anew after each
epoch, so a run that was resumed has no epoch twice.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from functools import cache

from ferplus_keras.finetune.schedules import Row

#: TensorBoard looks for "tfevents" in names.
FILE = "events.out.tfevents.ferplus"

#: Castagnoli's polynomial, bits reversed (RFC 3720).
POLYNOMIAL = 0x82F63B78


def events(history: Sequence[Row]) -> bytes:
    """The content of an event file: one scalar for each figure of each epoch."""
    return b"".join(_record(event) for event in _events(history))


def _events(history: Sequence[Row]) -> Iterator[bytes]:
    yield _double(1, 0.0) + _bytes(3, b"brain.Event:2")
    seconds = 0.0
    for row in history:
        seconds += row["seconds"]
        values = b"".join(
            _bytes(1, _bytes(1, tag.encode()) + _float(2, value))
            for tag, value in row.items()
            if tag != "epoch" and value is not None and math.isfinite(value)
        )
        yield _double(1, seconds) + _varint(2 << 3) + _varint(row["epoch"]) + _bytes(5, values)


def _record(data: bytes) -> bytes:
    """TFRecord: length, its checksum, the data, their checksum."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(length)) + data + struct.pack("<I", _masked(data))


def _masked(data: bytes) -> int:
    checksum = 0xFFFFFFFF
    for byte in data:
        checksum = _table()[(checksum ^ byte) & 0xFF] ^ (checksum >> 8)
    checksum ^= 0xFFFFFFFF
    return (((checksum >> 15) | (checksum << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@cache
def _table() -> tuple[int, ...]:
    def entry(value: int) -> int:
        for _ in range(8):
            value = (value >> 1) ^ (POLYNOMIAL if value & 1 else 0)
        return value

    return tuple(map(entry, range(256)))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


__all__ = ["FILE", "events"]
