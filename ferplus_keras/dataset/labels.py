"""Microsoft's label files: ``fer2013new.csv``, and the ``label.csv`` in each folder of images."""

from __future__ import annotations

import numpy as np

from ferplus_keras.dataset.csv_text import columns_of, rows_of, votes_of
from ferplus_keras.dataset.records import LABEL_FILE, VOTE_COLUMNS, Labels, split_code
from ferplus_keras.errors import BadInputError

COLUMNS = ("Usage", "Image name", *VOTE_COLUMNS)


def read_labels(data: bytes, where: str = LABEL_FILE) -> Labels:
    """``fer2013new.csv`` as :class:`Labels`; its columns may stand in any order.

    Raises :class:`BadInputError` naming the line that is wrong, or the column that is missing.
    """
    rows = rows_of(data, where)
    first = next(rows, None)
    if first is None:
        raise BadInputError(f"{where} is empty; get {LABEL_FILE} from github.com/microsoft/FERPlus.")
    usage, name, *votes = columns_of(first[1], COLUMNS, where, first[0])
    width = len(first[1])
    splits, names, counts, lines = [], [], [], []
    for line, row in rows:
        if len(row) != width:
            raise BadInputError(f"{where}, line {line}: {len(row)} fields where the header has {width}.")
        if (split := split_code(row[usage])) is None:
            raise BadInputError(f'{where}, line {line}: "{row[usage][:40]}" is not a Usage; Training is one.')
        splits.append(split)
        names.append(row[name].strip())
        counts.append(votes_of([row[place] for place in votes], where, line))
        lines.append(line)
    if not names:
        raise BadInputError(f"{where} has a header but no rows.")
    return Labels(np.array(counts, np.uint8), np.array(splits, np.uint8), tuple(names), tuple(lines), where)


def read_folder_labels(data: bytes, split: int, where: str) -> Labels:
    """A folder's ``label.csv`` as :class:`Labels` of the split with that code.

    It has no header: image name, box, ten votes. Raises :class:`BadInputError` naming the line that is wrong.
    """
    width = 2 + len(VOTE_COLUMNS)
    names: list[str] = []
    counts: list[list[int]] = []
    lines: list[int] = []
    seen: set[str] = set()
    for line, row in rows_of(data, where):
        if len(row) != width:
            raise BadInputError(
                f"{where}, line {line}: {len(row)} fields where a row has {width}: image name, box and ten votes."
            )
        name = row[0].strip()
        if not names and not any(field.strip().isdigit() for field in row[2:]):
            continue  # somebody gave it a header
        if not name or name in seen:
            raise BadInputError(f"{where}, line {line}: the image name is {f'{name!r} again' if name else 'blank'}.")
        seen.add(name)
        names.append(name)
        counts.append(votes_of(row[2:], where, line))
        lines.append(line)
    votes = np.array(counts, np.uint8).reshape(-1, len(VOTE_COLUMNS))
    return Labels(votes, np.full(len(names), split, np.uint8), tuple(names), tuple(lines), where)
