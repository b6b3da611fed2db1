"""An ONNX graph in float64: ONNX Runtime has no such convolution, so each becomes a matrix product.

A convolution gathers the shifted images under its kernel and multiplies once; a batch normalisation is written out as
its formula. Both are done by other means than the operators they replace, which makes the proof only stronger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.errors import BadInputError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: Operators that take float64 in ONNX Runtime as they are.
KEPT = frozenset(
    ("Add", "CastLike", "Concat", "Div", "Dropout", "Expand", "Flatten", "Gather", "Gemm", "Identity", "MatMul",
     "MaxPool", "Mul", "Pad", "ReduceMean", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Sqrt",
     "Squeeze", "Sub", "Transpose", "Unsqueeze")
)  # fmt: skip

#: All that can be run here: the above, and what is rewritten.
OPERATORS = KEPT | {"AveragePool", "BatchNormalization", "Constant", "Conv", "GlobalAveragePool"}

#: As an end of Slice: as far as there is.
END = 2**63 - 1

#: From this opset on, ReduceMean takes its axes as an input.
AXES_ARE_INPUTS = 18

Tensors = dict[str, np.ndarray]


def in_float64(model: ModelProto, tensors: Mapping[str, np.ndarray]) -> tuple[ModelProto, Tensors]:
    """``model``, whose floating-point ``tensors`` are inputs, as the same function in float64; and its tensors.

    Raises :class:`BadInputError` on an operator that has no float64 form here.
    """
    from onnx import ModelProto, TensorProto, helper, numpy_helper

    rewriter = _Rewriter(
        dict(tensors),
        max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0),
        {name: node for node in model.graph.node for name in node.output},
    )
    nodes = [new for node in model.graph.node for new in rewriter.rewritten(node)]
    feeds = rewriter.used(nodes)
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for field in ("node", "value_info"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    for info in [*graph.input, *graph.output]:
        info.type.tensor_type.elem_type = TensorProto.DOUBLE
    images = [info for info in graph.input if info.name not in tensors]
    graph.ClearField("input")
    graph.input.extend(images)
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, array.shape) for name, array in feeds.items()
    )
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in rewriter.integers.items())
    return result, feeds


def attributes(node: NodeProto) -> dict[str, Any]:
    """The attributes of ``node`` as Python values."""
    from onnx import helper

    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


class _Rewriter:
    def __init__(self, tensors: Tensors, opset: int, made_by: dict[str, NodeProto]) -> None:
        self.tensors, self.opset, self.made_by = tensors, opset, made_by
        self.made: Tensors = {}
        self.integers: Tensors = {}

    def used(self, nodes: list[NodeProto]) -> Tensors:
        """The tensors that ``nodes`` take, in float64."""
        names = {name for node in nodes for name in node.input}
        kept = {name: array.astype(np.float64) for name, array in self.tensors.items() if name in names}
        return kept | self.made

    def rewritten(self, node: NodeProto) -> Iterator[NodeProto]:
        if node.op_type == "Conv":
            yield from self._convolution(node)
        elif node.op_type == "BatchNormalization":
            yield from self._batch_normalization(node)
        elif node.op_type in ("GlobalAveragePool", "AveragePool"):
            yield from self._average(node)
        elif node.op_type == "Constant":
            yield _constant_in_float64(node)
        elif node.op_type in KEPT:
            yield node
        else:
            raise BadInputError(
                f"ONNX's {node.op_type} ({node.name}) has no float64 form here; export the "
                "network again with plain operators, or check its weights in another format."
            )

    def _convolution(self, node: NodeProto) -> Iterator[NodeProto]:
        options = attributes(node)
        kernel = self._weights(node, 1)
        outputs, channels, height, width = kernel.shape
        strides = options.get("strides", [1, 1])
        pads = options.get("pads", [0] * 4)
        if (
            options.get("group", 1) != 1
            or options.get("dilations", [1, 1]) != [1, 1]
            or options.get("auto_pad", b"NOTSET") != b"NOTSET"
        ):
            raise BadInputError(
                f"The convolution {node.name} has groups, dilations or auto_pad; there is none in these."
            )
        name = f"{node.output[0]}/"
        source = node.input[0]
        if any(pads):
            yield self._node("Pad", [source, self._integers(name + "pads", [0, 0, *pads[:2], 0, 0, *pads[2:]])],
                             name + "padded")  # fmt: skip
            source = name + "padded"
        steps, axes = self._integers(name + "steps", strides), self._integers(name + "axes", [2, 3])
        taps = []
        for y in range(height):
            for x in range(width):
                taps.append(f"{name}tap_{y}_{x}")
                starts = self._integers(f"{taps[-1]}/starts", [y, x])
                ends = self._integers(f"{taps[-1]}/ends", [y - height + 1 or END, x - width + 1 or END])
                yield self._node("Slice", [source, starts, ends, axes, steps], taps[-1])
        yield self._node("Concat", taps, name + "gathered", axis=1)
        flat = self._integers(name + "flat", [0, height * width * channels, -1])
        yield self._node("Reshape", [name + "gathered", flat], name + "columns")
        self.made[name + "kernel"] = kernel.transpose(0, 2, 3, 1).reshape(outputs, -1)
        yield self._node("MatMul", [name + "kernel", name + "columns"], name + "product")
        yield self._node("Shape", [name + "gathered"], name + "extents")
        batch, size = (self._integers(name + part, values) for part, values in (("batch", [0]), ("size", [2, 3])))
        yield self._node("Gather", [name + "extents", batch], name + "images")
        yield self._node("Gather", [name + "extents", size], name + "map")
        width_of = self._integers(name + "channels", [outputs])
        yield self._node("Concat", [name + "images", width_of, name + "map"], name + "shape", axis=0)
        biased = len(node.input) > 2 and bool(node.input[2])
        yield self._node("Reshape", [name + "product", name + "shape"], name + "sum" if biased else node.output[0])
        if biased:
            bias = name + "bias"
            if self._known(node.input[2]) is not None:
                bias = self._channels(node, 2)
            else:  # computed in the graph: spread from a zero by exporters that do not optimise
                shape = self._integers(name + "column", [-1, 1, 1])
                yield self._node("Reshape", [node.input[2], shape], bias)
            yield self._node("Add", [name + "sum", bias], node.output[0])

    def _batch_normalization(self, node: NodeProto) -> Iterator[NodeProto]:
        gamma, beta, mean, variance = (self._channels(node, place) for place in range(1, 5))
        # The file has epsilon in float32; what its author wrote is the shortest decimal that rounds to it.
        epsilon = float(str(np.float32(attributes(node).get("epsilon", 1e-5))))
        name = f"{node.output[0]}/"
        self.made[name + "epsilon"] = np.array(epsilon)
        yield self._node("Sub", [node.input[0], mean], name + "centred")
        yield self._node("Add", [variance, name + "epsilon"], name + "positive")
        yield self._node("Sqrt", [name + "positive"], name + "deviation")
        yield self._node("Div", [name + "centred", name + "deviation"], name + "normal")
        yield self._node("Mul", [name + "normal", gamma], name + "scaled")
        yield self._node("Add", [name + "scaled", beta], node.output[0])

    def _average(self, node: NodeProto) -> Iterator[NodeProto]:
        """Over the whole map: the file was read before, and nothing else was taken for one of these networks."""
        if self.opset >= AXES_ARE_INPUTS:
            axes = self._integers(f"{node.output[0]}/axes", [2, 3])
            yield self._node("ReduceMean", [node.input[0], axes], node.output[0], keepdims=1)
        else:
            yield self._node("ReduceMean", [node.input[0]], node.output[0], axes=[2, 3], keepdims=1)

    def _channels(self, node: NodeProto, place: int) -> str:
        """The vector at ``place`` among the node's inputs with the shape that broadcasts over a map's channels."""
        vector = self._weights(node, place)
        shaped = f"{node.input[place]}/channels"
        self.made[shaped] = vector.reshape(-1, 1, 1)
        return shaped

    def _weights(self, node: NodeProto, place: int) -> np.ndarray:
        """The numbers at ``place`` among the node's inputs, in float64."""
        found = self._known(node.input[place]) if place < len(node.input) else None
        if found is None:
            raise BadInputError(
                f"ONNX's {node.op_type} ({node.name}) takes weights that are computed in the graph; export the "
                "network again with its weights as they are, or check them in another format."
            )
        return found.astype(np.float64)

    def _known(self, name: str) -> np.ndarray | None:
        """The numbers called ``name``, where they stand in the file: also as a Constant, also behind an Identity."""
        for _ in range(8):
            if name in self.tensors:
                return self.tensors[name]
            node = self.made_by.get(name)
            if node is None or node.op_type not in ("Identity", "Constant"):
                return None
            if node.op_type == "Constant":
                return _constant(node)
            name = node.input[0] if node.input else ""
        return None

    def _integers(self, name: str, values: list[int]) -> str:
        self.integers[name] = np.array(values, np.int64)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **options: Any) -> NodeProto:
        from onnx import helper

        return helper.make_node(kind, inputs, [output], name=output, **options)


def _constant(node: NodeProto) -> np.ndarray | None:
    """What a Constant holds, where that is a tensor or a number."""
    from onnx import TensorProto, numpy_helper

    value = attributes(node).get("value", attributes(node).get("value_float"))
    if value is None:
        return None
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def _constant_in_float64(node: NodeProto) -> NodeProto:
    """A Constant; a tensor of float32 becomes one of float64."""
    from onnx import helper, numpy_helper

    array = _constant(node)
    if array is None or array.dtype.kind != "f":
        return node
    tensor = numpy_helper.from_array(array.astype(np.float64))
    return helper.make_node("Constant", [], list(node.output), name=node.name, value=tensor)
