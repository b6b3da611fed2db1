"""FERPlus, as people have it, as one typed object: ``load_ferplus(path)``.

Kaggle's ``fer2013.csv`` (or ``icml_face_data.csv``) beside Microsoft's ``fer2013new.csv``; Microsoft's folders of
images; a ``.zip`` of either. :mod:`ferplus_keras.dataset.protocols` makes labels of the votes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ferplus_keras.dataset.cache import cached
from ferplus_keras.dataset.csv_text import MAX_LABEL_BYTES
from ferplus_keras.dataset.finding import DATA_VARIABLE, Found, find
from ferplus_keras.dataset.image_folders import folder_labels, read_images
from ferplus_keras.dataset.labels import read_labels
from ferplus_keras.dataset.pixels_csv import read_pixels
from ferplus_keras.dataset.records import LABEL_FILE, SPLITS, VOTE_COLUMNS, Dataset, Labels, made_name
from ferplus_keras.errors import BadInputError
from ferplus_keras.wording import counted

Progress = Callable[[str], None]


def load_ferplus(path: str | Path | None = None, *, progress: Progress = lambda _line: None) -> Dataset:
    """The data set at ``path`` (default: ``$FERPLUS_DATA``), from the cache when it was read before.

    Args:
        path: a pixel file, a label file, a folder of images, a ``.zip``, or a folder that holds any of these.
        progress: called with a line of text when something takes a while.

    Raises:
        BadInputError: nothing was found, or a file is not as it should be; the message names the line.
    """
    found = find(path)
    return cached(found, lambda: _read(found, progress))


def _read(found: Found, progress: Progress) -> Dataset:
    progress(f"reading {found} (once: the next start takes it from the cache)")
    labels = _labels(found)
    rows = len(labels)
    notes: list[str] = []
    if found.pixels is not None:
        with found.pixels.place.open(found.pixels.name) as stream:
            images, remarks = read_pixels(stream, labels, str(found.pixels))
        notes += remarks
    else:
        labels = _with_images(labels, found, notes)
        images = read_images(found, labels, lambda done, total: progress(f"{done:,} of {counted(total, 'image')}"))
    names = tuple(name or made_name(row) for row, name in enumerate(labels.names))
    source = LABEL_FILE if found.labels is not None else labels.origin
    if source != LABEL_FILE:
        notes.append(
            f"the votes are those of the folders' {source}, which are not {LABEL_FILE}'s: in Microsoft's own files "
            f"1,601 images differ. Put {LABEL_FILE} beside the data to have the votes that figures are published for"
        )
    return Dataset(images, labels.votes, labels.split, names, source, rows, str(found), tuple(notes))


def _labels(found: Found) -> Labels:
    if found.labels is None:
        return folder_labels(found)
    return read_labels(found.labels.read(MAX_LABEL_BYTES), str(found.labels))


def _with_images(labels: Labels, found: Found, notes: list[str]) -> Labels:
    """The rows of which there can be an image: those with a name, in a split whose folder is there."""
    named = np.array([bool(name) for name in labels.names])
    here = np.isin(labels.split, list(found.folders))
    kept = np.flatnonzero(named & here)
    if absent := [name for code, name in enumerate(SPLITS) if code not in found.folders]:
        notes.append(f"there is no folder for {' and '.join(absent)}, so exact copies of their images are not known")
    if not kept.size:
        raise BadInputError(f"{found}: no row of the label file has an image there.")
    return replace(
        labels,
        votes=labels.votes[kept],
        split=labels.split[kept],
        names=tuple(labels.names[row] for row in kept),
        lines=tuple(labels.lines[row] for row in kept),
    )


__all__ = ["DATA_VARIABLE", "SPLITS", "VOTE_COLUMNS", "Dataset", "Labels", "find", "load_ferplus", "read_labels"]
