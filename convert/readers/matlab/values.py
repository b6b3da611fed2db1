"""A MATLAB file's contents as plain Python values, and the budget that bounds hostile files.

==================  ======================================================================
MATLAB              here
==================  ======================================================================
numbers, logicals   ``numpy.ndarray`` with MATLAB's dimensions, in column-major order
char row            ``str``; a char matrix becomes a ``list`` of ``str``, one a row
cell array          ``list``, in column-major order
struct array        :class:`Struct`
anything else       :class:`Opaque` (function handles, objects, sparse or complex matrices)
==================  ======================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.budget import Budget as FileBudget

Value = Any  # np.ndarray | str | list | Struct | Opaque: see the table

#: MATLAB's numeric classes. Source: MathWorks, "MAT-File Format", array types.
NUMERIC = {
    "double": "f8", "single": "f4", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "logical": "u1",
}  # fmt: skip

#: Numbers may take this many times the file's size: doubles that hold singles compress to little more than half.
TIMES = 2

#: An SE-ResNet50 with everything that training stores has about 5,400 values, nested five or six deep.
MAX_VALUES = 25_000
MAX_DEPTH = 24
MAX_NUMBER_OF_DIMENSIONS = 32


@dataclass
class Struct:
    """A struct array: ``fields`` maps each field to its value in every element, in column-major order."""

    count: int
    fields: dict[str, list[Value]]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def records(self) -> list[dict[str, Value]]:
        """The elements one by one, as dicts."""
        return [{name: values[index] for name, values in self.fields.items()} for index in range(self.count)]


@dataclass(frozen=True)
class Opaque:
    """Something that is not data; ``kind`` describes it for messages."""

    kind: str


class TooMuchError(Exception):
    """A file claims more than a network can hold; the message says what."""


@dataclass
class Budget(FileBudget):
    """What a file may still cost: unpacked bytes, as in any other file, and values of any kind."""

    times: int = TIMES
    values_left: int = MAX_VALUES
    opaque: list[str] = field(default_factory=list)

    def value(self, depth: int) -> None:
        """Account for one more value at ``depth``."""
        self.values_left -= 1
        if self.values_left < 0:
            raise TooMuchError(f"it holds more than {MAX_VALUES:,} values")
        if depth > MAX_DEPTH:
            raise TooMuchError(f"its values are nested more than {MAX_DEPTH} deep, or contain themselves")

    def values(self, count: int, what: str, parts: str) -> None:
        """Account for ``count`` values that are about to be made."""
        if count > self.values_left:
            raise TooMuchError(f"{what} has {count:,} {parts}")
        self.values_left -= count


def refused(path: object, reason: str) -> BadInputError:
    """The error for a file that is well-formed but absurd."""
    return BadInputError(f"{path}: {reason}. No network of this family is like that; get the file elsewhere.")


def text_of(codes: np.ndarray, dimensions: tuple[int, ...], budget: Budget) -> str | list[str]:
    """Characters given as code units, column-major, as a string or, for a matrix, one string a row."""
    if codes.size == 0:
        return ""
    dimensions = dimensions or (1, 1)  # a scalar of HDF5
    budget.values(dimensions[0], "a char matrix", "rows")
    budget.text(codes.nbytes, "a char matrix")
    rows = codes.reshape(dimensions, order="F").reshape(dimensions[0], -1, order="F")
    texts = [row.astype("<u2").tobytes().decode("utf-16-le", "replace") for row in rows]
    return texts[0] if len(texts) == 1 else [text.rstrip(" \0") for text in texts]
