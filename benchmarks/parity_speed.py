"""Seconds and peak memory of a full parity check, against the bare forward passes that it cannot do without.

    python -m benchmarks.parity_speed [--n 8] [--json]

The check: `ferplus verify parity` on TensorFlow, every layer, float64 and float32, every reference that is installed.
The alternative (benchmarks/parity_floor.py): the same images through the same two networks in both precisions, logits
only, nothing compared. Target: both networks within three minutes on two cores and 4 GiB.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmarks.measure import ROOT, machine, run
from benchmarks.standins import WORK, standin
from convert.conversion import convert
from ferplus_keras.networks.architecture import NETWORKS


def measure(images: int) -> dict[str, Any]:
    rows = []
    for network in NETWORKS:
        source, model = standin(network, legacy=True), WORK / f"{network}-standin.h5"
        convert(source, [model])
        floor = run(ROOT / "benchmarks" / "parity_floor.py", model, source, images)
        check = run(
            "-m", "verify", "parity", model, "--against", source, "--n", images, "--json", KERAS_BACKEND="tensorflow"
        )
        model.unlink()
        rows.append(
            {
                "network": network,
                "seconds": check.seconds,
                "peak_bytes": check.peak,
                "floor_seconds": floor.seconds,
                "ratio": check.seconds / floor.seconds,
            }
        )
    return {"machine": machine(), "images": images, "networks": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.n)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['machine']}; {result['images']} images, every layer, float64 and float32")
    print("network     check      peak   bare forward passes   ratio")
    for row in result["networks"]:
        print(
            f"{row['network']:<10}{row['seconds']:>5.0f} s{row['peak_bytes'] / 1e9:>7.1f} GB"
            f"{row['floor_seconds']:>20.0f} s{row['ratio']:>8.1f}"
        )


if __name__ == "__main__":
    main()
