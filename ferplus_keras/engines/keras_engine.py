"""Keras files: this project's own graphs straight from their arrays, anybody else's as Keras opens them.

The trained networks that come with the package are run from their arrays too.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ferplus_keras.engines.budget import Budget, shown
from ferplus_keras.engines.card import NO_CARD, Card
from ferplus_keras.engines.engine import BATCH, LOGITS, PROBABILITIES, Engine
from ferplus_keras.engines.known_graph import known_network
from ferplus_keras.engines.record import FileFacts
from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.keras_files import KerasFile, open_keras_file
from ferplus_keras.files.shipped import Shipped, shipped_at
from ferplus_keras.networks.architecture import Architecture
from ferplus_keras.quiet import import_keras, silent_stderr

if TYPE_CHECKING:
    from ferplus_keras.engines.forward import Arrays


def open_keras(path: Path, card: Card = NO_CARD) -> Engine:
    """The network in a ``.h5``, ``.weights.h5`` or ``.keras`` file.

    Raises :class:`BadInputError` when the file is damaged, unsafe, weights of an unknown graph, or for other images.
    """
    with open_keras_file(path) as file:  # every safety check of the reader, before Keras sees the file
        facts = FileFacts.of(path, file.provenance, card)
        known = known_network(file)
        if known is None and not file.config_layers:
            raise BadInputError(
                f"{path} holds weights without a graph, and its layers are not those of a network with its classifier: "
                "give the whole model (model.save)."
            )
        if known is not None:
            stored = known.arrays.items()
            arrays = {layer: {role: array.read() for role, array in roles.items()} for layer, roles in stored}
            side = facts.side_for(*_input_sides(file))
        else:
            names, written_by, kind = [name for name, _, _ in file.config_layers], file.keras_version, file.kind
    imported_for(path)
    if known is None:
        return engine_of_model(facts, load_model(path, kind, names, written_by))
    return _engine_of_arrays(facts, known.table, arrays, side, notes=known.notes)


def open_shipped(path: Path) -> Engine:
    """The trained network in the ``.safetensors`` at ``path``. Raises :class:`BadInputError` when it is none."""
    found = shipped_at(path)
    if found is None:
        raise BadInputError(
            f"{path} is not one of the trained networks that come with this package. "
            f"`ferplus convert {path.name} {path.stem}.h5` makes a file that can be run."
        )
    return engine_of_shipped(found)


def engine_of_shipped(found: Shipped) -> Engine:
    """The engine of a trained network, in the manifest or not yet. Raises :class:`BadInputError`."""
    arrays = found.arrays()
    imported_for(found.path)
    facts = FileFacts.of(found.path, asdict(found.provenance))
    return _engine_of_arrays(facts, found.table, arrays, found.size)


def _engine_of_arrays(facts: FileFacts, table: Architecture, arrays: Arrays, side: int, **more: Any) -> Engine:
    from ferplus_keras.engines.forward import Forward

    with silent_stderr():
        forward = Forward(table, arrays)
    return facts.engine(
        running(), forward.logits, table.head.units, side=side, network=table.network, gives=LOGITS, **more
    )


def engine_of_model(facts: FileFacts, model: Any) -> Engine:
    """The engine of a live Keras ``model``. Every batch is filled up to one size: another would be compiled anew.

    Raises :class:`BadInputError` when the model takes anything but square RGB images with the channels last.
    """
    import keras

    shapes = [tuple(each.shape) for each in _asked(model, "inputs") or ()]
    if len(shapes) > 1:
        raise BadInputError(f"{facts.path} takes {len(shapes)} inputs; these networks take only an image.")
    layout = facts.layout(shapes[0] if shapes else None, last=True)
    side = facts.side_for(*layout.extents)
    _refuse_vast(facts.path, model, side)
    dtype = str(getattr(model.inputs[0], "dtype", "float32"))
    listed = isinstance(_asked(model, "input"), list)  # Keras warns at each batch that has another structure

    outputs = [(_named(each), tuple(each.shape)) for each in _asked(model, "outputs") or ()]
    place, notes = facts.output_of(outputs) if outputs else (0, ())

    def call(images: np.ndarray) -> np.ndarray:
        return np.asarray(keras.tree.flatten(model.predict_on_batch([images] if listed else images))[place])

    shape = outputs[place][1] if outputs else ()
    # Asked of what runs: a file of weights alone says nothing of a softmax, and its graph has one.
    softmax = any(getattr(getattr(layer, "activation", None), "__name__", "") == "softmax" for layer in model.layers)
    gives = (PROBABILITIES if softmax else LOGITS) if facts.record else None
    return facts.engine(
        running(), call, shape[-1] if len(shape) == 2 else None, side=side, gives=gives,
        fixed=shapes[0][0] or BATCH, channels_first=layout.first, order=layout.order,
        dtype="uint8" if dtype == "uint8" else "float32", notes=notes,
    )  # fmt: skip


def _named(output: Any) -> str:
    """The layer that an output of a model comes from."""
    operation = getattr(getattr(output, "_keras_history", None), "operation", None)
    return str(getattr(operation, "name", output.name))


def _refuse_vast(path: Path, model: Any, side: int) -> None:
    """Refuse a model with a tensor that is larger than any network's for such images, before it is made."""
    import keras

    most = Budget(1, side).tensor
    for layer in model.layers:
        for tensor in keras.tree.flatten(getattr(layer, "output", None)):
            shape = tuple(each or 1 for each in getattr(tensor, "shape", ()))
            if math.prod(shape) > most:
                raise BadInputError(
                    f"{path}: its layer {layer.name} makes {shown(shape[1:])} numbers of one image of {side} x {side}, "
                    "far more than any of these networks. It is not run."
                )


def load_model(path: Path, kind: str, names: list[str], written_by: str | None) -> Any:
    """The whole model at ``path``, opened by Keras. Nothing in the file is executed: Lambdas are refused.

    ``kind``, ``names`` (of its layers), ``written_by`` (a version of Keras): as :func:`open_keras_file` found them.
    """
    imported_for(path)
    import keras

    try:
        if kind == "h5-model" and any("/" in name for name in names):
            with tempfile.TemporaryDirectory() as folder:
                return keras.models.load_model(_without_slashes(path, Path(folder), names), compile=False)
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except MemoryError:
        raise
    except Exception as error:  # a file from anywhere: Keras raises whatever its parts raise
        newer = ""
        if written_by and _version(written_by) > _version(keras.__version__):
            newer = f" It was written by Keras {written_by}: install that version or a later one."
        raise BadInputError(f"Keras {keras.__version__} cannot open {path}: {first_line(error, 300)}{newer}") from None


def _input_sides(file: KerasFile) -> tuple[int | None, ...]:
    """Height and width that the file's graph takes, None for any; empty for a file of weights alone."""
    for _, class_name, config in file.config_layers:
        shape = config.get("batch_shape", config.get("batch_input_shape"))
        if class_name == "InputLayer" and isinstance(shape, list | tuple) and len(shape) == 4:
            return tuple(each if isinstance(each, int) else None for each in shape[1:3])
    return ()


def imported_for(path: Path) -> None:
    """Import Keras. Raises :class:`BadInputError` that names ``path`` when it is not installed."""
    try:
        import_keras()
    except ImportError as error:
        said = first_line(error, 200)
        raise BadInputError(f"{path} needs Keras, which cannot be imported here. {said}") from None


def running() -> str:
    """What runs a network, in words."""
    import keras

    return f"Keras {keras.__version__} on {keras.backend.backend()}"


def _asked(model: Any, attribute: str) -> Any:
    try:
        return getattr(model, attribute)
    except (AttributeError, ValueError):  # a Sequential has no inputs until it is called
        return None


def _without_slashes(path: Path, folder: Path, names: list[str]) -> Path:
    """A copy of a Keras 2 file whose layers are called ``conv1_7x7_s2`` for ``conv1/7x7_s2``, as Keras 3 demands."""
    renamed = {name: name.replace("/", "_") for name in names}

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rename(item) for key, item in value.items()}
        if isinstance(value, list):
            return [rename(item) for item in value]
        return renamed.get(value, value) if isinstance(value, str) else value

    copy = folder / "model.h5"
    with h5py.File(path, "r") as old, h5py.File(copy, "w") as new:
        config = old.attrs["model_config"]
        new.attrs["model_config"] = json.dumps(rename(json.loads(config))).encode()
        source, target = old["model_weights"], new.create_group("model_weights")
        for key in ("keras_version", "backend"):  # others may be anything, and Keras asks for none of them
            for there, here in ((old, new), (source, target)):
                if key in there.attrs:
                    here.attrs[key] = there.attrs[key]
        target.attrs["layer_names"] = [name.replace("/", "_").encode() for name in renamed]
        for name in renamed:
            old.copy(source[name], target, name=renamed[name])
    return copy


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
