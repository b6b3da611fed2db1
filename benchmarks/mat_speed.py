"""Speed and memory of `.mat -> .h5` against SciPy or h5py alone reading the same file, in one run.

    python -m benchmarks.mat_speed [--rounds 5] [--json]

Each side is a process of its own. The other side does one thing: ``scipy.io.loadmat`` (MATLAB 5, plain and
compressed), or a walk through the file with h5py that follows every reference and reads every array (7.3). Ours finds
the network, checks it, turns moments into variances, and writes and reads back a whole Keras model. Target: at most
2 x the time.
"""

from __future__ import annotations

from functools import partial

from benchmarks import harness
from benchmarks.harness import Row

LOADMAT = "import sys, scipy.io; scipy.io.loadmat(sys.argv[1])"

WALK = """
import sys, h5py
def read(file, item):
    if isinstance(item, h5py.Group):
        return {name: read(file, item[name]) for name in item if name != "#refs#"}
    if item.dtype == h5py.ref_dtype:
        return [read(file, file[reference]) for reference in item[()].reshape(-1)]
    return item[()]
with h5py.File(sys.argv[1], "r") as file:
    read(file, file)
"""

#: Form of the file -> what reads it alone.
FORMS = {"5": LOADMAT, "5-compressed": LOADMAT, "7.3": WALK}


def measure(rounds: int = 5) -> dict[str, list[Row]]:
    """ResNet50 in each form of MATLAB file."""
    rows = []
    for form, alone in FORMS.items():
        source, target = harness.WORK / f"resnet50-{form}-standin.mat", harness.WORK / "from-mat-standin.h5"
        if not source.exists():
            harness.child("mat", form, harness.standin("resnet50"), source)
        our, their = harness.alternating(
            rounds, partial(harness.run, "-m", "convert", source, target),
            partial(harness.run, "-c", alone, source), (target,),
        )  # fmt: skip
        rows.append(
            {".mat": form, "MB": source.stat().st_size / 1e6, "ours, s": our.seconds, "reading alone, s": their.seconds,
             "ratio": our.seconds / their.seconds, "peak, MB": our.peak, "alone, MB": their.peak}
        )  # fmt: skip
    return {"medians, in turn": rows}


if __name__ == "__main__":
    harness.command(measure)
