"""Microsoft's folders of images: ``FER2013Train``, ``FER2013Valid`` and ``FER2013Test``, unpacked or in a zip."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from ferplus_keras.dataset.csv_text import MAX_LABEL_BYTES
from ferplus_keras.dataset.finding import Found
from ferplus_keras.dataset.labels import read_folder_labels
from ferplus_keras.dataset.places import Entry, joined
from ferplus_keras.dataset.records import FOLDER_LABEL_FILE, SIDE, SPLITS, Labels
from ferplus_keras.errors import BadInputError

#: An image of 48 x 48 takes 2 KB as PNG; what takes more than this is none.
MAX_IMAGE_BYTES = 1 << 20

#: Formats that are tried; what else Pillow can open is never asked.
FORMATS = ("PNG", "JPEG", "BMP", "PPM")

Progress = Callable[[int, int], None]


def folder_labels(found: Found) -> Labels:
    """The ``label.csv`` of each folder, one after the other, in the order of the splits."""
    parts = []
    for code, (place, folder) in sorted(found.folders.items()):
        if FOLDER_LABEL_FILE not in place.entries(folder):
            raise BadInputError(f"{place.show(folder)} has no {FOLDER_LABEL_FILE}, and there is no fer2013new.csv.")
        entry = Entry(place, joined(folder, FOLDER_LABEL_FILE))
        parts.append(read_folder_labels(entry.read(MAX_LABEL_BYTES), code, str(entry)))
    return Labels(
        np.concatenate([part.votes for part in parts]),
        np.concatenate([part.split for part in parts]),
        tuple(name for part in parts for name in part.names),
        tuple(line for part in parts for line in part.lines),
        FOLDER_LABEL_FILE,
    )


def read_images(found: Found, labels: Labels, progress: Progress = lambda _done, _all: None) -> np.ndarray:
    """The images of the rows of ``labels``, rows x 48 x 48 bytes, each from the folder of its split.

    Raises :class:`BadInputError` naming the line of the label file and the image that is missing, is no image of
    48 x 48, or cannot be decoded.
    """
    images = np.empty((len(labels), SIDE, SIDE), np.uint8)
    present = {code: place.entries(folder) for code, (place, folder) in found.folders.items()}
    for row, (name, code, line) in enumerate(zip(labels.names, labels.split.tolist(), labels.lines, strict=True)):
        place, folder = found.folders[code]
        where = f"{labels.origin}, line {line}"
        if name not in present[code]:
            raise BadInputError(f'{where}: the image "{name[:80]}" is not in {place.show(folder)} ({SPLITS[code]}).')
        images[row] = decode_image(Entry(place, joined(folder, name)).read(MAX_IMAGE_BYTES), name, where)
        if row % 500 == 0:
            progress(row, len(labels))
    return images


def decode_image(data: bytes, name: str, where: str) -> np.ndarray:
    """An image of 48 x 48, as grey bytes. The size is looked at before anything is decoded."""
    try:
        from PIL import Image
    except ImportError:
        raise BadInputError("Reading images needs Pillow: pip install pillow.") from None
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.size != (SIDE, SIDE):
                width, height = image.size
                raise BadInputError(f"{where}: {name} is {width} x {height} pixels; images are {SIDE} x {SIDE}.")
            return np.asarray(image if image.mode == "L" else image.convert("L"))
    except BadInputError:
        raise
    except Exception as error:  # whatever a decoder raises on damaged bytes: OSError, SyntaxError, struct.error ...
        raise BadInputError(f"{where}: {name} cannot be decoded ({str(error)[:120]}).") from None
