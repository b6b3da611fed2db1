"""Speed and memory of `.mat -> .h5` against SciPy or h5py alone reading the same file, in one run.

    python -m benchmarks.mat_speed [--rounds 5] [--json]

Each side is a process of its own. The other side does one thing: ``scipy.io.loadmat`` (MATLAB 5, plain and
compressed), or a walk through the file with h5py that follows every reference and reads every array (7.3). Ours finds
the network, checks it, turns moments into variances, and writes and reads back a whole Keras model. Target: at most
2 x the time. The exit status does not depend on it: a busy machine is no defect.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import alternating, machine, run
from benchmarks.standins import WORK, standin

NETWORK = "resnet50"

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


def mat_file(form: str) -> Path:
    """The stand-in as a MATLAB file of that form, as MatConvNet's own tools lay it out; made once."""
    path = WORK / f"{NETWORK}-{form}-standin.mat"
    if not path.exists():
        run("-m", "benchmarks.mat_speed", "--make", form, standin(NETWORK, legacy=True), path)
    return path


def make(form: str, source: str, path: str) -> None:
    from convert.readers import read_checkpoint
    from tests.mat_files import imported, save_level5, save_level73

    network = imported(read_checkpoint(source).arrays, dropout=0.5)
    if form == "7.3":
        save_level73(Path(path), network)
    else:
        save_level5(Path(path), network, compress=form == "5-compressed")


def measure(rounds: int) -> dict[str, Any]:
    rows = []
    for form, alone in FORMS.items():
        source, target = mat_file(form), WORK / "from-mat-standin.h5"
        our, their = alternating(
            rounds, partial(run, "-m", "convert", source, target), partial(run, "-c", alone, source), (target,)
        )
        rows.append(
            {
                "form": form,
                "file_bytes": source.stat().st_size,
                "seconds": our.seconds,
                "alone_seconds": their.seconds,
                "time_ratio": our.seconds / their.seconds,
                "peak_bytes": our.peak,
                "alone_peak_bytes": their.peak,
            }
        )
    return {"machine": machine(), "rounds": rounds, "network": NETWORK, "conversions": rows}


def as_text(result: dict[str, Any]) -> str:
    lines = [f"{result['machine']}; medians of {result['rounds']} runs, alternating", ""]
    lines.append(f"{'.mat -> .h5':<14}  file      ours     reading alone  ratio  peak     peak alone")
    for row in result["conversions"]:
        lines.append(
            f"{row['form']:<14}  {row['file_bytes'] / 1e6:4.0f} MB  {row['seconds']:5.2f} s"
            f"  {row['alone_seconds']:11.2f} s  {row['time_ratio']:5.2f}"
            f"  {row['peak_bytes'] / 1e6:4.0f} MB  {row['alone_peak_bytes'] / 1e6:7.0f} MB"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(*options.make)
        return
    result = measure(options.rounds)
    print(json.dumps(result, indent=2) if options.json else as_text(result))


if __name__ == "__main__":
    main()
