"""The graph of an ONNX file in the graph form: what exporters lay between the layers is looked through.

Exporters transpose and reshape, compute shapes in the graph, write an average as one or two ReduceMeans, and pass
weights through Identity and Flatten. All of that is followed here; what is then left over is what the file computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ferplus_keras.files.onnx_graph import OnnxFile, OnnxNode
from ferplus_keras.graph.building import Builder, Window
from ferplus_keras.graph.form import Four, Graph, GraphError, Pair
from ferplus_keras.graph.onnx_values import Values, integers, number, text

#: Operators whose further inputs say how the first is laid out, and hold no numbers.
SHAPED = ("CastLike", "Expand", "Reshape", "Squeeze", "Unsqueeze")

#: The names of the axes of a map, as convolutions take it, and of a vector.
MAP, VECTOR = ("n", "c", "h", "w"), ("n", "c")


@dataclass
class OnnxGraph:
    """The graph, its keys the names of the file's tensors; ``sources`` has the tensor of each node's arrays by role."""

    graph: Graph = field(default_factory=Graph)
    sources: dict[str, dict[str, str]] = field(default_factory=dict)


def onnx_graph(file: OnnxFile) -> OnnxGraph:
    """What ``file`` computes. Images of the published size are assumed.

    Raises :class:`GraphError` when its nodes make no graph.
    """
    walk = _Walk(file)
    for name in file.inputs:
        if name not in file.tensors:
            walk.image(name)
    for node in file.nodes:
        walk.node(node)
    # An output that does not depend on the image is no network's.
    outputs = [name for name in file.outputs if name in walk.axes]
    for name in outputs:
        if walk.axes[name][:1] != ("n",):
            raise GraphError(f"its output {name[:80]} has a column, not a row, for each image")
    walk.result.graph = walk.builder.finish(outputs, outputs)
    return walk.result


class _Walk:
    def __init__(self, file: OnnxFile) -> None:
        self.file, self.builder, self.result = file, Builder(), OnnxGraph()
        self.axes: dict[str, tuple[str, ...]] = {}  # tensor -> what its axes are
        self.values = Values(file.nodes, file.tensors, self._extents)
        self.lines: dict[str, tuple[str, str]] = {}  # a mean over one side of a map -> the map, and the side

    def image(self, name: str) -> None:
        """An input. Where channels stand last, a Transpose puts them first before the first convolution."""
        self.builder.image(name, name)
        kinds = [node.kind for node in self.file.nodes]
        front = self.file.nodes[: kinds.index("Conv")] if "Conv" in kinds else ()
        turned = any(node.kind == "Transpose" and node.attributes.get("perm") == [0, 3, 1, 2] for node in front)
        self.axes[name] = ("n", "h", "w", "c") if turned else MAP

    def node(self, node: OnnxNode) -> None:
        sources = [name for name in node.inputs if name in self.axes]
        shaped = node.kind in SHAPED and node.inputs[:1] != sources[:1]
        if not sources or not node.outputs or node.kind == "Shape" or shaped:
            return  # of numbers that do not depend on the image: followed when they are asked for
        key, *more = node.outputs
        if key in self.axes:
            raise GraphError(f"two nodes yield {key[:80]}")
        self.axes[key] = self.axes[sources[0]]
        known = NODES.get(node.kind)
        if not (known and sources[0] == node.inputs[0] and known(self, key, node)) and not self._swapped(key, node):
            self.other(key, node, sources)
        for each in more:  # a mask, or a part of something that was split
            if each:
                self.axes[each] = self.axes[key]
                self.other(each, node, sources)

    def other(self, key: str, node: OnnxNode, sources: Sequence[str], why: str = "") -> None:
        self.builder.other(key, node.name or key, node.kind + why, sources)

    def _swapped(self, key: str, node: OnnxNode) -> bool:
        """Merges take their inputs in any order."""
        return node.kind in ("Add", "Mul") and len(node.inputs) == 2 and _merge(self, key, node)

    def _extents(self, name: str) -> list[int | None] | None:
        """What Shape says of a tensor: None for the number of images."""
        value, axes = self.builder.values.get(name), self.axes.get(name)
        if value is None or axes is None or value.shape is None:
            return None
        above, below, left, right = value.padding
        *sides, channels = value.shape
        height, width = sides or (1, 1)
        sizes: dict[str, int | None] = {
            "n": None,
            "c": channels,
            "h": height + above + below,
            "w": width + left + right,
        }
        return [sizes.get(axis, 1) for axis in axes]

    def kept(self, key: str, source: str, axes: tuple[str, ...] | None = None) -> bool:
        self.builder.same(key, source)
        self.axes[key] = axes or self.axes[source]
        return True

    def is_vector(self, name: str) -> bool:
        return self.builder.values[name].is_vector

    def owned(self, key: str, **sources: str) -> dict[str, np.ndarray]:
        """The arrays of a node by role, and where they come from noted; a tensor that is computed has none."""
        arrays = {}
        for role, name in sources.items():
            if name and not (role == "bias" and self.values.is_zero(name)):
                array = self.values.constant(name)
                if array is None:
                    raise GraphError(f"the {role} of {key[:80]} is computed in the graph and is not in the file")
                arrays[role] = array
        self.result.sources[key] = {role: self.values.origin(name) for role, name in sources.items() if name}
        return arrays


# --- operators: True where the node is what its layer is here, False for the matcher to stumble over ------------------


def _same(walk: _Walk, key: str, node: OnnxNode) -> bool:
    return walk.kept(key, node.inputs[0])


def _cast(walk: _Walk, key: str, node: OnnxNode) -> bool:
    return number(node, "to", 0) in (1, 11) and walk.kept(key, node.inputs[0])  # float32, float64


def _dropout(walk: _Walk, key: str, node: OnnxNode) -> bool:
    """Nothing, unless it is told to train."""
    trains = node.inputs[2] if len(node.inputs) > 2 else ""
    told = walk.values.constant(trains) if trains else None
    return (not trains or (told is not None and not told.any())) and walk.kept(key, node.inputs[0])


def _transpose(walk: _Walk, key: str, node: OnnxNode) -> bool:
    axes = walk.axes[node.inputs[0]]
    order = integers(node, "perm", list(range(len(axes)))[::-1])
    return sorted(order) == list(range(len(axes))) and walk.kept(key, node.inputs[0], tuple(axes[at] for at in order))


def _flatten(walk: _Walk, key: str, node: OnnxNode) -> bool:
    first = walk.axes[node.inputs[0]][:1] == ("n",)
    alone = number(node, "axis", 1) == 1 and first and walk.is_vector(node.inputs[0])
    return alone and walk.kept(key, node.inputs[0], VECTOR)


def _squeeze(walk: _Walk, key: str, node: OnnxNode) -> bool:
    """Axes of one pixel taken away or put in."""
    if not walk.is_vector(node.inputs[0]):
        return False
    given = walk.values.integers(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    places = given if given is not None else integers(node, "axes", [])
    axes = walk.axes[node.inputs[0]]
    if node.kind == "Squeeze":
        length = len(axes)
        gone = {place % length for place in places if place is not None}
        left = tuple(axis for at, axis in enumerate(axes) if at not in gone)
        return bool(gone) and {"n", "c"} <= set(left) and walk.kept(key, node.inputs[0], left)
    length = len(axes) + len(places)
    new = {place % length for place in places if place is not None}
    rest, spare = iter(axes), iter([axis for axis in "hw" if axis not in axes] + ["1"] * length)
    made = tuple(next(spare) if at in new else next(rest, "1") for at in range(length))
    return len(made) <= 4 and walk.kept(key, node.inputs[0], made)


def _reshape(walk: _Walk, key: str, node: OnnxNode) -> bool:
    """A map of one pixel as a vector, or the other way round: images stay apart, and channels in order."""
    target = walk.values.integers(node.inputs[1]) if len(node.inputs) > 1 else None
    value = walk.builder.values[node.inputs[0]]
    if not target or not value.is_vector or walk.axes[node.inputs[0]][0] != "n" or value.shape is None:
        return False
    images, *rest = target
    channels = value.shape[-1]
    if images == -1 and -1 in rest:
        return False
    found = math.prod(channels if each == -1 else each if each else 0 for each in rest)
    pixels = [each for each in rest if each != 1]
    if images not in (0, -1, None, 1) or not rest or len(rest) > 3 or found != channels or len(pixels) != 1:
        return False
    place = rest.index(pixels[0])
    return place == 0 and walk.kept(key, node.inputs[0], (*VECTOR, "h", "w")[: len(target)])


def _expand(walk: _Walk, key: str, node: OnnxNode) -> bool:
    """A gate spread over the map that it is multiplied with, which happens by itself."""
    return walk.is_vector(node.inputs[0]) and walk.kept(key, node.inputs[0])


def _pad(walk: _Walk, key: str, node: OnnxNode) -> bool:
    """Zeros around a map."""
    axes, names = walk.axes[node.inputs[0]], [*node.inputs[1:], "", "", ""]
    pads = walk.values.integers(names[0]) if names[0] else integers(node, "pads", [])
    zeros = walk.values.is_zero(names[1]) if names[1] else number(node, "value", 0.0) == 0
    if names[2] or not zeros or text(node, "mode", "constant") != "constant" or pads is None:
        return False
    if len(pads) != 2 * len(axes) or any(each is None for each in pads):
        return False
    laid = {f"{axis}{end}": pads[at + end * len(axes)] or 0 for at, axis in enumerate(axes) for end in (0, 1)}
    if any(laid.get(place) for place in ("n0", "n1", "c0", "c1")):
        return False
    four = (laid.get("h0", 0), laid.get("h1", 0), laid.get("w0", 0), laid.get("w1", 0))
    walk.builder.pad(key, node.name or key, node.kind, node.inputs[0], four)
    return True


def _convolution(walk: _Walk, key: str, node: OnnxNode) -> bool:
    arrays = walk.owned(key, kernel=_input(node, 1), bias=_input(node, 2))
    kernel = arrays.get("kernel")
    if walk.axes[node.inputs[0]] != MAP or kernel is None or kernel.ndim != 4:
        return False
    arrays["kernel"] = kernel.transpose(2, 3, 1, 0)
    window = Window(
        (kernel.shape[2], kernel.shape[3]), _pair(node, "strides"), _padding(node), _pair(node, "dilations"),
        int(number(node, "group", 1)),
    )  # fmt: skip
    walk.builder.convolution(key, node.name or key, node.kind, node.inputs[0], arrays, kernel.shape[0], window)
    return True


def _gemm(walk: _Walk, key: str, node: OnnxNode) -> bool:
    plain = number(node, "alpha", 1.0) == number(node, "beta", 1.0) == 1.0 and not number(node, "transA", 0)
    return plain and _dense(walk, key, node, turned=not number(node, "transB", 0), bias=_input(node, 2))


def _matmul(walk: _Walk, key: str, node: OnnxNode) -> bool:
    return _dense(walk, key, node, turned=True, bias="")


def _dense(walk: _Walk, key: str, node: OnnxNode, *, turned: bool, bias: str) -> bool:
    """``turned``: the matrix is features x units, and not units x features as PyTorch has it."""
    if not walk.is_vector(node.inputs[0]) or walk.axes[node.inputs[0]] != VECTOR:
        return False
    arrays = walk.owned(key, kernel=_input(node, 1), bias=bias)
    kernel = arrays.get("kernel")
    if kernel is None or kernel.ndim != 2:
        return False
    arrays["kernel"] = kernel = kernel if turned else kernel.T
    if "bias" in arrays:
        arrays["bias"] = arrays["bias"].reshape(-1)
    walk.builder.convolution(key, node.name or key, node.kind, node.inputs[0], arrays, kernel.shape[1])
    return True


def _normalisation(walk: _Walk, key: str, node: OnnxNode) -> bool:
    if walk.axes[node.inputs[0]][1:2] != ("c",):
        return False
    roles = zip(("gamma", "beta", "moving_mean", "moving_variance"), node.inputs[1:])  # noqa: B905 (Python 3.9)
    more = {"statistics": "each batch's own (training_mode)"} if number(node, "training_mode", 0) else {}
    epsilon = float(number(node, "epsilon", 1e-5))
    walk.builder.normalisation(
        key, node.name or key, node.kind, node.inputs[0], walk.owned(key, **dict(roles)), epsilon, **more
    )
    return True


def _activation(walk: _Walk, key: str, node: OnnxNode) -> bool:
    axis = number(node, "axis", -1)
    axes = walk.axes[node.inputs[0]]
    if node.kind == "Softmax" and not (-len(axes) <= axis < len(axes) and axes[int(axis)] == "c"):
        return False
    walk.builder.activation(key, node.name or key, node.kind, node.inputs[0], node.kind.lower())
    return True


def _maximum(walk: _Walk, key: str, node: OnnxNode) -> bool:
    if walk.axes[node.inputs[0]] != MAP or _pair(node, "dilations") != (1, 1):
        return False
    size, strides = _pair(node, "kernel_shape"), _pair(node, "strides")
    padding = _rounded(node, strides)
    walk.builder.maximum(key, node.name or key, node.kind, node.inputs[0], size, strides, padding)
    return True


def _average(walk: _Walk, key: str, node: OnnxNode) -> bool:
    if walk.axes[node.inputs[0]] != MAP:
        return False
    size, strides = _pair(node, "kernel_shape"), _pair(node, "strides")
    # Over the whole map there is one window, however far the next would be and whichever way its number is rounded.
    sides = (walk.builder.values[node.inputs[0]].shape or ())[:2]
    padding = _padding(node) if sides == size else _rounded(node, strides)
    walk.builder.average(key, node.name or key, node.kind, node.inputs[0], size, strides, padding)
    return True


def _global(walk: _Walk, key: str, node: OnnxNode) -> bool:
    operation = "average" if node.kind == "GlobalAveragePool" else "global maximum"
    if walk.axes[node.inputs[0]] != MAP:
        return False
    walk.builder.whole(key, node.name or key, node.kind, node.inputs[0], operation)
    return True


def _mean(walk: _Walk, key: str, node: OnnxNode) -> bool:
    """An average over both sides of a map, in one step or in two."""
    given = walk.values.integers(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    places = given if given is not None else integers(node, "axes", [])
    source, axes = node.inputs[0], walk.axes[node.inputs[0]]
    if not places or any(place is None or not -len(axes) <= place < len(axes) for place in places):
        return False
    over = {axes[place] for place in places if place is not None}
    kept = bool(number(node, "keepdims", 1))
    walk.axes[key] = axes if kept else tuple(axis for axis in axes if axis not in over)
    if source in walk.lines:
        map_, side = walk.lines[source]
        source, over = map_, over | {side}
    if len(over) == 1 and over <= {"h", "w"}:
        walk.lines[key] = (source, over.pop())
        walk.other(key, node, [source], " over one side")  # what it is alone; a second mean makes both an average
        return True
    if over != {"h", "w"}:
        return False
    walk.builder.whole(key, node.name or key, node.kind, source, "average")
    return True


def _merge(walk: _Walk, key: str, node: OnnxNode) -> bool:
    sources = [name for name in node.inputs if name in walk.axes]
    if len(sources) == 1:
        return node.kind == "Add" and _bias(walk, key, node, sources[0])
    axes = [walk.axes[name] for name in sources]
    if len(sources) != 2 or (axes[0] != axes[1] and not all(walk.is_vector(name) for name in sources)):
        return False
    walk.builder.merge(key, node.name or key, node.kind, sources, "add" if node.kind == "Add" else "multiply")
    return True


def _bias(walk: _Walk, key: str, node: OnnxNode, source: str) -> bool:
    """The sum behind a MatMul is the bias of its dense layer."""
    dense = walk.builder.graph.nodes.get(source)
    bias = next(name for name in node.inputs if name != source) if len(set(node.inputs)) == 2 else ""
    array = walk.values.constant(bias) if bias else None
    if dense is None or dense.kind != "MatMul" or array is None or "bias" in dense.arrays:
        return False
    kernel = dense.arrays["kernel"]
    if array.size != kernel.shape[1] or array.size != max(array.shape, default=0):
        return False
    arrays = {"kernel": kernel, "bias": array.reshape(-1)}
    before = dense.inputs[0]
    walk.builder.convolution(key, dense.name, dense.kind, before, arrays, kernel.shape[1])
    walk.result.sources[key] = {**walk.result.sources[source], "bias": walk.values.origin(bias)}
    return True


def _subtract(walk: _Walk, key: str, node: OnnxNode) -> bool:
    """A mean, channel by channel."""
    mean = walk.values.constant(_input(node, 1)) if _input(node, 1) else None
    axes = walk.axes[node.inputs[0]]
    if mean is None or mean.size != 3 or mean.dtype.kind != "f" or mean.ndim > len(axes):
        return False
    place = mean.shape.index(3) - mean.ndim
    if axes[place] != "c":
        return False
    walk.builder.subtract(key, node.name or key, node.kind, node.inputs[0], tuple(map(float, mean.reshape(-1))))
    return True


NODES: dict[str, Any] = {
    "Identity": _same, "CastLike": _same, "Cast": _cast, "Dropout": _dropout, "Transpose": _transpose,
    "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _squeeze, "Reshape": _reshape, "Expand": _expand,
    "Pad": _pad, "Conv": _convolution, "Gemm": _gemm, "MatMul": _matmul, "BatchNormalization": _normalisation,
    "Relu": _activation, "Sigmoid": _activation, "Softmax": _activation, "MaxPool": _maximum, "AveragePool": _average,
    "GlobalAveragePool": _global, "GlobalMaxPool": _global, "ReduceMean": _mean, "Add": _merge, "Mul": _merge,
    "Sub": _subtract,
}  # fmt: skip


# --- attributes ---------------------------------------------------------------------------------------------------


def _input(node: OnnxNode, place: int) -> str:
    return node.inputs[place] if place < len(node.inputs) else ""


def _pair(node: OnnxNode, name: str) -> Pair:
    values = integers(node, name, [1, 1])
    if len(values) != 2 or not all(0 < each < 1 << 16 for each in values):
        raise GraphError(f"{node.name[:80]}, a {node.kind[:40]}, has {str(values)[:40]} for {name}")
    return values[0], values[1]


def _padding(node: OnnxNode) -> Any:
    """As the builder takes it: ONNX's order is top, left, bottom, right."""
    auto = text(node, "auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "VALID"):
        return "same" if auto == "SAME_UPPER" else (0, 0, 0, 0)
    pads = integers(node, "pads", [0, 0, 0, 0])
    if auto != "NOTSET" or len(pads) != 4 or not all(0 <= each < 1 << 16 for each in pads):
        what = f"auto_pad {auto[:40]}" if auto != "NOTSET" else f"{str(pads)[:40]} for pads"
        raise GraphError(f"{node.name[:80]}, a {node.kind[:40]}, has {what}")
    return pads[0], pads[2], pads[1], pads[3]


def _rounded(node: OnnxNode, strides: Pair) -> Any:
    """A size that is rounded up is one to which more is padded at the bottom and on the right."""
    padding = _padding(node)
    if not number(node, "ceil_mode", 0) or padding == "same":
        return padding
    four: Four = padding
    return four[0], four[1] + strides[0] - 1, four[2], four[3] + strides[1] - 1
