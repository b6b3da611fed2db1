"""A run that is killed goes on to the same bits as one that is not. The processes are real, and so is the signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, run_ferplus
from tests.ferplus_files import Small, write_pair
from tests.small import python_path
from tests.verify.oracles import painted

pytestmark = pytest.mark.usefixtures("small")

#: Everything that has a state: momenta, averages, dropout, augmentation, mixing, redrawn targets, a plateau.
OPTIONS = (
    "--recipe", "scratch", "--size", "32", "--formats", "safetensors", "--backend", "tensorflow",
    "--set", "epochs=3", "--set", "batch=4", "--set", "kind=plateau", "--set", "warmup_epochs=0", "--set", "ema=0.9",
    "--set", "target=probability", "--set", "plateau_patience=1", "--set", "learning_rate=0.001",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    found = painted([0, 1, 2, 3, 4, 5, 6, 7] * 3, [0] * 12 + [1] * 6 + [2] * 6)
    votes = np.roll(found.votes[:, :8], 1, axis=1) // 10 * 4 + found.votes[:, :8] // 10 * 6  # people disagree
    votes = np.pad(votes, ((0, 0), (0, 2)))
    write_pair(Small(found.images, votes, found.split, list(found.names)), folder)
    return folder


def begin(data: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ferplus_keras", "finetune", "--data", str(data), "--out", str(out), *OPTIONS],
        env={**os.environ, "PYTHONPATH": python_path()}, cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not there():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.02)


def arrays(folder: Path, name: str) -> dict[str, bytes]:
    from safetensors.numpy import load_file

    return {key: array.tobytes() for key, array in load_file(folder / name).items()}


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    process = begin(data, folder)
    _, said = process.communicate()
    assert process.returncode == 0, said
    return folder


@pytest.mark.slow
def test_killed_twice_and_gone_on_with_it_is_the_same_to_the_last_bit(
    data: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = begin(data, folder)
    state = folder / "state" / "state.safetensors"
    wait_for(state.exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = json.loads((folder / "run.json").read_text())
    # Once more, in the midst of writing: the second checkpoint is half there under its temporary name.
    again = subprocess.Popen(
        [sys.executable, "-m", "ferplus_keras", "finetune", "--resume", str(folder)],
        env={**os.environ, "PYTHONPATH": python_path()}, cwd=ROOT, text=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    wait_for(lambda: bool(list(state.parent.glob(".partial-*"))) or (folder / "best.safetensors").exists(), again)
    again.send_signal(signal.SIGKILL)
    again.wait()
    last = run_ferplus("finetune", "--resume", folder)
    assert last.returncode == 0, last.stderr
    names = [name for name in ("best.safetensors", "last.safetensors") if (uninterrupted / name).exists()]
    for name in (*names, "state/state.safetensors"):
        assert arrays(folder, name) == arrays(uninterrupted, name), name
    assert not list(state.parent.glob(".partial-*"))
    assert json.loads((folder / "run.json").read_text()) == first


@pytest.mark.slow
def test_a_run_that_is_asked_to_end_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = begin(data, folder)
    wait_for((folder / "curves.svg").exists, process)
    process.send_signal(signal.SIGTERM)  # Ctrl-C ends in the same way: test_endings.py
    _, said = process.communicate()
    assert process.returncode == 143, said
    assert f"ferplus finetune --resume {folder}" in said and "Traceback" not in said
    from ferplus_keras.finetune.state import load_arrays

    assert len(load_arrays(folder / "state" / "state.safetensors").record["history"]) >= 1
