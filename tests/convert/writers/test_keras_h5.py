"""The whole-model .h5 opens in Keras 2.15 and in Keras 3, by every road that users take."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from convert.writers import write
from convert.writers.keras_h5 import MAX_ATTRIBUTE_BYTES
from ferplus_keras.networks.architecture import architecture
from ferplus_keras.networks.keras_plan import keras_plan
from tests.conftest import SECOND_SLOW, run_python
from tests.seeded import seeded_checkpoint

pytestmark = pytest.mark.usefixtures("small")

#: Run by both Keras versions: load the file in every way, predict, save what was seen.
EVERY_ROAD = """
import json, sys, warnings
import numpy as np
warnings.simplefilter("error")  # a file that loads with a warning is a question that the user has to answer
path, pixels, out = sys.argv[1:]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras
model = keras.models.load_model(path, compile=False)
warnings.simplefilter("ignore")
x = np.load(pixels)
whole = model.predict(x, verbose=0)
def fresh():
    other = model.__class__.from_config(model.get_config())
    for layer in other.layers:
        layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
    return other
by_position, by_name = fresh(), fresh()
assert not np.allclose(by_position.predict(x, verbose=0), whole)
by_position.load_weights(path)
by_name.load_weights(path, by_name=True)
logits = keras.Model(model.inputs, model.get_layer("classifier").output)
np.savez(out, whole=whole, by_position=by_position.predict(x, verbose=0), by_name=by_name.predict(x, verbose=0),
         logits=logits.predict(x, verbose=0))
print(json.dumps({"version": keras.__version__, "layers": [layer.name for layer in model.layers],
                  "input": list(model.input_shape), "output": list(model.output_shape), "name": model.name,
                  "trainable": sum(int(np.prod(w.shape)) for w in model.trainable_weights)}))
"""


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def reference_logits(pth: Path, images: np.ndarray) -> np.ndarray:
    import torch

    from convert.readers import read_checkpoint
    from verify.references.torch_reference import reference_module

    module = reference_module(read_checkpoint(pth), "float32")
    with torch.no_grad():
        return module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


@pytest.mark.parametrize("version", ["2.15", pytest.param("3", marks=pytest.mark.slow)])
@pytest.mark.parametrize("network", SECOND_SLOW, indirect=True)
def test_every_road_leads_to_pytorchs_logits(
    version: str, network: str, standin_pth: Path, standin_h5: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from verify.images import natural_inputs

    options = {"python": request.getfixturevalue("keras2")} if version == "2.15" else {}
    images = natural_inputs(3, seed=11)
    np.save(tmp_path / "x.npy", images)
    said = run_python(EVERY_ROAD, standin_h5, tmp_path / "x.npy", tmp_path / "out.npz", **options)
    told = json.loads(said.splitlines()[-1])
    outputs = np.load(tmp_path / "out.npz")
    logits = reference_logits(standin_pth, images)
    assert told["version"].startswith(version)
    assert told["layers"] == [layer.name for layer in keras_plan(architecture(network))]
    assert told["input"] == [None, 224, 224, 3] and told["output"] == [None, 8]
    assert told["trainable"] == architecture(network).parameter_count
    assert np.abs(outputs["logits"] - logits).max() <= 5e-5 * np.abs(logits).max()
    for road in ("whole", "by_position", "by_name"):
        np.testing.assert_allclose(outputs[road], softmax(logits), atol=1e-4, err_msg=road)
    assert np.ptp(logits, axis=0).max() > 0.1  # the images lead to different answers: agreement means something


@pytest.mark.slow  # a process of Keras 2 for each network
def test_a_model_with_dropout_and_logits_opens_in_keras_2(keras2: Path, network: str, tmp_path: Path) -> None:
    from dataclasses import replace

    checkpoint = seeded_checkpoint(network)
    checkpoint.architecture = architecture(network, dropout=0.5)
    checkpoint.provenance = replace(checkpoint.provenance, dropout=0.5)
    write(checkpoint, tmp_path / "x.h5", logits=True)
    code = """
import sys, keras
model = keras.models.load_model(sys.argv[1], compile=False)
dropouts = [layer for layer in model.layers if "Dropout" in str(type(layer))]
print([(layer.name, layer.rate, layer.input.name.split("/")[0]) for layer in dropouts])
print(model.layers[-1].name, model.layers[-1].get_config()["activation"])
"""
    lines = run_python(code, tmp_path / "x.h5", python=keras2).splitlines()
    places = {"resnet50": ("conv5_3_3x3", "conv5_3_1x1_increase"), "senet50": ("conv5_3_1x1_down", "conv5_3_1x1_up")}
    assert lines[-2] == str([(f"{name}_drop", 0.5, name) for name in places[network]])
    assert lines[-1] == "classifier linear"


@pytest.fixture(scope="module")
def seeded_h5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(seeded_checkpoint("resnet50"), tmp_path_factory.mktemp("h5") / "x.h5").path


def test_the_file_has_the_legacy_layout_to_the_letter(seeded_h5: Path) -> None:
    plan = keras_plan(architecture("resnet50"))
    with h5py.File(seeded_h5) as file:
        assert file.attrs["keras_version"] == "2.15.0" and file.attrs["backend"] == "tensorflow"
        weights = file["model_weights"]
        assert [name.decode() for name in weights.attrs["layer_names"]] == [layer.name for layer in plan]
        for layer in plan:
            names = [name.decode() for name in weights[layer.name].attrs["weight_names"]]
            assert names == [f"{layer.name}/{role}:0" for role in layer.weights]
            for name, shape in zip(names, layer.weights.values(), strict=True):
                assert weights[layer.name][name].shape == shape and weights[layer.name][name].dtype == np.float32
        # Longer lists would have to be split into chunks, as Keras does above 64,512 bytes.
        assert weights.attrs["layer_names"].nbytes < MAX_ATTRIBUTE_BYTES
        config = json.loads(file.attrs["model_config"])
        assert config["class_name"] == "Functional"
        classes = {layer["class_name"] for layer in config["config"]["layers"]}
        assert "Lambda" not in classes and "TFOpLambda" not in classes


def test_the_provenance_says_what_a_user_must_know(seeded_h5: Path) -> None:
    with h5py.File(seeded_h5) as file:
        told = json.loads(file.attrs["ferplus_keras"])
    assert told["source"]["name"] == "seeded-resnet50.pth" and len(told["source"]["sha256"]) == 64
    assert told["network"] == "resnet50" and told["output"] == "probabilities"
    assert told["labels"][:2] == ["neutral", "happiness"] and len(told["labels"]) == 8
    assert told["preprocessing"]["channel_order"] == "RGB"
    assert told["preprocessing"]["mean"] == [131.0912, 103.8827, 91.4953]
    assert told["tool"].startswith("ferplus-keras ")


def test_neither_keras_nor_a_backend_is_imported_to_write_it(seeded_pth: Path, tmp_path: Path) -> None:
    code = """
import sys
from ferplus_keras.cli import main
assert main(["convert", sys.argv[1], sys.argv[2]]) == 0
heavy = {"keras", "tensorflow", "torch", "jax"} & set(sys.modules)
assert not heavy, heavy
"""
    run_python(code, seeded_pth, tmp_path / "x.h5")


@pytest.mark.parametrize("units", [8631])
def test_the_identities_of_vggface2_fit(units: int, tmp_path: Path) -> None:
    from convert.readers import read_checkpoint
    from ferplus_keras.networks.architecture import classifier

    checkpoint = seeded_checkpoint("senet50", classifier(units))
    write(checkpoint, tmp_path / "x.h5")
    again = read_checkpoint(tmp_path / "x.h5")
    assert again.provenance.units == units and again.provenance.labels is None
    np.testing.assert_array_equal(again.arrays["classifier"]["kernel"], checkpoint.arrays["classifier"]["kernel"])
