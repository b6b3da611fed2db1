"""``python -m tests.fuzzing [SECONDS] [TARGET ...]``: coverage-guided fuzzing with Atheris, one target after the other.

What ends in anything but a reading or a :class:`BadInputError` is kept in ``tests/fuzzing/findings``, where a test of
every run replays it. Prints inputs, peak memory and findings of each target; exits with 1 when there is a finding.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FINDINGS = Path(__file__).parent / "findings"

SOW = """
import sys, pathlib
from tests.fuzzing.targets import TARGETS
for number, seed in enumerate(TARGETS[sys.argv[1]].seeds(pathlib.Path(sys.argv[2]))):
    pathlib.Path(sys.argv[3], str(number)).write_bytes(seed)
"""

#: The interpreter, NumPy and h5py take 100 MB, Atheris's tables some more; seeds have kilobytes.
MEGABYTES = 512


def main(words: list[str]) -> int:
    from tests.fuzzing.targets import TARGETS

    seconds = int(words.pop(0)) if words and words[0].isdigit() else 60
    FINDINGS.mkdir(exist_ok=True)
    found = 0
    for name in words or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder, "corpus")
            corpus.mkdir()
            # In a process of its own: Keras and PyTorch make seeds, and a child begins with its parent's peak.
            subprocess.run([sys.executable, "-c", SOW, name, folder, str(corpus)], check=True, capture_output=True)
            before = len(list(FINDINGS.glob(f"{name}-*")))
            run = subprocess.run(
                [sys.executable, "-c", "from tests.fuzzing.__main__ import child; child()", name, str(corpus),
                 f"-artifact_prefix={FINDINGS}/{name}-", f"-max_total_time={seconds}", "-timeout=10",
                 f"-rss_limit_mb={MEGABYTES}", "-print_final_stats=1", "-max_len=65536"],
                capture_output=True, text=True, errors="replace",
            )  # fmt: skip
        told = dict(re.findall(r"stat::(\w+):\s+(\d+)", run.stderr))
        new = len(list(FINDINGS.glob(f"{name}-*"))) - before
        print(f"{name:14} {told.get('number_of_executed_units', '?'):>9} inputs, peak "
              f"{told.get('peak_rss_mb', '?'):>4} MB, {new} findings", flush=True)  # fmt: skip
        if run.returncode:
            print(run.stderr[-3000:], flush=True)
        found += bool(run.returncode)
    return int(bool(found))


def child() -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["convert", "ferplus_keras"]):
        from tests.fuzzing.targets import TARGETS
    from ferplus_keras.errors import BadInputError

    target = TARGETS[sys.argv[1]]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder, "x")

        def once(data: bytes) -> None:
            with contextlib.suppress(BadInputError):
                target.read(data, path)

        atheris.Setup([sys.argv[0], *sys.argv[2:]], once)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
