"""The checkpoints that the benchmarks run on: full-size stand-ins, made once into benchmarks/.work."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measure import run
from convert.checkpoint import STANDIN
from convert.manifest import read_manifest

WORK = Path(__file__).resolve().parent / ".work"


def standin(network: str, *, legacy: bool) -> Path:
    """A stand-in of ``network`` in the old torch.save format or in the zip one."""
    path = WORK / f"{network}-{'legacy' if legacy else 'zip'}-{STANDIN}.pth"
    if not path.exists():
        # In a process of its own: a child's peak memory counts from its parent's, and PyTorch is large.
        run("-m", "benchmarks.standins", network, path, legacy)
    return path


if __name__ == "__main__":
    from convert.standin import write_standin

    network, path, legacy = sys.argv[1:]
    write_standin(read_manifest()[f"{network}_ferplus"], Path(path), legacy=legacy == "True")
