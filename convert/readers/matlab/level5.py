"""MATLAB 5 files (``save -v6`` and ``-v7``, what SciPy and Octave write): a parser of the documented format.

Not :func:`scipy.io.loadmat`, for three reasons: arrays of an uncompressed file are views of the mapped bytes; every
size is checked against the file before anything is allocated, so that a bomb costs nothing; and reading a ``.mat``
needs no SciPy. Tests compare the two. Source: MathWorks, "MAT-File Format" (Level 5).
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from convert.match_report import by
from convert.readers.matlab.values import (
    MAX_NUMBER_OF_DIMENSIONS,
    NUMERIC,
    Budget,
    Opaque,
    Struct,
    TooMuchError,
    Value,
    refused,
    text_of,
)
from ferplus_keras.errors import BadInputError, DamagedError
from ferplus_keras.files.mapped_file import MappedFile

HEADER_BYTES = 128
MATRIX, COMPRESSED = 14, 15

#: Type number of an element -> numpy type of its bytes (without byte order).
ELEMENT_TYPES = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
    16: "u1", 17: "u2", 18: "u4",
}  # fmt: skip
UTF8 = 16

CELL, STRUCT, OBJECT, CHAR, SPARSE, FUNCTION, OPAQUE = 1, 2, 3, 4, 5, 16, 17
CLASSES = {
    6: "double", 7: "single", 8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32", 13: "uint32",
    14: "int64", 15: "uint64",
}  # fmt: skip
COMPLEX_FLAG, CLASS_MASK = 0x0800, 0xFF

#: The largest product of an empty matrix's other dimensions; NumPy cannot address more.
MOST_BESIDE_NONE = 1 << 48


@dataclass(frozen=True)
class Element:
    """A tagged element: its type, and the range of its data."""

    type: int
    start: int
    stop: int


def read_level5(file: MappedFile) -> dict[str, Value]:
    """The variables of a MATLAB 5 file by name. Raises :class:`BadInputError`."""
    order = {b"IM": "<", b"MI": ">"}.get(bytes(file.view[126:128]))
    if order is None:
        raise BadInputError(f"{file.path} has a damaged MATLAB header. Copy or download it again.")
    budget = Budget(file.path, file.size)
    variables: dict[str, Value] = {}
    view = memoryview(file.view)
    try:
        position = HEADER_BYTES
        while position < file.size:
            kind, start, stop, position = _element(view, position, file.size, order)
            if kind == COMPRESSED:
                inflated = _inflate(view[start:stop], order, budget)
                kind, start, stop, _ = _element(memoryview(inflated), 0, len(inflated), order)
                reader = _Reader(memoryview(inflated), order, budget)
            else:
                reader = _Reader(view, order, budget)
            if kind != MATRIX:
                raise DamagedError(f"an element of type {kind} where a variable should be")
            name, value = reader.matrix(start, stop, 0)
            if name:  # without a name, it is MATLAB's own store of objects
                variables[name] = value
    except DamagedError as error:
        raise BadInputError(f"{file.path} is a damaged MATLAB file: {error}. Copy or download it again.") from None
    except TooMuchError as error:
        raise refused(file.path, str(error)) from None
    return variables


def _element(view: memoryview, position: int, end: int, order: str) -> tuple[int, int, int, int]:
    """(type, start of data, end of data, start of the next element) of the element at ``position``."""
    if position + 8 > end:
        raise DamagedError(f"it ends in the middle of an element's tag, at byte {position:,}")
    kind, size = struct.unpack_from(f"{order}II", view, position)
    if kind >> 16:  # the short form: size and type share the first four bytes, the other four are the data
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise DamagedError(f"an element at byte {position:,} has the short form and {size:,} bytes")
        return kind, position + 4, position + 4 + size, position + 8
    stop = position + 8 + size
    if stop > end:
        raise DamagedError(
            f"an element at byte {position:,} claims {size:,} bytes, and {end - position - 8:,} are left"
        )
    following = stop if kind == COMPRESSED else min(position + 8 + (size + 7) // 8 * 8, end)
    return kind, position + 8, stop, following


def _inflate(data: memoryview, order: str, budget: Budget) -> bytes:
    """The one element in the compressed ``data``; its size is checked before it is unpacked."""
    try:
        tag = zlib.decompressobj().decompress(data[:256], 8)
        if len(tag) < 8:
            raise DamagedError("a compressed variable is empty")
        size = struct.unpack(f"{order}II", tag)[1]
        budget.take(size, "a compressed variable")
        stream = zlib.decompressobj()
        inflated = stream.decompress(data, size + 8)
        surplus = stream.decompress(stream.unconsumed_tail, 8)  # reaches the checksum, which zlib verifies
    except zlib.error as error:
        raise DamagedError(f"a compressed variable cannot be unpacked ({error})") from None
    if len(inflated) != size + 8 or surplus or not stream.eof:
        raise DamagedError(f"a compressed variable claims {size:,} bytes and does not unpack to that many")
    return inflated


class _Reader:
    """Reads the matrices in ``view``: the file, or one of its variables unpacked."""

    def __init__(self, view: memoryview, order: str, budget: Budget) -> None:
        self.view, self.order, self.budget = view, order, budget

    def matrix(self, start: int, stop: int, depth: int) -> tuple[str, Value]:
        """(name, value) of the matrix whose content lies between ``start`` and ``stop``."""
        self.budget.value(depth)
        if start == stop:
            return "", np.empty((0, 0))
        flags, position = self._numbers(start, stop)
        if flags.size != 2:
            raise DamagedError(f"a matrix at byte {start:,} has no flags")
        kind = int(flags[0]) & CLASS_MASK
        if kind == OPAQUE:
            name, position = self._name(position, stop)
            return name, self._opaque(self._class_of(position, stop))
        dimensions, position = self._dimensions(position, stop)
        name, position = self._name(position, stop)
        count = math.prod(dimensions)
        if kind in CLASSES:
            if int(flags[0]) & COMPLEX_FLAG:
                return name, self._opaque("complex matrix")
            return name, self._array(position, stop, CLASSES[kind], dimensions)
        if kind == CHAR:
            return name, self._text(position, stop, dimensions)
        if kind == CELL:
            return name, self._matrices(position, stop, count, depth)
        if kind in (STRUCT, OBJECT):
            if kind == OBJECT:  # an old-style object's fields can be read like a struct's
                _, position = self._name(position, stop)
            return name, self._struct(position, stop, count, depth)
        return name, self._opaque({FUNCTION: "function handle", SPARSE: "sparse matrix"}.get(kind, f"class {kind}"))

    def _array(self, position: int, stop: int, class_name: str, dimensions: tuple[int, ...]) -> np.ndarray:
        wanted = np.dtype(NUMERIC[class_name])
        if not math.prod(dimensions):
            return np.empty(dimensions, wanted)
        values, _ = self._numbers(position, stop)
        if values.size != math.prod(dimensions):
            raise DamagedError(
                f"a matrix at byte {position:,} claims the size {by(dimensions)} and has {values.size:,} numbers"
            )
        if values.dtype != wanted:  # MATLAB stores integers in the smallest type that holds them
            self.budget.take(values.size * wanted.itemsize, "a matrix")
            values = values.astype(wanted)
        return values.reshape(dimensions, order="F")

    def _text(self, position: int, stop: int, dimensions: tuple[int, ...]) -> str | list[str]:
        count = math.prod(dimensions)
        if not count:
            return ""
        kind, start, end, _ = _element(self.view, position, stop, self.order)
        if kind == UTF8 and count != end - start:  # characters of several bytes: only a row can be decoded
            self.budget.text(end - start, "a text")
            return bytes(self.view[start:end]).decode("utf-8", "replace")
        codes, _ = self._numbers(position, stop)
        if codes.size != count:
            raise DamagedError(f"a text at byte {position:,} claims {count:,} characters and has {codes.size:,}")
        return text_of(codes, dimensions, self.budget)

    def _struct(self, position: int, stop: int, count: int, depth: int) -> Struct:
        length, position = self._numbers(position, stop)
        _, start, end, position = _element(self.view, position, stop, self.order)
        width = int(length[0]) if length.size == 1 else 0
        if width < 1 or (end - start) % width:
            raise DamagedError(f"the fields of a struct at byte {start:,} have no names")
        self.budget.values((end - start) // width, "a struct", "fields")
        raw = bytes(self.view[start:end])
        names = [raw[at : at + width].split(b"\0")[0].decode("utf-8", "replace") for at in range(0, len(raw), width)]
        values = self._matrices(position, stop, count * len(names), depth)
        return Struct(count, {name: values[at :: len(names)] for at, name in enumerate(names)})

    def _matrices(self, position: int, stop: int, count: int, depth: int) -> list[Value]:
        if count > (stop - position) // 8:  # each needs at least a tag
            raise DamagedError(f"{count:,} values are announced at byte {position:,}, more than fit there")
        values = []
        for _ in range(count):
            kind, start, end, position = _element(self.view, position, stop, self.order)
            if kind != MATRIX:
                raise DamagedError(f"an element of type {kind} at byte {start:,} where a value should be")
            values.append(self.matrix(start, end, depth + 1)[1])
        return values

    def _numbers(self, position: int, stop: int) -> tuple[np.ndarray, int]:
        """The element at ``position`` as a flat array on the mapped bytes, and where the next one starts."""
        kind, start, end, following = _element(self.view, position, stop, self.order)
        if kind not in ELEMENT_TYPES:
            raise DamagedError(f"an element of type {kind} at byte {start:,} where numbers should be")
        dtype = np.dtype(self.order + ELEMENT_TYPES[kind])
        if (end - start) % dtype.itemsize:
            raise DamagedError(f"{end - start:,} bytes at byte {start:,} are not a whole number of numbers")
        return np.frombuffer(self.view[start:end], dtype), following

    def _dimensions(self, position: int, stop: int) -> tuple[tuple[int, ...], int]:
        numbers, position = self._numbers(position, stop)
        dimensions = tuple(int(number) for number in numbers[: MAX_NUMBER_OF_DIMENSIONS + 1])
        if not 2 <= len(dimensions) <= MAX_NUMBER_OF_DIMENSIONS or min(dimensions) < 0:
            raise DamagedError(f"a matrix at byte {position:,} has an impossible size")
        if 0 not in dimensions and math.prod(dimensions) > len(self.view):  # no element takes less than a byte
            raise DamagedError(f"a matrix at byte {position:,} claims the size {by(dimensions)}")
        if math.prod(filter(None, dimensions)) > MOST_BESIDE_NONE:
            raise DamagedError(f"an empty matrix at byte {position:,} claims the size {by(dimensions)}")
        return dimensions, position

    def _name(self, position: int, stop: int) -> tuple[str, int]:
        _, start, end, following = _element(self.view, position, stop, self.order)
        return bytes(self.view[start:end]).split(b"\0")[0].decode("utf-8", "replace"), following

    def _class_of(self, position: int, stop: int) -> str:
        _, position = self._name(position, stop)  # "MCOS", the object system
        return f"object of class {self._name(position, stop)[0]}"

    def _opaque(self, kind: str) -> Opaque:
        self.budget.opaque.append(kind)
        return Opaque(kind)
