"""Images per second, every way in which a converted network can be run, at batch 1 and at batch 32.

    python -m benchmarks.inference [--network senet50 | both] [--ways onnx,openvino] [--busy 1] [--rounds 3]

The named competitor is ONNX Runtime on PyTorch's own export (torch.onnx.export) of the same network. Each library has
one process with all its ways loaded, and they are run in turn, way by way and round by round, so that whatever else the
machine does meanwhile falls on all of them; every second round goes backwards, so that none always runs behind the same
other one. The median of the rounds counts. All take as many threads as there are cores; all end in the softmax.
``--busy 1`` is for a machine that does other work: one thread each, and processor time instead of the clock's. Where
the processor has no bfloat16, the ways that need it are left out.
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
    ("openvino", "openvino", "OpenVINO, our export"),
    ("openvino-bf16", "openvino", "OpenVINO, our export, bfloat16"),
    ("tflite", "tflite", "TensorFlow Lite, float32, folded"),
    ("tflite-int8", "tflite", "TensorFlow Lite, int8, folded"),
    ("keras-predict", "keras", "Keras, predict"),
    ("keras", "keras", "Keras, compiled call"),
    ("keras-folded", "keras", "Keras, compiled call, folded"),
    ("torch", "torch", "PyTorch, eager"),
    ("torch-folded", "torch", "PyTorch, eager, folded"),
    ("torch-bf16", "torch", "PyTorch, traced, frozen, bfloat16"),
)
COMPETITOR = "onnx-torch"
TITLES = {way: title for way, _, title in WAYS}

#: Calls that one measurement takes the mean of: at batch 1 a call is a tenth of a second.
CALLS = {1: 5, 32: 1}


class Worker:
    """A library in a process of its own, which runs one way once when it is told to."""

    def __init__(self, library: str, network: str, busy: bool) -> None:
        variables = {**os.environ, "PYTHONPATH": str(harness.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3",
                     "KERAS_BACKEND": "tensorflow"}  # fmt: skip
        variables |= {"BUSY": "1", "OMP_NUM_THREADS": "1"} if busy else {}
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


def needed(way: str) -> list[str]:
    """The files that a way runs."""
    folded = "folded-" if way.endswith("-folded") else ""
    if way.startswith("tflite"):
        return ["int8.tflite" if way == "tflite-int8" else "folded.tflite"]
    if way == COMPETITOR:
        return ["torch.onnx"]
    return [f"{folded}standin.{'onnx' if way.startswith(('onnx', 'openvino')) else 'h5'}"]


def prepare(network: str, folder: str, *files: str) -> None:
    """Make ``files``."""
    import torch

    from convert.conversion import convert
    from convert.exporters import Recipe, export
    from convert.readers import read_checkpoint
    from ferplus_keras.networks.natural import natural_images, natural_pixels
    from verify.references.torch_reference import reference_module

    stem = f"{folder}/{network}"
    source = harness.standin(network)
    for name in files:
        if "standin" in name:
            convert(source, [f"{stem}-{name}"], folded=name.startswith("folded"))
    checkpoint = read_checkpoint(source)
    if "torch.onnx" in files:
        module = torch.nn.Sequential(reference_module(checkpoint, "float32"), torch.nn.Softmax(dim=1)).eval()
        torch.onnx.export(
            module, (natural_images(2),), f"{stem}-torch.onnx", external_data=False,
            dynamic_shapes=({0: torch.export.Dim("N")},), verbose=False,
        )  # fmt: skip
    if "folded.tflite" in files:
        export(checkpoint, Recipe("tflite", folded=True), Path(f"{stem}-folded.tflite"))
    if "int8.tflite" in files:
        recipe = Recipe("tflite", "int8", folded=True)
        export(checkpoint, recipe, Path(f"{stem}-int8.tflite"), calibration=natural_pixels(16, seed=5))


def measure(network: str = "resnet50", rounds: int = 3, ways: str = "", busy: int = 0) -> dict[str, list[Row]]:
    """Images per second of the ``ways`` (all of them where none is named), and the ratio to the competitor."""
    chosen = NETWORKS if network == "both" else (network,)
    return {
        f"{name}, images/s and the ratio to {TITLES[COMPETITOR]}": _of(name, rounds, ways, bool(busy))
        for name in chosen
    }


def _of(network: str, rounds: int, named: str, busy: bool) -> list[Row]:
    chosen = (COMPETITOR, *named.split(",")) if named else [way for way, _, _ in WAYS]
    ways = [each for each in WAYS if each[0] in chosen and harness.runs_here(each[0])]
    files = dict.fromkeys(name for way, _, _ in ways for name in needed(way))
    if missing := [name for name in files if not (harness.WORK / f"{network}-{name}").exists()]:
        harness.standin(network)
        harness.run("-c", "from benchmarks.inference import prepare; import sys; prepare(*sys.argv[1:])", network,
                    harness.WORK, *missing)  # fmt: skip
    workers = {each: Worker(each, network, busy) for each in dict.fromkeys(library for _, library, _ in ways)}
    seconds: dict[tuple[str, int], list[float]] = {(way, batch): [] for way, _, _ in ways for batch in CALLS}
    try:
        for batch, calls in CALLS.items():
            for number in range(rounds + 1):
                for way, library, _ in ways if number % 2 else reversed(ways):
                    taken = workers[library].seconds(way, batch, calls if number else 1)
                    if number:  # the first compiles, allocates, and does not count
                        seconds[way, batch].append(taken)
    finally:
        for worker in workers.values():
            worker.end()
    speed = {key: key[1] / statistics.median(values) for key, values in seconds.items()}
    rows: list[Row] = []
    for way, _, title in ways:
        rows.append({"way": title})
        for batch in CALLS:
            rows[-1] |= {
                f"batch {batch}": speed[way, batch],
                f"ratio {batch}": speed[way, batch] / speed[COMPETITOR, batch],
            }
    return rows


if __name__ == "__main__":
    harness.command(measure)
