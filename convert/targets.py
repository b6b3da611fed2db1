"""What networks are written as: each format's name, suffix, and the function that writes it, imported when it is used.

Nothing large is imported here, NumPy neither: the command line offers these names before it knows what is wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Target:
    """A format to write: its name on the command line, its suffix, and the function that writes it."""

    name: str
    suffix: str
    function: str  #: "module:function"
    title: str = ""

    def load(self) -> Callable[..., None]:
        """The function that writes this format."""
        module, function = self.function.split(":")
        writer: Callable[..., None] = getattr(import_module(module), function)
        return writer


@dataclass(frozen=True)
class Format(Target):
    """A format that is read back. ``has_output``: it has a graph, which returns probabilities or logits."""

    has_output: bool = False


#: What ``convert`` writes.
FORMATS = {format.name: format for format in (
    Format("h5", ".h5", "convert.writers.keras_h5:write_h5", has_output=True),
    Format("keras", ".keras", "convert.writers.keras_native:write_keras", has_output=True),
    Format("weights.h5", ".weights.h5", "convert.writers.keras_native:write_keras_weights", has_output=True),
    Format("pth", ".pth", "convert.writers.torch_files:write_pth"),
    Format("safetensors", ".safetensors", "convert.writers.torch_files:write_safetensors"),
    Format("onnx", ".onnx", "convert.writers.onnx_file:write_onnx", has_output=True),
    Format("mat", ".mat", "convert.writers.mat_file:write_mat"),
)}  # fmt: skip

#: The longer first: ``x.weights.h5`` also ends in ``.h5``.
BY_SUFFIX = {format.suffix: format for format in sorted(FORMATS.values(), key=lambda format: -len(format.suffix))}

#: What ``export`` writes, for runtimes without Keras.
EXPORTS = {target.name: target for target in (
    Target("onnx", ".onnx", "convert.exporters.onnx_model:export_onnx", "ONNX"),
    Target("tflite", ".tflite", "convert.exporters.tflite:export_tflite", "TensorFlow Lite"),
    Target("saved_model", ".saved_model", "convert.exporters.saved_model:export_saved_model", "SavedModel"),
)}  # fmt: skip

#: Numbers of a TensorFlow Lite file; the first, float32, is what every target has.
QUANTIZATIONS = ("none", "float16", "int8")
