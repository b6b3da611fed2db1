"""Kaggle's pixel file, ``fer2013.csv`` or ``icml_face_data.csv``: 300 MB of text, read once from front to back."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BufferedReader
from itertools import count
from typing import BinaryIO

import numpy as np

from ferplus_keras.dataset.csv_text import columns_of, refuse_utf16
from ferplus_keras.dataset.order import KAGGLE_CODES, UNKNOWN, check_order
from ferplus_keras.dataset.records import SIDE, SPLITS, Labels, split_code
from ferplus_keras.errors import BadInputError

PIXELS = SIDE * SIDE

#: Bytes read at a time.
BLOCK = 1 << 20

#: No row comes near this: 2304 numbers of three digits take 9,216 bytes.
MAX_LINE = 1 << 17

#: Empty lines of a file, beyond which it is none of images; some editors leave one at the end.
MAX_EMPTY_LINES = 1000


def read_pixels(stream: BinaryIO, labels: Labels, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The images, rows x 48 x 48 bytes, of a pixel file whose rows go with ``labels``, one by one; and notes.

    The columns may stand in any order, with blanks around their names. Memory: the result and a row.

    Raises :class:`BadInputError` naming the line: a missing column, an image of another size, a pixel that is no
    byte, a Usage that the label file has otherwise, more or fewer rows than the label file, rows in another order.
    """
    images = np.empty((len(labels), PIXELS), np.uint8)
    row, number = 0, 1
    emotions, lines = [], []
    for number, (pixels, usage, emotion) in table(stream, where, ("pixels", "Usage"), "emotion"):
        if row == len(labels):
            raise BadInputError(f"{where}, line {number}: one row too many; {labels.origin} has {len(labels):,} rows.")
        if split_code(word := usage.decode("utf-8", "replace")) != labels.split[row]:
            raise BadInputError(
                f'{where}, line {number}: Usage is "{word.strip()[:40]}", and {SPLITS[labels.split[row]]} in '
                f"{labels.origin}, line {labels.lines[row]}; the rows of the two files do not go together."
            )
        images[row] = _image(pixels, where, number)
        row += 1
        emotions.append(KAGGLE_CODES.get(emotion.strip(), UNKNOWN))
        lines.append(number)
    if row != len(labels):
        raise BadInputError(
            f"{where} ends after {row:,} rows, at line {number}; {labels.origin} has {len(labels):,}. Is it complete?"
        )
    notes = check_order(np.array(emotions, np.int8), lines, labels, where)
    return images.reshape(-1, SIDE, SIDE), notes


def table(
    stream: BinaryIO, where: str, wanted: Sequence[str], optional: str | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """Line number and the ``wanted`` fields of each row below the header, then the ``optional`` one or b"".

    Raises :class:`BadInputError` naming the line: a missing column, or a row with more or fewer fields than the header.
    """
    lines = _lines(stream, where)
    number, header = next(lines, (1, b""))
    names = [name.decode("utf-8", "replace") for name in _fields(header.removeprefix(b"\xef\xbb\xbf"), where, number)]
    columns = columns_of(names, wanted, where)
    if optional is not None:
        with suppress(BadInputError):
            columns += columns_of(names, [optional], where)
    absent = [b""] * (len(wanted) + (optional is not None) - len(columns))
    for number, line in lines:
        fields = line.split(b",") if b'"' not in line else _fields(line, where, number)
        if len(fields) != len(names):
            raise BadInputError(f"{where}, line {number}: {len(fields)} fields where the header has {len(names)}.")
        yield number, [fields[column] for column in columns] + absent


def _image(field: bytes, where: str, line: int) -> np.ndarray:
    """The numbers of a pixel field, which NumPy reads up to the first that is none."""
    if not field.translate(None, b"0123456789 \t"):
        numbers = np.fromstring(field, np.int64, sep=" ")
        if len(numbers) == PIXELS and numbers.max() <= 255:
            return numbers
    words = field.split()
    for word in words:
        if not word.isdigit() or len(word) > 20 or int(word) > 255:
            shown = word.decode("utf-8", "replace")[:40]
            raise BadInputError(
                f'{where}, line {line}: "{shown}" is not a pixel; pixels are whole numbers from 0 to 255.'
            )
    raise BadInputError(
        f"{where}, line {line}: {len(words):,} numbers; an image has {SIDE} x {SIDE} = {PIXELS:,} of them."
    )


def _fields(line: bytes, where: str, number: int) -> list[bytes]:
    """The fields of a line that has quotes in it."""
    try:
        (row,) = csv.reader([line.decode("utf-8", "replace")], strict=True)
    except (csv.Error, ValueError) as error:
        raise BadInputError(f"{where}, line {number}: not valid CSV ({error}).") from None
    return [field.encode() for field in row]


def _lines(stream: BinaryIO, where: str) -> Iterator[tuple[int, bytes]]:
    """Number and content of each line that is not empty."""
    buffered = BufferedReader(stream, BLOCK)  # type: ignore[type-var]
    empty = 0
    for number in count(1):
        if not (line := buffered.readline(MAX_LINE + 1)):
            return
        if number == 1:
            refuse_utf16(line, where)
        if len(line) > MAX_LINE:
            raise BadInputError(f"{where}, line {number}: longer than any row of a pixel file.")
        if line.strip():
            yield number, line.rstrip(b"\r\n")
        elif (empty := empty + 1) > MAX_EMPTY_LINES:
            raise BadInputError(f"{where}, line {number}: more than {empty:,} empty lines. The file is damaged.")
