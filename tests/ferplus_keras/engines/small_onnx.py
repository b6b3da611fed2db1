"""ONNX files of a few hundred bytes, for what an engine is given and what it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save


def tensor(name: str, value: Any, dtype: str) -> Any:
    return numpy_helper.from_array(np.array(value, dtype), name)


def small_onnx(
    path: Path, nodes: list[Any], constants: list[Any] = [], *, batch: int | str = "N", side: int | str = 32,  # noqa: B006
    opset: int = 13,
) -> Path:  # fmt: skip
    """``nodes`` from the images "x" (n x 3 x side x side) to "y", then a mean of each channel and eight classes."""
    nodes = [
        *nodes,
        helper.make_node("GlobalAveragePool", ["y"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "classes"], ["logits"]),
    ]
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])
    given = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 8])
    classes = tensor("classes", np.arange(24).reshape(3, 8) / 2400, "f4")
    graph = helper.make_graph(nodes, "g", [taken], [given], [classes, *constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    save(model, path)
    return path
