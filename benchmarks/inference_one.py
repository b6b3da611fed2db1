"""One library of the inference benchmark, as a process that waits to be told which way to run: see inference.py.

python -m benchmarks.inference_one LIBRARY STEM      then, line by line: WAY BATCH CALLS
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

BUSY = "BUSY" in os.environ
THREADS = 1 if BUSY else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
now = time.process_time if BUSY else time.perf_counter

Call = Callable[[], Any]


def main(library: str, stem: str) -> None:
    """Answer each line with the seconds of a call, the mean of CALLS."""
    from ferplus_keras.networks.natural import natural_inputs

    images = natural_inputs(32, seed=3)

    @cache  # loaded when it is first run: the measurement that does not count
    def ready(way: str, batch: int) -> Call:
        return LIBRARIES[library](way, stem, images[:batch])

    for line in sys.stdin:
        way, batch, calls = line.split()
        run = ready(way, int(batch))
        start = now()
        for _ in range(int(calls)):
            run()
        print("seconds", (now() - start) / int(calls), flush=True)


def onnx_way(way: str, stem: str, images: np.ndarray) -> Call:
    """ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    name = {"onnx": "standin", "onnx-folded": "folded-standin"}.get(way, "torch")
    session = onnxruntime.InferenceSession(f"{stem}{name}.onnx", options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.transpose(0, 3, 1, 2).copy()}
    return lambda: session.run(None, feed)


def openvino_way(way: str, stem: str, images: np.ndarray) -> Call:
    """OpenVINO."""
    from pathlib import Path

    from ferplus_keras.engines.openvino_engine import compiled
    from ferplus_keras.files.mapped_file import MappedFile

    run, _ = compiled(MappedFile(Path(f"{stem}standin.onnx")), ("data", "prob"), way, THREADS)
    batch = images.transpose(0, 3, 1, 2).copy()
    return lambda: run(batch)


def tflite_way(way: str, stem: str, images: np.ndarray) -> Call:
    """TensorFlow Lite."""
    import tensorflow as tf

    file = stem + ("int8.tflite" if way == "tflite-int8" else "folded.tflite")
    interpreter = tf.lite.Interpreter(model_path=file, num_threads=THREADS)
    entry = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(entry, images.shape)
    interpreter.allocate_tensors()
    output = interpreter.get_output_details()[0]["index"]

    def run() -> Any:
        interpreter.set_tensor(entry, images)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return run


def keras_way(way: str, stem: str, images: np.ndarray) -> Call:
    """Keras on TensorFlow."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    model = keras.models.load_model(stem + _keras_file(way), compile=False)
    if way == "keras-predict":
        return lambda: model.predict(images, batch_size=len(images), verbose=0)
    call = tf.function(lambda given: model(given, training=False))
    return lambda: call(images).numpy()


def torch_way(way: str, stem: str, images: np.ndarray) -> Call:
    """PyTorch, eager or traced in bfloat16."""
    import torch

    from convert.readers import read_checkpoint
    from verify.references.torch_reference import reference_module

    torch.set_num_threads(THREADS or 1)
    module = reference_module(read_checkpoint(stem + _keras_file(way)), "float32")
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    if way == "torch-bf16":
        batch = batch.to(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            module = torch.jit.freeze(torch.jit.trace(module.to(memory_format=torch.channels_last), batch))  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            module(batch)  # it is specialised in its first two runs

    def run() -> Any:
        with torch.inference_mode():
            return torch.softmax(module(batch), dim=1)

    return run


def _keras_file(way: str) -> str:
    return "folded-standin.h5" if way.endswith("-folded") else "standin.h5"


LIBRARIES = {"onnx": onnx_way, "openvino": openvino_way, "tflite": tflite_way, "keras": keras_way, "torch": torch_way}

if __name__ == "__main__":
    main(*sys.argv[1:])
