"""The README's recipe: a network without its top in a Sequential, a head of one's own behind it; and back again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.conversion import convert
from convert.inspection import inspect
from convert.readers import read_checkpoint
from convert.writers import write
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import architecture, classifier
from ferplus_keras.networks.emotions import EMOTIONS
from tests.seeded import seeded_checkpoint

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def h5(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both networks as converted files."""
    folder = tmp_path_factory.mktemp("tuned")
    return {name: write(seeded_checkpoint(name), folder / f"{name}.h5").path for name in ("resnet50", "senet50")}


def base(path: Path, **options: Any) -> Any:
    import ferplus_keras

    build = {"resnet50": ferplus_keras.ResNet50, "senet50": ferplus_keras.SeNet50}[path.stem]
    return build(weights=path, include_top=False, **options)


def recipe(path: Path, units: int = 7, *between: Any) -> Any:
    import keras

    inner = base(path, pooling="avg")
    inner.trainable = False
    head = keras.layers.Dense(units, activation="softmax", bias_initializer="uniform")
    return keras.Sequential([inner, keras.layers.Dropout(0.5), *between, head])


def saved(model: Any, path: Path) -> Path:
    model.save_weights(path) if path.name.endswith(".weights.h5") else model.save(path)
    return path


def holds_the_weights_of(model: Any, path: Path) -> None:
    """Every array of the model, and nothing else, stands in the file under its layer's name, bit for bit."""
    arrays = read_checkpoint(path).arrays
    left = {(layer, role) for layer, roles in arrays.items() for role in roles}
    *_, head = model.layers
    inner = next((layer for layer in model.layers if hasattr(layer, "layers")), model)
    for layer in [*(each for each in inner.layers if each is not head), head]:
        for variable in layer.weights:
            key = ("classifier" if layer is head else layer.name, variable.name)
            np.testing.assert_array_equal(arrays[key[0]][key[1]], np.asarray(variable), err_msg=str(key))
            left.remove(key)
    assert not left and sum(len(roles) for roles in arrays.values()) == len(model.get_weights())


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_the_recipe_comes_back_to_pytorch_with_every_number(h5: dict[str, Path], suffix: str, tmp_path: Path) -> None:
    model = recipe(h5["resnet50"])
    tuned = saved(model, tmp_path / f"tuned{suffix}")
    convert(tuned, [tmp_path / "tuned.pth"])
    holds_the_weights_of(model, tmp_path / "tuned.pth")
    read = read_checkpoint(tuned)
    assert read.architecture == architecture("resnet50", classifier(7)) and read.provenance.labels is None
    assert any("dense" in note and "used as the classifier" in note for note in read.provenance.notes)
    assert inspect(tuned)["problems"] == "" and inspect(tuned)["head"] == "7 classes"


@pytest.mark.slow
def test_the_file_computes_what_the_model_computes(h5: dict[str, Path], tmp_path: Path) -> None:
    import torch

    from verify.references.torch_reference import as_torch, reference_module

    model = recipe(h5["resnet50"])
    convert(saved(model, tmp_path / "tuned.keras"), [tmp_path / "tuned.pth"])
    images = np.random.default_rng(0).uniform(-100, 150, (1, 224, 224, 3)).astype(np.float32)
    module = reference_module(read_checkpoint(tmp_path / "tuned.pth"), "float32")
    with torch.inference_mode():
        logits = module(as_torch(images, "float32")).numpy().reshape(1, -1)
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    np.testing.assert_allclose(np.asarray(model.predict(images, verbose=0)), wanted, atol=1e-4)


def test_a_senet_with_a_head_put_on_by_calls_is_read(h5: dict[str, Path], tmp_path: Path) -> None:
    import keras

    inner = base(h5["senet50"], pooling="avg")
    model = keras.Model(inner.input, keras.layers.Dense(5, name="mine")(inner.output))
    path = saved(model, tmp_path / "flat.keras")
    holds_the_weights_of(model, path)
    assert read_checkpoint(path).provenance.output == "logits"


def test_a_pooling_of_ones_own_is_the_networks(h5: dict[str, Path], tmp_path: Path) -> None:
    import keras

    inner, pool, head = base(h5["resnet50"]), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)
    model = keras.Sequential([inner, pool, head])
    holds_the_weights_of(model, saved(model, tmp_path / "pooled.h5"))
    other = keras.Sequential([inner, keras.layers.GlobalMaxPooling2D(), head])
    with pytest.raises(BadInputError, match="a Dense, has no place"):
        read_checkpoint(saved(other, tmp_path / "max.h5"))


def test_eight_classes_of_ones_own_are_not_called_ferplus(h5: dict[str, Path], tmp_path: Path) -> None:
    path = saved(recipe(h5["resnet50"], len(EMOTIONS)), tmp_path / "eight.keras")
    convert(path, [tmp_path / "eight.pth"])
    for each in (path, tmp_path / "eight.pth"):
        assert read_checkpoint(each).provenance.labels is None
    assert any(
        "nothing says that they are in FERPlus's order" in note for note in read_checkpoint(path).provenance.notes
    )


@pytest.mark.slow
def test_a_head_that_is_more_than_a_classifier_is_refused(h5: dict[str, Path], tmp_path: Path) -> None:
    import keras

    two = recipe(h5["resnet50"], 7, keras.layers.Dense(64, activation="relu"))
    with pytest.raises(BadInputError, match="a relu, has no place in these networks"):
        read_checkpoint(saved(two, tmp_path / "two.keras"))
    scaled = recipe(h5["resnet50"], 7, keras.layers.Rescaling(0.5))
    with pytest.raises(BadInputError, match=r"stands .*, a Rescaling"):
        read_checkpoint(saved(scaled, tmp_path / "scaled.keras"))


@pytest.mark.slow
def test_two_networks_in_one_model_are_not_taken_for_one(h5: dict[str, Path], tmp_path: Path) -> None:
    import keras

    image = keras.Input((64, 64, 3))
    both = [base(h5["resnet50"], pooling="avg", name=name)(image) for name in ("one", "other")]
    model = keras.Model(image, keras.layers.Dense(7)(keras.layers.Add()(both)))
    for suffix in (".keras", ".h5"):
        with pytest.raises(BadInputError, match="a Conv2D, has no place"):
            read_checkpoint(saved(model, tmp_path / f"two{suffix}"))
