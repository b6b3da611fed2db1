"""A network that was trained on small images: what its files say of it, and what may not be said."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ferplus_keras
from convert.checkpoint import Provenance
from convert.exporters import Recipe
from convert.readers import read_checkpoint
from convert.writers import write
from ferplus_keras.dataset.protocols import PROTOCOLS
from ferplus_keras.engines import open_engine
from ferplus_keras.networks.preprocessing import PUBLISHED
from ferplus_keras.networks.resizing import RESIZERS
from ferplus_keras.predict.classifier import EmotionClassifier
from tests.seeded import seeded_checkpoint
from tests.verify.oracles import painted
from verify.exporting import Checks, export_checked
from verify.gallery import look, open_network
from verify.images import Images
from verify.parity import ParityOptions, check_parity
from verify.predictors import open_predictor
from verify.preprocessing_check import compare_preprocessing

pytestmark = pytest.mark.usefixtures("small")


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
    assert told.side == (48 if size == 48 else 224)


@pytest.mark.parametrize("name", ["small.h5", "small.safetensors"])
def test_a_small_networks_file_keeps_its_size_and_runs_at_it(name: str, tmp_path: Path) -> None:
    checkpoint = replace(seeded_checkpoint("resnet50"), provenance=trained(48))
    write(checkpoint, tmp_path / name)
    back = read_checkpoint(tmp_path / name).provenance
    assert back.preprocessing["size"] == (48, 48) and back.training == {"recipe": "scratch"}
    predictor = open_predictor(tmp_path / name)
    assert predictor.size == 48
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    assert predictor.probabilities(images).shape == (2, 8)


@pytest.mark.parametrize("name", RESIZERS)
def test_every_way_of_resizing_takes_a_size(name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 48), dtype=np.uint8)
    assert RESIZERS[name].run(images, 64).shape == (2, 64, 64)
    assert RESIZERS[name].run(images, 48) == pytest.approx(images, abs=1e-4)


@pytest.mark.parametrize("name", ["small.h5", "small.keras", "small.onnx"])
def test_predict_shows_a_network_images_of_its_own_size(name: str, tmp_path: Path) -> None:
    checkpoint = replace(seeded_checkpoint("resnet50"), provenance=trained(48))
    write(checkpoint, tmp_path / name)
    classifier = EmotionClassifier(tmp_path / name)
    assert classifier.side == 48
    grey = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    said = classifier.predict(grey).probabilities
    write(checkpoint, tmp_path / "same.safetensors")
    images = np.repeat(grey[None, :, :, None], 3, axis=3)
    wanted = open_predictor(tmp_path / "same.safetensors").probabilities(images)[0]
    assert list(said.values()) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    "target", ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("saved_model", "tflite"))]
)
def test_what_is_exported_takes_images_of_the_networks_size(target: str, tmp_path: Path) -> None:
    checkpoint = replace(seeded_checkpoint("resnet50"), provenance=trained(48))
    write(checkpoint, tmp_path / "small.safetensors")
    recipe = Recipe(target, pixels=True)
    outcome = export_checked(tmp_path / "small.safetensors", recipe, tmp_path / f"small.{target}", Checks(images=2))
    assert outcome.passed, outcome.sentences
    assert open_engine(outcome.path).takes.side == 48


@pytest.mark.slow
def test_a_small_networks_file_is_opened_at_its_own_size(tmp_path: Path) -> None:
    """cases/small_input.py: in ``ResNet50`` as in Keras itself, and another size is not taken without a word."""
    import keras

    path = tmp_path / "small.h5"
    write(replace(seeded_checkpoint("resnet50"), provenance=trained(64)), path)
    assert keras.models.load_model(path, compile=False).input_shape == (None, 64, 64, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ferplus_keras.ResNet50(weights=path).input_shape == (None, 64, 64, 3)
        assert ferplus_keras.ResNet50(weights=path, include_top=False).input_shape == (None, None, None, 3)
    with pytest.warns(UserWarning, match="trained on images of 64 x 64, and the model takes 224 x 224"):
        ferplus_keras.ResNet50(weights=path, input_shape=(224, 224, 3))


@pytest.mark.parametrize("name", ["small.onnx", pytest.param("small.h5", marks=pytest.mark.slow)])
def test_parity_is_measured_at_the_networks_size(name: str, tmp_path: Path) -> None:
    write(replace(seeded_checkpoint("resnet50"), provenance=trained(48)), tmp_path / "small.safetensors")
    write(read_checkpoint(tmp_path / "small.safetensors"), tmp_path / name)
    found = check_parity(tmp_path / name, tmp_path / "small.safetensors", ParityOptions(images=1))
    assert found.images.pixels.shape[1] == 48 and all(run.passed for run in found.runs)


def test_faces_are_shown_at_the_networks_size(tmp_path: Path) -> None:
    write(replace(seeded_checkpoint("resnet50"), provenance=trained(64)), tmp_path / "small.safetensors")
    network = open_network(tmp_path / "small.safetensors")
    looks = look(network, painted([0, 3], [1, 1]), PROTOCOLS["albanie"], "val")
    assert looks.said.shape == (2, 2, 2, 8)
    predictor = open_predictor(tmp_path / "small.safetensors")
    grey = np.repeat(RESIZERS["pillow"].run(painted([0, 3]).images, 64)[..., None], 3, axis=3)
    np.testing.assert_allclose(looks.probabilities, predictor.probabilities(grey), atol=1e-4)
