"""An ONNX graph run by ONNX Runtime, every layer's output to be seen, in float32 or in float64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.errors import BadInputError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto

Tensors = dict[str, np.ndarray]


class OnnxSession:
    """``model`` ready to run.

    Args:
        model: its outputs are those that :meth:`run` gives; its only input but the ``tensors`` are the images.
        tensors: what the graph takes beside the images; fed at each run and so never copied.
        dtype: "float32" runs the graph as it stands, "float64" as :mod:`verify.onnx_float64` rewrites it.

    Raises:
        BadInputError: ONNX Runtime does not take the graph.
    """

    def __init__(self, model: ModelProto, tensors: Mapping[str, np.ndarray], dtype: str) -> None:
        import onnxruntime

        self.dtype = dtype
        self.tensors = dict(tensors)
        if dtype == "float64":
            from verify.onnx_float64 import in_float64

            model, self.tensors = in_float64(model, tensors)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # As it is written: an optimiser would fold the batch normalisations away, and there is nothing to be gained
        # when every layer's output is wanted.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Memory is given back between runs instead of being kept for the next, larger one.
        options.enable_cpu_mem_arena = False
        # Threads that wait in a busy loop take the processor from PyTorch and Keras, who run in turns with this.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library's own exception classes share no base that is public
            raise BadInputError(
                f"ONNX Runtime {onnxruntime.__version__} cannot run the graph: {first_line(error, 300)}"
            ) from None
        images = next(each for each in self.session.get_inputs() if each.name not in self.tensors)
        self.input = images.name
        self.channels_last = images.shape[-1] == 3
        self.outputs = [each.name for each in self.session.get_outputs()]

    def run(self, images: np.ndarray) -> Tensors:
        """Output name -> array, for images x height x width x 3; maps and vectors in Keras's layout, all 4-D."""
        batch = images.astype(self.dtype, copy=False)
        batch = np.ascontiguousarray(batch if self.channels_last else batch.transpose(0, 3, 1, 2))
        try:
            results: list[Any] = self.session.run(self.outputs, {self.input: batch, **self.tensors})
        except Exception as error:
            raise BadInputError(f"ONNX Runtime could not run the graph: {first_line(error, 300)}") from None
        return {name: array[:, None, None] if array.ndim == 2 else array.transpose(0, 2, 3, 1)
                for name, array in zip(self.outputs, results, strict=True)}  # fmt: skip
