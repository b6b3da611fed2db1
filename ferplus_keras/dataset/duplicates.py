"""The same image twice: FER2013 holds copies of train images in val and test.

A network that has seen a test image in training is graded on memory there. Counted are exact copies, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from ferplus_keras.dataset.records import SPLITS, Dataset


@dataclass(frozen=True)
class Duplicates:
    """``also_in`` is n x 3: whether a copy of image n, or itself, stands in train, val and test.

    ``identity`` numbers the distinct images: two rows with the same number are copies of each other.
    """

    also_in: np.ndarray
    identity: np.ndarray
    split: np.ndarray

    def copied(self, split: str, other: str) -> np.ndarray:
        """Mask over all rows: those of ``split`` whose exact copy stands in ``other``."""
        mask: np.ndarray = (self.split == SPLITS.index(split)) & self.also_in[:, SPLITS.index(other)]
        return mask

    def counts(self, split: str, other: str) -> tuple[int, int]:
        """How many rows of ``split`` have a copy in ``other``, and how many distinct images those are."""
        rows = self.copied(split, other)
        return int(rows.sum()), len(np.unique(self.identity[rows]))

    def seen(self, split: str) -> np.ndarray:
        """Mask over all rows: those of ``split`` of which training may have seen a copy.

        For test that is in train or val (the model was chosen there), for val in train, for train in neither.
        """
        mask = np.zeros(len(self.split), bool)
        for other in SPLITS[: SPLITS.index(split)]:
            mask |= self.copied(split, other)
        return mask


def find_duplicates(dataset: Dataset) -> Duplicates:
    """The exact copies in ``dataset``, found by a 128-bit hash of each image.

    Rows without a name are copies of none: all ten votes say that they are no face, and Microsoft's folders leave them
    out. So the counts are the same from Kaggle's file and from the folders.
    """
    numbers: dict[bytes, int] = {}
    keys = (
        blake2b(image, digest_size=16).digest() if named else b"%d" % row
        for row, (image, named) in enumerate(zip(dataset.images, dataset.named, strict=True))
    )
    identity = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    places = np.zeros((len(numbers), len(SPLITS)), bool)
    places[identity, dataset.split] = True
    return Duplicates(places[identity] if len(identity) else places, identity, dataset.split)
