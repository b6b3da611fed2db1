"""Answers, and the CSV file that grows with them and survives a kill."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.predict.seen import Seen
from ferplus_keras.wording import printable

Box = tuple[int, int, int, int]

#: What a formula of a spreadsheet begins with, also in wide letters. The mark before such a text is the one that
#: spreadsheets have themselves; it goes before a text that begins with the mark as well.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\t", "\r", "\n", "'")
MARK = "'"

#: The number of a face, as it is written.
COUNT = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Prediction:
    """What a network says of one face: each emotion's probability, in the network's order."""

    probabilities: dict[str, float]

    @property
    def emotion(self) -> str:
        """The most probable one; of equals the first."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def confidence(self) -> float:
        """Its probability."""
        return self.probabilities[self.emotion]

    def as_dict(self) -> dict[str, Any]:
        """Plain data: ``emotion``, ``confidence``, ``probabilities``."""
        return {"emotion": self.emotion, "confidence": self.confidence, "probabilities": dict(self.probabilities)}

    @classmethod
    def of(cls, labels: Sequence[str], row: np.ndarray) -> Prediction:
        return cls({label: float(value) for label, value in zip(labels, row, strict=True)})


@dataclass(frozen=True)
class Answer:
    """All there is to say of one picture: a prediction for each face in it, or why there is none.

    ``boxes`` (left, top, right, bottom, in pixels of the upright picture) go with ``predictions`` where faces were
    looked for. ``error`` says what is wrong with the picture; it is empty where simply no face was found.
    """

    input: str
    predictions: tuple[Prediction, ...] = ()
    boxes: tuple[Box, ...] | None = None
    error: str = ""

    def rows(self, model: str) -> list[dict[str, Any]]:
        """One plain dictionary a face; one with ``face`` 0 where there is none."""
        boxes = self.boxes or (None,) * len(self.predictions)
        count = len(self.predictions)
        rows = [
            {"input": self.input, "face": number, "faces": count, "box": list(box) if box else None}
            | prediction.as_dict()
            | {"error": None, "model": model}
            for number, (prediction, box) in enumerate(zip(self.predictions, boxes, strict=True), 1)
        ]
        nothing = {"input": self.input, "face": 0, "faces": 0, "box": None, "emotion": None, "confidence": None,
                   "probabilities": None, "error": self.error or None, "model": model}  # fmt: skip
        return rows or [nothing]


def columns(labels: Sequence[str]) -> list[str]:
    """The header of the table of results. ``face`` of ``faces`` counts the rows of one picture."""
    return ["input", "face", "faces", "left", "top", "right", "bottom", "emotion", "confidence",
            *map(printable, labels), "error", "model"]  # fmt: skip


def cells(row: dict[str, Any], labels: Sequence[str]) -> list[Any]:
    """The values of one row of :meth:`Answer.rows`, in the order of :func:`columns`; None where there is none.

    Text is made printable, but for the picture's name, by which programs and ``--resume`` find it again.
    """
    probabilities = row["probabilities"] or {}
    emotion, error, model = (row[name] and printable(row[name]) for name in ("emotion", "error", "model"))
    return [
        row["input"], row["face"], row["faces"], *(row["box"] or [None] * 4), emotion, row["confidence"],
        *(probabilities.get(label) for label in labels), error, model,
    ]  # fmt: skip


def csv_bytes(rows: Iterable[Sequence[Any]]) -> bytes:
    """CSV as RFC 4180 has it, with a bare line feed; names that are not UTF-8 keep their bytes.

    No text begins as a formula of a spreadsheet does: see :func:`unformulated`.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"{MARK}{value}" if value.startswith(FORMULA) else value
    return "" if value is None else f"{value:.7g}" if isinstance(value, float) else value


def unformulated(cell: str) -> str:
    """The text that stands in a cell written by :func:`csv_bytes`, which has a mark before what may be a formula."""
    return cell.removeprefix(MARK)


class CsvFile:
    """Results in ``path``, written as they come to ``path`` + ``.partial``, which takes the name when all is done.

    A picture's rows are written at once, so that a kill leaves whole rows but for the last picture's, which
    ``resume`` cuts off. ``done`` are the pictures that need not be looked at again, ``errors`` how many of these could
    not be read.
    """

    def __init__(self, path: Path, labels: Sequence[str], model: str, *, resume: bool = False) -> None:
        self.path, self.labels, self.model = path, labels, model
        self.partial = path.with_name(path.name + ".partial")
        self.done, self.errors = Seen(), 0
        header = csv_bytes([columns(labels)])
        try:
            if path.is_dir():
                raise OutputError(f"{path} is a folder; give the name of the file to write.")
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.partial.exists() and self.partial.stat().st_size > len(header) and not resume:
                raise BadInputError(
                    f"{self.partial} holds the results of a run that was cut short: add --resume to go on with it, or "
                    "remove it to begin anew."
                )
            if resume and not self.partial.exists() and path.exists():
                shutil.copyfile(path, self.partial)
            self._stream: BinaryIO = self.partial.open("r+b" if resume and self.partial.exists() else "w+b")
            end = self._take_up(header) if resume else 0
            self._stream.truncate(end)
            self._stream.seek(end)
            if not end:
                self._stream.write(header)
                self._stream.flush()
        except OSError as error:
            raise _unwritable(path, error) from None

    def write(self, answers: Iterable[Answer]) -> None:
        """Append the rows of ``answers``, and see to it that a kill does not take them back."""
        try:
            self._stream.write(
                csv_bytes(cells(row, self.labels) for answer in answers for row in answer.rows(self.model))
            )
            self._stream.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def finish(self) -> Path:
        """All was written: the file takes its name."""
        try:
            os.fsync(self._stream.fileno())
            self._stream.close()
            self.partial.replace(self.path)
        except OSError as error:
            raise _unwritable(self.path, error) from None
        return self.path

    def close(self) -> None:
        """Leave what was written for ``resume``; a file that holds nothing but its header is removed."""
        empty = not self._stream.closed and self._stream.seek(0, os.SEEK_END) <= len(csv_bytes([columns(self.labels)]))
        self._stream.close()
        if empty:
            self.partial.unlink(missing_ok=True)

    def _take_up(self, header: bytes) -> int:
        """Note what is done; the place behind the last picture whose rows are all there."""
        start = self._stream.read(len(header))
        if header.startswith(start) and len(start) < len(header):  # killed before the header was written
            return 0
        if start != header:
            raise BadInputError(
                f"{self.partial} has other columns than this run would write: it is another network's or another "
                "program's. Choose another name, or leave --resume out."
            )
        end, missing = len(header), 0
        for number, (fields, place) in enumerate(_records(self._stream, self.partial, len(header)), 2):
            problem = self._problem(fields, missing)
            if problem:
                raise BadInputError(f"{self.partial}, record {number}: {problem}.")
            face, faces = int(fields[1]), int(fields[2])
            missing = faces - face
            if not missing:
                self.done.add(unformulated(fields[0]))
                self.errors += bool(fields[-2])
                end = place
        return end

    def _problem(self, fields: list[str], missing: int) -> str:
        if len(fields) != len(columns(self.labels)) or not all(COUNT.fullmatch(each) for each in fields[1:3]):
            return "it is not a row of results. The file is damaged; leave --resume out"
        if unformulated(fields[-1]) != printable(self.model):
            return f"it was made by {fields[-1][:120]}, and this run would be by {self.model}. Choose another name"
        if int(fields[1]) > int(fields[2]) or (missing and int(fields[2]) - int(fields[1]) != missing - 1):
            return "a face is missing before it. The file is damaged; leave --resume out"
        return ""


def _records(stream: BinaryIO, path: Path, start: int) -> Iterator[tuple[list[str], int]]:
    """Each whole record and the place behind it. The last one is dropped where its line has no end."""
    place, whole = start, True

    def lines() -> Iterator[str]:
        nonlocal place, whole
        for line in stream:
            place += len(line)
            whole = line.endswith(b"\n")
            yield line.decode("utf-8", "surrogateescape")

    reader = csv.reader(lines(), strict=True)
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if stream.read(1):
                raise BadInputError(f"{path} is damaged ({error}); leave --resume out.") from None
            return  # cut off within quotation marks
        if not whole:
            return
        yield fields, place


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path} could not be written: {(error.strerror or str(error)).lower()}. What was written so far is in "
        f"{path.name}.partial; --resume goes on with it."
    )


__all__ = ["Answer", "Box", "CsvFile", "Prediction", "cells", "columns", "csv_bytes", "unformulated"]
