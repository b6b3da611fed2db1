"""Images per second of the converted Keras models at batch 32, against the same networks in eager PyTorch.

    python -m benchmarks.inference [--batch 32] [--json]

Each side is a process of its own with the same number of cores, started in turn, three times; the best median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, machine
from benchmarks.standins import WORK, standin
from convert.conversion import convert
from ferplus_keras.architecture import NETWORKS

STARTS = 3


def images_per_second(side: str, path: Path, batch: int, **environment: str) -> float:
    """The throughput of one side. Raises ``subprocess.CalledProcessError`` when it fails."""
    command = [sys.executable, str(ROOT / "benchmarks" / "inference_one.py"), side, str(path), str(batch)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    run = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(run.stdout.splitlines()[-1])["images_per_second"])


def measure(batch: int) -> dict[str, Any]:
    rows = []
    for network in NETWORKS:
        source = standin(network, legacy=True)
        model = WORK / f"{network}-standin.h5"
        convert(source, [model])
        torch_speed, keras_speed = 0.0, 0.0
        for _ in range(STARTS):
            torch_speed = max(torch_speed, images_per_second("torch", source, batch))
            keras_speed = max(keras_speed, images_per_second("keras", model, batch, KERAS_BACKEND="tensorflow"))
        rows.append(
            {"network": network, "keras": keras_speed, "torch": torch_speed, "ratio": keras_speed / torch_speed}
        )
    return {"machine": machine(), "batch": batch, "networks": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.batch)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['machine']}; batch {result['batch']}, images per second")
    print("network     Keras (TensorFlow)   eager PyTorch   ratio")
    for row in result["networks"]:
        print(f"{row['network']:<12}{row['keras']:>18.1f}{row['torch']:>16.1f}{row['ratio']:>8.2f}")


if __name__ == "__main__":
    main()
