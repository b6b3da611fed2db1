"""Run a command as a process of its own and say what it cost."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Cost:
    """Wall-clock seconds and peak resident memory in bytes of one process."""

    seconds: float
    peak: int


def run(*command: object, **environment: str) -> Cost:
    """The cost of ``python COMMAND...``. Raises ``SystemExit`` with its error output when it fails."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # both sides start from compiled modules, as installed ones do
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{errors.decode()}")
    return Cost(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))


def alternating(
    rounds: int, ours: Callable[[], Cost], other: Callable[[], Cost], leftovers: Iterable[Path] = ()
) -> tuple[Cost, Cost]:
    """The medians of our side and the other, run in turn ``rounds`` times; ``leftovers`` are removed after each.

    One more round comes first and does not count: it fills the page cache and compiles modules.
    """
    pairs = []
    for _ in range(rounds + 1):
        theirs = other()
        pairs.append((ours(), theirs))
        for path in leftovers:
            path.unlink()
    return median([our for our, _ in pairs[1:]]), median([their for _, their in pairs[1:]])


def median(costs: list[Cost]) -> Cost:
    """The median second and the highest peak."""
    return Cost(statistics.median(cost.seconds for cost in costs), max(cost.peak for cost in costs))


def machine() -> str:
    """The machine in a few words, for the head of a table of figures."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {model}, Python {platform.python_version()}"
