"""What ONNX Runtime is given: graphs that our own reader has followed, in sizes, to the end. The rest is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ferplus_keras.engines import open_engine
from ferplus_keras.engines.onnx_policy import check_graph
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.onnx_graph import read_graph
from tests.ferplus_keras.engines.small_onnx import small_onnx, tensor

node = helper.make_node


def refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(BadInputError) as caught:
        open_engine(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def body(kind: str) -> Any:
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, None)
    graph = helper.make_graph([node("Identity", ["v"], ["w"])], "body", [value], [value])
    return node(kind, ["x"], ["y"], body=graph)


def kernel(channels: int) -> Any:
    return tensor("k", np.zeros((channels, 3, 1, 1)), "f4")


BIG = 16_000


@pytest.mark.parametrize(
    ("nodes", "constants", "says"),
    [
        ([body("Loop")], [], "keeps a graph within a node"),
        ([body("Scan")], [], "keeps a graph within a node"),
        ([body("Relu")], [], "keeps a graph within a node"),
        ([node("Pad", ["x", "p"], ["y"])], [tensor("p", [0, 0, 10_000, 10_000] * 2, "i8")], r"\(Pad\), it produces a"),
        ([node("GlobalAveragePool", ["x"], ["one"]), node("Expand", ["one", "s"], ["y"])],
         [tensor("s", [1, 3, BIG, BIG], "i8")], r"\(Expand\), it produces a tensor of"),
        ([node("Conv", ["x", "k"], ["y"], pads=[64] * 4)], [kernel(4000)], "tensor of"),
        ([node("Conv", ["x", "k"], ["y"], pads=[-1] * 4)], [kernel(3)], "padding is not valid"),
        ([node("MaxPool", ["x"], ["y"], kernel_shape=[40, 40])], [], "window is larger"),
        ([node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]), node("MatMul", ["t", "x"], ["y"])], [], "be known"),
        ([node("Resize", ["x", "", "s"], ["y"])], [tensor("s", [1, 1, 9, 9], "f4")], "no such operation"),
        ([node("Tile", ["x", "s"], ["y"])], [tensor("s", [1, 1, 900, 900], "i8")], "no such operation"),
        ([node("NonZero", ["x"], ["y"])], [], "no such operation"),
        ([node("Relu", ["x"], ["y"], domain="com.microsoft")], [], "no such operation"),
        ([node("ReduceMax", ["x"], ["most"], keepdims=0), node("Cast", ["most"], ["n"], to=7),
          node("Unsqueeze", ["n", "axes"], ["shape"]), node("Expand", ["x", "shape"], ["y"])],
         [tensor("axes", [0], "i8")], "known only when it runs"),
        ([node("Identity", ["nothing"], ["y"])], [], "not produced by anything before it"),
        ([node("Identity", ["x"], ["x"])], [], "already exists"),
        ([node("Neg", ["s"], ["m"]), node("Reshape", ["x", "m"], ["y"])], [tensor("s", [-1], "i8")], "when it runs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_no_network_of_images_does_is_refused(
    nodes: list[Any], constants: list[Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    found = refused(small_onnx(tmp_path / "x.onnx", nodes, constants), monkeypatch)
    assert re.search(says, found), found


def test_many_tensors_that_stay_are_as_bad_as_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = [node("Concat", ["x"] * 20, ["wide"], axis=1)]
    kept = [node("Relu", ["wide"], [f"r{number}"]) for number in range(6)]
    joined = [node("Max", [f"r{number}" for number in range(6)], ["m"]), node("Slice", ["m", "a", "b", "c"], ["y"])]
    constants = [tensor(name, [value], "i8") for name, value in (("a", 0), ("b", 3), ("c", 1))]
    path = small_onnx(tmp_path / "x.onnx", [*wide, *kept, *joined], constants)
    assert "numbers at a time" in refused(path, monkeypatch)


def test_numbers_in_other_files_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numbers").write_bytes(bytes(96))
    outside = TensorProto(name="k", data_type=TensorProto.FLOAT, dims=[3, 8], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="./numbers")
    for nodes, constants in (
        ([node("Identity", ["x"], ["y"])], [outside]),
        ([node("Constant", [], ["k"], value=outside), node("Identity", ["x"], ["y"])], []),
    ):
        path = small_onnx(tmp_path / "x.onnx", nodes, constants)
        assert "external data" in refused(path, monkeypatch)


@pytest.mark.parametrize(("batch", "says"), [(100_000, "100000 images at a time"), (0, "0 images")])
def test_a_batch_that_nobody_has_is_refused(
    batch: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says in refused(small_onnx(tmp_path / "x.onnx", [node("Relu", ["x"], ["y"])], batch=batch), monkeypatch)


def test_how_many_images_come_is_followed_too(tmp_path: Path) -> None:
    """A tensor that is small for 32 images and large for one."""
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Div", ["million", "n"], ["many"]), node("Mul", ["many", "many"], ["more"]),
        node("Expand", ["one", "more"], ["e"]),
        node("ReduceMean", ["e"], ["mean1"], axes=[0]), node("Add", ["x", "mean1"], ["y"]),
    ]  # fmt: skip
    constants = [tensor("zero", [0], "i8"), tensor("million", [20_000], "i8"), tensor("one", [1.0], "f4")]
    engine = open_engine(small_onnx(tmp_path / "x.onnx", nodes, constants))
    with pytest.raises(BadInputError, match="larger than any"):
        engine.run(np.zeros((1, 32, 32, 3), np.uint8))


GOOD = {
    "view": (
        [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"], axis=0),
         node("Unsqueeze", ["n", "zeros"], ["u"]), node("Concat", ["u", "rest"], ["to"], axis=0),
         node("Reshape", ["x", "to"], ["r"]), node("Shape", ["x"], ["same"]), node("Reshape", ["r", "same"], ["y"])],
        [tensor("zero", 0, "i8"), tensor("zeros", [0], "i8"), tensor("rest", [-1], "i8")],
    ),
    "expand_as": (
        [node("GlobalAveragePool", ["x"], ["one"]), node("Sigmoid", ["one"], ["gate"]), node("Shape", ["x"], ["s"]),
         node("Expand", ["gate", "s"], ["wide"]), node("Mul", ["x", "wide"], ["y"])], [],
    ),
    "conv": (
        [node("Conv", ["x", "k"], ["c"], pads=[3] * 4, strides=[2, 2]), node("Relu", ["c"], ["r"]),
         node("MaxPool", ["r"], ["y"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
        [tensor("k", np.full((3, 3, 7, 7), 0.01), "f4")],
    ),
    "slice": (
        [node("Slice", ["x", "a", "b", "c"], ["y"])],
        [tensor("a", [0, 1], "i8"), tensor("b", [32, 1 << 62], "i8"), tensor("c", [2, -1], "i8")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("batch", ["N", 2])
def test_what_exporters_write_is_followed_and_run(name: str, batch: int | str, tmp_path: Path) -> None:
    """The sizes that are foreseen are those that ONNX Runtime makes."""
    nodes, constants = GOOD[name]
    path = small_onnx(tmp_path / "x.onnx", nodes, constants, batch=batch)
    engine = open_engine(path)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    assert engine.takes.side == 32 and engine.probabilities(pixels).shape == (3, 8)
    assert check_graph(path, read_graph(MappedFile(path)), (2, 3, 32, 32)) == [(2, 8)]


def test_a_size_that_is_no_square_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    path = small_onnx(tmp_path / "x.onnx", [node("Relu", ["x"], ["y"])])
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 64
    onnx.save(model, path)
    assert "images of 64 x 32" in refused(path, monkeypatch)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10_000), value=st.integers(1, 255))
def test_one_byte_changed_is_a_sentence_or_an_answer(
    place: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    nodes, constants = GOOD["view"]
    data = bytearray(small_onnx(folder / "x.onnx", nodes, constants).read_bytes())
    data[place % len(data)] ^= value
    (folder / "x.onnx").write_bytes(data)
    try:
        engine = open_engine(folder / "x.onnx")
        engine.run(np.zeros((1, engine.takes.side, engine.takes.side, 3), np.uint8))
    except BadInputError as error:
        assert "\n" not in str(error)
