"""Numbers in an ONNX graph that do not depend on the image: weights behind an Identity, shapes that are computed.

Only what exporters of these networks write is followed, and only views and short lists are made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ferplus_keras.graph.form import GraphError

#: How many nodes may stand between a number and where it is used.
MAX_STEPS = 12

#: No shape or list of axes is longer; a tensor that is larger is none.
MAX_LENGTH = 16

Whole = list["int | None"]  #: None stands for the number of images, which is free


class Values:
    """``constant`` and ``integers`` of a tensor by name. ``extents`` says what Shape yields of a map."""

    def __init__(
        self, nodes: Sequence[Any], tensors: Mapping[str, np.ndarray], extents: Callable[[str], Whole | None]
    ) -> None:
        self.tensors, self.extents = tensors, extents
        self.made_by = {name: node for node in nodes for name in node.outputs}

    def constant(self, name: str, steps: int = MAX_STEPS) -> np.ndarray | None:
        """The tensor, also behind what only lays it out differently; None where it is computed."""
        if name in self.tensors:
            return self.tensors[name]
        node = self.made_by.get(name)
        if node is None or not node.inputs or not steps:
            return self._number(node)
        before = self.constant(node.inputs[0], steps - 1) if node.kind in LAID_OUT else None
        if before is None:
            return None
        try:
            return self._laid_out(node, before, steps)
        except (ValueError, IndexError, TypeError):
            raise GraphError(f"{node.name[:80]}, a {node.kind}, does not fit the tensor that it takes") from None

    def _laid_out(self, node: Any, array: np.ndarray, steps: int) -> np.ndarray | None:
        if node.kind == "Identity":
            return array
        if node.kind == "Transpose":
            return array.transpose(integers(node, "perm", list(range(array.ndim))[::-1]))
        if node.kind == "Flatten":
            axis = int(number(node, "axis", 1))
            return array.reshape(int(np.prod(array.shape[:axis])), -1)
        target = self.integers(node.inputs[1], steps - 1) if len(node.inputs) > 1 else integers(node, "axes", [])
        if target is None or any(each is None for each in target):
            return None
        whole = [each for each in target if each is not None]
        if node.kind == "Squeeze":
            return array.squeeze(tuple(whole) or None)
        if node.kind == "Unsqueeze":
            return np.expand_dims(array, tuple(whole))
        return array.reshape([array.shape[at] if each == 0 else each for at, each in enumerate(whole)])

    def _number(self, node: Any) -> np.ndarray | None:
        """A Constant whose value is one number or a short list."""
        if node is None or node.kind != "Constant":
            return None
        value = next((node.attributes[key] for key in CONSTANTS if key in node.attributes), None)
        return None if value is None or isinstance(value, (str, bytes)) else np.asarray(value)

    def origin(self, name: str) -> str:
        """The tensor of the file that stands behind a constant."""
        for _ in range(MAX_STEPS):
            node = self.made_by.get(name)
            if name in self.tensors or node is None or not node.inputs:
                break
            name = node.inputs[0]
        return name

    def is_zero(self, name: str, steps: int = MAX_STEPS) -> bool:
        """Whether it is zero, as one number, perhaps spread out."""
        node = self.made_by.get(name)
        if name not in self.tensors and node is not None and node.kind in ("Expand", "CastLike", "Cast", "Identity"):
            return bool(node.inputs) and steps > 0 and self.is_zero(node.inputs[0], steps - 1)
        found = self.constant(name)
        return found is not None and found.size == 1 and not found.any()

    def integers(self, name: str, steps: int = MAX_STEPS) -> Whole | None:
        """A short list of integers: a shape, or axes. None where it cannot be told."""
        array = self.constant(name, steps)
        if array is not None:
            return [int(each) for each in array.reshape(-1)] if _is_list(array) else None
        node = self.made_by.get(name)
        if node is None or not node.inputs or not steps:
            return None
        if node.kind == "Shape":
            sizes = self.extents(node.inputs[0])
            return sizes and sizes[int(number(node, "start", 0)) : int(number(node, "end", MAX_LENGTH))]
        before = [self.integers(each, steps - 1) for each in node.inputs]
        first = before[0]
        if node.kind in ("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape"):
            return first
        if node.kind == "Concat":
            return None if None in before else [each for part in before if part for each in part][:MAX_LENGTH]
        if node.kind == "Gather" and first and len(before) > 1 and before[1] is not None:
            places = [at for at in before[1] if at is not None and -len(first) <= at < len(first)]
            return [first[at] for at in places] if len(places) == len(before[1]) else None
        if node.kind == "Slice" and first and len(before) in (3, 4):
            begin, end = (part[0] if part and len(part) == 1 else None for part in before[1:3])
            return None if begin is None or end is None else first[begin:end]
        return None


#: Nodes that lay a tensor out differently.
LAID_OUT = ("Identity", "Transpose", "Flatten", "Reshape", "Squeeze", "Unsqueeze")

#: Attributes of a Constant that are no tensor.
CONSTANTS = ("value_float", "value_int", "value_ints")


def _is_list(array: np.ndarray) -> bool:
    return array.dtype.kind in "iu" and array.ndim <= 1 and array.size <= MAX_LENGTH


def integers(node: Any, name: str, default: list[int]) -> list[int]:
    """An attribute that is a list of integers."""
    value = node.attributes.get(name, default)
    if not isinstance(value, list) or not all(isinstance(each, int) for each in value) or len(value) > MAX_LENGTH:
        raise GraphError(f"{node.name[:80]}, a {node.kind[:40]}, has no list of integers for {name}")
    return value


def number(node: Any, name: str, default: float) -> float:
    """An attribute that is a number."""
    value = node.attributes.get(name, default)
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise GraphError(f"{node.name[:80]}, a {node.kind[:40]}, has no number for {name}")
    return value


def text(node: Any, name: str, default: str) -> str:
    """An attribute that is text."""
    value = node.attributes.get(name, default)
    if not isinstance(value, str):
        raise GraphError(f"{node.name[:80]}, a {node.kind[:40]}, has no text for {name}: its {name} is something else")
    return value
