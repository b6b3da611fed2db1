"""Keras files in keras_vggface's dialect, translated to ours: names, channel order, epsilon.

They come from keras_vggface itself, from code that put another head on it, from ``--layout keras-vggface``, and from
models of :mod:`ferplus_keras.compat`. The result computes the same as the file's own graph, except for the padding of
keras_vggface's graph, which no network here has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from convert.layouts import layer_of
from convert.matching import NamedArrays, network_of
from ferplus_keras.graph.form import Graph
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON
from ferplus_keras.networks.keras_vggface import (
    BGR_CONV1,
    EPSILON,
    KERAS_VGGFACE,
    PADDING_NOTE,
    THEIR_CONV1,
    ZEROS,
    absorbed,
    keras3_name,
    our_name,
    turned,
)

#: Layers that only Albanie's padding needs, in either form of their names.
EXACT = frozenset((*ZEROS.values(), *map(keras3_name, ZEROS)))


def in_our_terms(found: NamedArrays) -> NamedArrays:
    """``found`` with our names, its first kernel for RGB and its gammas for our epsilon, if it is in the dialect.

    Anything else is returned unchanged.
    """
    if found.layout != KERAS_VGGFACE:
        return found
    epsilons = dict(_epsilons(found))
    arrays, dtypes = {}, {}
    for name, array in found.arrays.items():
        theirs, _, role = name.rpartition("/")
        ours, dtype = f"{our_name(theirs)}/{role}", found.dtypes[name]
        variance = found.arrays.get(f"{theirs}/moving_variance")
        if theirs in (THEIR_CONV1, BGR_CONV1):
            array = turned(array)
        elif role == "gamma" and variance is not None and variance.shape == array.shape and _floats(array, variance):
            array = absorbed(array, variance, epsilons[theirs], BATCHNORM_EPSILON)
            dtype = str(array.dtype)
        if ours in arrays:  # two layers with one name of ours: keep them apart
            ours = f"{name} (again)"
        arrays[ours], dtypes[ours] = array, dtype
    notes = [*found.notes, _note(set(epsilons.values()), exact=_is_exact(found))]
    graph = _renamed(found.graph) if found.graph is not None else None
    return replace(found, layout="keras", arrays=arrays, dtypes=dtypes, notes=notes, graph=graph)


def _epsilons(found: NamedArrays) -> Iterator[tuple[str, float]]:
    """BatchNorm -> its epsilon: from the file's graph, or that of the graph that a weights-only file is for."""
    layers = {layer_of(name, "keras") for name in found.arrays}
    usual = BATCHNORM_EPSILON if _is_exact(found) else EPSILON.get(network_of(layers), BATCHNORM_EPSILON)
    nodes = found.graph.nodes.values() if found.graph else ()
    stated = {node.name: node.attributes["epsilon"] for node in nodes if node.operation == "normalisation"}
    for name in found.arrays:
        if name.endswith("/gamma"):
            layer = layer_of(name, "keras")
            epsilon = stated.get(layer, usual)
            yield layer, _tidy(epsilon) if 0 < epsilon < 1 else usual


def _tidy(epsilon: float) -> float:
    """The usual epsilon that is meant: some versions of Keras write float32's 0.0010000000474974513."""
    usual = (BATCHNORM_EPSILON, *EPSILON.values())
    return next((each for each in usual if np.float32(each) == np.float32(epsilon)), epsilon)


def _is_exact(found: NamedArrays) -> bool:
    """Whether the file is for Albanie's geometry, as models of :mod:`ferplus_keras.compat` are."""
    layers = {layer_of(name, "keras") for name in found.arrays}
    if BGR_CONV1 in layers or not EXACT.isdisjoint(found.listed):
        return True
    nodes = found.graph.nodes.values() if found.graph else ()
    first = next((node for node in nodes if node.name == THEIR_CONV1), None)
    return first is not None and first.attributes.get("padding") == (3, 3, 3, 3)


def _note(epsilons: set[float], exact: bool) -> str:
    said = "it has keras_vggface's names: the first kernel was flipped from BGR to RGB"
    changed = ", ".join(f"{each:g}" for each in sorted(epsilons - {BATCHNORM_EPSILON}))
    if changed:
        said += f", and the gammas were adapted from epsilon {changed} to 1e-05"
    return said if exact else f"{said}; the result differs slightly: {PADDING_NOTE}, and here both are right"


def _renamed(graph: Graph) -> Graph:
    """The graph with our names and our epsilon; the gammas have absorbed the difference."""
    return replace(graph, nodes={
        key: replace(node, name=our_name(node.name), attributes={
            name: BATCHNORM_EPSILON if name == "epsilon" else value for name, value in node.attributes.items()
        })
        for key, node in graph.nodes.items()
    })  # fmt: skip


def _floats(*arrays: np.ndarray) -> bool:
    return all(array.dtype.kind == "f" for array in arrays)
