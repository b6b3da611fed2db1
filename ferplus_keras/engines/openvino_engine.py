"""``.onnx`` by OpenVINO, once the policy for ONNX has let it through: in float32, or in bfloat16 where the processor
multiplies in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ferplus_keras.engines.engine import Run, telling_line
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile

#: What ``--runtime`` calls them -> OpenVINO's name of the numbers.
PRECISIONS = {"openvino": "f32", "openvino-bf16": "bf16"}


def compiled(file: MappedFile, ends: tuple[str, str], runtime: str, threads: int | None) -> tuple[Run, str]:
    """What runs a batch through ``file`` between its ``ends`` (input and output), and its name in words.

    Raises :class:`BadInputError` when OpenVINO is not installed or cannot run the file, or where there is no bfloat16.
    """
    try:
        import openvino
    except ImportError:
        raise BadInputError(
            "This needs OpenVINO, which is not installed: pip install 'ferplus-keras[openvino]'."
        ) from None
    core, precision = openvino.Core(), PRECISIONS[runtime]
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise BadInputError("This processor has no bfloat16 arithmetic; the runtime openvino computes in float32.")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
    }  # fmt: skip
    version = openvino.__version__.split("-")[0]
    try:
        model = core.compile_model(core.read_model(str(file.path)), "CPU", settings)
        request, place = model.create_infer_request(), model.output(ends[1])
    except MemoryError:
        raise
    except Exception as error:  # the library raises RuntimeError and others for one and the same thing
        raise BadInputError(f"OpenVINO {version} cannot run {file.path}: {telling_line(error)}") from None

    def run(batch: np.ndarray) -> np.ndarray:
        request.infer({ends[0]: batch})
        return np.array(request.get_tensor(place).data)  # a copy: the next run writes into the same memory

    return run, f"OpenVINO {version}{', bfloat16' if precision == 'bf16' else ''}"
