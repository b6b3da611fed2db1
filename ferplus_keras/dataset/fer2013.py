"""FER2013 by itself: Kaggle's pixel file with its own labels, seven emotions and no votes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ferplus_keras.dataset.csv_text import columns_of
from ferplus_keras.dataset.finding import PIXEL_FILES
from ferplus_keras.dataset.pixels_csv import _fields, _lines, read_pixels
from ferplus_keras.dataset.records import VOTE_COLUMNS, Dataset, Labels, made_name, split_code
from ferplus_keras.errors import BadInputError

#: What 0 to 6 in the ``emotion`` column mean (Kaggle, "Challenges in Representation Learning"), in FERPlus's words.
FER2013_CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")


def load_fer2013(
    path: str | Path, *, progress: Callable[[str], None] = lambda _line: None
) -> tuple[Dataset, np.ndarray]:
    """The pictures of ``fer2013.csv`` at ``path`` (the file, or its folder), and each one's class of FER2013_CLASSES.

    The data set's votes are all 0: these labels are single ones. Raises :class:`BadInputError` naming the line.
    """
    file = _find(Path(path).expanduser())
    progress(f"reading {file}")
    try:
        with file.open("rb") as stream:
            classes, splits, lines = [], [], []
            rows = _lines(stream, str(file), lambda _bytes: None)
            number, header = next(rows, (1, b""))
            columns = [
                name.decode("utf-8", "replace") for name in _fields(header.removeprefix(b"\xef\xbb\xbf"), str(file), 1)
            ]
            emotion, usage = columns_of(columns, ("emotion", "Usage"), str(file))
            for number, line in rows:
                fields = line.split(b",") if b'"' not in line else _fields(line, str(file), number)
                classes.append(_class(fields[emotion] if emotion < len(fields) else b"", str(file), number))
                word = fields[usage].decode("utf-8", "replace") if usage < len(fields) else ""
                if (split := split_code(word)) is None:
                    raise BadInputError(f'{file}, line {number}: "{word[:40]}" is no Usage; Training is one.')
                splits.append(split)
                lines.append(number)
        count = len(classes)
        if not count:
            raise BadInputError(f"{file} has a header and no rows.")
        votes = np.zeros((count, len(VOTE_COLUMNS)), np.uint8)
        names = tuple(made_name(row) for row in range(count))
        labels = Labels(votes, np.array(splits, np.uint8), ("",) * count, tuple(lines), str(file))
        with file.open("rb") as stream:
            images = read_pixels(stream, labels, str(file))
    except OSError as error:
        raise BadInputError(f"{file} cannot be read: {error.strerror}.") from None
    dataset = Dataset(images, votes, labels.split, names, file.name, count, str(file))
    return dataset, np.array(classes, np.int64)


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        for found in sorted(path.iterdir()):
            if found.name.strip().lower() in PIXEL_FILES:
                return found
    raise BadInputError(f"There is no {' or '.join(PIXEL_FILES)} at {path}: FER2013's labels stand in that file alone.")


def _class(field: bytes, where: str, line: int) -> int:
    text = field.strip()
    if text.isdigit() and len(text) < 3 and int(text) < len(FER2013_CLASSES):
        return int(text)
    shown = field.decode("utf-8", "replace")[:40]
    raise BadInputError(f'{where}, line {line}: "{shown}" is no emotion; they go from 0 to {len(FER2013_CLASSES) - 1}.')


__all__ = ["FER2013_CLASSES", "load_fer2013"]
