"""The Keras side: the *file*, opened by Keras as a stranger would open it; only its precision is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.writers import format_of
from ferplus_keras.errors import BadInputError

#: Keras's type promotion turns float64 into float32 on the others (``keras.backend.result_type``, seen in 3.15).
FLOAT64_BACKENDS = ("tensorflow",)

Outputs = dict[str, np.ndarray]


def backend() -> str:
    """What computes: Keras's backend."""
    import keras

    return str(keras.backend.backend())


def open_model(path: Path, checkpoint: Checkpoint) -> Any:
    """The Keras model in the file, or our own graph with the file's weights when it has no graph.

    Raises :class:`BadInputError` when Keras cannot open the file. Nothing in it is executed: Lambdas are refused.
    """
    import keras

    if format_of(path).name == "weights.h5":
        from ferplus_keras.graph import model_from_architecture

        model = model_from_architecture(checkpoint.architecture)
        model.load_weights(path)
        return model
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, OSError, KeyError, AttributeError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInputError(f"Keras {keras.__version__} cannot open {path}: {reason[:300]}") from None


def layer_outputs(model: Any, names: list[str], dtype: str) -> Callable[[np.ndarray], Outputs]:
    """A function from a batch to the outputs of the layers ``names``, computed by ``model`` in ``dtype``.

    Raises :class:`BadInputError` when the model lacks one of the layers.
    """
    import keras

    def with_dtype(layer: Any) -> Any:
        return layer.__class__.from_config({**layer.get_config(), "dtype": dtype})

    inputs = keras.Input(model.inputs[0].shape[1:], dtype=dtype)
    inputs = keras.tree.map_structure(lambda _: inputs, model.input)  # a tensor, or a list of one in old files
    copy = keras.models.clone_model(model, input_tensors=inputs, clone_function=with_dtype)
    copy.set_weights(model.get_weights())
    absent = [name for name in names if name not in {layer.name for layer in copy.layers}]
    if absent:
        raise BadInputError(f"The model has no layer {absent[0]} (and {len(absent) - 1} more); it is another graph.")
    probe = keras.Model(copy.input, {name: copy.get_layer(name).output for name in names})

    def run(batch: np.ndarray) -> Outputs:
        outputs = probe(batch, training=False)
        arrays = {name: np.asarray(keras.ops.convert_to_numpy(value)) for name, value in outputs.items()}
        # The pooled features and the head are vectors in Keras and 1 x 1 maps in PyTorch.
        return {name: array[:, None, None] if array.ndim == 2 else array for name, array in arrays.items()}

    return run
