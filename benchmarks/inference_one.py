"""One library of the inference benchmark, as a process that waits to be told which way to run: see inference.py.

python benchmarks/inference_one.py LIBRARY NETWORK FOLDER      then, line by line: WAY BATCH CALLS
"""

import os
import sys
import time
from functools import cache

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
BUSY = "BUSY" in os.environ
THREADS = 1 if BUSY else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
now = time.process_time if BUSY else time.perf_counter


def main(library: str, network: str, folder: str) -> None:
    from verify.images import natural_inputs

    images = natural_inputs(32, seed=3)
    ways = {
        "onnx": onnx_ways, "openvino": openvino_ways, "tflite": tflite_ways, "keras": keras_ways, "torch": torch_ways
    }[library]  # fmt: skip

    @cache  # loaded when it is first run: the measurement that does not count
    def ready(way: str, batch: int):
        return ways(way, f"{folder}/{network}-", images[:batch])

    for line in sys.stdin:
        way, batch, calls = line.split()
        run = ready(way, int(batch))
        start = now()
        for _ in range(int(calls)):
            run()
        print("seconds", (now() - start) / int(calls), flush=True)


def onnx_ways(way: str, path: str, images):
    session, name = onnx_session(path + {"onnx": "standin", "onnx-folded": "folded-standin"}.get(way, "torch"))
    batch = images.transpose(0, 3, 1, 2).copy()
    return lambda: session.run(None, {name: batch})


@cache
def onnx_session(stem: str):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(f"{stem}.onnx", options, providers=["CPUExecutionProvider"])
    return session, session.get_inputs()[0].name


def openvino_ways(way: str, path: str, images):
    from pathlib import Path

    from ferplus_keras.engines.openvino_engine import compiled
    from ferplus_keras.files.mapped_file import MappedFile

    run, _ = compiled(MappedFile(Path(f"{path}standin.onnx")), ("data", "prob"), way, THREADS)
    batch = images.transpose(0, 3, 1, 2).copy()
    return lambda: run(batch)


def tflite_ways(way: str, path: str, images):
    import tensorflow as tf

    file = path + ("int8.tflite" if way == "tflite-int8" else "folded.tflite")
    interpreter = tf.lite.Interpreter(model_path=file, num_threads=THREADS)
    entry = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(entry, images.shape)
    interpreter.allocate_tensors()
    output = interpreter.get_output_details()[0]["index"]

    def run():
        interpreter.set_tensor(entry, images)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return run


def keras_ways(way: str, path: str, images):
    model, call = keras_model(path + ("folded-standin.h5" if way == "keras-folded" else "standin.h5"))
    if way == "keras-predict":
        return lambda: model.predict(images, batch_size=len(images), verbose=0)
    return lambda: call(images).numpy()


@cache
def keras_model(path: str):
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    model = keras.models.load_model(path, compile=False)
    return model, tf.function(lambda images: model(images, training=False))


def torch_ways(way: str, path: str, images):
    import torch

    torch.set_num_threads(THREADS)
    module = torch_module(path + ("folded-standin.h5" if way == "torch-folded" else "standin.h5"))
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    if way == "torch-bf16":
        batch = batch.to(memory_format=torch.channels_last)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            module = torch.jit.freeze(torch.jit.trace(module.to(memory_format=torch.channels_last), batch))
        with torch.inference_mode():
            module(batch)  # it is specialised in its first two runs

    def run():
        with torch.inference_mode():
            return torch.softmax(module(batch), dim=1)

    return run


@cache
def torch_module(path: str):
    from convert.readers import read_checkpoint
    from verify.references.torch_reference import reference_module

    return reference_module(read_checkpoint(path), "float32")


if __name__ == "__main__":
    main(*sys.argv[1:])
