"""Images per second, every way in which a converted network can be run, at batch 1 and at batch 32.

    python -m benchmarks.inference [--network senet50 | both] [--rounds 3] [--json]

The named competitor is ONNX Runtime on PyTorch's own export (torch.onnx.export) of the same network. Each library has
one process with all its ways loaded, and they are run in turn, way by way and round by round, so that whatever else the
machine does meanwhile falls on all of them; every second round goes backwards, so that none always runs behind the same
other one. The median of the rounds counts. All take as many threads as there are cores; all end in the softmax.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Row
from ferplus_keras.networks.architecture import NETWORKS

#: (way, the library's process, what it is) in the order of the table.
WAYS = (
    ("onnx-torch", "onnx", "ONNX Runtime, PyTorch's own export"),
    ("onnx", "onnx", "ONNX Runtime, our export"),
    ("onnx-folded", "onnx", "ONNX Runtime, our export, folded"),
    ("tflite", "tflite", "TensorFlow Lite, float32, folded"),
    ("tflite-int8", "tflite", "TensorFlow Lite, int8, folded"),
    ("keras-predict", "keras", "Keras, predict"),
    ("keras", "keras", "Keras, compiled call"),
    ("keras-folded", "keras", "Keras, compiled call, folded"),
    ("torch", "torch", "PyTorch, eager"),
    ("torch-folded", "torch", "PyTorch, eager, folded"),
)
COMPETITOR = "onnx-torch"
TITLES = {way: title for way, _, title in WAYS}

FILES = ("standin.h5", "folded-standin.h5", "standin.onnx", "folded-standin.onnx", "torch.onnx", "folded.tflite",
         "int8.tflite")  # fmt: skip

#: Calls that one measurement takes the mean of: at batch 1 a call is a tenth of a second.
CALLS = {1: 5, 32: 1}


class Worker:
    """A library in a process of its own, which runs one way once when it is told to."""

    def __init__(self, library: str, network: str) -> None:
        variables = {**os.environ, "PYTHONPATH": str(harness.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3",
                     "KERAS_BACKEND": "tensorflow"}  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.inference_one", library, f"{harness.WORK / network}-"]
        self.process = subprocess.Popen(
            command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def seconds(self, way: str, batch: int, calls: int) -> float:
        """Seconds of one call, the mean of ``calls``. Raises ``RuntimeError`` when the process has ended."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{way} {batch} {calls}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:  # libraries greet there, too
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise RuntimeError(f"{way} ended with code {self.process.wait()}")

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def prepare(network: str, folder: str) -> None:
    """Make the files that are run."""
    import torch

    from convert.conversion import convert
    from convert.exporters import Recipe, export
    from convert.readers import read_checkpoint
    from ferplus_keras.networks.natural import natural_images, natural_pixels
    from verify.references.torch_reference import reference_module

    stem = f"{folder}/{network}"
    source = harness.standin(network)
    convert(source, [f"{stem}-standin.h5", f"{stem}-standin.onnx"])
    convert(source, [f"{stem}-folded-standin.h5", f"{stem}-folded-standin.onnx"], folded=True)
    checkpoint = read_checkpoint(source)
    module = torch.nn.Sequential(reference_module(checkpoint, "float32"), torch.nn.Softmax(dim=1)).eval()
    torch.onnx.export(
        module, (natural_images(2),), f"{stem}-torch.onnx", external_data=False,
        dynamic_shapes=({0: torch.export.Dim("N")},), verbose=False,
    )  # fmt: skip
    export(checkpoint, Recipe("tflite", folded=True), Path(f"{stem}-folded.tflite"))
    recipe = Recipe("tflite", "int8", folded=True)
    export(checkpoint, recipe, Path(f"{stem}-int8.tflite"), calibration=natural_pixels(16, seed=5))


def measure(network: str = "resnet50", rounds: int = 3) -> dict[str, list[Row]]:
    """Images per second of every way, and the ratio to the competitor."""
    chosen = NETWORKS if network == "both" else (network,)
    return {f"{name}, images/s and the ratio to {TITLES[COMPETITOR]}": _of(name, rounds) for name in chosen}


def _of(network: str, rounds: int) -> list[Row]:
    if not all((harness.WORK / f"{network}-{name}").exists() for name in FILES):
        harness.standin(network)
        harness.run("-c", "from benchmarks.inference import prepare; import sys; prepare(*sys.argv[1:])", network,
                    harness.WORK)  # fmt: skip
    workers = {library: Worker(library, network) for library in dict.fromkeys(library for _, library, _ in WAYS)}
    seconds: dict[tuple[str, int], list[float]] = {(way, batch): [] for way, _, _ in WAYS for batch in CALLS}
    try:
        for batch, calls in CALLS.items():
            for number in range(rounds + 1):
                for way, library, _ in WAYS if number % 2 else reversed(WAYS):
                    taken = workers[library].seconds(way, batch, calls if number else 1)
                    if number:  # the first compiles, allocates, and does not count
                        seconds[way, batch].append(taken)
    finally:
        for worker in workers.values():
            worker.end()
    speed = {key: key[1] / statistics.median(values) for key, values in seconds.items()}
    rows: list[Row] = []
    for way, _, title in WAYS:
        rows.append({"way": title})
        for batch in CALLS:
            rows[-1] |= {
                f"batch {batch}": speed[way, batch],
                f"ratio {batch}": speed[way, batch] / speed[COMPETITOR, batch],
            }
    return rows


if __name__ == "__main__":
    harness.command(measure)
