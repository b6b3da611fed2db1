"""``X.keras`` and ``X.weights.h5``: Keras 3's own formats, written by Keras itself.

Their layout changes between Keras versions, so Keras writes them, on ``KERAS_BACKEND`` or on any installed backend.
"""

from __future__ import annotations

import os
import re
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from convert.checkpoint import Checkpoint
from ferplus_keras import PROVENANCE_KEY, PROVENANCE_MEMBER
from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.files.atomic import as_os_error
from ferplus_keras.quiet import import_keras

#: Keras's backends; its default is the first.
BACKENDS = ("tensorflow", "torch", "jax")


def write_keras(
    checkpoint: Checkpoint, path: Path, *, activation: str | None, model_name: str, pixels: bool = False
) -> None:
    """Write a whole model as ``.keras``; the provenance becomes a member of the zip, which Keras ignores."""
    model = _model(checkpoint, activation, model_name, pixels)
    with as_os_error(RuntimeError):
        model.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= {name: _timeless(members[name]) for name in ("metadata.json", "config.json")}
    members[PROVENANCE_MEMBER] = checkpoint.provenance.to_json().encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # its date is always 1980


def _timeless(text: bytes) -> bytes:
    """Keras's JSON without the date, and with numbers instead of addresses: the same model gives the same bytes."""
    numbers: dict[bytes, int] = {}

    def number(found: re.Match[bytes]) -> bytes:
        return b"%s%d" % (found[1], numbers.setdefault(found[2], len(numbers) + 1))

    text = re.sub(rb'("shared_object_id": )(\d+)', number, text)
    return re.sub(rb', "date_saved": "[^"]*"', b"", text)


def write_keras_weights(checkpoint: Checkpoint, path: Path, *, activation: str | None, model_name: str) -> None:
    """Write the weights alone as ``.weights.h5``; the provenance becomes an attribute of the root."""
    model = _model(checkpoint, activation, model_name)
    with as_os_error(RuntimeError):
        model.save_weights(path)
    with h5py.File(path, "a") as file:
        file.attrs[PROVENANCE_KEY] = checkpoint.provenance.to_json().encode()


def _model(checkpoint: Checkpoint, activation: str | None, model_name: str, pixels: bool = False) -> Any:
    wanted = os.environ.get("KERAS_BACKEND")
    installed = [name for name in BACKENDS if find_spec(name)]
    if not wanted and installed and installed[0] != BACKENDS[0]:
        os.environ["KERAS_BACKEND"] = installed[0]  # else Keras would look for TensorFlow
    try:
        import_keras()
        from ferplus_keras.networks.models import model_from_architecture
    except BadInputError as error:
        raise OutputError(f"{error} A .h5 file needs no Keras.") from None
    except ImportError as error:
        cannot = f".keras and .weights.h5 files are written by Keras 3, which cannot be imported here ({error})."
        if find_spec("keras") is None:
            advice = "Install it with: pip install keras."
        elif wanted and installed:
            advice = f"KERAS_BACKEND is {wanted}; installed here: {', '.join(installed)}."
        else:
            advice = f"Keras runs on {', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}; install one of them."
        raise OutputError(f"{cannot} {advice} A .h5 file needs no Keras.") from None
    side = checkpoint.provenance.side
    model = model_from_architecture(
        checkpoint.architecture, input_shape=(side, side, 3), activation=activation, name=model_name, pixels=pixels
    )
    fill_model(model, checkpoint)
    return model


def fill_model(model: Any, checkpoint: Checkpoint) -> None:
    """Set the arrays of a Keras ``model``'s layers."""
    for layer in model.layers:
        if layer.weights:
            arrays = checkpoint.arrays[layer.name].values()
            layer.set_weights([np.ascontiguousarray(array) for array in arrays])
