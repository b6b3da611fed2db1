"""Weights wherever an exporter keeps them, in float64; and what is computed in the graph is told."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ferplus_keras.errors import BadInputError
from verify.onnx_session import OnnxSession
from verify.onnx_side import _numbers_apart


def model(kernel_from: str) -> tuple[onnx.ModelProto, np.ndarray]:
    """A convolution and its normalisation, whose weights stand in four ways; and the kernel."""
    made = np.random.default_rng(0)
    kernel = made.standard_normal((2, 3, 1, 1)).astype(np.float32)
    tensors = [
        numpy_helper.from_array(kernel, "stored"),
        numpy_helper.from_array(np.array([1, 2], np.float16), "gamma"),
        numpy_helper.from_array(np.array([3, 4], np.float64), "beta"),
        numpy_helper.from_array(np.array([0.5, 0.25], np.float32), "mean"),
    ]
    nodes = [
        helper.make_node(kernel_from, ["stored"], ["kernel"], name="first"),
        helper.make_node("Constant", [], ["variance"], name="constant",
                         value=numpy_helper.from_array(np.array([1, 4], np.float32))),
        helper.make_node("Conv", ["image", "kernel"], ["map"], name="conv"),
        helper.make_node("BatchNormalization", ["map", "gamma", "beta", "mean", "variance"], ["out"], name="norm"),
    ]  # fmt: skip
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 4, 4])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [image], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7), kernel


def test_weights_of_every_kind_and_place_are_found() -> None:
    proto, kernel = model("Identity")
    image = np.random.default_rng(1).standard_normal((1, 4, 4, 3))
    found = OnnxSession(proto, _numbers_apart(proto), "float64").run(image)["out"]
    product = image @ kernel[:, :, 0, 0].T.astype(np.float64)
    wanted = (product - [0.5, 0.25]) / np.sqrt(np.array([1, 4]) + 1e-5) * [1, 2] + [3, 4]
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-13)


def test_weights_that_are_computed_are_told_by_their_node() -> None:
    proto, _ = model("Relu")
    with pytest.raises(BadInputError, match="Conv \\(conv\\) takes weights that are computed"):
        OnnxSession(proto, _numbers_apart(proto), "float64")
