"""The Keras side: the *file*, opened by Keras as anyone would open it; only its precision is changed.

A file of ours names its layers as the checkpoint does. In anyone else's, each layer's counterpart is looked for
(:mod:`verify.pairing`), and the arrays are taken from the counterparts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Arrays, Checkpoint, Provenance
from convert.layouts import LAYOUTS
from convert.readers import read_checkpoint, read_named
from ferplus_keras.applications.loading import kind_of
from ferplus_keras.engines.keras_engine import imported_for, load_model
from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.keras_files import KerasFile, open_keras_file
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.building import model_from_plan
from ferplus_keras.networks.keras_vggface import KERAS_VGGFACE, our_name, same_name, vggface_plan
from verify.keras_trace import Trace, WatchedModel
from verify.pairing import Pairing, pair
from verify.runs import Observe

#: Keras's type promotion turns float64 into float32 on the others (``keras.backend.result_type``, seen in 3.15).
FLOAT64_BACKENDS = ("tensorflow",)

#: A model that shares fewer layers with the checkpoint's network than this is another network.
LEAST_SHARED = 0.5


@dataclass
class KerasSide:
    """An opened model, its layers paired with the checkpoint's, and its arrays in the neutral form."""

    model: Any
    pairing: Pairing
    arrays: Arrays
    provenance: Provenance | None  #: what the file says of itself; None when it is not one of ours
    head: str | None = None  #: the model's name of a head with a softmax inside
    watched: dict[str, WatchedModel] = field(default_factory=dict)  #: by dtype
    backend: str = field(default_factory=lambda: backend())
    #: The file's own preprocessing, pixels to input, where it has one inside.
    preprocess: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def dtypes(self) -> tuple[str, ...]:
        return dtypes_of(self.backend)

    @property
    def layers(self) -> list[str]:
        """Our names of the layers whose outputs can be seen, in the order of the calls."""
        return [layer for _, layer in sorted(self.pairing.outputs.items())]

    def runner(self, dtype: str) -> Callable[[np.ndarray, Observe], np.ndarray]:
        """A function that runs a batch in ``dtype`` and hands over each layer's output as it comes.

        It returns what the model itself returns, the classes where that is more. Where a softmax is fused into the
        head, the head is seen before it.
        """
        if dtype not in self.watched:
            self.watched[dtype] = WatchedModel(self.model, dtype)
        watched = self.watched[dtype]
        watched.unfused = self.head
        outputs = self.pairing.outputs

        def run(batch: np.ndarray, observe: Observe) -> np.ndarray:
            def watch(index: int, output: np.ndarray) -> None:
                if index in outputs:
                    # The pooled features and the head are vectors in Keras and 1 x 1 maps in PyTorch.
                    observe(outputs[index], output[:, None, None] if output.ndim == 2 else output)

            return watched.run(batch, watch)[self.pairing.returned]

        return run


def backend() -> str:
    """What computes: Keras's backend."""
    import keras

    return str(keras.backend.backend())


def dtypes_of(backend: str) -> tuple[str, ...]:
    """What the backend computes in, the finest first."""
    return ("float64", "float32") if backend in FLOAT64_BACKENDS else ("float32",)


def open_side(path: Path, checkpoint: Checkpoint) -> KerasSide:
    """Open the Keras file at ``path``, to be held against ``checkpoint``.

    Raises :class:`BadInputError` when Keras cannot open the file, or when it is another network. Nothing in it is
    executed: Lambdas are refused.
    """
    table = checkpoint.architecture
    model, mine = open_model(path)
    model, preprocess = without_preprocessing(model)
    if mine and (mine.architecture.network, mine.architecture.head) != (table.network, table.head):
        raise BadInputError(
            f"{path} is a {mine.architecture} and {checkpoint.provenance.source.name} is a {table}: "
            "they cannot be compared."
        )
    dtype = dtypes_of(backend())[0]
    watched, trace = _traced(path, model, dtype, checkpoint.provenance.side)
    pairing = pair(table, trace, checkpoint.provenance.side)
    owners = [layer for layer in table.parameters if layer in pairing.steps]
    if len(owners) < LEAST_SHARED * len(table.parameters) or table.output not in pairing.outputs.values():
        raise BadInputError(
            f"{path} is another network than {checkpoint.provenance.source.name}, a {table}: {len(owners)} of the "
            f"{len(table.parameters)} layers with weights have a counterpart in the model, and {table.output} has "
            f"{'one' if table.output in pairing.steps else 'none'}. They cannot be compared."
        )
    head = trace.steps[pairing.steps[table.output]]
    softmax = getattr(getattr(head.operation, "activation", None), "__name__", "") == "softmax"
    fused = head.name if softmax and table.head.kind != "none" else None
    if mine:
        return KerasSide(model, pairing, mine.arrays, mine.provenance, fused, {dtype: watched}, preprocess=preprocess)
    arrays = {layer: _neutral(table.parameters[layer], trace.steps[pairing.steps[layer]].operation) for layer in owners}
    return KerasSide(model, pairing, arrays, None, fused, {dtype: watched}, preprocess=preprocess)


def open_model(path: Path) -> tuple[Any, Checkpoint | None]:
    """The model in the Keras file at ``path``, and what it holds where it is one of ours.

    Raises :class:`BadInputError` when Keras cannot open the file. Nothing in it is executed: Lambdas are refused.
    """
    with open_keras_file(path) as file:  # every safety check of the reader, before Keras sees the file
        ours, kind, graph = _is_ours(file), file.kind, [name for name, _, _ in file.config_layers]
        written_by = file.keras_version
        foreign = kind_of(file.layers, file.listed) == KERAS_VGGFACE
    if not graph and not ours:
        raise BadInputError(
            f"{path} holds weights without a graph, and its layers do not have Albanie's names, so it is unknown what "
            "they are for. Load them into the model that they belong to and give the whole model (model.save)."
        )
    mine = read_checkpoint(path, check_graph=False) if ours else None
    imported_for(path)
    if graph:
        return load_model(path, kind, graph, written_by), mine
    assert mine is not None
    return _keras_vggfaces_graph(path, mine) if foreign else _our_graph(path, mine), mine


def without_preprocessing(model: Any) -> tuple[Any, Callable[[np.ndarray], np.ndarray] | None]:
    """``model`` from behind the layer that takes the mean off, and that layer; the model itself where it has none.

    So that the network is judged on the same input as any other, and its preprocessing apart from it.
    """
    import keras

    inputs = list(model.inputs or ())
    first = next((each for each in model.layers if type(each).__name__ == "Rescaling" and each.name == "data"), None)
    if first is None or len(inputs) != 1 or first.input is not inputs[0]:
        return model, None

    def preprocess(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(first(pixels)))

    return keras.Model(first.output, model.output, name=model.name), preprocess


def _is_ours(file: KerasFile) -> bool:
    """Whether one of our writers made the file, or its layers that own arrays are called exactly as ours are."""
    if file.provenance is not None or file.kind == "weights.h5":
        return True
    body = file.layers.keys() - {"classifier", "feat_extract"}
    if file.kind == "h5-weights":  # without a graph, keras_vggface's names can only mean keras_vggface's graph
        body = {our_name(name) for name in body}
    tables = (
        arch.architecture(network, arch.NO_HEAD, folded=folded) for network in arch.KNOWN for folded in (False, True)
    )
    return any(body == table.parameters.keys() for table in tables)


def _our_graph(path: Path, mine: Checkpoint) -> Any:
    from ferplus_keras.applications.loading import load_weights
    from ferplus_keras.networks.models import model_from_architecture

    side = mine.provenance.side
    model = model_from_architecture(mine.architecture, input_shape=(side, side, 3))
    if path.name.endswith(".weights.h5"):
        model.load_weights(path)
    else:
        load_weights(model, path)
    return model


def _keras_vggfaces_graph(path: Path, mine: Checkpoint) -> Any:
    """The inexact graph that the weights are for, with the file's own numbers, but for RGB: that much is exact."""
    import keras

    plan = vggface_plan(mine.architecture, exact=False, rename=same_name)
    model = model_from_plan(keras, plan, name=f"vggface_{mine.architecture.network}")
    stored = read_named(MappedFile(path)).arrays
    arrays: Arrays = {}
    for slot in LAYOUTS[KERAS_VGGFACE](mine.architecture).values():
        arrays.setdefault(slot.layer, {})[slot.role] = slot.to_neutral(stored[slot.name])
    for name, roles in arrays.items():
        model.get_layer(name).set_weights([np.ascontiguousarray(array) for array in roles.values()])
    return model


def _traced(path: Path, model: Any, dtype: str, side: int) -> tuple[WatchedModel, Trace]:
    try:
        watched = WatchedModel(model, dtype)
        return watched, watched.trace(np.zeros((1, side, side, 3), dtype))
    except Exception as error:  # whatever an unknown graph raises
        raise BadInputError(
            f"{path} cannot be run on an image of {side} x {side} x 3: {first_line(error, 300)}"
        ) from None


def _neutral(roles: dict[str, arch.Shape], operation: Any) -> dict[str, np.ndarray]:
    """The arrays of a paired Keras layer by role; what it lacks (a BatchNorm without gamma) is a fresh layer's."""
    values = iter(np.asarray(array) for array in operation.get_weights())
    if "gamma" in roles:
        (shape,) = {tuple(each) for each in roles.values()}
        gamma = next(values) if operation.scale else np.ones(shape, np.float32)
        beta = next(values) if operation.center else np.zeros(shape, np.float32)
        return {"gamma": gamma, "beta": beta, "moving_mean": next(values), "moving_variance": next(values)}
    kernel, shape = next(values), roles["kernel"]
    arrays = {"kernel": kernel.reshape(shape) if kernel.size == math.prod(shape) else kernel}
    bias = next(values, None)
    if bias is not None:
        arrays["bias"] = bias
    return arrays
