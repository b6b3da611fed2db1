"""The process in which LiteRT or PyTorch runs a file: ``python -m ferplus_keras.engines.tflite_process FILE THREADS``.

A TorchScript file is a program, and any further argument says that the file is one.

Batches come on standard input, with the number of the output that is wanted, and answers go out: each is a line of JSON
and, where the line has a shape, the bytes of a float32 or uint8 array behind it. The first line that goes out says that
the file is open.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

#: Memory that opening and running a file may take beyond what the library takes: a batch of VGG16's has half of it.
ROOM = 4 << 30


def main(path: str, threads: int, script: bool = False) -> None:
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever libraries print goes nowhere
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        if script:
            return _torchscript(path, threads, out)
        interpreter_class, by = _library()
        _bound_memory()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            interpreter = interpreter_class(model_path=path, num_threads=threads or None)
        taken, gives = interpreter.get_input_details()[0], interpreter.get_output_details()
        send(out, by=by, quantized=bool(taken["quantization"][0]))
        size = 0
        while True:
            asked, batch = receive(sys.stdin.buffer)
            if batch is None:  # there is no more to come
                return
            if len(batch) != size:
                if taken.get("shape_signature", taken["shape"])[0] < 0:
                    interpreter.resize_tensor_input(taken["index"], list(batch.shape))
                interpreter.allocate_tensors()
                size = len(batch)
            interpreter.set_tensor(taken["index"], quantized(batch, taken))
            interpreter.invoke()
            given = gives[asked["output"]]
            send(out, dequantized(np.array(interpreter.get_tensor(given["index"])), given))
    except MemoryError:
        send(out, short=True)
    except Exception as error:  # ValueError, RuntimeError, whatever the library's parts raise
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        send(out, short="bad_alloc" in text, problem=text)


def _torchscript(path: str, threads: int, out: BinaryIO) -> None:
    import torch

    _bound_memory()
    if threads:
        torch.set_num_threads(threads)
    module = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]
    send(out, by=f"PyTorch {torch.__version__}, TorchScript", quantized=False)
    with torch.inference_mode():
        while True:
            asked, batch = receive(sys.stdin.buffer)
            if batch is None:
                return
            found = list(_tensors(module(torch.from_numpy(batch))))
            send(out, found[asked["output"]].float().numpy(), outputs=[list(each.shape) for each in found])


def _tensors(value: Any) -> Iterator[Any]:
    """Every tensor in what a network returned, whatever it is wrapped in."""
    if isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
    elif hasattr(value, "shape"):
        yield value


def quantized(batch: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    """``batch`` as the input wants it: as it is, or integers with a scale."""
    scale, zero = detail["quantization"]
    kind = np.dtype(detail["dtype"])
    if not scale or kind.kind == "f":
        return np.ascontiguousarray(batch, kind)
    bounds = np.iinfo(kind)
    whole: np.ndarray = np.clip(np.rint(batch / scale + zero), bounds.min, bounds.max).astype(kind)
    return whole


def dequantized(values: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero = detail["quantization"]
    if values.dtype.kind == "f" or not scale:
        return values.astype(np.float32)
    result: np.ndarray = (values.astype(np.float32) - zero) * np.float32(scale)
    return result


def _library() -> tuple[Any, str]:
    try:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter, "LiteRT"
    except ImportError:
        from tensorflow import __version__, lite

        return lite.Interpreter, f"TensorFlow Lite {__version__}"


def _bound_memory() -> None:
    try:
        import resource
        from pathlib import Path

        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        if limits[0] == resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, limits[1]))
    except (ImportError, OSError, ValueError):  # a system without it
        pass


def _end_with(parent: int) -> None:
    """End this process when ``parent`` is gone, whatever the library is doing."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def send(stream: BinaryIO, array: np.ndarray | None = None, **header: Any) -> None:
    """Write a line, and ``array`` behind it."""
    if array is not None:
        header |= {"shape": array.shape, "dtype": array.dtype.name}
    stream.write(json.dumps(header).encode() + b"\n")
    if array is not None:
        stream.write(np.ascontiguousarray(array).data)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], np.ndarray | None]:
    """The line that comes next, and the array behind it; nothing where there is no more."""
    line = stream.readline()
    header: dict[str, Any] = json.loads(line) if line else {}
    if "shape" not in header:
        return header, None
    array = np.empty(header["shape"], header["dtype"])
    if stream.readinto(array.data.cast("B")) != array.nbytes:  # type: ignore[attr-defined]
        return {}, None
    return header, array


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), len(sys.argv) > 3)
