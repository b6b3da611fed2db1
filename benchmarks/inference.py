"""Images per second, every way in which a converted network can be run, at batch 1 and at batch 32.

    python -m benchmarks.inference [--network senet50] [--ways onnx-torch,openvino] [--busy] [--rounds 3] [--json]

The named competitor is ONNX Runtime on PyTorch's own export (torch.onnx.export) of the same network. Each library has
one process with all its ways loaded, and they are run in turn, way by way and round by round, so that whatever else the
machine does meanwhile falls on all of them; every second round goes backwards, so that none always runs behind the same
other one. The median of the rounds counts. All take as many threads as there are cores; all end in the softmax.
``--busy`` is for a machine that does other work: one thread each, and processor time instead of the clock's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.measure import ROOT, machine, run
from benchmarks.standins import WORK, standin
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

#: Calls that one measurement takes the mean of: at batch 1 a call is a tenth of a second.
CALLS = {1: 5, 32: 1}


class Worker:
    """A library in a process of its own, which runs one way once when it is told to."""

    def __init__(self, library: str, network: str, busy: bool) -> None:
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
        variables |= {"BUSY": "1", "OMP_NUM_THREADS": "1"} if busy else {}
        command = [sys.executable, str(ROOT / "benchmarks" / "inference_one.py"), library, network, str(WORK)]
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


def prepared(network: str, files: Iterable[str]) -> None:
    """Make ``files``, in a process of their own, where they are not there from an earlier time."""
    if missing := [name for name in dict.fromkeys(files) if not (WORK / f"{network}-{name}").exists()]:
        standin(network, legacy=True)
        run("-m", "benchmarks.inference", "--prepare", network, "--ways", ",".join(missing))


def needed(way: str) -> list[str]:
    """The files that a way runs."""
    folded = "folded-" if way.endswith("-folded") else ""
    if way.startswith("tflite"):
        return ["int8.tflite" if way == "tflite-int8" else "folded.tflite"]
    if way == COMPETITOR:
        return ["torch.onnx"]
    return [f"{folded}standin.{'onnx' if way.startswith(('onnx', 'openvino')) else 'h5'}"]


def prepare(network: str, files: Sequence[str]) -> None:
    import torch

    from convert.conversion import convert
    from convert.exporters import Recipe, export
    from convert.readers import read_checkpoint
    from verify.images import natural_images, natural_pixels
    from verify.references.torch_reference import reference_module

    source = standin(network, legacy=True)
    for name in files:
        if "standin" in name:
            convert(source, [WORK / f"{network}-{name}"], folded=name.startswith("folded"))
    checkpoint = read_checkpoint(source)
    if "torch.onnx" in files:
        module = torch.nn.Sequential(reference_module(checkpoint, "float32"), torch.nn.Softmax(dim=1)).eval()
        torch.onnx.export(
            module, (natural_images(2),), WORK / f"{network}-torch.onnx", external_data=False,
            dynamic_shapes=({0: torch.export.Dim("N")},), verbose=False,
        )  # fmt: skip
    for name in (each for each in files if each.endswith(".tflite")):
        int8 = name.startswith("int8")
        recipe = Recipe("tflite", "int8" if int8 else "none", folded=True)
        export(checkpoint, recipe, WORK / f"{network}-{name}", calibration=natural_pixels(16, seed=5) if int8 else None)


def measure(
    network: str, rounds: int, batches: tuple[int, ...] = (1, 32), names: Sequence[str] = (), busy: bool = False
) -> dict[str, Any]:
    ways = [each for each in WAYS if not names or each[0] in (COMPETITOR, *names)]
    prepared(network, [name for way, _, _ in ways for name in needed(way)])
    workers = {each: Worker(each, network, busy) for each in dict.fromkeys(library for _, library, _ in ways)}
    seconds: dict[tuple[str, int], list[float]] = {}
    try:
        for batch in batches:
            for number in range(rounds + 1):
                for way, library, _ in ways if number % 2 else reversed(ways):
                    taken = workers[library].seconds(way, batch, CALLS.get(batch, 1) if number else 1)
                    if number:  # the first compiles, allocates, and does not count
                        seconds.setdefault((way, batch), []).append(taken)
    finally:
        for worker in workers.values():
            worker.end()
    speed = {key: key[1] / statistics.median(values) for key, values in seconds.items()}
    rows = [
        {"way": way, "title": title} | {
            str(batch): {"images_per_second": speed[way, batch], "ratio": speed[way, batch] / speed[COMPETITOR, batch]}
            for batch in batches
        }
        for way, _, title in ways
    ]  # fmt: skip
    return {"network": network, "batches": list(batches), "rounds": rounds, "ways": rows}


def table(result: dict[str, Any]) -> str:
    batches = result["batches"]
    head = f"{result['network']:<36}" + "".join(f"{f'batch {batch}':>12}{'ratio':>8}" for batch in batches)
    lines = [head]
    for row in result["ways"]:
        cells = (row[str(batch)] for batch in batches)
        figures = "".join(f"{cell['images_per_second']:>12.1f}{cell['ratio']:>8.2f}" for cell in cells)
        lines.append(f"{row['title']:<36}{figures}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=(*NETWORKS, "both"), default="resnet50")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--ways", type=lambda text: text.split(","), default=[], help=", ".join(way for way, _, _ in WAYS)
    )
    parser.add_argument("--busy", action="store_true", help="one thread each, and processor time")
    parser.add_argument("--prepare", choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare, options.ways)
        return
    networks = NETWORKS if options.network == "both" else (options.network,)
    results = [measure(each, options.rounds, names=options.ways, busy=options.busy) for each in networks]
    if options.json:
        print(json.dumps({"machine": machine(), "networks": results}, indent=2))
        return
    print(f"{machine()}; images per second, and the ratio to ONNX Runtime on PyTorch's own export")
    print("\n\n".join(map(table, results)))


if __name__ == "__main__":
    main()
