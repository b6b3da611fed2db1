"""Kaggle's pixel file, ``fer2013.csv`` or ``icml_face_data.csv``: 300 MB of text, read once from front to back."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import suppress
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

#: Rows whose digits are parsed together: so few that the arrays made on the way stay in the processor's cache.
BATCH = 16

#: Empty lines of a file, beyond which it is none of images; some editors leave one at the end.
MAX_EMPTY_LINES = 1000


def read_pixels(stream: BinaryIO, labels: Labels, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The images, rows x 48 x 48 bytes, of a pixel file whose rows go with ``labels``, one by one; and notes.

    The columns may stand in any order, with blanks around their names. Memory: the result and two blocks.

    Raises :class:`BadInputError` naming the line: a missing column, an image of another size, a pixel that is no
    byte, a Usage that the label file has otherwise, more or fewer rows than the label file, rows in another order.
    """
    images = np.empty((len(labels), PIXELS), np.uint8)
    row, number = 0, 1
    waiting: list[tuple[int, bytes]] = []
    emotions, lines = [], []
    for number, (pixels, usage, emotion) in table(stream, where, ("pixels", "Usage"), "emotion"):
        if row == len(labels):
            raise BadInputError(f"{where}, line {number}: a row too many; {labels.origin} has {len(labels):,} rows.")
        if split_code(word := usage.decode("utf-8", "replace")) != labels.split[row]:
            raise BadInputError(
                f'{where}, line {number}: Usage is "{word.strip()[:40]}", and {SPLITS[labels.split[row]]} in '
                f"{labels.origin}, line {labels.lines[row]}; the rows of the two files do not go together."
            )
        row += 1
        emotions.append(KAGGLE_CODES.get(emotion.strip(), UNKNOWN))
        lines.append(number)
        waiting.append((number, pixels))
        if len(waiting) == BATCH:
            images[row - BATCH : row] = _images(waiting, where)
            waiting.clear()
    if waiting:
        images[row - len(waiting) : row] = _images(waiting, where)
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


def _images(rows: list[tuple[int, bytes]], where: str) -> np.ndarray:
    """The numbers of several pixel fields, by array operations over their bytes: 2.5 times as fast as np.fromstring.

    Where anything at all is unusual, the rows are read one by one, and the one that is wrong is named.
    """
    fields = [field for _, field in rows]
    text = np.frombuffer(b"   " + b" ".join(fields) + b" ", np.uint8)
    digit = text - np.uint8(48)
    is_digit = digit < 10
    digit *= is_digit  # a blank counts nothing
    last = np.flatnonzero(is_digit[3:-1] > is_digit[4:]) + 3  # where each number ends
    starts = 3 + np.cumsum([0, *(len(field) + 1 for field in fields)])
    hundreds = digit[last - 2] * is_digit[last - 1]
    values = digit[last] + np.uint8(10) * digit[last - 1] + np.uint8(100) * hundreds
    usual = (
        bool((np.diff(np.searchsorted(last, starts)) == PIXELS).all())
        and np.count_nonzero(is_digit) + np.count_nonzero(text == 32) == len(text)
        and not ((hundreds > 2) | ((hundreds == 2) & (values < 200))).any()  # beyond 255 a byte wraps around
        and not (is_digit[last] & is_digit[last - 1] & is_digit[last - 2] & is_digit[last - 3]).any()
    )
    if not usual:
        values = np.array([_image(field, where, line) for line, field in rows], np.uint8)
    images: np.ndarray = values.reshape(len(rows), PIXELS)
    return images


def _image(field: bytes, where: str, line: int) -> list[int]:
    words = field.split()
    for word in words:
        if not word.isdigit() or len(word) > 20 or int(word) > 255:
            shown = word.decode("utf-8", "replace")[:40]
            raise BadInputError(f'{where}, line {line}: "{shown}" is no pixel; pixels are whole numbers from 0 to 255.')
    if len(words) != PIXELS:
        raise BadInputError(
            f"{where}, line {line}: {len(words):,} numbers; an image has {SIDE} x {SIDE} = {PIXELS:,} of them."
        )
    return [int(word) for word in words]


def _fields(line: bytes, where: str, number: int) -> list[bytes]:
    """The fields of a line that has quotes in it."""
    try:
        (row,) = csv.reader([line.decode("utf-8", "replace")], strict=True)
    except (csv.Error, ValueError) as error:
        raise BadInputError(f"{where}, line {number}: not valid CSV ({error}).") from None
    return [field.encode() for field in row]


def _lines(stream: BinaryIO, where: str) -> Iterator[tuple[int, bytes]]:
    """Number and content of each line that is not empty."""
    rest, number, empty = b"", 0, 0
    while block := stream.read(BLOCK):
        if not number:
            refuse_utf16(rest + block, where)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            number += 1
            if len(line) > MAX_LINE:
                raise BadInputError(_too_long(where, number))
            if line.strip():
                yield number, line.rstrip(b"\r")
            elif (empty := empty + 1) > MAX_EMPTY_LINES:
                raise BadInputError(f"{where}, line {number}: {empty:,} empty lines and more. It is damaged.")
        if len(rest) > MAX_LINE:
            raise BadInputError(_too_long(where, number + 1))
    if rest.strip():
        yield number + 1, rest.rstrip(b"\r")


def _too_long(where: str, number: int) -> str:
    return f"{where}, line {number}: longer than any row of a pixel file can be."
