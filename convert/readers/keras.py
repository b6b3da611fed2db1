"""Any Keras weight file as named arrays: the reading is :mod:`ferplus_keras.keras_files`', the naming is done here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convert.checkpoint import MappedFile
from convert.matching import NamedArrays
from ferplus_keras.architecture import NETWORKS, NO_HEAD, architecture
from ferplus_keras.keras_files import KerasFile, StoredArray, counted_names, open_keras_file
from ferplus_keras.keras_plan import keras_plan


def read_keras(file: MappedFile) -> NamedArrays:
    """The arrays of a Keras file as ``layer/role``, and what its graph says of its output and dropout.

    Raises :class:`ferplus_keras.errors.BadInputError` when the file is damaged or unsafe.
    """
    arrays: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    with open_keras_file(file.path) as opened:
        names = _layer_names(opened)
        for counted, roles in opened.layers.items():
            for role, stored in roles.items():
                name = f"{names.get(counted, counted)}/{role}"
                arrays[name] = _view(file, stored) if opened.kind != "keras" else stored.read()
                dtypes[name] = str(stored.dtype)
        notes = []
        if names:
            notes.append("the file names its layers by counters only (Keras before 3.6); names follow from the graph")
        configs = opened.config_layers
        return NamedArrays(
            opened.kind, "keras", arrays, dtypes, notes, opened.provenance, _output(configs), _dropout(configs)
        )


def _view(file: MappedFile, stored: StoredArray) -> np.ndarray:
    """The array on the mapped bytes of the file where they lie in one piece, as they do in ours; else a copy."""
    offset = stored.offset
    if offset is None or offset + stored.dtype.itemsize * math.prod(stored.shape) > file.size:
        return stored.read()
    return np.ndarray(stored.shape, stored.dtype, buffer=file.view, offset=offset)


def _layer_names(file: KerasFile) -> dict[str, str]:
    """Counter -> layer name for a ``.weights.h5`` without names, from the one network whose counters fit; else {}."""
    if file.kind != "weights.h5" or not {"conv2d", "batch_normalization"} <= file.layers.keys():
        return {}
    for network in NETWORKS:
        plan = keras_plan(architecture(network))
        names = counted_names((layer.name, layer.class_name) for layer in plan)
        owners = {counted for counted, name in names.items() if name in architecture(network, NO_HEAD).parameters}
        if owners == {counted for counted in file.layers if not counted.startswith("dense")}:
            if "feat_extract" in file.layers or "dense" not in file.layers:
                return names
            has_bias = len(file.layers["dense"]) > 1
            return names | {"dense": "classifier" if has_bias else "feat_extract"}
    return {}


def _output(layers: list[tuple[str, str, dict[str, Any]]]) -> str | None:
    """What the graph's last layer yields, as far as the configs tell."""
    if not layers:
        return None
    softmax = any(config.get("activation") == "softmax" for _, _, config in layers)
    return "probabilities" if softmax else "logits"


def _dropout(layers: list[tuple[str, str, dict[str, Any]]]) -> float:
    for name, class_name, config in layers:
        if class_name == "Dropout" and name.startswith("conv5_3_"):
            return float(config.get("rate", 0.0))
    return 0.0
