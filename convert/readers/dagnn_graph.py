"""A stored MatConvNet network as a graph: the front end of ``.mat`` files.

Values have the names of MatConvNet's variables, layers their own, with "_" for what MATLAB does not allow in names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from convert.readers.dagnn import DagLayer, DagNN
from convert.readers.dagnn_options import four, leak_of, method_of, two
from ferplus_keras.graph.building import Builder, Window
from ferplus_keras.graph.form import Graph, GraphError
from ferplus_keras.graph.recognise import recognised
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON, INPUT_SIZE
from ferplus_keras.wording import counted

#: Layers that change nothing at inference.
TRANSPARENT = ("DropOut", "Reshape", "Flatten")

#: Training layers, after the network's own output.
LOSSES = ("Loss", "SoftmaxCELoss", "SoftMaxLoss")

#: Stored layer -> role -> array, or whatever has its shape.
Arrays = Mapping[str, Mapping[str, Any]]


def sanitised(name: str) -> str:
    """``conv1/7x7_s2/bn`` as ``conv1_7x7_s2_bn``: MATLAB's field names, and so MatConvNet's, are identifiers."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def dagnn_graph(net: DagNN, arrays: Arrays) -> Graph:
    """What ``net`` computes at inference, with ``arrays`` by the stored layers' names.

    Raises :class:`GraphError` if it is not a connected network of one image, or an option cannot be read.
    """
    waiting = [layer for layer in net.layers if layer.type not in LOSSES]
    made = {name for layer in waiting for name in layer.outputs}
    sources = list(dict.fromkeys(name for layer in waiting for name in layer.inputs if name not in made))
    if len(sources) != 1:
        raise GraphError(f"it has {counted(len(sources), 'input')}, and these networks have one, the image")
    builder = Builder()
    builder.image(sources[0], sources[0], (INPUT_SIZE, INPUT_SIZE, 3))
    while waiting:
        ready = [layer for layer in waiting if all(name in builder.values for name in layer.inputs)]
        if not ready:
            raise GraphError(f"its connections form a loop at {waiting[0].name[:80]}")
        for layer in ready:
            _add(builder, layer, arrays.get(layer.name, {}))
        waiting = [layer for layer in waiting if layer not in ready]
    used = {name for layer in net.layers if layer.type not in LOSSES for name in layer.inputs}
    return builder.finish(name for name in builder.values if name in made and name not in used)


def our_names(net: DagNN, arrays: Arrays) -> dict[str, str]:
    """Stored layer -> our name: by its position in the graph if all of ours were found there, else by its own name."""
    names = {layer.name: sanitised(layer.name) for layer in net.layers}
    try:
        table, matched = recognised(dagnn_graph(net, arrays))
    except GraphError:
        return names
    if not table.parameters.keys() <= matched.pairs.keys():
        return names
    stored = {sanitised(layer.name): layer.name for layer in net.layers}
    return names | {stored[matched.owner(ours)]: ours for ours in matched.pairs if matched.owner(ours) in stored}


def _add(builder: Builder, layer: DagLayer, arrays: Mapping[str, Any]) -> None:
    if not layer.inputs or len(layer.outputs) != 1 or layer.outputs[0] in builder.values:
        ends = f"{counted(len(layer.inputs), 'input')} and {counted(len(layer.outputs), 'output')}"
        raise GraphError(f"{layer.name[:80]} has {ends}, or an output that is another layer's too")
    try:
        OPERATIONS.get(layer.type, _other)(builder, layer, arrays)
    except ValueError as error:
        raise GraphError(f"the options of {layer.name[:80]} cannot be read: {error}") from None


def _place(layer: DagLayer) -> tuple[str, str, str, str]:
    """The first four arguments of the builder's operations: key, name, kind, source."""
    return layer.outputs[0], sanitised(layer.name), layer.type, layer.inputs[0]


def _other(builder: Builder, layer: DagLayer, _: Mapping[str, Any]) -> None:
    builder.other(layer.outputs[0], sanitised(layer.name), layer.type, layer.inputs)


def _convolution(builder: Builder, layer: DagLayer, arrays: Mapping[str, Any]) -> None:
    shape: tuple[int, ...] = getattr(arrays.get("kernel"), "shape", ())
    if len(shape) != 4:
        return _other(builder, layer, arrays)
    height, width, _, channels = shape
    options = layer.block
    steps, zeros, gaps = two(options.get("stride")), four(options.get("pad")), two(options.get("dilate"))
    return builder.convolution(*_place(layer), arrays, channels, Window((height, width), steps, zeros, gaps))


def _normalisation(builder: Builder, layer: DagLayer, arrays: Mapping[str, Any]) -> None:
    # MatConvNet divides by the stored deviation, which includes its epsilon; the variance is the one for ours.
    builder.normalisation(*_place(layer), arrays, BATCHNORM_EPSILON)


def _relu(builder: Builder, layer: DagLayer, _: Mapping[str, Any]) -> None:
    leak = leak_of(layer)
    builder.activation(*_place(layer), f"ReLU with a leak of {leak:g}" if leak else "relu")


def _pooling(builder: Builder, layer: DagLayer, arrays: Mapping[str, Any]) -> None:
    size, strides = two(layer.block.get("poolSize")), two(layer.block.get("stride"))
    padding = four(layer.block.get("pad"))
    if (method := method_of(layer)) == "avg":
        return builder.average(*_place(layer), size, strides, padding)
    if method != "max":
        return _other(builder, layer, arrays)
    shape = builder.values[layer.inputs[0]].shape
    if shape is not None and len(shape) == 3:  # padding that no window reaches does nothing
        top, bottom, left, right = padding
        bottom = min(bottom, _reached(shape[0] + top, bottom, size[0], strides[0]))
        right = min(right, _reached(shape[1] + left, right, size[1], strides[1]))
        padding = (top, bottom, left, right)
    return builder.maximum(*_place(layer), size, strides, padding)


def _reached(side: int, zeros: int, window: int, stride: int) -> int:
    """How many of the ``zeros`` after ``side`` pixels the last window reaches."""
    return max(0, (side + zeros - window) // stride * stride + window - side)


def _global_pooling(builder: Builder, layer: DagLayer, arrays: Mapping[str, Any]) -> None:
    operation = {"avg": "average", "max": "global maximum"}.get(method_of(layer))
    if operation is None:
        return _other(builder, layer, arrays)
    return builder.whole(*_place(layer), operation)


def _axpy(builder: Builder, layer: DagLayer, arrays: Mapping[str, Any]) -> None:
    """Axpy(a, x, y) = a * x + y: the scale and the sum in one."""
    if len(layer.inputs) != 3:
        return _other(builder, layer, arrays)
    (gate, map_, shortcut), key, name = layer.inputs, layer.outputs[0], sanitised(layer.name)
    builder.merge(f"{key} scaled", name, layer.type, (map_, gate), "multiply")
    return builder.merge(key, name, layer.type, (f"{key} scaled", shortcut), "add")


def _same(builder: Builder, layer: DagLayer, _: Mapping[str, Any]) -> None:
    builder.same(layer.outputs[0], layer.inputs[0])


def _merging(operation: str) -> Callable[[Builder, DagLayer, Mapping[str, Any]], None]:
    def add(builder: Builder, layer: DagLayer, _: Mapping[str, Any]) -> None:
        builder.merge(layer.outputs[0], sanitised(layer.name), layer.type, layer.inputs, operation)

    return add


def _activation(operation: str) -> Callable[[Builder, DagLayer, Mapping[str, Any]], None]:
    return lambda builder, layer, _: builder.activation(*_place(layer), operation)


OPERATIONS: dict[str, Callable[[Builder, DagLayer, Mapping[str, Any]], None]] = {
    "Conv": _convolution,
    "BatchNorm": _normalisation,
    "ReLU": _relu,
    "Sigmoid": _activation("sigmoid"),
    "SoftMax": _activation("softmax"),
    "Pooling": _pooling,
    "GlobalPooling": _global_pooling,
    "Scale": _merging("multiply"),
    "Sum": _merging("add"),
    "Axpy": _axpy,
    **dict.fromkeys(TRANSPARENT, _same),
}
