"""ONNX's operations that a network for images has, in sizes alone: shapes in, shape and number of multiplications out.

Integers that shapes are computed from (the way exporters write ``x.view(x.size(0), -1)``) are followed as numbers.
The rules are those of ONNX's operator specification. What an operation needs and does not get is an IndexError,
AttributeError or ValueError, which :mod:`ferplus_keras.engines.onnx_policy` reports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ferplus_keras.engines.budget import Shape, shown
from ferplus_keras.errors import DamagedError
from ferplus_keras.files.onnx_graph import OnnxNode


@dataclass(frozen=True)
class Sized:
    """A tensor's shape, and its numbers where they are few integers and known."""

    shape: Shape
    values: tuple[int, ...] | None = None

    @property
    def integers(self) -> tuple[int, ...]:
        if self.values is None:
            raise DamagedError("a size depends on numbers that are known only when it runs")
        return self.values


Inputs = Sequence[Sized | None]
Found = tuple[Sized, int]
Operation = Callable[[OnnxNode, Inputs], Found]


def _given(inputs: Inputs, number: int) -> Sized:
    found = inputs[number]
    if found is None:
        raise DamagedError("an input is missing")
    return found


def _same(node: OnnxNode, inputs: Inputs) -> Found:
    first = _given(inputs, 0)
    kept = node.kind in ("Identity", "Dropout") or (node.kind == "Cast" and node.number("to", 0) in (6, 7))  # integers
    return Sized(first.shape, first.values if kept else None), 0


def _per_channel(_node: OnnxNode, inputs: Inputs) -> Found:
    """Element by element, with parameters that must be one for each channel or one for all."""
    first = _given(inputs, 0)
    for other in inputs[1:]:
        if other is not None and math.prod(other.shape) > max(first.shape, default=1):
            raise DamagedError(f"parameters of {shown(other.shape)} for a tensor of {shown(first.shape)}")
    return Sized(first.shape), 0


def _broadcast(node: OnnxNode, inputs: Inputs) -> Found:
    shapes = [_given(inputs, number).shape for number in range(len(inputs))]
    shape = np.broadcast_shapes(*shapes)
    values = None
    if len(inputs) == 2 and all(each is not None and each.values is not None for each in inputs):
        one, two = (np.array(_given(inputs, number).integers, object) for number in range(2))
        rule = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.floor_divide}.get(node.kind)
        if rule is not None and (node.kind != "Div" or ((two > 0).all() and (one >= 0).all())):
            found = np.asarray(rule(one.reshape(shapes[0]), two.reshape(shapes[1])), object).ravel()
            if all(abs(each) < 1 << 31 for each in found):  # beyond, an int32 begins anew
                values = tuple(int(each) for each in found)
    return Sized(tuple(shape), values), 0


def _window(node: OnnxNode, extents: Shape, kernel: Sequence[int], *, ceil: bool = False) -> Shape:
    """The extents of what a window of the size ``kernel`` makes of a map."""
    count = len(extents)
    strides, dilations = (node.integers(name, [1] * count) for name in ("strides", "dilations"))
    pads = node.integers("pads", [0] * (2 * count))
    if len(kernel) != count or len(strides) != count or len(dilations) != count or len(pads) != 2 * count:
        raise DamagedError("its window has another number of dimensions than its map")
    if min((*kernel, *strides, *dilations)) < 1 or min(pads) < 0 or max(pads) > 64:
        raise DamagedError("its window, stride or padding is not valid")
    automatic = node.text("auto_pad", "NOTSET")
    found = []
    for axis, extent in enumerate(extents):
        window = dilations[axis] * (kernel[axis] - 1) + 1
        if automatic.startswith("SAME"):
            found.append(-(-extent // strides[axis]))
            continue
        padded = extent + (0 if automatic == "VALID" else pads[axis] + pads[count + axis])
        steps = padded - window
        size = (-(-steps // strides[axis]) if ceil else steps // strides[axis]) + 1
        if ceil and (size - 1) * strides[axis] >= extent + pads[axis]:  # a window of nothing but padding is none
            size -= 1
        found.append(size)
    if min(found) < 1:
        raise DamagedError("its window is larger than its map")
    return tuple(found)


def _conv(node: OnnxNode, inputs: Inputs) -> Found:
    images, kernel = _given(inputs, 0).shape, _given(inputs, 1).shape
    group = int(node.number("group", 1))
    if len(images) < 3 or len(kernel) != len(images) or group < 1 or images[1] != kernel[1] * group:
        raise DamagedError(f"a kernel of {shown(kernel)} does not go over maps of {shown(images)}")
    shape = (images[0], kernel[0], *_window(node, images[2:], kernel[2:]))
    return Sized(shape), math.prod(shape) * math.prod(kernel[1:])


def _pool(node: OnnxNode, inputs: Inputs) -> Found:
    images, kernel = _given(inputs, 0).shape, node.integers("kernel_shape", [])
    shape = (*images[:2], *_window(node, images[2:], kernel, ceil=node.number("ceil_mode", 0) == 1))
    return Sized(shape), math.prod(shape) * math.prod(kernel)


def _global_pool(_node: OnnxNode, inputs: Inputs) -> Found:
    images = _given(inputs, 0).shape
    return Sized((*images[:2], *[1] * (len(images) - 2))), math.prod(images)


def _reduce(node: OnnxNode, inputs: Inputs) -> Found:
    first = _given(inputs, 0).shape
    axes = _axes(node, inputs, len(first))
    if not axes and node.number("noop_with_empty_axes", 0) == 0:
        axes = set(range(len(first)))
    keep = node.number("keepdims", 1) == 1
    shape = tuple(1 if axis in axes else each for axis, each in enumerate(first) if keep or axis not in axes)
    return Sized(shape), math.prod(first)


def _axes(node: OnnxNode, inputs: Inputs, rank: int) -> set[int]:
    """The attribute ``axes``, or in newer operators the second input; each within the ``rank``."""
    given = inputs[1] if len(inputs) > 1 else None
    axes = given.integers if given is not None else node.integers("axes", [])
    if any(not -rank <= axis < rank for axis in axes):
        raise DamagedError(f"it has no axis {shown(axes)}")
    return {axis % rank for axis in axes}


def _flatten(node: OnnxNode, inputs: Inputs) -> Found:
    shape = _given(inputs, 0).shape
    axis = int(node.number("axis", 1))
    axis += len(shape) if axis < 0 else 0
    return Sized((math.prod(shape[:axis]), math.prod(shape[axis:]))), 0


def _reshape(node: OnnxNode, inputs: Inputs) -> Found:
    first, wanted = _given(inputs, 0), list(_given(inputs, 1).integers)
    if node.number("allowzero", 0) == 0:
        wanted = [first.shape[place] if extent == 0 else extent for place, extent in enumerate(wanted)]
    known = math.prod(extent for extent in wanted if extent != -1)
    if wanted.count(-1) == 1 and known:
        wanted[wanted.index(-1)] = math.prod(first.shape) // known
    if min(wanted, default=0) < 0 or math.prod(wanted) != math.prod(first.shape):
        raise DamagedError(f"{shown(first.shape)} cannot be made {shown(wanted)}")
    return Sized(tuple(wanted), first.values), 0


def _squeeze(node: OnnxNode, inputs: Inputs) -> Found:
    first = _given(inputs, 0)
    axes = _axes(node, inputs, len(first.shape)) or {axis for axis, each in enumerate(first.shape) if each == 1}
    if any(first.shape[axis] != 1 for axis in axes):
        raise DamagedError(f"{shown(first.shape)} cannot be squeezed there")
    return Sized(tuple(each for axis, each in enumerate(first.shape) if axis not in axes), first.values), 0


def _unsqueeze(node: OnnxNode, inputs: Inputs) -> Found:
    first = _given(inputs, 0)
    count = len(inputs[1].integers) if len(inputs) > 1 and inputs[1] else len(node.integers("axes", []))
    axes = _axes(node, inputs, len(first.shape) + count)
    rest = iter(first.shape)
    return Sized(
        tuple(1 if axis in axes else next(rest) for axis in range(len(first.shape) + len(axes))), first.values
    ), 0


def _transpose(node: OnnxNode, inputs: Inputs) -> Found:
    shape = _given(inputs, 0).shape
    order = node.integers("perm", list(range(len(shape)))[::-1])
    if sorted(order) != list(range(len(shape))):
        raise DamagedError("its order of axes is not valid")
    return Sized(tuple(shape[axis] for axis in order)), 0


def _gemm(node: OnnxNode, inputs: Inputs) -> Found:
    one, two = _given(inputs, 0).shape, _given(inputs, 1).shape
    (rows, inner), (inner2, columns) = (
        shape[::-1] if node.number(name, 0) == 1 else shape for shape, name in ((one, "transA"), (two, "transB"))
    )
    if inner != inner2:
        raise DamagedError(f"{shown(one)} cannot be multiplied with {shown(two)}")
    if (
        len(inputs) > 2
        and inputs[2] is not None
        and np.broadcast_shapes(inputs[2].shape, (rows, columns)) != (rows, columns)
    ):
        raise DamagedError(f"{shown(inputs[2].shape)} cannot be added to {rows} x {columns}")
    return Sized((rows, columns)), rows * inner * columns


def _matmul(_node: OnnxNode, inputs: Inputs) -> Found:
    one, two = _given(inputs, 0).shape, _given(inputs, 1).shape
    if len(one) < 2 or len(two) < 2 or one[-1] != two[-2]:
        raise DamagedError(f"{shown(one)} cannot be multiplied with {shown(two)}")
    shape = (*np.broadcast_shapes(one[:-2], two[:-2]), one[-2], two[-1])
    return Sized(shape), math.prod(shape) * one[-1]


def _concat(node: OnnxNode, inputs: Inputs) -> Found:
    parts = [_given(inputs, number) for number in range(len(inputs))]
    rank = len(parts[0].shape)
    axis = int(node.number("axis", 0)) % rank
    rests = {(len(each.shape), *each.shape[:axis], *each.shape[axis + 1 :]) for each in parts}
    if len(rests) != 1:
        raise DamagedError("its shapes do not fit together")
    shape = list(parts[0].shape)
    shape[axis] = sum(each.shape[axis] for each in parts)
    values = None
    if rank == 1 and all(each.values is not None for each in parts):
        values = tuple(value for each in parts for value in each.integers)
    return Sized(tuple(shape), values), 0


def _shape(node: OnnxNode, inputs: Inputs) -> Found:
    shape = _given(inputs, 0).shape
    start, end = int(node.number("start", 0)), int(node.number("end", len(shape)))
    return Sized((len(shape[start:end]),), shape[start:end]), 0


def _gather(node: OnnxNode, inputs: Inputs) -> Found:
    first, which = _given(inputs, 0), _given(inputs, 1)
    axis = int(node.number("axis", 0)) % len(first.shape)
    shape = (*first.shape[:axis], *which.shape, *first.shape[axis + 1 :])
    if any(not -first.shape[axis] <= each < first.shape[axis] for each in which.integers):
        raise DamagedError("it takes what is not there")
    values = None
    if first.values is not None and len(first.shape) == 1:
        values = tuple(first.values[each] for each in which.integers)
    return Sized(shape, values), 0


def _slice(node: OnnxNode, inputs: Inputs) -> Found:
    first = _given(inputs, 0)

    def numbers(place: int, name: str) -> list[int] | None:
        if len(inputs) > place and (given := inputs[place]) is not None:
            return list(given.integers)
        return node.integers(name, []) or None

    starts, ends = numbers(1, "starts") or [], numbers(2, "ends") or []
    axes = numbers(3, "axes") or list(range(len(starts)))
    steps = numbers(4, "steps") or [1] * len(starts)
    cut: list[slice] = [slice(None)] * len(first.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[axis] = slice(start, end if end >= 0 or step > 0 or end >= -first.shape[axis] else None, step)
    shape = tuple(len(range(extent)[part]) for extent, part in zip(first.shape, cut, strict=True))
    values = first.values[cut[0]] if first.values is not None and len(first.shape) == 1 else None
    return Sized(shape, values), 0


def _pad(node: OnnxNode, inputs: Inputs) -> Found:
    shape = _given(inputs, 0).shape
    pads = inputs[1].integers if len(inputs) > 1 and inputs[1] is not None else node.integers("pads", [])
    if len(inputs) > 3 or len(pads) != 2 * len(shape):
        raise DamagedError("its padding does not fit")
    padded = tuple(each + pads[axis] + pads[len(shape) + axis] for axis, each in enumerate(shape))
    if min(padded, default=0) < 1:
        raise DamagedError("nothing is left of its map")
    return Sized(padded), 0


def _expand(_node: OnnxNode, inputs: Inputs) -> Found:
    first, wanted = _given(inputs, 0).shape, _given(inputs, 1).integers
    if min(wanted, default=1) < 1 or len(wanted) > 8 or math.prod(wanted) > 1 << 40:
        raise DamagedError(f"it produces a tensor of {shown(wanted)}, larger than any of these networks'")
    return Sized(tuple(np.broadcast_shapes(first, wanted))), 0


ELEMENTWISE = (
    "Abs", "Cast", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
    "Log", "LogSoftmax", "Mish", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softmax", "Softplus", "Sqrt", "Tanh",
)  # fmt: skip

OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys(ELEMENTWISE, _same),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _per_channel),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _per_channel),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "PRelu"), _broadcast),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2"), _reduce),
    "Conv": _conv, "Flatten": _flatten, "Reshape": _reshape, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Transpose": _transpose, "Gemm": _gemm, "MatMul": _matmul, "Concat": _concat, "Shape": _shape, "Gather": _gather,
    "Slice": _slice, "Pad": _pad, "Expand": _expand,
}  # fmt: skip
