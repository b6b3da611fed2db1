"""Networks with more than one output: the only one that can be the classes is taken, which is said, or none is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, load, save

from convert.writers import write
from ferplus_keras.engines import open_engine
from ferplus_keras.engines.card import Card, Input
from ferplus_keras.errors import BadInputError
from tests.ferplus_keras.engines.small_onnx import small_onnx
from tests.seeded import seeded_checkpoint

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)


def model(*outputs: str) -> Any:
    """Eight classes of the mean of each channel, the "features"; the "twin" has eight numbers too."""
    import keras

    image = keras.Input((32, 32, 3))
    found = {"features": keras.layers.GlobalAveragePooling2D(name="features")(image)}
    found["classes"] = keras.layers.Dense(8, "softmax", name="classes", kernel_initializer="ones")(found["features"])
    found["twin"] = keras.layers.Dense(8, name="twin")(found["features"])
    return keras.Model(image, [found[each] for each in outputs])


def keras_file(folder: Path, *outputs: str) -> Path:
    model(*outputs).save(folder / "x.keras")
    return folder / "x.keras"


def saved_model(folder: Path, *outputs: str) -> Path:
    model(*outputs).export(folder / "x", verbose=False)
    return folder / "x"


def tflite(folder: Path, *outputs: str) -> Path:
    tf = pytest.importorskip("tensorflow")
    (folder / "x.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model(*outputs)).convert())
    return folder / "x.tflite"


def onnx_file(folder: Path, *outputs: str) -> Path:
    path = small_onnx(folder / "x.onnx", [helper.make_node("Identity", ["x"], ["y"])])
    proto = load(path)
    names = {"features": ("mean", ["N", 3, 1, 1]), "classes": ("logits", ["N", 8]), "twin": ("twin", ["N", 8])}
    proto.graph.node.append(helper.make_node("MatMul", ["flat", "classes"], ["twin"]))
    del proto.graph.output[:]
    given = [helper.make_tensor_value_info(names[each][0], TensorProto.FLOAT, names[each][1]) for each in outputs]
    proto.graph.output.extend(given)
    save(proto, path)
    return path


def torchscript(folder: Path, *outputs: str) -> Path:
    import torch

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            features = x.mean((2, 3))
            classes = features @ torch.ones(3, 8)
            found = {"features": features, "classes": classes, "twin": -classes}
            result = tuple(found[each] for each in outputs)
            return result if len(result) > 1 else result[0]

    torch.jit.trace(Network(), torch.zeros(1, 3, 32, 32)).save(folder / "x.pt")
    return folder / "x.pt"


MAKERS = pytest.mark.parametrize(
    "make",
    [keras_file, onnx_file, *(pytest.param(it, marks=pytest.mark.slow) for it in (torchscript, tflite, saved_model))],
)


def opened(path: Path) -> Any:
    return open_engine(path, card=Card(Input.parse("rgb 32x32 0..1")) if path.suffix == ".pt" else None)


@MAKERS
def test_the_only_output_of_so_many_numbers_is_the_classes(make: Callable[..., Path], tmp_path: Path) -> None:
    alone = opened(make(tmp_path, "classes"))
    wanted = alone.probabilities(PIXELS)
    alone.close()
    both = opened(make(tmp_path, "features", "classes"))
    np.testing.assert_array_equal(both.probabilities(PIXELS), wanted)
    both.close()
    note = both.notes[-1]
    assert note not in alone.notes and note.startswith("of its 2 outputs only ") and ", not " in note


@MAKERS
def test_where_none_or_several_could_be_they_are_listed(make: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"2 outputs, .*\(8 numbers\), .*\(8 numbers\), of which more than one"):
        opened(make(tmp_path, "classes", "twin"))
    with pytest.raises(BadInputError, match=r"2 outputs, .*\(3 numbers\), .*\(3 numbers\), of which none is its 8"):
        opened(make(tmp_path, "features", "features"))


@pytest.mark.usefixtures("small")
def test_a_copy_of_the_classes_is_no_further_output(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    write(seeded_checkpoint("resnet50"), path)
    proto = load(path)
    (classes,) = proto.graph.output
    proto.graph.node.append(helper.make_node("Identity", [classes.name], ["copy"]))
    proto.graph.output.append(helper.make_tensor_value_info("copy", TensorProto.FLOAT, ["N", 8]))
    save(proto, path)
    engine = open_engine(path)
    assert (engine.notes, engine.output) == ((), classes.name)
    engine.close()
