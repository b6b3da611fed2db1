"""FER2013 by itself: Kaggle's pixel file with its own labels, seven emotions and no votes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ferplus_keras.dataset.csv_text import MAX_LABEL_ROWS
from ferplus_keras.dataset.finding import PIXEL_FILES, archives_in, is_zip
from ferplus_keras.dataset.order import KAGGLE_CLASSES, KAGGLE_CODES
from ferplus_keras.dataset.pixels_csv import read_pixels, table
from ferplus_keras.dataset.places import Folder
from ferplus_keras.dataset.records import VOTE_COLUMNS, Dataset, Labels, made_name, split_code
from ferplus_keras.errors import BadInputError

FER2013_CLASSES = KAGGLE_CLASSES


def load_fer2013(
    path: str | Path, *, progress: Callable[[str], None] = lambda _line: None
) -> tuple[Dataset, np.ndarray]:
    """The images of ``fer2013.csv`` at ``path`` (the file, or its folder), and each one's class of FER2013_CLASSES.

    The data set's votes are all 0: these labels are single ones. Raises :class:`BadInputError` naming the line.
    """
    file = _find(Path(path).expanduser())
    progress(f"reading {file}")
    folder, where = Folder(file.parent), str(file)
    classes, splits, lines = [], [], []
    with folder.open(file.name) as stream:
        for number, (emotion, usage) in table(stream, where, ("emotion", "Usage")):
            classes.append(_class(emotion, where, number))
            word = usage.decode("utf-8", "replace")
            if (split := split_code(word)) is None:
                raise BadInputError(f'{where}, line {number}: "{word[:40]}" is not a Usage; Training is one.')
            splits.append(split)
            lines.append(number)
            if len(lines) > MAX_LABEL_ROWS:
                raise BadInputError(f"{where} has more than {MAX_LABEL_ROWS:,} rows, so it is not FER2013.")
    count = len(classes)
    if not count:
        raise BadInputError(f"{where} has a header but no rows.")
    votes = np.zeros((count, len(VOTE_COLUMNS)), np.uint8)
    names = tuple(made_name(row) for row in range(count))
    labels = Labels(votes, np.array(splits, np.uint8), ("",) * count, tuple(lines), where)
    with folder.open(file.name) as stream:
        images, _ = read_pixels(stream, labels, where)
    dataset = Dataset(images, votes, labels.split, names, file.name, count, str(file))
    return dataset, np.array(classes, np.int64)


def _find(path: Path) -> Path:
    archives = ""
    if path.is_dir():
        folder = Folder(path)
        for name, is_directory in folder.entries().items():
            if not is_directory and name.strip().lower() in PIXEL_FILES:
                return path / name
        archives = archives_in(folder, [""])
    elif path.exists():
        if is_zip(path):
            raise BadInputError(f"{path} is a ZIP archive: unpack it, and name its {PIXEL_FILES[0]}.")
        return path
    raise BadInputError(
        f"There is no {' or '.join(PIXEL_FILES)} at {path}: FER2013's labels stand in that file alone.{archives}"
    )


def _class(field: bytes, where: str, line: int) -> int:
    if (code := KAGGLE_CODES.get(field.strip())) is not None:
        return code
    shown = field.decode("utf-8", "replace")[:40]
    raise BadInputError(
        f'{where}, line {line}: "{shown}" is not an emotion; they are numbered 0 to {len(FER2013_CLASSES) - 1}.'
    )
