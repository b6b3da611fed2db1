"""SIGKILL at a hundred random moments: what is under its own name is whole, and the next run ends as ever."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_ferplus
from tests.ferplus_files import Small, write_pair
from tests.ferplus_keras.predict.conftest import drawing
from tests.verify.oracles import painted


def converting(folder: Path, seeded_pth: Path) -> tuple[list[object], list[object], Callable[[], object]]:
    """A command, what is put behind it to go on, and what looks at the files that are there."""
    from convert.readers import read_checkpoint

    target = folder / "x.h5"
    return ["convert", seeded_pth, target], [], lambda: target.exists() and read_checkpoint(target)


def predicting(folder: Path, _pth: Path) -> tuple[list[object], list[object], Callable[[], object]]:
    from onnx import helper

    from tests.ferplus_keras.engines.small_onnx import small_onnx

    network = small_onnx(folder.parent / "x.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    images = folder.parent / "images"
    images.mkdir()
    for number in range(100):
        drawing(number).save(images / f"{number:03}.png")
    table = folder / "x.csv"

    def whole() -> None:
        if table.exists():
            assert table.read_bytes().count(b"\n") == 101

    return ["predict", network, images, "--batch", 2, "--csv", table], ["--resume"], whole


def training(folder: Path, _pth: Path) -> tuple[list[object], list[object], Callable[[], object]]:
    from convert.readers import read_checkpoint
    from ferplus_keras.finetune.state import load_arrays

    found = painted([0, 1, 2, 3, 4, 5, 6, 7] * 3, [0] * 12 + [1] * 6 + [2] * 6)
    write_pair(Small(found.images, found.votes, found.split, list(found.names)), folder.parent / "data")
    options = ("--arch", "compact", "--size", 32, "--formats", "safetensors", "--backend", "tensorflow")
    settings = ("--set", "epochs=20", "--set", "batch=4")

    def whole() -> None:
        for path in folder.glob("state/*.safetensors"):
            load_arrays(path)
        for path in folder.glob("*.safetensors"):
            read_checkpoint(path)

    command = ["finetune", "--data", folder.parent / "data", "--out", folder, "--recipe", "scratch"]
    return [*command, *options, *settings], ["--resume"], whole


@pytest.mark.slow
@pytest.mark.parametrize(("made", "times"), [(converting, 34), (predicting, 33), (training, 33)])
def test_killed_at_any_moment_nothing_is_half_there(
    made: Callable[..., tuple[list[object], list[object], Callable[[], object]]],
    times: int, seeded_pth: Path, tmp_path: Path,
) -> None:  # fmt: skip
    folder = tmp_path / "out"
    folder.mkdir()
    command, going_on, whole = made(folder, seeded_pth)
    begin = time.monotonic()
    first = run_ferplus(*command)
    assert first.returncode == 0, first.stderr
    lasts, draw, killed = time.monotonic() - begin, random.Random(0), 0
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    for _ in range(times):
        begun = going_on if any(folder.glob("*.partial")) or (folder / "run.json").exists() else []
        process = subprocess.Popen(
            [sys.executable, "-m", "ferplus_keras.cli", *map(str, [*command, *begun])],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0, lasts))
        process.kill()
        errors = process.communicate()[1]
        assert process.returncode in (0, -signal.SIGKILL) and b"Traceback" not in errors, errors
        killed += process.returncode != 0
        whole()
    assert killed > times // 3
    last = run_ferplus(*command, *(going_on if (folder / "run.json").exists() or any(folder.glob("*.partial")) else []))
    assert last.returncode == 0, last.stderr
    whole()
    assert not [path for path in folder.rglob("*") if ".partial" in path.name]
