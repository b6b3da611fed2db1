"""Graphs built node by node, normalised on the way: what does nothing is dropped, zeros go where they take effect.

Sizes are followed through the graph, because what some layers do depends on them: Keras's ``padding="same"``, and a
pooling that covers the whole map or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ferplus_keras.graph.form import Four, Graph, GraphError, Node, Pair, Shape
from ferplus_keras.networks.architecture import INPUT_SIZE

MAX_NODES = 10_000  #: these networks have some 250 layers

NO_PADDING: Four = (0, 0, 0, 0)

#: How a convolution or pooling is padded: by four numbers, or so that strides alone divide the size ("same"), with
#: what is odd at the bottom and right.
Padding = Any


@dataclass(frozen=True)
class Window:
    """How a convolution goes over a map. A single pixel at a time, as of a dense layer, unless told otherwise."""

    size: Pair = (1, 1)
    strides: Pair = (1, 1)
    padding: Padding = NO_PADDING
    dilation: Pair = (1, 1)
    groups: int = 1


PIXEL = Window()


@dataclass(frozen=True)
class Value:
    """What a node yields: its key, height x width x channels (or channels alone; None: unknown), zeros laid around."""

    node: str
    shape: Shape | None
    padding: Four = NO_PADDING

    @property
    def is_vector(self) -> bool:
        return self.shape is not None and self.shape[:-1] in ((), (1, 1)) and not any(self.padding)


class Builder:
    """Takes the operations of a graph in order; ``key`` names what an operation yields, ``source`` what it takes."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.values: dict[str, Value] = {}

    def finish(self, outputs: Iterable[str], names: Iterable[str] = ()) -> Graph:
        """The graph up to ``outputs``, without what none of them depends on; they are called after their nodes where
        they have no ``names`` of their own.
        """
        graph = self.graph
        graph.outputs = tuple(self._solid(key).node for key in outputs)
        graph.names = tuple(names) or tuple(graph.nodes[key].name for key in graph.outputs)
        needed = set(graph.outputs)
        for key in reversed(list(graph.nodes)):
            if key in needed:
                needed.update(graph.nodes[key].inputs)
        graph.nodes = {key: node for key, node in graph.nodes.items() if key in needed or key in graph.inputs}
        return graph

    def image(self, key: str, name: str, shape: Any = ()) -> None:
        """An input. ``shape`` is height x width x channels; what it leaves open is taken to be as published."""
        given = [each if isinstance(each, int) and each > 0 else None for each in shape]
        height, width, channels = given if len(given) == 3 else (None, None, None)
        self.graph.inputs += (key,)
        self.graph.input_shape = (height, width, channels)
        self._add(key, Node(name, "image"), (height or INPUT_SIZE, width or INPUT_SIZE, channels or 3))

    def same(self, key: str, source: str) -> None:
        """What changes nothing at inference."""
        self.values[key] = self._value(source)

    def other(self, key: str, name: str, kind: str, sources: Iterable[str], **attributes: Any) -> None:
        """What these networks do not have. Its output is taken to have its input's size."""
        solid = [self._solid(source) for source in sources]
        node = Node(name, kind or "unknown", attributes, tuple(value.node for value in solid), {}, kind)
        self._add(key, node, solid[0].shape if solid else None)

    def pad(self, key: str, name: str, kind: str, source: str, padding: Four) -> None:
        """Zeros around a map, at the top, bottom, left and right."""
        value = self._value(source)
        if min(padding) < 0:
            self.other(key, name, f"cropping {kind}", [source])
        else:
            self.values[key] = replace(value, padding=_sum(value.padding, padding))

    def convolution(
        self, key: str, name: str, kind: str, source: str, arrays: Mapping[str, Any], channels: int,
        window: Window = PIXEL,
    ) -> None:  # fmt: skip
        """A convolution of a map into ``channels`` channels, or a dense layer, which is one of 1 x 1."""
        value, strides = self._value(source), window.strides
        # A single pixel has no neighbours to be apart from.
        high, wide = (1 if size == 1 else apart for size, apart in zip(window.size, window.dilation))  # noqa: B905
        dilation = (high, wide)
        reach = ((window.size[0] - 1) * dilation[0] + 1, (window.size[1] - 1) * dilation[1] + 1)
        padding = _resolved(value, reach, strides, window.padding)
        attributes = {"strides": strides, "padding": padding, "dilation": dilation, "groups": window.groups}
        shape = _after(value, reach, strides, padding)
        node = Node(name, "convolution", attributes, (value.node,), arrays, kind)
        self._add(key, node, shape and (*shape[:-1], channels))

    def normalisation(
        self, key: str, name: str, kind: str, source: str, arrays: Mapping[str, Any], epsilon: float, **more: Any
    ) -> None:
        value = self._solid(source)
        node = Node(name, "normalisation", {"epsilon": epsilon, **more}, (value.node,), arrays, kind)
        self._add(key, node, value.shape)

    def activation(self, key: str, name: str, kind: str, source: str, operation: str) -> None:
        """``relu``, ``sigmoid``, ``softmax``, or another's own name."""
        value = self._solid(source)
        self._add(key, Node(name, operation, {}, (value.node,), {}, kind), value.shape)

    def subtract(self, key: str, name: str, kind: str, source: str, mean: tuple[float, ...]) -> None:
        value = self._solid(source)
        self._add(key, Node(name, "subtract", {"mean": mean}, (value.node,), {}, kind), value.shape)

    def maximum(
        self, key: str, name: str, kind: str, source: str, size: Pair, strides: Pair, padding: Padding = NO_PADDING
    ) -> None:
        """Max pooling. Zeros around a map that has nothing below zero are as good as padding with minus infinity."""
        value = self._value(source)
        if any(value.padding) and self.graph.nodes[value.node].operation != "relu":
            value = self._solid(source)
        if value.shape is not None and value.shape[:-1] == size == (1, 1) and not any(value.padding):
            return self.same(key, source)
        padding = _resolved(value, size, strides, padding)
        node = Node(name, "maximum", {"size": size, "strides": strides, "padding": padding}, (value.node,), {}, kind)
        return self._add(key, node, _after(value, size, strides, padding))

    def average(
        self, key: str, name: str, kind: str, source: str, size: Pair, strides: Pair, padding: Padding = NO_PADDING
    ) -> None:
        """Average pooling; where the window is the whole map, :meth:`whole` is what it does."""
        value = self._solid(source)
        padding = _resolved(value, size, strides, padding)
        if value.shape is not None and value.shape[:-1] == size and padding == NO_PADDING:
            return self.whole(key, name, kind, source, "average")
        attributes = {"size": size, "strides": strides, "padding": padding}
        node = Node(name, "average of a part", attributes, (value.node,), {}, kind)
        return self._add(key, node, _after(value, size, strides, padding))

    def whole(self, key: str, name: str, kind: str, source: str, operation: str) -> None:
        """A pooling over the whole map: ``average`` or ``global maximum``. Of one that was pooled it does nothing.

        A map of a single pixel is no reason to leave it out: of an image of 32 x 32 the last map has no more.
        """
        value = self._solid(source)
        if value.is_vector and self._is_pooled(value.node):
            self.values[key] = value
        else:
            node = Node(name, operation, {}, (value.node,), {}, kind)
            self._add(key, node, value.shape and (1, 1, value.shape[-1]))

    def _is_pooled(self, key: str) -> bool:
        """Whether the map was pooled as a whole since the last activation."""
        node = self.graph.nodes[key]
        while node.operation in ("convolution", "normalisation") and node.inputs:
            node = self.graph.nodes[node.inputs[0]]
        return node.operation in ("average", "global maximum")

    def flatten(self, key: str, name: str, kind: str, sources: Iterable[str]) -> None:
        """A map as a vector, or a vector as a map of one pixel: nothing where it is one, and something else if not."""
        source, *rest = sources
        if rest or not self._value(source).is_vector:
            self.other(key, name, kind, [source, *rest])
        else:
            self.same(key, source)

    def merge(self, key: str, name: str, kind: str, sources: Iterable[str], operation: str) -> None:
        """``add`` or ``multiply`` of two branches."""
        solid = [self._solid(source) for source in sources]
        if len(solid) != 2:
            return self.other(key, name, kind, sources)
        shape = max((value.shape for value in solid if value.shape), key=_pixels, default=None)
        return self._add(key, Node(name, operation, {}, tuple(value.node for value in solid), {}, kind), shape)

    # --- what the above are made of -------------------------------------------------------------------------------

    def _add(self, key: str, node: Node, shape: Shape | None) -> None:
        if len(self.graph.nodes) >= MAX_NODES:
            raise GraphError(f"it has more than {MAX_NODES:,} layers")
        self.graph.nodes[key] = node
        self.values[key] = Value(key, shape)

    def _value(self, key: str) -> Value:
        if key not in self.values:
            raise GraphError(f"a layer takes {key[:80]}, which no layer yields")
        return self.values[key]

    def _solid(self, key: str) -> Value:
        """The value for an operation that cannot take up the zeros around it: they become a node of their own."""
        value = self._value(key)
        if not any(value.padding):
            return value
        above, below, left, right = value.padding
        made = f"{key} with zeros"
        shape = value.shape
        if shape is not None and len(shape) == 3:
            shape = (shape[0] + above + below, shape[1] + left + right, shape[2])
        if made not in self.graph.nodes:
            self._add(made, Node(key, "zeros", {"padding": value.padding}, (value.node,), {}, "padding"), shape)
        return self.values[made]


def _pixels(shape: Shape) -> int:
    return shape[0] * shape[1] if len(shape) == 3 else 1


def _sum(one: Four, other: Four) -> Four:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]


def _sides(value: Value) -> Pair | None:
    """Height and width with the zeros around them."""
    if value.shape is None:
        return None
    height, width = value.shape[:2] if len(value.shape) == 3 else (1, 1)
    above, below, left, right = value.padding
    return height + above + below, width + left + right


def _resolved(value: Value, reach: Pair, strides: Pair, padding: Padding) -> Padding:
    """All zeros around ``value`` together, as four numbers; "same" where they follow from a size that is not known."""
    if padding != "same":
        return _sum(value.padding, padding)
    sides = _sides(value)
    if sides is None and strides != (1, 1):
        return padding
    pads = []
    for side, window, stride in zip(sides or (reach[0], reach[1]), reach, strides):  # noqa: B905 (Python 3.9)
        total = max((-(-side // stride) - 1) * stride + window - side, 0)
        pads += [total // 2, total - total // 2]
    return _sum(value.padding, (pads[0], pads[1], pads[2], pads[3]))


def _after(value: Value, reach: Pair, strides: Pair, padding: Padding) -> Shape | None:
    """The shape behind a window that goes over ``value``, whose zeros are in ``padding`` already."""
    if value.shape is None or padding == "same":
        return None
    if len(value.shape) != 3:
        return value.shape
    height, width, channels = value.shape
    above, below, left, right = padding
    return (
        max((height + above + below - reach[0]) // strides[0] + 1, 0),
        max((width + left + right - reach[1]) // strides[1] + 1, 0),
        channels,
    )
