"""Kaggle's pixel file at its full size, made once into benchmarks/.work: 35,887 rows, about 300 MB.

The rows are as many as the published label file has. The images are the real ones where ``FERPLUS_DATA`` has them,
noise otherwise: to the parser they are digits. The votes are made up, and agree with the emotions, as the reader asks.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from benchmarks.standins import WORK
from ferplus_keras.dataset.order import KAGGLE_CLASSES
from ferplus_keras.dataset.records import OFFICIAL_ROWS, SIDE, VOTE_COLUMNS

#: Rows of each split in the published label file.
USAGES = (("Training", 28_709), ("PublicTest", 3_589), ("PrivateTest", 3_589))


def kaggle_pair() -> Path:
    """The folder of ``fer2013.csv`` and ``fer2013new.csv``, made if it is not there."""
    folder = WORK / "kaggle"
    pixels, labels = folder / "fer2013.csv", folder / "fer2013new.csv"
    if pixels.exists() and labels.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    usages = [usage for usage, count in USAGES for _ in range(count)]
    assert len(usages) == OFFICIAL_ROWS
    images = _images(generator)
    emotions = generator.integers(0, len(KAGGLE_CLASSES), OFFICIAL_ROWS)
    words = [str(value).encode() for value in range(256)]
    partial = pixels.with_suffix(".partial")
    with partial.open("wb") as stream:
        stream.write(b"emotion,pixels,Usage\n")
        for number, usage in enumerate(usages):
            text = b" ".join(words[value] for value in images[number % len(images)].reshape(-1).tolist())
            stream.write(b"%d,%s,%s\n" % (emotions[number], text, usage.encode()))
    with labels.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["Usage", "Image name", *VOTE_COLUMNS])
        for number, usage in enumerate(usages):
            votes = generator.multinomial(4, [0.1] * 10)
            votes[VOTE_COLUMNS.index(KAGGLE_CLASSES[emotions[number]])] += 6
            writer.writerow([usage, f"fer{number:07}.png", *votes])
    partial.replace(pixels)
    return folder


def _images(generator: np.random.Generator) -> np.ndarray:
    if os.environ.get("FERPLUS_DATA"):
        from ferplus_keras.dataset import load_ferplus

        return load_ferplus().images
    return generator.integers(0, 256, (OFFICIAL_ROWS, SIDE, SIDE), dtype=np.uint8)


if __name__ == "__main__":
    print(kaggle_pair())
