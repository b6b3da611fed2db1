"""Answers, and the CSV file that grows with them and survives a kill."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.files.atomic import writable_target
from ferplus_keras.files.locks import sole_writer
from ferplus_keras.files.opening import kind_of_entry
from ferplus_keras.predict.origin import Origin
from ferplus_keras.predict.seen import Seen
from ferplus_keras.wording import percent, printable

Box = tuple[int, int, int, int]

#: What a formula of a spreadsheet begins with, also in wide letters. The mark before such a text is the one that
#: spreadsheets have themselves; it goes before a text that begins with the mark as well.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\t", "\r", "\n", "'")
MARK = "'"

#: Emotions that the ``repr`` of a prediction shows.
SHOWN = 3

#: The number of a face, as it is written.
COUNT = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Prediction:
    """What a network says of one face: each emotion's probability, in the network's order."""

    probabilities: dict[str, float]

    def __repr__(self) -> str:
        first = sorted(self.probabilities.items(), key=lambda pair: -pair[1])[:SHOWN]
        return f"<Prediction: {', '.join(f'{label} {percent(value, 1)}' for label, value in first)}>"

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
    """All there is to say of one image: a prediction for each face in it, or why there is none.

    ``boxes`` (left, top, right, bottom, in pixels of the upright image) go with ``predictions`` where faces were
    looked for. ``error`` says what is wrong with the image; it is empty where simply no face was found. A frame of a
    film has its ``moment``, number and seconds, and each face the number of its track in ``tracks``.
    """

    input: str
    predictions: tuple[Prediction, ...] = ()
    boxes: tuple[Box, ...] | None = None
    error: str = ""
    moment: tuple[int, float] | None = None
    tracks: tuple[int, ...] = ()

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
        rows = rows or [nothing]
        if self.moment:
            for row, track in zip(rows, self.tracks or (None,), strict=True):
                row |= {"frame": self.moment[0], "seconds": self.moment[1], "track": track}
        return rows


#: Columns of a film's frames, behind the boxes.
MOMENT = ("frame", "seconds", "track")


def columns(labels: Sequence[str], film: bool = False) -> list[str]:
    """The header of the table of results. ``face`` of ``faces`` counts the rows of one image."""
    return ["input", "face", "faces", "left", "top", "right", "bottom", *MOMENT * film, "emotion", "confidence",
            *map(printable, labels), "error", "model"]  # fmt: skip


def cells(row: dict[str, Any], labels: Sequence[str]) -> list[Any]:
    """The values of one row of :meth:`Answer.rows`, in the order of :func:`columns`; None where there is none.

    Text is made printable, but for the image's name, by which programs and ``--resume`` find it again.
    """
    probabilities = row["probabilities"] or {}
    emotion, error, model = (row[name] and printable(row[name]) for name in ("emotion", "error", "model"))
    return [
        row["input"], row["face"], row["faces"], *(row["box"] or [None] * 4),
        *(row[name] for name in MOMENT if name in row), emotion, row["confidence"],
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

    An image's rows are written at once, so that a kill leaves whole rows but for the last image's, which
    ``resume`` cuts off. ``done`` are the images that need not be looked at again, ``errors`` how many of these could
    not be read, and ``kept`` says whether all that was in ``path`` before will be in it again. ``model`` is
    :func:`origin_text`'s.
    """

    def __init__(
        self, path: Path, labels: Sequence[str], model: str, *, resume: bool = False, film: bool = False
    ) -> None:
        self.path, self.labels = path, labels
        self._columns = columns(labels, film)
        self._target = writable_target(path)  # where ``path`` is a link: the file that it leads to
        self._origin = Origin(model, self._target)
        self.partial = self._target.with_name(self._target.name + ".partial")
        self.done, self.errors, self.kept = Seen(), 0, False
        with ExitStack() as claim, self._said():
            self._target.parent.mkdir(parents=True, exist_ok=True)
            claim.enter_context(sole_writer(self._target))
            self._stream = claim.enter_context(os.fdopen(_open(self.partial), "r+b", buffering=0))
            self._begin(csv_bytes([self._columns]), resume)
            self._claim = claim.pop_all()

    def _begin(self, header: bytes, resume: bool) -> None:
        """Go to where the next row is written; the columns' names stand before it."""
        if self._stream.seek(0, os.SEEK_END) > len(header) and not resume:
            raise BadInputError(
                f"{self.partial} holds the results of a run that was cut short: add --resume to continue it, or "
                "remove it to start again."
            )
        end = 0
        if resume:
            end = self._resume(header)
        self._stream.truncate(end)
        self._stream.seek(end)
        if not end:
            self._append(header)

    def _resume(self, header: bytes) -> int:
        """Take up the run that was cut short or, where there is none, the finished file; the place to go on at."""
        finished = not self._stream.tell() and self._target.exists()
        source = self._target if finished else self.partial
        try:
            with source.open("rb") as stream:
                end = self._take_up(stream, source, header)
        except BadInputError:
            if finished:
                self.partial.unlink()  # nothing is in it
            raise
        if finished:
            shutil.copyfile(self._target, self.partial)
        self.kept = finished or (self._target.exists() and _begins_with(self.partial, self._target))
        return end

    def rows(self) -> Iterator[dict[str, str]]:
        """The rows of the run that is resumed, by column."""
        with self.partial.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            yield from csv.DictReader(stream)

    def write(self, answers: Iterable[Answer]) -> None:
        """Append the rows of ``answers``, and see to it that a kill does not take them back."""
        with self._said():
            self._append(csv_bytes(
                cells(row, self.labels)
                for answer in answers
                for row in answer.rows(self._origin.of(answer.input))
            ))  # fmt: skip

    def finish(self) -> Path:
        """All was written: the file takes its name."""
        with self._said():
            os.fsync(self._stream.fileno())
            self.partial.replace(self._target)
        self._claim.close()
        return self.path

    def close(self) -> None:
        """Leave what was written for ``resume``; a file that holds nothing but its header is removed."""
        if not self._stream.closed and self._stream.seek(0, os.SEEK_END) <= len(csv_bytes([self._columns])):
            self.partial.unlink(missing_ok=True)
        self._claim.close()

    def _append(self, data: bytes) -> None:
        """Write all of ``data``; nothing of it is kept back, to fail once more when the file is closed."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._stream.write(rest) :]

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kept = f" What was written so far is in {self.partial.name}; --resume continues from there."
            raise OutputError(
                f"{self.path} could not be written: {(error.strerror or str(error)).lower()}."
                f"{kept if self.partial.exists() else ''}"
            ) from None

    def _take_up(self, stream: BinaryIO, path: Path, header: bytes) -> int:
        """Note what is done; the place behind the last image whose rows are all there."""
        start = stream.read(len(header))
        if header.startswith(start) and len(start) < len(header):  # killed before the header was written
            return 0
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8)):
            raise BadInputError(
                f"{path} begins with a byte order mark: another program, such as a spreadsheet, saved it in "
                "another encoding. Save it in UTF-8 without the mark, choose another name, or leave --resume out."
            )
        if start != header:
            raise BadInputError(
                f"{path} has other columns than this run would write: it is another network's or another "
                "program's. Choose another name, or leave --resume out."
            )
        end, missing = len(header), 0
        for number, (fields, place) in enumerate(_records(stream, path, len(header)), 2):
            problem = self._problem(fields, missing)
            if problem:
                raise BadInputError(f"{path}, record {number}: {problem}.")
            face, faces = int(fields[1]), int(fields[2])
            missing = faces - face
            if not missing:
                self.done.add(unformulated(fields[0]))
                self.errors += bool(fields[-2])
                end = place
        return end

    def _problem(self, fields: list[str], missing: int) -> str:
        if len(fields) != len(self._columns) or not all(COUNT.fullmatch(each) for each in fields[1:3]):
            return "it is not a row of results. The file is damaged; leave --resume out"
        name, made = unformulated(fields[0]), unformulated(fields[-1])
        if problem := self._origin.problem(name, made, boxes=bool(fields[3])):
            return problem
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


def _begins_with(path: Path, start: Path) -> bool:
    """Whether the file at ``path`` begins with all that is in the one at ``start``."""
    with path.open("rb") as whole, start.open("rb") as part:
        while piece := part.read(1 << 20):
            if whole.read(len(piece)) != piece:
                return False
    return True


def _open(partial: Path) -> int:
    """A descriptor of ``partial``, made where there is none. Raises :class:`OutputError` when it is no regular file."""
    safely = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if partial.is_symlink():
        raise OutputError(
            f"{partial} is a link; results are not written through it. Remove it, or choose another name."
        )
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | safely, 0o666)
    if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OutputError(f"{partial} is {kind_of_entry(mode)}. Remove it, or choose another name.")
    return descriptor
