"""Speed and memory of reading FERPlus and of evaluating on it.

    python -m benchmarks.accuracy_speed [--rounds 3] [--images 64] [--json]

Reading: Kaggle's full-size CSV (35,887 rows, 300 MB) and the labels, each run a process of its own: the first time
(target: 3 s), from the cache (target: 0.5 s), and, to hold that against, a plain loop over the same file with the csv
module and NumPy (which checks nothing). Evaluating: the share of the time that goes on the images (target: 5 % of the
network's), and the peak memory for some images and for four times as many. The exit status does not depend on any
of it: a busy machine is no defect.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.kaggle_csv import kaggle_pair
from benchmarks.measure import ROOT, Cost, machine, median, run
from benchmarks.standins import WORK, standin

#: What a process does to read the data, and what it says: seconds in this project's code, and in the processor.
READ = """
import sys, time
wall, busy = time.perf_counter(), time.process_time()
from ferplus_keras.dataset import load_ferplus
load_ferplus(sys.argv[1])
print(time.perf_counter() - wall, time.process_time() - busy)
"""

PLAIN = """
import csv, sys
import numpy as np
with open(sys.argv[1] + "/fer2013.csv", newline="") as stream:
    images = [np.array(row["pixels"].split(), np.uint8) for row in csv.DictReader(stream)]
with open(sys.argv[1] + "/fer2013new.csv", newline="") as stream:
    votes = np.array([row[2:] for row in csv.reader(stream)][1:], np.uint8)
"""

EVALUATE = """
import json, sys
import numpy as np
from ferplus_keras.dataset import Dataset
from ferplus_keras.dataset.protocols import PROTOCOLS
from verify.accuracy import evaluate
from verify.predictors import open_predictor
count = int(sys.argv[2])
generator = np.random.default_rng(0)
images = generator.integers(0, 256, (count, 48, 48), dtype=np.uint8)
votes = np.zeros((count, 10), np.uint8)
votes[:, 0] = 10
names = tuple(map(str, range(count)))
dataset = Dataset(images, votes, np.full(count, 2, np.uint8), names, "made up", count, "made up")
predictor = open_predictor(sys.argv[1])
evaluate(predictor, dataset, PROTOCOLS["albanie"], limit=predictor.batch)  # compiled, caches filled
found = evaluate(predictor, dataset, PROTOCOLS["albanie"]).splits[0].predictions
print(json.dumps({"data": found.data_seconds, "network": found.network_seconds}))
"""


def reading(rounds: int) -> dict[str, Any]:
    folder, cache = kaggle_pair(), WORK / "cache"
    first, cached, plain = [], [], []
    for _ in range(rounds):
        shutil.rmtree(cache, ignore_errors=True)
        first.append(_read(folder, cache))
        cached.append(_read(folder, cache))
        plain.append(run("-c", PLAIN, folder))
    return {
        "megabytes": (folder / "fer2013.csv").stat().st_size / 1e6,
        "first_seconds": statistics.median(wall for wall, _ in first),
        "first_processor_seconds": statistics.median(busy for _, busy in first),
        "cached_seconds": statistics.median(wall for wall, _ in cached),
        "plain_seconds": median(plain).seconds,
    }


def _read(folder: Path, cache: Path) -> tuple[float, float]:
    output = _output(READ, folder, FERPLUS_CACHE=str(cache))
    wall, busy = map(float, output.split())
    return wall, busy


def evaluating(images: int) -> list[dict[str, Any]]:
    source = standin("resnet50", legacy=False)
    keras_file = WORK / "resnet50-standin.h5"
    if not keras_file.exists():
        run("-m", "convert", source, keras_file)
    rows = []
    for by, path in (("PyTorch", source), ("Keras", keras_file)):
        few = json.loads(_output(EVALUATE, path, images))
        costs: list[Cost] = [run("-c", EVALUATE, path, count) for count in (images, 4 * images)]
        rows.append(
            {"by": by, "images": images, "data_seconds": few["data"], "network_seconds": few["network"],
             "ratio": few["data"] / few["network"], "peak_bytes": costs[0].peak, "peak_bytes_of_4": costs[1].peak}
        )  # fmt: skip
    return rows


def _output(code: str, *arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )  # fmt: skip
    return done.stdout.strip().splitlines()[-1]


def as_text(result: dict[str, Any]) -> str:
    read = result["reading"]
    lines = [
        result["machine"], "",
        f"reading fer2013.csv ({read['megabytes']:.0f} MB) and the labels",
        f"  the first time    {read['first_seconds']:6.2f} s   ({read['first_processor_seconds']:.2f} s of processor)",
        f"  from the cache    {read['cached_seconds']:6.2f} s",
        f"  a plain csv loop  {read['plain_seconds']:6.2f} s   ({read['plain_seconds'] / read['first_seconds']:.1f} x)",
        "", "evaluating       images   on the images   in the network    ratio   peak, and with 4 x",
    ]  # fmt: skip
    for row in result["evaluating"]:
        lines.append(
            f"  {row['by']:<14} {row['images']:>6} {row['data_seconds']:>14.2f} s {row['network_seconds']:>14.1f} s"
            f" {row['ratio']:>9.1%}  {row['peak_bytes'] / 1e6:.0f} MB, {row['peak_bytes_of_4'] / 1e6:.0f} MB"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    result = {"machine": machine(), "reading": reading(options.rounds), "evaluating": evaluating(options.images)}
    print(json.dumps(result, indent=2) if options.json else as_text(result))
    if not options.json:
        print(f"measured in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
