"""A network to ask, and images to ask it about."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.predict.records import Prediction
from tests.conftest import standin_of


@pytest.fixture(scope="module")
def standin(networks_folder: Path) -> dict[str, Path]:
    """One ResNet50 with made-up weights, as .h5, .keras and .onnx."""
    from convert.conversion import convert

    source = standin_of("resnet50", networks_folder)
    made = {format: source.with_suffix(f".{format}") for format in ("h5", "keras", "onnx")}
    if missing := [path for path in made.values() if not path.exists()]:
        convert(source, missing)
    return made | {"pth": source}


def drawing(number: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """Noise, another for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A folder of six images, two of them deeper, and a file that is none."""
    folder = tmp_path / "faces"
    (folder / "more").mkdir(parents=True)
    for number in range(6):
        drawing(number).save((folder if number < 4 else folder / "more") / f"{number}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file of results, by column."""
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model file whose network is :class:`Brightness`, for what has nothing to do with networks."""
    monkeypatch.setattr("ferplus_keras.predict.classifier.EmotionClassifier", Brightness)
    path = tmp_path / "net.h5"
    path.write_bytes(b"a network")
    return path


class Brightness:
    """A network of one thought: the mean of the pixels says the class. It counts what it is asked."""

    labels, by, standin, network, side, notes = EMOTIONS, "NumPy", False, "resnet50", 224, ()

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        self.batches: list[int] = []

    def predict_pixels(self, pixels: np.ndarray) -> list[Prediction]:
        assert pixels.dtype == np.uint8 and pixels.shape[1:] == (224, 224, 3)
        self.batches.append(len(pixels))
        share = pixels.mean(axis=(1, 2, 3)) / 255
        rows = np.zeros((len(pixels), 8))
        rows[:, 1], rows[:, 0] = share, 1 - share
        return [Prediction.of(EMOTIONS, row) for row in rows]
