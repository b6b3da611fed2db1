"""Speed and memory of `.pth -> .h5` against the bare floor, each as a process of its own, in one run.

    python -m benchmarks.convert_speed [--rounds 9] [--json]

The floor (benchmarks/floor.py) copies the raw storages, transposes the kernels and writes the same datasets without
a single check. Targets: at most 1.5 x its time; peak memory at most 2.0 x the checkpoint; --help and inspect
below 0.5 s. The exit status does not depend on them: a busy machine is no defect.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from typing import Any

from benchmarks.measure import ROOT, alternating, machine, median, run
from benchmarks.standins import WORK, standin
from ferplus_keras.networks.architecture import NETWORKS


def measure(rounds: int) -> dict[str, Any]:
    rows = []
    for network in NETWORKS:
        for legacy in (True, False):
            source = standin(network, legacy=legacy)
            floor_source = standin(network, legacy=False)  # the floor reads the zip format only: the same numbers
            target, floor_target = WORK / f"{network}-standin.h5", WORK / "floor.h5"
            our, floor = alternating(
                rounds,
                partial(run, "-m", "convert", source, target),
                partial(run, ROOT / "benchmarks" / "floor.py", floor_source, floor_target),
                (target, floor_target),
            )
            rows.append(
                {
                    "network": network,
                    "format": "old" if legacy else "zip",
                    "seconds": our.seconds,
                    "floor_seconds": floor.seconds,
                    "time_ratio": our.seconds / floor.seconds,
                    "peak_bytes": our.peak,
                    "memory_ratio": our.peak / source.stat().st_size,
                    "floor_peak_bytes": floor.peak,
                }
            )
    source = standin("resnet50", legacy=True)
    commands = {
        "ferplus --help": [run("-m", "ferplus_keras.cli", "--help") for _ in range(rounds)],
        "ferplus inspect": [run("-m", "ferplus_keras.cli", "inspect", source) for _ in range(rounds)],
    }
    return {
        "machine": machine(),
        "rounds": rounds,
        "conversions": rows,
        "commands": {name: median(costs).seconds for name, costs in commands.items()},
    }


def as_text(result: dict[str, Any]) -> str:
    lines = [f"{result['machine']}; medians of {result['rounds']} runs, alternating", ""]
    lines.append("conversion            ours     floor    ratio   peak     x checkpoint")
    for row in result["conversions"]:
        lines.append(
            f"{row['network']} ({row['format']})".ljust(20)
            + f"{row['seconds']:6.2f} s {row['floor_seconds']:6.2f} s {row['time_ratio']:8.2f}"
            + f"{row['peak_bytes'] / 1e6:7.0f} MB {row['memory_ratio']:8.2f}"
        )
    lines += ["", *(f"{name:<16}  {seconds:.2f} s" for name, seconds in result["commands"].items())]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    result = measure(options.rounds)
    print(json.dumps(result, indent=2) if options.json else as_text(result))
    if not options.json:
        print(f"measured in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
