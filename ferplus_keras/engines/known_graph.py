"""Does a Keras file hold one of these networks and nothing else, whatever its layers are called?

Where it does, the arrays alone say all there is, and the network can be run without making a Keras model of it.
Anything else, down to one stride, is left to Keras itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from ferplus_keras.files.hdf5 import StoredArray
from ferplus_keras.files.keras_files import KerasFile
from ferplus_keras.graph.form import GraphError
from ferplus_keras.graph.keras_config import all_layers, keras_graph
from ferplus_keras.graph.recognise import recognised
from ferplus_keras.networks.architecture import KNOWN, NO_HEAD, Architecture, architecture, classifier

#: Our layer -> role -> array.
Arrays = dict[str, dict[str, StoredArray]]


@dataclass(frozen=True)
class Known:
    """One of these networks, and what its user should know of the file."""

    table: Architecture
    arrays: Arrays
    notes: tuple[str, ...] = ()


def known_network(file: KerasFile) -> Known | None:
    """The network that ``file`` holds with a classifier; None when it holds anything else."""
    found = _by_names(file) if file.config is None else _by_graph(file)
    if found is None:
        return None
    shapes = {layer: {role: array.shape for role, array in roles.items()} for layer, roles in found.arrays.items()}
    return found if shapes == found.table.parameters else None


def _by_names(file: KerasFile) -> Known | None:
    """A file without a graph is recognised by its layers' names alone."""
    for network, folded in product(KNOWN, (False, True)):
        if file.layers.keys() == architecture(network, NO_HEAD, folded=folded).parameters.keys() | {"classifier"}:
            bias = file.layers["classifier"].get("bias")
            if bias is not None and len(bias.shape) == 1 and bias.shape[0] > 0:
                return Known(architecture(network, classifier(bias.shape[0]), folded=folded), file.layers)
    return None


def _by_graph(file: KerasFile) -> Known | None:
    if not all(_is_float32(config.get("dtype", "float32")) for _, _, config in all_layers(file.config)):
        return None
    try:
        graph = keras_graph(file.config, file.layers)
    except GraphError:
        return None
    table, matched = recognised(graph)
    if matched.departures or matched.preprocessed or graph.input_shape[2] != 3 or table.head.kind != "classifier":
        return None
    return Known(table, {layer: file.layers[matched.owner(layer)] for layer in table.parameters},
                 (matched.note,) if matched.note else ())  # fmt: skip


def _is_float32(dtype: object) -> bool:
    if isinstance(dtype, dict):
        inner = dtype.get("config")
        dtype = inner.get("name") if isinstance(inner, dict) else None
    return dtype == "float32"
