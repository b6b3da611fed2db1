"""Preprocessing inside the model: bytes in, the same numbers out, by stock layers; readers and checks accept it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from convert.conversion import convert
from convert.readers import own_provenance, read_checkpoint
from convert.writers import write
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.preprocessing import preprocess_input
from tests.seeded import seeded_checkpoint
from verify.images import natural_pixels
from verify.keras_side import open_model, without_preprocessing
from verify.predictors import open_predictor
from verify.same import check_same

pytestmark = pytest.mark.usefixtures("small")

ONE = pytest.mark.parametrize("network", ["resnet50"], indirect=True)


@ONE
@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_bytes_give_what_preprocessed_pixels_give(
    suffix: str, standin_pth: Path, standin_h5: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"pixels-standin{suffix}"
    convert(standin_pth, [path], pixels=True)
    pixels = natural_pixels(2, seed=2)
    model = keras.models.load_model(path, compile=False)  # plain Keras, no custom object
    assert model.input_shape == (None, 224, 224, 3) and model.inputs[0].dtype == "uint8"
    first = model.get_layer("data")
    np.testing.assert_array_equal(np.asarray(first(pixels)), preprocess_input(pixels))  # bit for bit
    wanted = keras.models.load_model(standin_h5, compile=False).predict(preprocess_input(pixels), verbose=0)
    np.testing.assert_allclose(model.predict(pixels, verbose=0), wanted, atol=1e-6)

    told = own_provenance(path)
    assert told is not None and told.preprocessing_inside
    assert read_checkpoint(path).provenance.preprocessing_inside is False  # of the arrays, not of the next file
    assert check_same(standin_h5, path).passed
    stripped, inside = without_preprocessing(open_model(path)[0])
    assert inside is not None
    np.testing.assert_allclose(stripped.predict(preprocess_input(pixels), verbose=0), wanted, atol=1e-6)
    np.testing.assert_allclose(open_predictor(path).probabilities(pixels), wanted, atol=1e-6)


@pytest.mark.parametrize("offset", [[-91.4953, -103.8827, -131.0912], [-131.0912] * 3, 0.0])
def test_another_preprocessing_is_another_function(offset: object, tmp_path: Path) -> None:
    path = write(seeded_checkpoint("resnet50"), tmp_path / "x.h5", pixels=True).path
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        layer = next(each for each in config["config"]["layers"] if each["name"] == "data")
        layer["config"]["offset"] = offset
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(BadInputError, match=r"graph is not resnet50's.*Rescaling|data does"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["x.weights.h5", "x.pth", "x.onnx"])
def test_a_file_that_is_no_keras_model_has_no_inside(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="inside a model"):
        write(seeded_checkpoint("resnet50"), tmp_path / name, pixels=True)
    assert not list(tmp_path.iterdir())
