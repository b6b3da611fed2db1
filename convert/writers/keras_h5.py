"""``X.h5``: one whole-model file for Keras 2.15 / tf_keras and Keras 3, written with h5py alone.

The graph stands in the file in Keras 2's config style, which Keras 3 also reads; Keras 3's own style is not read by
Keras 2. The layers are listed in ``model.layers`` order, so that ``load_weights`` by position works as well.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from convert.checkpoint import Checkpoint
from ferplus_keras.architecture import Shape
from ferplus_keras.keras_files import PROVENANCE_KEY
from ferplus_keras.keras_plan import KerasLayer, keras_plan

#: What the file says of its writer. Keras 2 and 3 both branch on the major version; 2.15 is the last Keras 2.
KERAS_VERSION = "2.15.0"

#: HDF5 keeps at most 64 KiB in an object header; Keras splits longer name lists, ours never get there.
MAX_ATTRIBUTE_BYTES = 64512

#: HDF5 gathers names, shapes and attributes in blocks of this many bytes; at its default of 2 KiB they lie scattered
#: among the arrays, and opening the file takes three times as long.
METADATA_BLOCK = 1 << 18


def write_h5(checkpoint: Checkpoint, path: Path, *, activation: str | None, model_name: str) -> None:
    """Write ``checkpoint`` as a whole Keras model. ``activation`` is "softmax" or None for logits."""
    plan = keras_plan(checkpoint.architecture, activation=activation)
    config = {"class_name": "Functional", "config": functional_config(plan, model_name)}
    with h5py.File(path, "w", meta_block_size=METADATA_BLOCK) as file:
        file.attrs["keras_version"] = KERAS_VERSION.encode()
        file.attrs["backend"] = b"tensorflow"
        file.attrs["model_config"] = json.dumps(config).encode()
        file.attrs[PROVENANCE_KEY] = checkpoint.provenance.to_json().encode()
        weights = file.create_group("model_weights")
        weights.attrs["keras_version"] = KERAS_VERSION.encode()
        weights.attrs["backend"] = b"tensorflow"
        weights.attrs["layer_names"] = _names(layer.name for layer in plan)
        contiguous = _ahead(
            partial(_contiguous, checkpoint.arrays[layer.name][role], shape)
            for layer in plan
            for role, shape in layer.weights.items()
        )
        for layer in plan:
            group = weights.create_group(layer.name)
            group.attrs["weight_names"] = _names(f"{layer.name}/{role}:0" for role in layer.weights)
            for role in layer.weights:
                group.create_dataset(f"{layer.name}/{role}:0", data=next(contiguous))


def _contiguous(array: np.ndarray, shape: Shape) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(shape)


def _ahead(tasks: Iterable[Callable[[], np.ndarray]], depth: int = 4) -> Iterator[np.ndarray]:
    """The tasks' results in order, computed on a second core at most ``depth`` steps ahead of their use.

    Turning a kernel around takes as long as writing it, and neither needs the other's core.
    """
    waiting: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def functional_config(plan: tuple[KerasLayer, ...], model_name: str) -> dict[str, Any]:
    """The ``Functional`` config of ``plan`` in Keras 2's style."""
    first, last = plan[0].name, plan[-1].name
    return {
        "name": model_name,
        "trainable": True,
        "layers": [_layer_config(layer) for layer in plan],
        # One tensor each, not a list of one: Keras 2.15 takes both, Keras 3 would hand lists to the user and warn.
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
