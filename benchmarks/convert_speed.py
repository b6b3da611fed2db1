"""Speed and memory of `.pth -> .h5` against the bare floor, each as a process of its own, in one run.

    python -m benchmarks.convert_speed [--rounds 9] [--json]

The floor copies the raw storages, transposes the kernels and writes the same datasets without a single check. Targets:
at most 1.5 x its time; peak memory at most 2.0 x the checkpoint; --help and inspect below 0.5 s.
"""

from __future__ import annotations

from functools import partial

from benchmarks import harness
from benchmarks.harness import Row
from ferplus_keras.networks.architecture import NETWORKS


def measure(rounds: int = 9) -> dict[str, list[Row]]:
    """Both networks from both formats, and two commands."""
    rows = []
    for network in NETWORKS:
        for legacy in (True, False):
            source = harness.standin(network, legacy=legacy)
            plain = harness.standin(network, legacy=False)  # the floor reads the zip format only: the same numbers
            target, floor_target = harness.WORK / f"{network}-standin.h5", harness.WORK / "floor.h5"
            our, floor = harness.alternating(
                rounds, partial(harness.run, "-m", "convert", source, target),
                partial(harness.child, "floor", plain, floor_target), (target, floor_target),
            )  # fmt: skip
            megabytes = source.stat().st_size / 1e6
            rows.append(
                {"conversion": f"{network} ({'old' if legacy else 'zip'})", "ours, s": our.seconds,
                 "floor, s": floor.seconds, "ratio": our.seconds / floor.seconds, "peak, MB": our.peak,
                 "x checkpoint": our.peak / megabytes}
            )  # fmt: skip
    commands = {"--help": ("--help",), "inspect": ("inspect", harness.standin("resnet50"))}
    times = {
        name: harness.median([harness.run("-m", "ferplus_keras", *words) for _ in range(rounds)]).seconds
        for name, words in commands.items()
    }
    return {"medians, in turn": rows, "commands": [{"ferplus": name, "s": taken} for name, taken in times.items()]}


if __name__ == "__main__":
    harness.command(measure)
