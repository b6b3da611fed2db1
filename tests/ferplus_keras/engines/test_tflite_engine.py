"""What LiteRT is given, and what becomes of this process when LiteRT comes to an end."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferplus_keras.engines import tflite_engine
from ferplus_keras.engines.tflite_engine import LiteProcess
from ferplus_keras.engines.tflite_policy import check_model
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.tflite_file import read_tflite


@pytest.fixture(scope="module")
def small(session_folder: Path) -> bytes:
    """A convolution, a mean and eight classes, by TensorFlow's converter."""
    import keras

    tf = pytest.importorskip("tensorflow")
    layers = [
        keras.Input((32, 32, 3)), keras.layers.Conv2D(4, 7, strides=4, activation="relu"),
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(8, activation="softmax"),
    ]  # fmt: skip
    content: bytes = tf.lite.TFLiteConverter.from_keras_model(keras.Sequential(layers)).convert()
    return content


def checked(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    check_model(path, read_tflite(MappedFile(path), "record"))


def test_what_the_converter_writes_is_understood(small: bytes, tmp_path: Path) -> None:
    checked(tmp_path / "x.tflite", small)
    model = read_tflite(MappedFile(tmp_path / "x.tflite"), "record")
    (taken,) = model.inputs
    assert model.tensors[taken].signature == (-1, 32, 32, 3) and not model.custom and model.graphs == 1


def test_a_root_beyond_the_file_or_nothing_at_all_is_damage(small: bytes, tmp_path: Path) -> None:
    for content in (struct.pack("<I", 0x7FFFFFFF) + small[4:], b"\x10\0\0\0TFL3" + bytes(1000), small[:8]):
        with pytest.raises(BadInputError, match="a damaged TensorFlow Lite file"):
            checked(tmp_path / "x.tflite", content)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(8, 4096), value=st.integers(1, 255))
def test_a_byte_changed_is_a_sentence_or_none(
    place: int, value: int, small: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(small)
    content[place % len(content)] ^= value
    path = tmp_path_factory.mktemp("flip") / "x.tflite"
    try:
        checked(path, bytes(content))
    except BadInputError as error:
        assert str(path) in str(error)


def first(model: Any, code: int) -> Any:
    """The first operator of a kind in TensorFlow's own object of the file."""
    graph = model.subgraphs[0]
    return next(each for each in graph.operators if model.operatorCodes[each.opcodeIndex].builtinCode == code)


def _change(what: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        conv = first(model, 3)
        if what == "stride":
            conv.builtinOptions.strideW = 0
        elif what == "activation":
            conv.builtinOptions.fusedActivationFunction = 77
        elif what == "options":
            conv.builtinOptions = None
            conv.builtinOptionsType = 0
        elif what == "operator":
            model.operatorCodes[conv.opcodeIndex].builtinCode = 119  # WHILE
            model.operatorCodes[conv.opcodeIndex].deprecatedBuiltinCode = 119
        elif what == "custom":
            model.operatorCodes[conv.opcodeIndex].customCode = b"FlexWriteFile"
        elif what == "order":
            graph.operators.reverse()
        elif what == "inputs":
            conv.inputs = conv.inputs[:1]
        elif what == "shape":
            graph.tensors[conv.inputs[1]].shape[0] += 1
        elif what == "buffer":
            graph.tensors[conv.inputs[1]].buffer = 999
        elif what == "huge":
            graph.tensors[conv.outputs[0]].shape = np.array([1, 30_000, 30_000, 4], np.int32)
        elif what == "graphs":
            model.subgraphs.append(graph)

    return change


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("stride", "CONV_2D: its stride is not valid"), ("activation", "its activation is not valid"),
        ("options", "says nothing of its window"), ("operator", "no such operator"),
        ("custom", "not TensorFlow Lite's own"), ("order", "nothing before it produces"),
        ("inputs", "1 input and 1 output"), ("shape", "a tensor of the shape .* has"),
        ("buffer", "a buffer that is not there"), ("huge", "larger than any"), ("graphs", "has 2 graphs"),
    ],
)  # fmt: skip
def test_what_these_networks_do_not_have_is_refused(what: str, says: str, small: bytes, tmp_path: Path) -> None:
    utils = pytest.importorskip("tensorflow.lite.tools.flatbuffer_utils")
    model = utils.convert_bytearray_to_object(bytearray(small))
    _change(what)(model)
    with pytest.raises(BadInputError, match=says):
        checked(tmp_path / "x.tflite", bytes(utils.convert_object_to_bytearray(model)))


@pytest.mark.parametrize(("does", "says"), [("crash", "by the signal 11"), ("hang", "gave no answer")])
def test_the_interpreters_end_is_not_ours(
    does: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tflite_engine, "WORKER", "tests.ferplus_keras.engines.odd_worker")
    monkeypatch.setattr(tflite_engine, "RUN", 0.2)
    monkeypatch.setattr(tflite_engine, "EACH", 0.0)
    path = tmp_path / "x"
    path.write_text(does)
    process = LiteProcess(path, 1)
    with pytest.raises(BadInputError, match=says):
        process.run(np.zeros((1, 2, 2, 3), np.float32))
    assert process.process.poll() is not None, "it is gone"
