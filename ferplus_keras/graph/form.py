"""The graph form: what a network computes, whatever file it came from.

Each format has a front end that makes it (``table``, ``keras_config``, ...), all by way of
:class:`ferplus_keras.graph.building.Builder`, so that one function has one form: padding as four numbers, the epsilon
as an attribute, a dense layer as a 1 x 1 convolution, an average over the whole map as ``average``, and nothing that
does nothing.

Operations and their attributes:

======================== ==========================================================================================
``image``                none
``subtract``             ``mean``: one number for each channel
``convolution``          ``strides``, ``padding``, ``dilation``, ``groups``; arrays ``kernel`` and perhaps ``bias``
``normalisation``        ``epsilon``; arrays ``gamma``, ``beta``, ``moving_mean``, ``moving_variance``
``relu`` ``sigmoid``     none
``softmax``              none; over the channels
``maximum``              ``size``, ``strides``, ``padding``: pooling
``average``              none; over the whole map
``global maximum``       none; over the whole map
``multiply`` ``add``     none; of two inputs, whose order does not matter
``zeros``                ``padding``: zeros that no layer behind them can take up
anything else            the format's own word for it: a layer that these networks do not have
======================== ==========================================================================================

``strides``, ``dilation`` and ``size`` are (vertical, horizontal), ``padding`` is (top, bottom, left, right). Kernels
are height x width x in x out, or features x units. This package runs on Python 3.9.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Shape = tuple[int, ...]
Pair = tuple[int, int]
Four = tuple[int, int, int, int]


class GraphError(ValueError):
    """What stands in a file for a graph is none; the message is the second half of a sentence."""


@dataclass(frozen=True)
class Node:
    """One operation. ``inputs`` are keys of :attr:`Graph.nodes`.

    ``name`` is what the file calls the layer, ``kind`` the format's own word for what it does. ``arrays`` has whatever
    has a ``shape``: a graph can be made and matched without a number being read.
    """

    name: str
    operation: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    arrays: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""

    def __str__(self) -> str:
        return f"{self.name}, {_article(self.kind or self.operation)}"


@dataclass
class Graph:
    """Nodes in an order in which each comes after its inputs. What no output depends on is not in it.

    A layer that is called twice is two nodes; a layer with an activation inside is two nodes of one name.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  #: what the file calls its outputs
    input_shape: tuple[int | None, int | None, int | None] = (None, None, None)  #: height, width, channels

    @cached_property
    def consumers(self) -> dict[str, list[str]]:
        """Key of a node -> keys of those that take its output, in order."""
        found: dict[str, list[str]] = defaultdict(list)
        for key, node in self.nodes.items():
            for each in dict.fromkeys(node.inputs):
                found[each].append(key)
        return found

    def has(self, operation: str) -> bool:
        return self.count(operation) > 0

    def count(self, operation: str) -> int:
        return sum(node.operation == operation for node in self.nodes.values())


def _article(word: str) -> str:
    return f"an {word}" if word[:1].lower() in "aeio" else f"a {word}"
