"""``EmotionClassifier``: the same answers as Keras and as the other formats, and no answer where there can be none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

import ferplus_keras
from convert.exporters.tflite import with_provenance
from ferplus_keras import EMOTIONS, EmotionClassifier
from ferplus_keras.engines.known_graph import known_network
from ferplus_keras.errors import BadInputError, CheckFailedError
from ferplus_keras.files.keras_files import open_keras_file
from tests.conftest import run_ferplus, run_python
from tests.ferplus_keras.predict.conftest import drawing

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def classifier(standin: dict[str, Path]) -> EmotionClassifier:
    return EmotionClassifier(standin["h5"])


@pytest.fixture(scope="module")
def onnx(standin: dict[str, Path]) -> EmotionClassifier:
    return EmotionClassifier(standin["onnx"])


def test_it_says_what_keras_says(classifier: EmotionClassifier, standin: dict[str, Path], tmp_path: Path) -> None:
    """The network run without a Keras model of it, against the file as ``keras.models.load_model`` opens it."""
    import keras

    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        drawing(number, (60, 48)).save(path)
    model = keras.models.load_model(standin["h5"])
    images = np.stack([ferplus_keras.load_image(path) for path in paths])
    expected = model.predict(ferplus_keras.preprocess_input(images), verbose=0)
    found = classifier.predict([str(paths[0]), paths[1], Image.open(paths[2])])
    assert (classifier.network, classifier.standin, classifier.labels) == ("resnet50", True, EMOTIONS)
    for each, row in zip(found, expected, strict=True):
        np.testing.assert_allclose(list(each.probabilities.values()), row, atol=2e-6)
        assert each.emotion == EMOTIONS[row.argmax()] and list(each.probabilities) == list(EMOTIONS)
    alone = classifier.predict(paths[0])  # one image, one prediction
    assert list(alone.probabilities.values()) == pytest.approx(list(found[0].probabilities.values()), abs=1e-6)


def test_all_formats_agree(classifier: EmotionClassifier, onnx: EmotionClassifier, standin: dict[str, Path]) -> None:
    pixels = np.stack([np.asarray(drawing(number, (224, 224))) for number in range(3)])
    expected = classifier.probabilities(pixels)
    for other in (onnx, EmotionClassifier(standin["keras"])):
        np.testing.assert_allclose(other.probabilities(pixels), expected, atol=1e-4)
        assert other.standin and other.labels == EMOTIONS and other.network == "resnet50"
    assert onnx.by.startswith("ONNX Runtime")


def test_the_command_says_it_is_a_stand_in(standin: dict[str, Path], faces: Path) -> None:
    run = run_ferplus("predict", standin["onnx"], faces / "0.png")
    assert run.returncode == 0 and "0.png" in run.stdout, run.stderr
    assert "STAND-IN" in run.stderr and "Traceback" not in run.stderr


def test_arrays_and_generators(onnx: EmotionClassifier) -> None:
    array = np.stack([np.asarray(drawing(number)) for number in range(5)])
    found = onnx.predict(array, batch=2)
    assert found == onnx.predict((each for each in array), batch=2)
    assert onnx.predict(array[0]).as_dict()["emotion"] == found[0].emotion
    assert onnx.predict([]) == []


def test_a_folder_and_a_pattern_are_several(onnx: EmotionClassifier, faces: Path, tmp_path: Path) -> None:
    found = onnx.predict([*sorted(faces.glob("*.png")), *sorted(faces.glob("more/*.png"))])
    assert len(found) == 6 and onnx.predict(faces) == found and onnx.predict(f"{faces}/?.png") == found[:4]
    (tmp_path / "a[1].png").write_bytes((faces / "0.png").read_bytes())
    assert onnx.predict(tmp_path / "a[1].png") == found[0], "a file of that name is one"
    with pytest.raises(BadInputError, match="no file matches this pattern"):
        onnx.predict(f"{faces}/*.bmp")
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInputError, match=r"none: a folder without images\.$"):
        onnx.predict(tmp_path / "none")


def test_it_says_what_it_is(onnx: EmotionClassifier, standin: dict[str, Path], tmp_path: Path) -> None:
    shown = repr(onnx)
    assert standin["onnx"].name in shown and "resnet50" in shown and "happiness" in shown and "STAND-IN" in shown
    (tmp_path / "run").mkdir()
    with pytest.raises(BadInputError, match="is a folder, neither a SavedModel nor a finished training"):
        EmotionClassifier(tmp_path / "run")


def test_what_cannot_be_read_is_named(onnx: EmotionClassifier, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(BadInputError, match=r"bad\.png: not an image"):
        onnx.predict([drawing(0), tmp_path / "bad.png"])
    with pytest.raises(BadInputError, match=r"image 2: .*multiply it by 255"):
        onnx.predict([drawing(0), np.full((5, 5), 0.5)])
    with pytest.raises(ValueError, match="at least one"):
        onnx.predict(drawing(0), batch=0)


# --- which graphs are run without Keras -------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["h5", "keras"])
def test_our_files_are_known(standin: dict[str, Path], format: str) -> None:
    with open_keras_file(standin[format]) as file:
        known = known_network(file)
    assert known is not None and known.table.network == "resnet50"


def test_a_folded_file_is_known_and_says_the_same(
    classifier: EmotionClassifier, standin: dict[str, Path], tmp_path: Path
) -> None:
    from convert.conversion import convert

    path = tmp_path / "folded-standin.h5"
    convert(standin["h5"], [path], folded=True)
    with open_keras_file(path) as file:
        known = known_network(file)
    assert known is not None and "conv1_7x7_s2_bn" not in known.table.parameters
    face = drawing(3)
    found = EmotionClassifier(path).predict(face).probabilities
    assert found == pytest.approx(classifier.predict(face).probabilities, abs=1e-5)


def _conv(change: dict[str, Any], name: str = "conv3_1_1x1_reduce") -> Any:
    def spoil(layers: dict[str, Any]) -> None:
        layers[name]["config"].update(change)

    return spoil


def _rewire(layers: dict[str, Any]) -> None:
    node = layers["conv4_2"]["inbound_nodes"][0]
    node[1] = ["conv4_1", 0, 0, {}]  # the sum before its ReLU


@pytest.mark.parametrize(
    "spoil",
    [
        _conv({"strides": [1, 1]}),
        _conv({"dilation_rate": [2, 2]}, "conv3_1_3x3"),
        _conv({"activation": "relu"}),
        _conv({"dtype": "float16"}),
        _conv({"padding": "same"}, "conv1_7x7_s2"),
        _conv({"epsilon": 1e-3}, "conv4_2_3x3_bn"),
        _conv({"scale": False}, "conv4_2_3x3_bn"),
        _conv({"activation": "tanh"}, "conv2_1_relu"),
        _conv({"padding": [[1, 1], [1, 1]]}, "pool1_3x3_s2_pad"),
        lambda layers: layers["conv4_2"].update(class_name="Multiply"),
        _rewire,
    ],
)  # fmt: skip
def test_a_graph_that_differs_in_anything_is_left_to_keras(standin: dict[str, Path], spoil: Any) -> None:
    with open_keras_file(standin["h5"]) as file:
        assert file.config is not None
        file.config = json.loads(json.dumps(file.config))
        spoil({layer["config"]["name"]: layer for layer in file.config["config"]["layers"]})
        assert known_network(file) is None


@pytest.mark.slow
def test_what_is_not_known_is_run_by_keras(standin: dict[str, Path], tmp_path: Path, onnx: EmotionClassifier) -> None:
    """The same network with other names, saved by Keras itself: a stranger's file."""
    import keras

    path = tmp_path / "theirs-standin.keras"
    model = keras.models.load_model(standin["h5"])
    keras.Sequential([keras.Input((224, 224, 3)), model], name="theirs").save(path)
    theirs = EmotionClassifier(path)
    pixels = np.stack([np.asarray(drawing(number, (224, 224))) for number in range(2)])
    np.testing.assert_allclose(theirs.probabilities(pixels), onnx.probabilities(pixels), atol=1e-4)
    assert theirs.standin, "told by the name"


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_other_backends_agree(standin: dict[str, Path], backend: str, onnx: EmotionClassifier) -> None:
    code = """
import sys, json, numpy as np, ferplus_keras
classifier = ferplus_keras.EmotionClassifier(sys.argv[1])
pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
print(json.dumps([classifier.by, classifier.probabilities(pixels).tolist()]))
"""
    by, rows = json.loads(run_python(code, standin["h5"], KERAS_BACKEND=backend).splitlines()[-1])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    assert backend in by
    np.testing.assert_allclose(rows, onnx.probabilities(pixels), atol=1e-4)


def test_an_onnx_file_needs_no_tensorflow(standin: dict[str, Path]) -> None:
    code = """
import sys, numpy as np, ferplus_keras
ferplus_keras.EmotionClassifier(sys.argv[1]).predict(np.zeros((48, 48), np.uint8))
print(sorted({"tensorflow", "keras", "torch", "jax", "h5py"} & sys.modules.keys()))
"""
    assert run_python(code, standin["onnx"]).strip() == "[]"


# --- files that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.h5", b"\x89HDF\r\n\x1a\n and nothing", "damaged"),
        ("a.onnx", b"\x08\x07 nonsense", "damaged ONNX file"),
        ("a.onnx", b"", "is empty, so it is no file that can be run"),
        ("a.pth", b"PK\x03\x04 nonsense", "ferplus convert a.pth a.h5"),
        ("a.tflite", b"\x1c\0\0\0TFL3 nonsense", "a damaged TensorFlow Lite file"),
    ],
)
def test_a_file_that_is_no_network_is_said_to_be_none(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=says):
        EmotionClassifier(path)
    with pytest.raises(BadInputError, match="no file"):
        EmotionClassifier(tmp_path / "missing.h5")


def _told(path: Path, target: Path, **changes: Any) -> Path:
    """A copy that says something else of itself."""
    shutil.copy(path, target)
    with h5py.File(target, "r+") as file:
        told = json.loads(file.attrs["ferplus_keras"]) | changes
        file.attrs["ferplus_keras"] = json.dumps(told).encode()
    return target


def test_the_files_own_labels_and_mean_count(
    standin: dict[str, Path], tmp_path: Path, classifier: EmotionClassifier
) -> None:
    pixels = np.asarray(drawing(0, (224, 224)))[None]
    labels = list(reversed(EMOTIONS))
    turned = EmotionClassifier(_told(standin["h5"], tmp_path / "a-standin.h5", labels=labels))
    assert turned.labels == tuple(labels)
    assert list(turned.predict_pixels(pixels)[0].probabilities.values()) == list(classifier.probabilities(pixels)[0])
    told = {"mean": [0, 0, 0], "std": [1, 1, 1], "channel_order": "RGB"}
    bare = EmotionClassifier(_told(standin["h5"], tmp_path / "b-standin.h5", preprocessing=told))
    assert np.abs(bare.probabilities(pixels) - classifier.probabilities(pixels)).max() > 1e-3
    with pytest.raises(BadInputError, match="asks for channel_order BGR"):
        EmotionClassifier(_told(standin["h5"], tmp_path / "c.h5", preprocessing={"channel_order": "BGR"}))
    with pytest.raises(BadInputError, match="8 classes, and names 2"):
        EmotionClassifier(_told(standin["h5"], tmp_path / "d.h5", labels=["a", "b"]))


def test_numbers_that_are_none_are_no_prediction(onnx: EmotionClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    pixels = np.zeros((2, 224, 224, 3), np.uint8)
    for run, error, says in (
        (lambda images: np.full((len(images), 8), np.nan), CheckFailedError, "not finite"),
        (lambda images: np.zeros((len(images), 7)), BadInputError, "7 numbers"),
        (lambda images: 1 / 0, BadInputError, "cannot be run"),
    ):
        monkeypatch.setattr(onnx, "engine", replace(onnx.engine, call=run))
        with pytest.raises(error, match=says):
            onnx.probabilities(pixels)


# --- what exports bring: bytes in, a fixed batch, int8 --------------------------------------------------------------


def _onnx_of_the_mean(path: Path, kind: int, batch: int | str, *, claims: dict[str, Any] | None = None) -> Path:
    """A network whose logits are the mean of the image it is given, times 0, 1, ... 7: it shows what came in."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "column"], ["tall"]),
        helper.make_node("MatMul", ["tall", "steps"], ["logits"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([-1, 1]), "column"),
        numpy_helper.from_array(np.arange(8, dtype=np.float32)[None] / 255, "steps"),
    ]
    taken = helper.make_tensor_value_info("image", kind, [batch, 224, 224, 3])
    given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 8])
    graph = helper.make_graph(nodes, "mean", [taken], [given], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    if claims:
        helper.set_model_props(model, {"ferplus_keras": json.dumps(claims)})
    save(model, path)
    return path


def test_with_the_preprocessing_inside_bytes_go_in(tmp_path: Path) -> None:
    from onnx import TensorProto

    pixels = np.full((5, 224, 224, 3), 255, np.uint8)
    expected = np.exp(np.arange(8)) / np.exp(np.arange(8)).sum()
    by_type = EmotionClassifier(_onnx_of_the_mean(tmp_path / "a.onnx", TensorProto.UINT8, "N"))
    claims = {"preprocessing_inside": True, "output": "logits"}
    by_word = EmotionClassifier(_onnx_of_the_mean(tmp_path / "b.onnx", TensorProto.FLOAT, "N", claims=claims))
    fixed = EmotionClassifier(_onnx_of_the_mean(tmp_path / "c.onnx", TensorProto.UINT8, 2))
    for each in (by_type, by_word, fixed):
        np.testing.assert_allclose(each.probabilities(pixels), np.tile(expected, (5, 1)), rtol=1e-5)
    less = EmotionClassifier(_onnx_of_the_mean(tmp_path / "d.onnx", TensorProto.FLOAT, "N"))
    mean = (255 - np.array([131.0912, 103.8827, 91.4953])).mean() / 255
    shown = np.exp(np.arange(8) * mean)
    np.testing.assert_allclose(less.probabilities(pixels[:1])[0], shown / shown.sum(), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 2])
def test_tflite(tmp_path: Path, batch: int | None) -> None:
    """A small network through TensorFlow's own converter, against the Keras model that it came from."""
    import keras

    tf = pytest.importorskip("tensorflow")
    images = keras.Input((224, 224, 3), batch_size=batch)
    features = keras.layers.GlobalAveragePooling2D()(images)
    model = keras.Model(images, keras.layers.Dense(8, activation="softmax")(features))
    model.set_weights([each * 0.01 for each in model.get_weights()])
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    path = tmp_path / "small.tflite"
    told = json.dumps({"source": {}, "standin": True, "labels": list(reversed(EMOTIONS))})
    path.write_bytes(with_provenance(content, told))
    classifier = EmotionClassifier(path, threads=1)
    assert classifier.standin and classifier.labels == tuple(reversed(EMOTIONS))
    pixels = np.stack([np.asarray(drawing(number, (224, 224))) for number in range(3)])
    expected = model(ferplus_keras.preprocess_input(pixels[:2]))
    np.testing.assert_allclose(classifier.probabilities(pixels)[:2], np.asarray(expected), atol=1e-5)
    assert classifier.probabilities(pixels[:1]).shape == (1, 8)
