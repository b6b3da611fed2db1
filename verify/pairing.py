"""Which layer of a stranger's Keras model is which layer of ours, and how sure that is.

The names of a hand-made port say little. Its graph says nearly all: a convolution whose kernel has the right shape and
which is fed by the counterparts of what feeds ours is the counterpart. Each layer that owns arrays, each pooling and
each merge is an anchor; activations and what only passes on (padding, reshaping, dropout) are found between anchors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convert.checkpoint import Arrays
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import Architecture
from verify.keras_trace import Step

#: How a counterpart was found, the surest first. Only ``order`` is a guess: one of several that look alike.
MEANS = {
    "name": "has the name",
    "structure": "stands at the same place in the graph",
    "numbers": "holds the checkpoint's numbers",
    "order": "is the next of its shape: a guess",
}

Key = tuple[Any, ...]


@dataclass
class Pairing:
    """``steps`` maps our layer to the index of the call that is its; ``by`` says how each was found."""

    steps: dict[str, int] = field(default_factory=dict)
    by: dict[str, str] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)  #: ours whose output cannot be seen: fused with an activation
    unpaired: list[str] = field(default_factory=list)  #: of our layers
    left_over: list[str] = field(default_factory=list)  #: of the model's layers that own arrays
    names: dict[str, str] = field(default_factory=dict)  #: our layer -> the model's own name for it

    @property
    def outputs(self) -> dict[int, str]:
        """Index of a call -> our layer whose output it yields."""
        return {index: layer for layer, index in self.steps.items() if layer not in self.hidden}

    @property
    def guessed(self) -> list[str]:
        return [layer for layer, means in self.by.items() if means == "order"]

    @property
    def summary(self) -> str:
        """One sentence for people."""
        total = len(self.steps) + len(self.unpaired)
        counts = Counter(self.by.values())
        if not self.unpaired and not self.left_over and set(counts) == {"name"}:
            return f"all {total} layers by name"
        parts = [f"{counts[means]} by {means}" for means in MEANS if counts[means]]
        said = f"{len(self.steps)} of {total} layers were paired: {', '.join(parts) or 'none'}"
        if self.guessed:
            said += f"; {len(self.guessed)} of these are guesses, the first {self.guessed[0]}"
        if self.unpaired:
            said += f"; without a counterpart: {_some(self.unpaired)}"
        if self.left_over:
            said += f"; left over in the model: {_some(self.left_over)}"
        return said

    def as_dict(self) -> dict[str, Any]:
        return {
            "summary": self.summary,
            "sure": not self.guessed and not self.unpaired and not self.left_over,
            "by": dict(Counter(self.by.values())),
            "guessed": self.guessed,
            "unpaired": self.unpaired,
            "left_over": self.left_over,
            "names": {ours: theirs for ours, theirs in self.names.items() if ours != theirs},
        }


def pair(table: Architecture, arrays: Arrays, steps: Sequence[Step]) -> Pairing:
    """Pair the layers of ``table`` with the calls ``steps`` of a model.

    Args:
        table: the architecture that the model is held against.
        arrays: the checkpoint's, as further evidence.
        steps: :meth:`verify.keras_trace.WatchedModel.trace` of the model.
    """
    found = Pairing()
    graph = _Graph(steps)
    taken: set[int] = set()
    for layer in table.layers:
        key = _key(layer)
        if key is None:
            continue
        free = [step for step in graph.anchors if step.index not in taken and graph.keys[step.index] == key]
        chosen, means = _choose(layer, free, graph, table, found, arrays)
        if chosen is None:
            found.unpaired.append(layer.name)
            continue
        taken.add(chosen.index)
        _note(found, layer.name, chosen, means)
    _pair_activations(table, graph, found)
    order = {layer.name: number for number, layer in enumerate(table.layers)}
    found.steps = dict(sorted(found.steps.items(), key=lambda pair: order[pair[0]]))
    found.unpaired.sort(key=order.__getitem__)
    found.left_over = [step.name for step in graph.anchors if step.index not in taken and _owns_arrays(step)]
    return found


def _choose(
    layer: arch.Layer, free: list[Step], graph: _Graph, table: Architecture, found: Pairing, arrays: Arrays
) -> tuple[Step | None, str]:
    # Our own graph has a squeeze in two steps, of which the first is called so (ferplus_keras/networks/keras_plan.py).
    named = [step for step in free if _plain(step.name) in (layer.name, f"{layer.name}_flat")]
    if len(named) == 1:
        return named[0], "name"
    feeds = {found.steps.get(name) for name in _anchors_before(layer, table)}
    placed = [step for step in free if graph.feeds(step) == feeds]
    if len(placed) == 1:
        return placed[0], "structure"
    candidates = placed or free
    same = [step for step in candidates if _holds(step, arrays.get(layer.name, {}))]
    if len(same) == 1:
        return same[0], "numbers"
    if len(candidates) == 1:  # elsewhere in the graph, and yet the only one left that it can be
        return candidates[0], "structure"
    return (candidates[0], "order") if candidates else (None, "")


def _note(found: Pairing, layer: str, step: Step, means: str) -> None:
    found.steps[layer] = step.index
    found.by[layer] = means
    found.names[layer] = step.name


def _pair_activations(table: Architecture, graph: _Graph, found: Pairing) -> None:
    """ReLUs and sigmoids: the activation behind the counterpart of what feeds ours, or fused into it."""
    for layer in table.layers:
        if not isinstance(layer, arch.ReLU | arch.Sigmoid):
            continue
        (source,) = _anchors_before(layer, table) or ("",)
        index = found.steps.get(source)
        named = [step for step in graph.steps if step.kind in ACTIVATIONS and _plain(step.name) == layer.name]
        if len(named) == 1:
            _note(found, layer.name, named[0], "name")
        elif index is None:
            found.unpaired.append(layer.name)
        elif behind := graph.activation_behind(index):
            _note(found, layer.name, behind, found.by[source])
        elif _fused(graph.steps[index]):
            # What comes out of the layer is past its activation: that is ours to compare, the raw sum cannot be seen.
            _note(found, layer.name, graph.steps[index], found.by[source])
            found.hidden.add(source)
        else:
            found.unpaired.append(layer.name)


# --- the two graphs, reduced to anchors -----------------------------------------------------------------------------


def _key(layer: arch.Layer) -> Key | None:
    """What a counterpart must have in common with ``layer``; None when it is no anchor."""
    match layer:
        case arch.Conv():
            return ("kernel", *layer.parameters["kernel"])
        case arch.Linear():
            return ("kernel", 1, 1, *layer.parameters["kernel"])
        case arch.BatchNorm():
            return ("norm", layer.channels)
        case arch.MaxPool():
            return ("maximum",)
        case arch.AveragePool() | arch.GlobalPool():
            return ("average",)
        case arch.Add():
            return ("add",)
        case arch.Scale():
            return ("multiply",)
        case _:
            return None


def _key_of(step: Step) -> Key | None:
    operation, kind = step.operation, step.kind
    if kind in ("Conv2D", "Dense"):
        shape = tuple(operation.kernel.shape)
        return ("kernel", *((1, 1) if len(shape) == 2 else ()), *shape)
    if kind == "BatchNormalization":
        return ("norm", int(operation.moving_variance.shape[0]))
    return {
        "MaxPooling2D": ("maximum",),
        "AveragePooling2D": ("average",),
        "GlobalAveragePooling2D": ("average",),
        "Mean": ("average",),
        "Add": ("add",),
        "Multiply": ("multiply",),
    }.get(kind)


#: Layers that are activations and nothing else, and the bare functions.
ACTIVATIONS = ("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax", "Relu", "Relu6", "Sigmoid", "HardSigmoid",
               "HardTanh", "Tanh", "Silu", "Gelu")  # fmt: skip


class _Graph:
    """The calls of a model as anchors and what lies between them."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.keys = {step.index: _key_of(step) for step in steps}
        # A bare `x * 2` is no merge of two branches, and a second call of one layer would be another layer of ours.
        merges = (("add",), ("multiply",))
        for step in steps:
            if self.keys[step.index] in merges and len(set(step.inputs)) < 2:
                self.keys[step.index] = None
        self.anchors = [step for step in steps if self.keys[step.index] is not None]
        self._feeds: dict[int, frozenset[int]] = {}
        self._nearest: dict[int, int | None] = {}
        for step in steps:
            sources = [self._feeds_of(source) for source in step.inputs]
            self._feeds[step.index] = frozenset[int]().union(*sources)
            first = step.inputs[0] if step.inputs else None
            passes = first is not None and self.keys[first] is None and self.steps[first].kind not in ACTIVATIONS
            self._nearest[step.index] = self._nearest[first] if first is not None and passes else first

    def _feeds_of(self, index: int) -> frozenset[int]:
        return self._feeds[index] if self.keys[index] is None else frozenset((index,))

    def feeds(self, step: Step) -> set[int | None]:
        """The nearest anchors before ``step``, through all that is none."""
        return set(self._feeds[step.index])

    def activation_behind(self, index: int) -> Step | None:
        """The activation that takes the output of ``index``, with nothing but padding and the like between."""
        behind = (step for step in self.steps if step.kind in ACTIVATIONS and self._nearest[step.index] == index)
        return next(behind, None)


def _anchors_before(layer: arch.Layer, table: Architecture) -> tuple[str, ...]:
    """The nearest anchors before a layer of ours."""

    def back(name: str) -> Iterator[str]:
        before = table.by_name[name]
        if _key(before) is not None:
            yield name
        else:
            for source in before.inputs:
                yield from back(source)

    return tuple(anchor for name in layer.inputs for anchor in back(name))


# --- small questions ------------------------------------------------------------------------------------------------


def _owns_arrays(step: Step) -> bool:
    return bool(getattr(step.operation, "weights", ()))


def _fused(step: Step) -> bool:
    activation = getattr(step.operation, "activation", None)
    return activation is not None and getattr(activation, "__name__", "") != "linear"


def _holds(step: Step, roles: dict[str, np.ndarray]) -> bool:
    """Whether the layer's first array (kernel or gamma) and its last are the checkpoint's, bit for bit."""
    if not roles or not _owns_arrays(step):
        return False
    mine = [np.asarray(array, np.float32).reshape(-1) for array in step.operation.get_weights()]
    wanted = [np.asarray(array, np.float32).reshape(-1) for array in roles.values()]
    return len(mine) == len(wanted) and all(map(np.array_equal, mine, wanted))


def _plain(name: str) -> str:
    """A layer's own name without the models around it."""
    return name.rsplit("/", 1)[-1]


def _some(names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


__all__ = ["MEANS", "Pairing", "pair"]
