"""Any Keras file as named arrays: :mod:`ferplus_keras.files.keras_files` reads it, and the names are found here."""

from __future__ import annotations

from typing import Any

import numpy as np

from convert.heads import head_note
from convert.layouts import layer_of
from convert.matching import NamedArrays
from ferplus_keras.files.keras_files import KerasFile, counted_names, open_keras_file
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.graph.form import Graph, GraphError
from ferplus_keras.graph.keras_config import all_layers, keras_graph
from ferplus_keras.networks.architecture import KNOWN, NO_HEAD, architecture
from ferplus_keras.networks.keras_plan import keras_plan
from ferplus_keras.networks.keras_vggface import KERAS_VGGFACE, ZEROS, speaks, their_name

#: A layer that only keras_vggface's graphs have, by its number in a file without names.
AVERAGE_CLASS = "average_pooling2d"

#: A head in such a file, whatever it was called.
NUMBERED_HEAD = "dense"


def read_keras(file: MappedFile) -> NamedArrays:
    """The arrays of a Keras file as ``layer/role``, with its graph, output and dropout.

    Raises :class:`ferplus_keras.errors.BadInputError` when the file is damaged or unsafe.
    """
    arrays: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    with open_keras_file(file) as opened:
        names = _layer_names(opened)
        for counted, roles in opened.layers.items():
            for role, stored in roles.items():
                name = f"{names.get(counted, counted)}/{role}"
                arrays[name] = stored.view()
                dtypes[name] = "bfloat16" if stored.bfloat16 else str(stored.dtype)
        notes, adopted = [], None
        if names:
            notes.append("the file numbers its layers (Keras before 3.6); their names follow from the graph")
        if names.get(NUMBERED_HEAD) == "classifier":
            adopted = NUMBERED_HEAD
            notes.append(head_note(adopted, opened.layers[adopted]["bias"].shape[0]))
        if opened.config is None and not opened.provenance:
            notes.append(
                "the file has weights without a graph: that its layers compute what the published ones do (epsilon, "
                "strides, padding) cannot be seen"
            )
        layers = list(all_layers(opened.config))
        graph, departure = _graph(opened.config, arrays)
        padded = bool(names) and "zero_padding2d" in opened.listed
        layout = KERAS_VGGFACE if speaks({layer_of(name, "keras") for name in arrays}) else "keras"
        height, width, _ = graph.input_shape if graph else (None, None, None)
        size = None if height is None or width is None else (height, width)
        return NamedArrays(
            opened.kind, layout, arrays, dtypes, notes, opened.provenance, _output(graph), _dropout(layers),
            graph=graph, departure=departure, adopted=adopted, size=size,
            listed=(*opened.listed, *(name for name, _, _ in layers), *(ZEROS.values() if padded else ())),
        )  # fmt: skip


def _graph(config: dict[str, Any] | None, arrays: dict[str, np.ndarray]) -> tuple[Graph | None, str]:
    """The graph in the file, None if it has weights alone or a graph that cannot be followed, and why."""
    if config is None:
        return None, ""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        layer, _, role = name.rpartition("/")
        layers.setdefault(layer, {})[role] = array
    try:
        return keras_graph(config, layers), ""
    except GraphError as error:
        return None, f"it cannot be followed: {error}"


def _layer_names(file: KerasFile) -> dict[str, str]:
    """Number -> layer name for a ``.weights.h5`` without names, from the one network whose numbers fit; else {}.

    keras_vggface's graphs, and ours under its names, have an average pooling of a class that our own lack: their first
    kernel is for BGR, and they get keras_vggface's names.
    """
    names = _counted_names(file)
    return {counted: their_name(name) for counted, name in names.items()} if AVERAGE_CLASS in file.listed else names


def _counted_names(file: KerasFile) -> dict[str, str]:
    if file.kind != "weights.h5" or not {"conv2d", "batch_normalization"} <= file.layers.keys():
        return {}
    for network in KNOWN:
        plan = keras_plan(architecture(network))
        names = counted_names((layer.name, layer.class_name) for layer in plan)
        owners = {counted for counted, name in names.items() if name in architecture(network, NO_HEAD).parameters}
        if owners == {counted for counted in file.layers if not counted.startswith("dense")}:
            if "feat_extract" in file.layers or "dense" not in file.layers:
                return names
            has_bias = len(file.layers["dense"]) > 1
            return names | {NUMBERED_HEAD: "classifier" if has_bias else "feat_extract"}
    return {}


def _output(graph: Graph | None) -> str | None:
    """What the graph returns; None without a graph."""
    return None if graph is None else "probabilities" if graph.has("softmax") else "logits"


def _dropout(layers: list[tuple[str, str, dict[str, Any]]]) -> float:
    rates = (c.get("rate") for name, kind, c in layers if kind == "Dropout" and name.startswith("conv5_3_"))
    rate = next(rates, 0.0)
    return float(rate) if isinstance(rate, int | float) else 0.0
