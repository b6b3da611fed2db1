"""The network as a TensorFlow function with named input and output, from which the exports are made."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.writers.keras_native import fill_model
from ferplus_keras.errors import OutputError
from ferplus_keras.networks.preprocessing import PUBLISHED

if TYPE_CHECKING:
    from convert.exporters import Recipe

#: The input's name in the signature. The output is named after its content: "probabilities", "logits", ...
IMAGES = "images"


def serving_module(checkpoint: Checkpoint, recipe: Recipe, *, constants: bool) -> Any:
    """A ``tf.Module`` whose ``serve`` maps a batch of images to the network's output, by name.

    Args:
        checkpoint: the network; folded or not.
        recipe: whether the input is bytes or preprocessed images, the batch size, and whether a softmax ends it.
        constants: the weights become constants of the graph, as converters need them, instead of variables.

    Raises :class:`OutputError` if TensorFlow is missing, or Keras runs on another backend.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        import keras
        import tensorflow as tf
    except ImportError as error:
        raise OutputError(
            f"TensorFlow's formats are written by TensorFlow, which cannot be imported here ({error}). Install it: "
            "pip install tensorflow keras. An .onnx file needs neither."
        ) from None
    if keras.backend.backend() != "tensorflow":
        raise OutputError(
            f"TensorFlow's formats need Keras on TensorFlow, but Keras runs on {keras.backend.backend()}: set "
            "KERAS_BACKEND=tensorflow."
        )
    from ferplus_keras.networks.models import model_from_architecture

    side, output = checkpoint.provenance.side, checkpoint.provenance.output
    model = model_from_architecture(
        checkpoint.architecture, input_shape=(side, side, 3), activation=None if recipe.logits else "softmax"
    )
    fill_model(model, checkpoint)
    mean = np.asarray(PUBLISHED.mean, np.float32)
    trained, running = (
        [variable.numpy() if constants else variable.value for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    module = tf.Module(name=checkpoint.architecture.network)
    if not constants:
        module.weights = [*trained, *running]  # tf.saved_model saves the module's attributes
    kind = tf.uint8 if recipe.pixels else tf.float32

    def serve(images: Any) -> dict[str, Any]:
        if recipe.pixels:
            images = tf.cast(images, tf.float32) - mean  # bit for bit what preprocess_input computes
        return {output: model.stateless_call(trained, running, images, training=False)[0]}

    signature = [tf.TensorSpec([recipe.batch, side, side, 3], kind, name=IMAGES)]
    module.serve = tf.function(serve, input_signature=signature)
    return module
