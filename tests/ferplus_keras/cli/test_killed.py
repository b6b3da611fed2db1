"""SIGKILL at a hundred random moments: what is under its own name is whole, and the next run ends as ever."""

from __future__ import annotations

import os
import random
import shutil
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

#: A command, the one that goes on with what it began, and what looks at the files that are there.
Killed = tuple[list[object], list[object], Callable[[], object]]


def converting(folder: Path, seeded_pth: Path) -> Killed:
    from convert.readers import read_checkpoint

    target = folder / "x.h5"
    command: list[object] = ["convert", seeded_pth, target]
    return command, command, lambda: target.exists() and read_checkpoint(target)


def predicting(folder: Path, _pth: Path) -> Killed:
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

    command: list[object] = ["predict", network, images, "--batch", 2, "--csv", table]
    return command, [*command, "--resume"], whole


def training(folder: Path, _pth: Path) -> Killed:
    from ferplus_keras.finetune.state import load_arrays

    found = painted([0, 1, 2, 3, 4, 5, 6, 7] * 3, [0] * 12 + [1] * 6 + [2] * 6)
    write_pair(Small.of(found), folder.parent / "data")
    small = ("--arch", "compact", "--size", 32, "--set", "epochs=4", "--set", "batch=4", "--backend", "tensorflow")

    def whole() -> None:
        for path in folder.glob("state/*.safetensors"):
            load_arrays(path)

    command: list[object] = ["finetune", "--data", folder.parent / "data", "--out", folder, "--recipe", "scratch"]
    return [*command, *small], ["finetune", "--resume", folder], whole


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize(("made", "times"), [(converting, 56), (predicting, 40), (training, 4)])
def test_killed_at_any_moment_nothing_is_half_there(
    made: Callable[[Path, Path], Killed], times: int, seeded_pth: Path, tmp_path: Path
) -> None:
    def next_command() -> list[object]:
        begun = any(folder.glob("*.partial")) or (folder / "run.json").exists()
        return going_on if begun else command

    folder = tmp_path / "out"
    folder.mkdir()
    command, going_on, whole = made(folder, seeded_pth)
    begin = time.monotonic()
    first = run_ferplus(*command)
    assert first.returncode == 0, first.stderr
    lasts, draw, killed = time.monotonic() - begin, random.Random(0), 0
    empty(folder)
    for _ in range(times):
        process = subprocess.Popen(
            [sys.executable, "-m", "ferplus_keras", *map(str, next_command())],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0, lasts))
        process.kill()
        errors = process.communicate()[1]
        assert process.returncode in (0, -signal.SIGKILL) and b"Traceback" not in errors, errors
        killed += process.returncode != 0
        whole()
        if not process.returncode:  # nothing is left that could be killed
            empty(folder)
    assert killed > times // 5
    last = run_ferplus(*next_command())
    assert last.returncode == 0, last.stderr
    whole()
    assert not [path for path in folder.rglob("*") if ".partial" in path.name]
