"""Speed and memory of reading FERPlus and of evaluating on it.

    python -m benchmarks.accuracy_speed [--rounds 3] [--images 64] [--json]

Reading: Kaggle's full-size CSV (35,887 rows, 300 MB) and the labels, each run a process of its own: the first time
(target: 3 s), from the cache (target: 0.5 s), and, to hold that against, a plain loop over the same file with the csv
module and NumPy (which checks nothing). Evaluating: the share of the time that goes on the images (target: 5 % of the
network's), and the peak memory for some images and for four times as many.
"""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Row

PLAIN = """
import csv, sys
import numpy as np
with open(sys.argv[1] + "/fer2013.csv", newline="") as stream:
    images = [np.array(row["pixels"].split(), np.uint8) for row in csv.DictReader(stream)]
with open(sys.argv[1] + "/fer2013new.csv", newline="") as stream:
    votes = np.array([row[2:] for row in csv.reader(stream)][1:], np.uint8)
"""


def measure(rounds: int = 3, images: int = 64) -> dict[str, list[Row]]:
    """Reading and evaluating."""
    return {
        "reading fer2013.csv and the labels": [_reading(rounds)],
        "evaluating": [_evaluating(by, path, images) for by, path in _models().items()],
    }


def _reading(rounds: int) -> Row:
    folder, cache = harness.WORK / "kaggle", harness.WORK / "cache"
    if not (folder / "fer2013new.csv").exists():  # which is written last
        harness.child("kaggle", folder)
    first: list[list[float]] = []
    cached: list[list[float]] = []
    plain = []
    for _ in range(rounds):
        shutil.rmtree(cache, ignore_errors=True)
        for taken in (first, cached):
            taken.append(json.loads(harness.child("read_data", folder, FERPLUS_CACHE=str(cache)).output))
        plain.append(harness.run("-c", PLAIN, folder))
    seconds, of_processor = (statistics.median(each) for each in zip(*first, strict=True))
    alone = harness.median(plain).seconds
    return {
        "MB": (folder / "fer2013.csv").stat().st_size / 1e6, "first, s": seconds, "of processor, s": of_processor,
        "from the cache, s": statistics.median(wall for wall, _ in cached), "plain csv loop, s": alone,
        "ratio": alone / seconds,
    }  # fmt: skip


def _models() -> dict[str, Path]:
    source, model = harness.standin("resnet50", legacy=False), harness.WORK / "resnet50-standin.h5"
    if not model.exists():
        harness.run("-m", "convert", source, model)
    return {"PyTorch": source, "Keras": model}


def _evaluating(by: str, path: Path, images: int) -> Row:
    few, many = (harness.child("evaluate", path, count) for count in (images, 4 * images))
    data, network = json.loads(few.output)
    return {"by": by, "images": images, "on the images, s": data, "in the network, s": network,
            "share, %": 100 * data / network, "peak, MB": few.peak, "with 4 x, MB": many.peak}  # fmt: skip


if __name__ == "__main__":
    harness.command(measure)
