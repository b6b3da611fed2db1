"""VGGFace and its utils on Keras 3: the exact network behind keras_vggface's arguments, names and channel order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from convert.conversion import convert
from convert.readers import read_checkpoint
from ferplus_keras.applications.loading import load_weights
from ferplus_keras.compat import VGGFace, decode_predictions, get_layer, layer_name, utils
from ferplus_keras.compat.vggface import keras_of
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.preprocessing import preprocess_input
from tests.small import NARROWER
from verify.images import natural_pixels
from verify.tensors import compare_tensors

pytestmark = pytest.mark.usefixtures("small")

ONE = pytest.mark.parametrize("network", ["resnet50"], indirect=True)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return natural_pixels(2, seed=1)


@ONE
def test_the_network_is_the_exact_one_fed_with_bgr(standin_h5: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    model = VGGFace(model="resnet50", weights=standin_h5)
    exact = keras.models.load_model(standin_h5, compile=False)
    wanted = exact.predict(preprocess_input(pixels), verbose=0)
    bgr = utils.preprocess_input(pixels, version=2)
    np.testing.assert_allclose(model.predict(bgr, verbose=0), wanted, atol=1e-5)
    assert np.abs(model.predict(preprocess_input(pixels), verbose=0) - wanted).max() > 1e-3  # RGB is told from BGR

    assert model.name == "vggface_resnet50" and model.output_shape == (None, 8)
    for name in ("conv1/7x7_s2", "conv1_7x7_s2", "conv1_7x7_s2_bgr"):
        assert get_layer(model, name).kernel.shape == (7, 7, 3, 64 // NARROWER)
    assert get_layer(model, "conv5_3_1x1_increase/bn") is model.get_layer("conv5_3_1x1_increase_bn")
    assert get_layer(model, "avg_pool").output.shape == (None, 1, 1, 2048 // NARROWER)
    assert layer_name(model, "pool5_7x7_s1") == "avg_pool"
    with pytest.raises(ValueError, match="no layer 'fc8'"):
        get_layer(model, "fc8")

    # What is saved of it, in every form that Keras 3 has, is read back as the network: RGB, and bit for bit.
    source = read_checkpoint(standin_h5)
    for name in ("c-standin.keras", "c-standin.h5", "c-standin.weights.h5"):
        path = tmp_path / name
        (model.save_weights if name.endswith(".weights.h5") else model.save)(path)
        assert compare_tensors(source.arrays, read_checkpoint(path).arrays).passed, name
        assert load_weights(model, path).matched
    with pytest.raises(BadInputError, match="another kind"):
        load_weights(exact, tmp_path / "c-standin.h5")


@pytest.mark.slow
@ONE
def test_without_top_and_with_weights_of_the_old_layout(standin_pth: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "old-standin.h5"
    convert(standin_pth, [path], layout="keras-vggface")
    image = keras.Input((224, 224, 3))
    model = VGGFace(model="resnet50", weights=path, include_top=False, pooling="avg", input_tensor=image)
    assert model.input is image and model.output_shape == (None, 2048 // NARROWER)
    from verify.references.torch_reference import TorchReference

    reference = TorchReference(read_checkpoint(standin_pth), "float32").run(preprocess_input(pixels))
    found = model.predict(utils.preprocess_input(pixels, version=2), verbose=0)
    wanted = reference["pool5_7x7_s1"].reshape(found.shape)
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max() * 10
    with pytest.raises(BadInputError, match="classifier has the shapes"):
        VGGFace(model="resnet50", weights=path, classes=7)
    with pytest.raises(
        BadInputError, match=r"holds the weights of ResNet50, .*: build VGGFace\(model='resnet50'\) for them"
    ):
        VGGFace(model="senet50", weights=path)


def test_named_weights_are_found_or_the_message_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FERPLUS_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("ferplus_keras.compat.vggface.shipped", dict)
    with pytest.raises(BadInputError, match="make convert"):
        VGGFace(model="resnet50", weights="ferplus")
    with pytest.raises(BadInputError, match="ferplus fetch senet50_vggface2"):
        VGGFace(model="senet50", weights="vggface")
    with pytest.raises(BadInputError, match="there is no file"):
        VGGFace(model="senet50", weights=tmp_path / "none.h5")


@ONE
def test_a_stand_in_is_named_as_one(standin_h5: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "resnet50_ferplus-standin.h5").symlink_to(standin_h5)
    monkeypatch.setenv("FERPLUS_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("ferplus_keras.compat.vggface.shipped", dict)  # with trained ones, those are taken
    with pytest.warns(UserWarning, match="STAND-IN"):
        VGGFace(model="resnet50", weights="ferplus", include_top=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "not 'vgg16'"),
        ({"model": "resnet50", "weights": None, "input_shape": (100, 100, 3)}, "with the top"),
        ({"model": "resnet50", "weights": None, "input_shape": (3, 224, 224)}, "height, width, 3"),
        ({"model": "resnet50", "weights": None, "include_top": False, "input_shape": (160, 160, 3)}, "at least 195"),
        ({"model": "resnet50", "weights": None, "include_top": False, "pooling": "median"}, "pooling is None"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_go_together(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VGGFace(**arguments)


def test_the_signature_is_keras_vggfaces() -> None:
    import inspect

    found = {name: each.default for name, each in inspect.signature(VGGFace).parameters.items()}
    assert found == {"include_top": True, "model": "vgg16", "weights": "vggface", "input_tensor": None,
                     "input_shape": None, "pooling": None, "classes": None}  # fmt: skip


def test_which_keras_it_builds_with(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keras_of().__name__ == "keras"
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    assert keras_of(keras.Input((2,))).__name__ == "keras"  # the tensor's own, whatever the variable says


# --- utils ----------------------------------------------------------------------------------------------------------


def test_preprocessing_is_keras_vggfaces(pixels: np.ndarray) -> None:
    found = utils.preprocess_input(pixels, version=2)
    np.testing.assert_array_equal(found, preprocess_input(pixels)[..., ::-1])
    np.testing.assert_allclose(found[0, 0, 0], pixels[0, 0, 0, ::-1] - [91.4953, 103.8827, 131.0912], rtol=1e-5)
    with pytest.warns(UserWarning, match="version=2"):
        old = utils.preprocess_input(pixels)
    np.testing.assert_allclose(old[0, 0, 0], pixels[0, 0, 0, ::-1] - [93.5940, 104.7624, 129.1863], rtol=1e-5)
    for arguments in ({"version": 3}, {"version": 2, "data_format": "channels_first"}):
        with pytest.raises(ValueError, match="not"):
            utils.preprocess_input(pixels, **arguments)
    with pytest.raises(ValueError, match="multiply it by 255"):
        utils.preprocess_input(pixels / 255.0, version=2)


def test_predictions_in_keras_vggfaces_form() -> None:
    rows = np.eye(8)[[1, 7]] * 0.5 + 0.05
    found = decode_predictions(rows, top=2)
    assert found[0][0] == [EMOTIONS[1], 0.55] and found[1][0] == [EMOTIONS[7], 0.55] and len(found[0]) == 2
    with pytest.raises(ValueError, match="8631"):
        decode_predictions(np.zeros((1, 8631)))
