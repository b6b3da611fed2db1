"""A network that was trained on small pictures: what its files say of it, and what may not be said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert.checkpoint import Provenance
from convert.exporters import Recipe, export
from convert.readers import read_checkpoint
from convert.writers import write
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.preprocessing import PUBLISHED, preprocess_input
from ferplus_keras.networks.resizing import RESIZERS
from ferplus_keras.predict.classifier import EmotionClassifier
from tests.seeded import seeded_checkpoint
from verify.gallery import open_network
from verify.images import Images
from verify.predictors import open_predictor, size_of
from verify.preprocessing_check import compare_preprocessing


def trained(size: int) -> Provenance:
    told = seeded_checkpoint("resnet50").provenance
    return replace(told, preprocessing=PUBLISHED.as_dict() | {"size": (size, size)}, training={"recipe": "scratch"})


def test_the_size_is_held_against_the_one_it_was_trained_on() -> None:
    images: Images = Images.of(1)
    small, published = trained(48), seeded_checkpoint("resnet50").provenance
    assert compare_preprocessing(images, small, small).passed
    assert compare_preprocessing(images, published, published).passed
    for told, source in ((small, published), (published, small), (trained(64), small)):
        wrong = compare_preprocessing(images, told, source)
        assert not wrong.passed and "size" in wrong.summary


@pytest.mark.parametrize("size", [48, 31, 5000, (48, 64), (48.5, 48.5)])
def test_only_a_sensible_size_is_believed(size: object) -> None:
    pair = size if isinstance(size, tuple) else (size, size)
    told = replace(trained(48), preprocessing=PUBLISHED.as_dict() | {"size": pair})
    assert size_of(told) == (48 if size == 48 else 224)


@pytest.mark.parametrize("name", ["small.h5", "small.safetensors"])
def test_a_small_networks_file_keeps_its_size_and_runs_at_it(name: str, tmp_path: Path) -> None:
    checkpoint = replace(seeded_checkpoint("resnet50"), provenance=trained(48))
    write(checkpoint, tmp_path / name)
    back = read_checkpoint(tmp_path / name).provenance
    assert back.preprocessing["size"] == (48, 48) and back.training == {"recipe": "scratch"}
    predictor = open_predictor(tmp_path / name)
    assert predictor.size == 48
    images = np.random.default_rng(0).normal(size=(2, 48, 48, 3)).astype(np.float32)
    assert predictor.probabilities(images).shape == (2, 8)


@pytest.mark.parametrize("name", RESIZERS)
def test_every_way_of_resizing_takes_a_size(name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 48), dtype=np.uint8)
    assert RESIZERS[name].run(images, 64).shape == (2, 64, 64)
    assert RESIZERS[name].run(images, 48) == pytest.approx(images, abs=1e-4)


@pytest.mark.parametrize("name", ["small.h5", "small.keras", "small.onnx"])
def test_predict_shows_a_network_pictures_of_its_own_size(name: str, tmp_path: Path) -> None:
    checkpoint = replace(seeded_checkpoint("resnet50"), provenance=trained(48))
    write(checkpoint, tmp_path / name)
    classifier = EmotionClassifier(tmp_path / name)
    assert classifier.side == 48
    grey = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    said = classifier.predict(grey).probabilities
    write(checkpoint, tmp_path / "same.safetensors")
    images = preprocess_input(np.repeat(grey[None, :, :, None], 3, axis=3))
    wanted = open_predictor(tmp_path / "same.safetensors").probabilities(images)[0]
    assert list(said.values()) == pytest.approx(wanted, abs=1e-4)


def test_what_is_made_for_224_refuses_a_small_network(tmp_path: Path) -> None:
    checkpoint = replace(seeded_checkpoint("resnet50"), provenance=trained(48))
    with pytest.raises(BadInputError, match=r"48 x 48.*--to onnx"):
        export(checkpoint, Recipe("tflite"), tmp_path / "x.tflite")
    write(checkpoint, tmp_path / "small.h5")
    with pytest.raises(BadInputError, match="48 x 48"):
        open_network(tmp_path / "small.h5")
