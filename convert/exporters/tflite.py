"""``X.tflite``: by TensorFlow's own converter, from the Keras graph; float32, float16 weights, or int8 throughout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.exporters.serving import serving_module
from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.errors import BadInputError, OutputError, first_line
from ferplus_keras.networks.preprocessing import preprocess_input

if TYPE_CHECKING:
    from convert.exporters import Quiet, Recipe


def export_tflite(
    checkpoint: Checkpoint, recipe: Recipe, path: Path, *, calibration: np.ndarray | None, quiet: Quiet
) -> None:
    """Convert ``checkpoint``; the provenance becomes an entry of the file's metadata, which interpreters ignore.

    int8 means all weights, per channel, and all activations: an operator without an int8 form is an error. Input and
    output stay float32 (or bytes, with the preprocessing inside), so that an int8 file can replace a float32 one.

    Raises :class:`OutputError` when the converter fails.
    """
    module = serving_module(checkpoint, recipe, constants=True)
    import tensorflow as tf

    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
        if recipe.quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if recipe.quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if recipe.quantize == "int8":
            converter.representative_dataset = _examples(calibration, recipe)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        try:
            content = converter.convert()
        except Exception as error:  # its own class, and whatever its passes raise
            raise OutputError(f"TensorFlow's converter could not make {path.name}: {first_line(error, 300)}") from None
        path.write_bytes(with_provenance(content, checkpoint.provenance.to_json()))


def _examples(calibration: np.ndarray | None, recipe: Recipe) -> Any:
    """The converter's representative data set: one batch at a time, as the network takes it."""
    if calibration is None or not len(calibration):
        raise BadInputError("int8 is calibrated on images, and there are none. Give --calibrate a folder of faces.")
    batch = recipe.batch or 1

    def examples() -> Iterator[list[np.ndarray]]:
        for start in range(0, len(calibration), batch):
            some = calibration[start : start + batch]
            some = np.concatenate([some, some[np.zeros(batch - len(some), int)]])  # a fixed batch is filled up
            yield [some if recipe.pixels else preprocess_input(some)]

    return examples


def with_provenance(content: bytes, text: str) -> bytes:
    """A TensorFlow Lite file with ``text`` as its record, in its metadata."""
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(text.encode(), np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name, entry.buffer = PROVENANCE_KEY, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
