"""A run's whole state in one file: what a killed process needs to resume as if nothing had happened.

The file is ``.safetensors``: every variable of the model (weights, averages, the generators' states) and of the
optimizer (momenta, step count), and in its header the epochs so far. It is written under another name, flushed to the
disk and renamed, so that at any moment there is one complete state.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.atomic import as_os_error, atomic_path
from ferplus_keras.files.json_text import parse_json
from ferplus_keras.files.network_folder import STATE_KEY
from ferplus_keras.files.safetensors_file import read_tensors
from ferplus_keras.wording import counted

if TYPE_CHECKING:
    import keras

#: Counts up when the file's form changes.
VERSION = 1


@dataclass(frozen=True)
class Saved:
    """What stood in a state file: arrays by name, and the run's record."""

    arrays: dict[str, np.ndarray]
    record: dict[str, Any]


def variables_of(model: keras.Model) -> dict[str, Any]:
    """Every variable that the next step depends on, by a name that is the same in the next process."""
    metrics = {id(variable) for variable in model.metrics_variables}
    named = {id(variable): variable for variable in model.variables if id(variable) not in metrics}
    for layer in model._flatten_layers():  # Keras lists most states of seed generators above, and we want all
        named |= {id(each.state): each.state for each in getattr(layer, "_seed_generators", ())}
    found = {f"model/{index:04}/{_path(variable)}": variable for index, variable in enumerate(named.values())}
    for index, variable in enumerate(model.optimizer.variables):
        found[f"optimizer/{index:04}/{_path(variable)}"] = variable
    return found


def _path(variable: Any) -> str:
    """A variable's path without the numbers that Keras gives to the second layer of a kind in one process."""
    return re.sub(r"_\d+(?=/)", "", variable.path)


def save_state(path: Path, model: keras.Model, record: Mapping[str, Any]) -> None:
    """Write the state of ``model`` and ``record`` (plain data) to ``path``. Raises :class:`OutputError`."""
    saved = state_of(model)
    save_arrays(path, saved.arrays, {**saved.record, **record})


def state_of(model: keras.Model) -> Saved:
    """The state of ``model`` in memory of its own."""
    from ferplus_keras.finetune.averaging import copy_of

    return Saved({name: copy_of(variable) for name, variable in variables_of(model).items()}, {"version": VERSION})


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Write ``arrays`` and ``record`` to ``path``, whole or not at all. Raises :class:`OutputError`."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    size = sum(array.nbytes for array in arrays.values())
    metadata = {STATE_KEY: json.dumps(record, allow_nan=True)}
    with atomic_path(path, size) as temporary, as_os_error(SafetensorError):
        # Not np.ascontiguousarray: that makes arrays of one number of the step counts.
        whole = {name: np.array(array, order="C", copy=None) for name, array in arrays.items()}
        save_file(whole, temporary, metadata)


def load_arrays(path: Path) -> Saved:
    """What :func:`save_arrays` wrote. Raises :class:`BadInputError` when the file is not one, or damaged."""
    if not os.path.lexists(path):
        raise BadInputError(f"There is no {path}: the run did not get as far as its first checkpoint.")
    found = read_tensors(path)
    try:
        record = parse_json(found.metadata[STATE_KEY])
    except (KeyError, ValueError):
        record = None
    if not isinstance(record, dict):
        raise BadInputError(
            f"{path} is damaged, or not the state of a run. Name another one, or start again with --overwrite."
        )
    return Saved({name: array.copy() for name, array in found.arrays.items()}, record)


def arrays_by_layer(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Layer -> role -> array of the weights of one epoch. Raises :class:`BadInputError` when the file is damaged."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, array in load_arrays(path).arrays.items():
        layer, _, role = name.partition("/")
        found.setdefault(layer, {})[role] = array
    return found


def best_of(folder: Path) -> Path:
    """The weights of the best epoch of the run in ``folder``. Raises :class:`BadInputError` when there are none."""
    found = sorted((folder / "state").glob("best-*.safetensors"))
    if not found:
        raise BadInputError(f"{folder} is not the folder of a run: it has no state/best-*.safetensors.")
    return found[-1]


def restore(saved: Saved, model: keras.Model, where: Path) -> None:
    """Put a saved state into ``model``, whose optimizer is built; all of it, or :class:`BadInputError`."""
    if saved.record.get("version") != VERSION:
        raise BadInputError(f"{where} was written by another version of this program: start again with --overwrite.")
    wanted = variables_of(model)
    if set(wanted) != set(saved.arrays):
        missing = sorted(set(wanted) ^ set(saved.arrays))
        raise BadInputError(
            f"{where} is not a state of this run: it differs in "
            f"{counted(len(missing), 'variable')}, such as {missing[0]}. It may "
            "have been made with another backend or another version of Keras."
        )
    for name, variable in wanted.items():
        array = saved.arrays[name]
        if array.shape != tuple(variable.shape):
            raise BadInputError(f"{where}: {name} is {array.shape}, but {tuple(variable.shape)} in this run.")
        variable.assign(array)
