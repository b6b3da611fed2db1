"""FERPlus in the small, in every layout that people have it in. The images are noise and shapes, no faces."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ferplus_keras.dataset.records import VOTE_COLUMNS, Dataset

USAGE = ("Training", "PublicTest", "PrivateTest")
FOLDERS = ("FER2013Train", "FER2013Valid", "FER2013Test")
HEADER = ("Usage", "Image name", *VOTE_COLUMNS)


@dataclass
class Small:
    """A data set to be written down: images n x 48 x 48, votes n x 10, split codes, names ("" is blank)."""

    images: np.ndarray
    votes: np.ndarray
    split: np.ndarray
    names: list[str]
    emotions: list[int] | None = None  #: Kaggle's labels; 0 everywhere where there are none

    @classmethod
    def of(cls, data: Dataset) -> Small:
        return cls(data.images, data.votes, data.split, list(data.names))

    def label_rows(self) -> list[list[str]]:
        return [
            [USAGE[code], name, *map(str, votes)]
            for code, name, votes in zip(self.split, self.names, self.votes.tolist(), strict=True)
        ]

    def labels(self) -> bytes:
        return csv_bytes([list(HEADER), *self.label_rows()])

    def pixel_rows(self) -> list[list[str]]:
        return [
            [str(emotion), " ".join(map(str, image.ravel().tolist())), USAGE[code]]
            for image, code, emotion in zip(
                self.images, self.split, self.emotions or [0] * len(self.names), strict=True
            )
        ]

    def pixels(self) -> bytes:
        return csv_bytes([["emotion", "pixels", "Usage"], *self.pixel_rows()])

    def files(self) -> dict[str, bytes]:
        """Microsoft's layout, name -> content. Rows without a name have no image."""
        found: dict[str, bytes] = {}
        for code, folder in enumerate(FOLDERS):
            lines = []
            for row in np.flatnonzero(self.split == code):
                if self.names[row]:
                    found[f"data/{folder}/{self.names[row]}"] = png(self.images[row])
                    lines.append(f'{self.names[row]},"(0, 0, 48, 48)",{",".join(map(str, self.votes[row].tolist()))}')
            found[f"data/{folder}/label.csv"] = "".join(f"{line}\r\n" for line in lines).encode()
        return found


def small(count: int = 12, seed: int = 0) -> Small:
    """``count`` rows, some in every split; the third has no name and is not a face."""
    generator = np.random.default_rng(seed)
    votes = generator.multinomial(10, generator.dirichlet(np.ones(10) * 0.3, count))
    split = np.array([(0, 0, 1, 2)[row % 4] for row in range(count)], np.uint8)
    names = [f"fer{row:07}.png" for row in range(count)]
    names[2], votes[2] = "", [0] * 9 + [10]
    return Small(generator.integers(0, 256, (count, 48, 48), dtype=np.uint8), votes.astype(np.uint8), split, names)


def csv_bytes(rows: Sequence[Sequence[str]], end: str = "\n") -> bytes:
    return "".join(",".join(row) + end for row in rows).encode()


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def write_files(files: dict[str, bytes], folder: Path) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_zip(files: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_pair(data: Small, folder: Path) -> Path:
    """Kaggle's pixel file and Microsoft's label file, side by side."""
    return write_files({"fer2013.csv": data.pixels(), "fer2013new.csv": data.labels()}, folder)
