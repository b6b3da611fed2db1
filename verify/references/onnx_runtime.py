"""The checkpoint run by ONNX Runtime, on an ONNX graph written from this project's architecture table."""

from __future__ import annotations

import numpy as np

from convert.checkpoint import Checkpoint
from convert.writers.onnx_file import Images, onnx_arrays, onnx_model
from verify.onnx_session import OnnxSession


class OnnxRuntimeReference:
    """Runs images (height x width x channels) through ONNX Runtime; every layer's output, in Keras's layout."""

    name = "onnx"
    title = "ONNX Runtime, a graph written from the checkpoint"
    independent = False
    note = (
        "kernels that neither Keras nor PyTorch has (in float64 matrix products and formulas, for ONNX Runtime has no "
        "convolution there); but the graph comes from this project's architecture table and shares its understanding"
    )

    def __init__(self, checkpoint: Checkpoint, dtype: str = "float32") -> None:
        table = checkpoint.architecture
        model = onnx_model(
            table, Images(side=checkpoint.provenance.side), activation=None,
            outputs=[layer.name for layer in table.layers[1:]], keep_inputs=True,
        )  # fmt: skip
        self.session = OnnxSession(model, dict(onnx_arrays(checkpoint)), dtype)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of all layers for ``images``."""
        return self.session.run(images)
