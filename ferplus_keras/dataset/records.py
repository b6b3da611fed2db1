"""FERPlus as one typed object: images, votes, splits, names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.wording import counted

#: Side of the square grey images, in pixels.
SIDE = 48

#: The splits in the order of their codes. Kaggle calls them Training, PublicTest and PrivateTest.
SPLITS = ("train", "val", "test")

#: The ten vote columns: the emotions in the networks' order, then what is no emotion.
VOTE_COLUMNS = (*EMOTIONS, "unknown", "NF")

#: Rows of the published label file, and of Kaggle's pixel file beside it.
OFFICIAL_ROWS = 35_887

#: What the label files are called.
LABEL_FILE, FOLDER_LABEL_FILE = "fer2013new.csv", "label.csv"

_SPELLINGS = {
    "train": "train", "training": "train", "fer2013train": "train",
    "val": "val", "valid": "val", "validation": "val", "publictest": "val", "public": "val", "fer2013valid": "val",
    "test": "test", "testing": "test", "privatetest": "test", "private": "test", "fer2013test": "test",
}  # fmt: skip


@lru_cache(maxsize=256)
def split_code(text: str) -> int | None:
    """The code of a split (0 train, 1 val, 2 test), however it is spelled; None when it is none."""
    spelled = "".join(character for character in text.lower() if character.isalnum())
    name = _SPELLINGS.get(spelled)
    return None if name is None else SPLITS.index(name)


def made_name(row: int) -> str:
    """What a row is called that the label file leaves without a name."""
    return f"row {row}"


@dataclass(frozen=True)
class Labels:
    """The votes of a label file, row by row.

    ``votes`` is rows x 10 bytes (:data:`VOTE_COLUMNS`), ``split`` a code for each row (:data:`SPLITS`), ``names`` the
    image names, "" where the file leaves them blank, ``lines`` the line of the file that each row ends on.
    """

    votes: np.ndarray
    split: np.ndarray
    names: tuple[str, ...]
    lines: tuple[int, ...]
    origin: str

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Dataset:
    """Images and their votes, row by row.

    ``images`` is n x 48 x 48 bytes, ``votes`` n x 10 bytes (:data:`VOTE_COLUMNS`), ``split`` n codes
    (:data:`SPLITS`), ``names`` n image names (made of the row's number where the label file has none). ``labels``
    is the name of the file that the votes come from, ``label_rows`` how many rows that has, ``origin`` says in words
    where all of it lay, and ``notes`` what a reader of a figure should know.
    """

    images: np.ndarray
    votes: np.ndarray
    split: np.ndarray
    names: tuple[str, ...]
    labels: str
    label_rows: int
    origin: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.names)
        shapes = (self.images.shape, self.votes.shape, self.split.shape)
        if shapes != ((count, SIDE, SIDE), (count, len(VOTE_COLUMNS)), (count,)):
            raise ValueError(f"images, votes and splits of {count} rows do not go together: {shapes}")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {len(self.rows_of(name)):,}" for name in SPLITS)
        return f"<Dataset: {counted(len(self), 'image')} ({splits}) of {self.origin}>"

    @property
    def official(self) -> bool:
        """Whether every row of the published label file was there, so that published figures can be compared."""
        return self.labels == LABEL_FILE and self.label_rows == OFFICIAL_ROWS

    @property
    def named(self) -> np.ndarray:
        """Mask: the rows that have a name in the label file. The others have no image in Microsoft's folders."""
        return np.array([name != made_name(row) for row, name in enumerate(self.names)], bool)

    def rows_of(self, split: str) -> np.ndarray:
        """The row numbers of ``split``. Raises ``ValueError`` when there is no split of that name."""
        return np.flatnonzero(self.split == SPLITS.index(split))
