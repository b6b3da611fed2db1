"""What every benchmark is made of: processes and what they cost, the command line, tables of what was measured.

The exit status never depends on a figure: a busy machine is no defect.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferplus_keras.wording import in_columns

ROOT = Path(__file__).resolve().parent.parent

#: Stand-ins and whatever else takes time to make; made once.
WORK = ROOT / "benchmarks" / ".work"

#: A line of a table: what stands in each column, by its heading.
Row = dict[str, Any]


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock and peak resident memory in MB of one process, and the last line that it printed."""

    seconds: float
    peak: float
    output: str = ""


def run(*words: object, **environment: str) -> Cost:
    """The cost of ``python WORDS...``. Raises ``SystemExit`` with its error output when it fails."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # both sides start from compiled modules, as installed ones do
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, words)], env=variables, stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdout is not None
        output = process.stdout.read().decode().strip()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            errors.seek(0)
            raise SystemExit(f"{' '.join(map(str, words))} failed:\n{errors.read().decode()}")
    peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
    return Cost(seconds, peak, output.rpartition("\n")[2])


def child(task: str, *arguments: object, **environment: str) -> Cost:
    """The cost of a function of :mod:`benchmarks.children` in a process of its own."""
    return run("-m", "benchmarks.children", task, *arguments, **environment)


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


def standin(network: str, *, legacy: bool = True) -> Path:
    """A full-size stand-in of ``network`` in the old torch.save format or in the zip one, made once."""
    path = WORK / f"{network}-{'legacy' if legacy else 'zip'}-standin.pth"
    if not path.exists():
        WORK.mkdir(exist_ok=True)
        # In a process of its own: a child's peak memory counts from its parent's, and PyTorch is large.
        child("standin", network, path, int(legacy))
    return path


def runs_here(way: str) -> bool:
    """Whether this processor has what ``way`` computes in: bfloat16, for those called so."""
    from ferplus_keras.finetune.devices import cpu_has_bfloat16

    return not way.endswith("-bf16") or cpu_has_bfloat16()


def command(measure: Callable[..., dict[str, list[Row]]]) -> None:
    """Run ``measure`` from the command line: its parameters are the options, its tables are printed, or are JSON."""
    parser = argparse.ArgumentParser(
        description=sys.modules[measure.__module__].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, parameter in inspect.signature(measure).parameters.items():
        parser.add_argument(f"--{name}", type=type(parameter.default), default=parameter.default)
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args())
    as_json = options.pop("json")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    start = time.perf_counter()
    tables = measure(**options)
    print(json.dumps({"machine": machine()} | tables, indent=2) if as_json else f"{machine()}{as_text(tables)}")
    if not as_json:
        print(f"\nmeasured in {time.perf_counter() - start:.0f} s")


def as_text(tables: dict[str, list[Row]]) -> str:
    """Each table under its title."""
    lines = []
    for title, rows in tables.items():
        cells = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
        lines += ["", "", title, *in_columns(cells)]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    return str(value)


def machine() -> str:
    """The machine in a few words."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {model}, Python {platform.python_version()}"
