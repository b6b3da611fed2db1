"""``X.h5``: one whole-model file for Keras 2.15 / tf_keras and Keras 3, written with h5py alone.

The graph is in Keras 2's config style, which Keras 3 also reads; Keras 2 does not read Keras 3's. The layers are in
``model.layers`` order, so that ``load_weights`` by position works as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from convert.checkpoint import Arrays, Checkpoint
from convert.halves import in_halves
from convert.writers.blocks import blocks
from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.files.atomic import as_os_error
from ferplus_keras.networks.architecture import Shape
from ferplus_keras.networks.keras_plan import KerasLayer, keras_plan

#: The version in the file. Keras 2 and 3 both branch on the major version; 2.15 is the last Keras 2.
KERAS_VERSION = "2.15.0"

#: HDF5 stores at most 64 KiB in an object header; Keras splits longer name lists, ours are always shorter.
MAX_ATTRIBUTE_BYTES = 64512

#: HDF5 collects names, shapes and attributes in blocks of this many bytes; with its default of 2 KiB they are scattered
#: among the arrays, and opening the file takes three times as long.
METADATA_BLOCK = 1 << 18


def write_h5(
    checkpoint: Checkpoint, path: Path, *, activation: str | None, model_name: str, pixels: bool = False
) -> None:
    """Write ``checkpoint`` as a whole Keras model.

    ``activation`` is "softmax" or None for logits; ``pixels`` puts the preprocessing inside.
    """
    side = checkpoint.provenance.side
    plan = keras_plan(checkpoint.architecture, input_shape=(side, side, 3), activation=activation, pixels=pixels)
    config = {"class_name": "Functional", "config": functional_config(plan, model_name)}
    with as_os_error(RuntimeError), h5py.File(path, "w", meta_block_size=METADATA_BLOCK) as file:
        file.attrs["keras_version"] = KERAS_VERSION.encode()
        file.attrs["backend"] = b"tensorflow"
        file.attrs["model_config"] = json.dumps(config).encode()
        file.attrs[PROVENANCE_KEY] = checkpoint.provenance.to_json().encode()
        weights = file.create_group("model_weights")
        places = reserve_layers(weights, plan, checkpoint.arrays)
    fill(path, places)


def reserve_layers(group: h5py.Group, plan: tuple[KerasLayer, ...], arrays: Arrays) -> list[tuple[int, np.ndarray]]:
    """Lay out ``plan``'s layers in ``group`` as Keras 2 does, without their numbers.

    Returns where in the file the bytes of each of ``arrays`` (by the plan's names) go, for :func:`fill`.
    """
    group.attrs["keras_version"] = KERAS_VERSION.encode()
    group.attrs["backend"] = b"tensorflow"
    group.attrs["layer_names"] = _names(layer.name for layer in plan)
    places = []
    for layer in plan:
        own = h5py.h5g.create(group.id, layer.name.encode(), lcpl=_properties()[1])
        _set_attribute(own, b"weight_names", _names(f"{layer.name}/{role}:0" for role in layer.weights))
        for role, shape in layer.weights.items():
            places.append((_reserve(own, f"{layer.name}/{role}:0", shape), arrays[layer.name][role]))
    return places


def _reserve(group: h5py.h5g.GroupID, name: str, shape: Shape) -> int:
    """Make a float32 dataset without contents; returns the offset of its bytes in the file."""
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.h5d.create(group, name.encode(), h5py.h5t.IEEE_F32LE, space, *_properties())
    offset: int = dataset.get_offset()
    return offset


@cache
def _properties() -> tuple[h5py.h5p.PropDCID, h5py.h5p.PropLCID]:
    """How a dataset is made: allocated at once but not filled, in groups that are created for it.

    Without HDF5's timestamps, so that the same numbers give the same bytes.
    """
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_obj_track_times(False)
    creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    link = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    link.set_create_intermediate_group(True)
    return creation, link


def fill(path: Path, places: list[tuple[int, np.ndarray]]) -> None:
    """Write each array, as float32 in C order, at its offset in the file.

    HDF5 writes under a lock; two threads that transpose kernels and write past HDF5 need half the time.
    """

    def fill(some: Sequence[tuple[int, np.ndarray]]) -> None:
        buffer = np.empty(max(array.size for _, array in some), "<f4")  # reused: new memory costs time too
        with path.open("r+b") as stream:
            for offset, array in some:
                turned = buffer[: array.size].reshape(array.shape)
                for part in blocks(array):
                    turned[..., part] = array[..., part]
                stream.seek(offset)
                stream.write(turned.data)

    in_halves(fill, places, lambda place: place[1].nbytes)


def functional_config(plan: tuple[KerasLayer, ...], model_name: str) -> dict[str, Any]:
    """The ``Functional`` config of ``plan`` in Keras 2's style."""
    first, last = plan[0].name, plan[-1].name
    return {
        "name": model_name,
        "trainable": True,
        "layers": [_layer_config(layer) for layer in plan],
        # One tensor each, not a list of one: Keras 2.15 takes both, Keras 3 would return lists and warn.
        "input_layers": [first, 0, 0],
        "output_layers": [last, 0, 0],
    }


def _layer_config(layer: KerasLayer) -> dict[str, Any]:
    config = {"name": layer.name, "dtype": "float32", **layer.config}
    if layer.class_name != "InputLayer":
        config["trainable"] = True
    return {
        "class_name": layer.class_name,
        "config": config,
        "name": layer.name,
        "inbound_nodes": [[[name, 0, 0, {}] for name in layer.inputs]] if layer.inputs else [],
    }


def _names(names: Any) -> np.ndarray:
    array = np.array([name.encode() for name in names], dtype=np.bytes_)
    if not array.size:
        return np.array([], dtype="S1")
    assert array.nbytes < MAX_ATTRIBUTE_BYTES, "Keras would split this list into chunks"
    return array


def _set_attribute(group: h5py.h5g.GroupID, name: bytes, values: np.ndarray) -> None:
    """``group.attrs[name] = values`` without h5py's high-level layer, which takes longer than the rest of the file."""
    kind = h5py.h5t.py_create(values.dtype)
    h5py.h5a.create(group, name, kind, h5py.h5s.create_simple(values.shape)).write(values)
