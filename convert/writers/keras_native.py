"""``X.keras`` and ``X.weights.h5``: Keras 3's own formats, written by Keras itself.

Their layout changes between Keras versions, so they are left to the library that owns them, on whatever backend it
runs. (The command line takes Keras's NumPy backend, which starts fast and needs neither TensorFlow nor PyTorch.)
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from convert.checkpoint import Checkpoint
from ferplus_keras import PROVENANCE_KEY, PROVENANCE_MEMBER
from ferplus_keras.errors import OutputError
from ferplus_keras.files.atomic import as_os_error


def write_keras(
    checkpoint: Checkpoint, path: Path, *, activation: str | None, model_name: str, pixels: bool = False
) -> None:
    """Write a whole model as ``.keras``; the provenance becomes a member of the zip, which Keras ignores."""
    model = _model(checkpoint, activation, model_name, pixels)
    with as_os_error(RuntimeError):
        model.save(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(PROVENANCE_MEMBER, checkpoint.provenance.to_json())


def write_keras_weights(checkpoint: Checkpoint, path: Path, *, activation: str | None, model_name: str) -> None:
    """Write the weights alone as ``.weights.h5``; the provenance becomes an attribute of the root."""
    model = _model(checkpoint, activation, model_name)
    with as_os_error(RuntimeError):
        model.save_weights(path)
    with h5py.File(path, "a") as file:
        file.attrs[PROVENANCE_KEY] = checkpoint.provenance.to_json().encode()


def _model(checkpoint: Checkpoint, activation: str | None, model_name: str, pixels: bool = False) -> Any:
    try:
        from ferplus_keras.networks.models import model_from_architecture
    except ImportError as error:
        raise OutputError(
            f".keras and .weights.h5 files are written by Keras 3, which cannot be imported here ({error}). "
            "Install it with: pip install keras. A .h5 file needs no Keras."
        ) from None
    side = checkpoint.provenance.side
    model = model_from_architecture(
        checkpoint.architecture, input_shape=(side, side, 3), activation=activation, name=model_name, pixels=pixels
    )
    for layer in model.layers:
        if layer.weights:
            arrays = checkpoint.arrays[layer.name].values()
            layer.set_weights([np.ascontiguousarray(array) for array in arrays])
    return model
