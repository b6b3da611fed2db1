"""Is the graph in a Keras file, layer by layer, the one that this project would build?

Where it is, the arrays alone say all there is, and the network can be run without making a Keras model of it.
Anything else, down to one stride or one name, is left to Keras itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from ferplus_keras.files.keras_files import KerasFile
from ferplus_keras.networks.architecture import INPUT_SIZE, NETWORKS, NO_HEAD, Architecture, architecture, classifier
from ferplus_keras.networks.keras_plan import PROBABILITIES, KerasLayer, keras_plan

#: What a plan leaves at Keras's default, and a file could have otherwise.
DEFAULTS: dict[str, dict[str, Any]] = {
    "Conv2D": {"dilation_rate": [1, 1], "groups": 1, "activation": "linear"},
    "BatchNormalization": {"scale": True, "center": True},
}

#: What has no say in what a trained network yields.
WITHOUT_EFFECT = ("kernel_initializer", "momentum", "rate")


def known_architecture(file: KerasFile) -> Architecture | None:
    """The architecture that ``file`` holds with a classifier and nothing else; None when it holds anything else."""
    names = file.layers.keys()
    for network, folded in product(NETWORKS, (False, True)):
        if names == architecture(network, NO_HEAD, folded=folded).parameters.keys() | {"classifier"}:
            bias = file.layers["classifier"].get("bias")
            if bias is None or len(bias.shape) != 1 or bias.shape[0] < 1:
                return None
            table = architecture(network, classifier(bias.shape[0]), folded=folded)
            return table if _same_arrays(file, table) and _same_graph(file, table) else None
    return None


def _same_arrays(file: KerasFile, table: Architecture) -> bool:
    return all(
        {role: array.shape for role, array in file.layers[layer].items()} == shapes
        for layer, shapes in table.parameters.items()
    )


def _same_graph(file: KerasFile, table: Architecture) -> bool:
    """Whether the file's graph is the plan's. A file without a graph is told by its layers' names alone."""
    if file.config is None:
        return True
    inner = file.config.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else None
    if file.config.get("class_name") not in ("Functional", "Model") or not isinstance(layers, list):
        return False
    found = {layer["config"]["name"]: layer for layer in layers if isinstance(layer, dict) and _named(layer)}
    rates = [layer["config"].get("rate") for layer in found.values() if layer.get("class_name") == "Dropout"]
    if rates:  # does nothing here, but stands in the graph
        table = architecture(table.network, table.head, 0.5)
    softmax = PROBABILITIES in found
    plan = keras_plan(table, activation="softmax" if softmax else None)
    if len(found) != len(layers) or found.keys() != {layer.name for layer in plan}:
        return False
    assert isinstance(inner, dict)
    if list(_histories(inner.get("output_layers"))) != [plan[-1].name]:
        return False
    return all(_same_layer(found[layer.name], layer) for layer in plan)


def _named(layer: dict[str, Any]) -> bool:
    config = layer.get("config")
    return isinstance(config, dict) and isinstance(config.get("name"), str)


def _same_layer(layer: dict[str, Any], planned: KerasLayer) -> bool:
    config = layer["config"]
    if layer.get("class_name") != planned.class_name or not _float32(config.get("dtype", "float32")):
        return False
    if tuple(_histories(layer.get("inbound_nodes"))) != planned.inputs:
        return False
    if planned.class_name == "InputLayer":
        shape = config.get("batch_shape", config.get("batch_input_shape"))
        return isinstance(shape, list | tuple) and tuple(shape)[1:] == (INPUT_SIZE, INPUT_SIZE, 3)
    wanted = DEFAULTS.get(planned.class_name, {}) | {
        key: value for key, value in planned.config.items() if key not in WITHOUT_EFFECT
    }
    defaults = DEFAULTS.get(planned.class_name, {})
    return all(_plain(config.get(key, defaults.get(key))) == _plain(value) for key, value in wanted.items())


def _float32(dtype: Any) -> bool:
    if isinstance(dtype, dict):
        dtype = (dtype.get("config") or {}).get("name")
    return bool(dtype == "float32")


def _plain(value: Any) -> Any:
    """Keras 3 writes "relu" as an object or as a word, a tuple as a list, and one axis as a list of one."""
    if isinstance(value, dict):
        return _plain(value.get("config"))
    if isinstance(value, list | tuple):
        return _plain(value[0]) if len(value) == 1 else [_plain(each) for each in value]
    return value


def _histories(node: Any) -> Iterator[str]:
    """The layers that a node of the graph takes from, in order, in the styles of Keras 2 and 3."""
    if isinstance(node, dict):
        if "keras_history" in node:
            yield from _histories(node["keras_history"])
            return
        for value in node.values():
            yield from _histories(value)
    elif isinstance(node, list | tuple):
        if len(node) >= 3 and isinstance(node[0], str) and node[1] == 0 and node[2] == 0:
            yield node[0]
            return
        for value in node:
            yield from _histories(value)


__all__ = ["known_architecture"]
