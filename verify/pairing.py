"""Which layer of someone else's live Keras model is which layer of ours, and how sure that is.

The calls that the model makes become a graph (:func:`graph_of`), and the matcher of :mod:`ferplus_keras.graph` holds
it against the table's, as it does for files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ferplus_keras.graph.building import Builder
from ferplus_keras.graph.form import Graph
from ferplus_keras.graph.keras_layers import BEFORE_ACTIVATION, Call, add_layer
from ferplus_keras.graph.matcher import match
from ferplus_keras.graph.table import table_graph
from ferplus_keras.networks.architecture import Architecture
from verify.keras_trace import Step, Trace

#: How a counterpart was found, the surest first. Only ``order`` is a guess: one of several that look alike.
MEANS = ("name", "structure", "order")

IMAGE = "image"


@dataclass
class Pairing:
    """``steps`` maps our layer to the index of the call that is its; ``by`` says how each was found."""

    steps: dict[str, int] = field(default_factory=dict)
    by: dict[str, str] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)  #: ours whose output cannot be seen: fused with an activation
    unpaired: list[str] = field(default_factory=list)  #: of our layers
    left_over: list[str] = field(default_factory=list)  #: of the model's layers that own arrays
    names: dict[str, str] = field(default_factory=dict)  #: our layer -> the model's own name for it
    returned: int = 0  #: which of the model's outputs is ours
    beside: str = ""  #: what is said of the others

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
        beside = f"; {self.beside}" if self.beside else ""
        if self.by_name:
            return f"all {total} layers by name{beside}"
        parts = [f"{counts[means]} by {means}" for means in MEANS if counts[means]]
        said = f"{len(self.steps)} of {total} layers were paired: {', '.join(parts) or 'none'}"
        if self.guessed:
            said += f"; {len(self.guessed)} of these are guesses, the first {self.guessed[0]}"
        if self.unpaired:
            said += f"; without a counterpart: {_some(self.unpaired)}"
        if self.left_over:
            said += f"; left over in the model: {_some(self.left_over)}"
        return said + beside

    @property
    def by_name(self) -> bool:
        """Whether each layer was found by its name, and nothing is left."""
        return not self.unpaired and not self.left_over and set(self.by.values()) == {"name"}

    def as_dict(self) -> dict[str, Any]:
        return {
            "summary": self.summary,
            "plain": self.by_name and not self.beside,
            "sure": not self.guessed and not self.unpaired and not self.left_over,
            "by": dict(Counter(self.by.values())),
            "guessed": self.guessed,
            "unpaired": self.unpaired,
            "left_over": self.left_over,
            "names": {ours: theirs for ours, theirs in self.names.items() if ours != theirs},
        }


def pair(table: Architecture, trace: Trace, side: int) -> Pairing:
    """Pair the layers of ``table`` with the calls that a model made of one image of ``side`` x ``side``."""
    ours = table_graph(table)
    matched = match(ours, graph_of(trace, side))
    call_of = {key: step.index for step in trace.steps for key in (str(step.index), f"{step.index}{BEFORE_ACTIVATION}")}
    pairs = {layer: key for layer, key in matched.pairs.items() if key in call_of}
    by = dict(matched.by)
    for step in trace.steps:  # what has lost its place in the graph, or does nothing there: by its name, if it fits
        name = _own_name(step)
        if name in table.by_name and name not in pairs and str(step.index) not in pairs.values() and _fits(step, table):
            pairs[name], by[name] = str(step.index), "name"
    found = Pairing(returned=matched.place, beside=matched.note)
    for layer in ours.nodes:
        if layer in ours.inputs:
            continue
        if layer not in pairs:
            found.unpaired.append(layer)
            continue
        found.steps[layer] = call_of[pairs[layer]]
        found.by[layer] = by[layer]
        found.names[layer] = trace.steps[found.steps[layer]].name
    # What comes out of a layer with an activation inside is past the activation, where that is one of ours too.
    behind = {index for layer, index in found.steps.items() if pairs[layer] == str(index)}
    found.hidden = {layer for layer, index in found.steps.items() if pairs[layer] != str(index) and index in behind}
    paired = set(found.steps.values())
    found.left_over = [step.name for step in trace.steps if step.index not in paired and step.arrays]
    return found


def graph_of(trace: Trace, side: int) -> Graph:
    """The graph of a model's calls, its nodes under their indices."""
    builder = Builder()
    builder.image(IMAGE, IMAGE, (side, side, 3))
    for step in trace.steps:
        arrays = {role: np.asarray(array) if role == "bias" else array for role, array in step.arrays.items()}
        sources = tuple(map(str, step.inputs)) or (IMAGE,)
        add_layer(
            builder, str(step.index), Call(_own_name(step), step.kind, step.config, sources, arrays, step.numbers)
        )
    return builder.finish(IMAGE if index < 0 else str(index) for index in trace.outputs)


def _own_name(step: Step) -> str:
    """A layer's name without those of the models around it. Our own squeeze is a vector first, and called so."""
    return step.name.rsplit("/", 1)[-1].removesuffix("_flat")


def _fits(step: Step, table: Architecture) -> bool:
    """Whether the call's arrays have the shapes of those of our layer of its name."""
    shapes = {role: tuple(array.shape) for role, array in step.arrays.items()}
    return shapes == table.parameters.get(_own_name(step), {})


def _some(names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
