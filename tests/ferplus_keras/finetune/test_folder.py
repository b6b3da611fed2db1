"""A run's folder, its state file and its curves: whole or not at all, and nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.files.budget import TEXT_BYTES
from ferplus_keras.finetune.curves import learning_curves
from ferplus_keras.finetune.folder import RunFolder, locked
from ferplus_keras.finetune.state import load_arrays, save_arrays
from ferplus_keras.finetune.teacher import load_teacher
from tests.conftest import ROOT


def begun(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.prepare(resume=False, overwrite=False)
    folder.write_run({"options": {}})
    return folder


def test_a_second_run_is_refused_where_one_is(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    save_arrays(folder.best(3), {"a/b": np.zeros(2, np.float32)}, {})
    with pytest.raises(BadInputError, match=r"--resume.*--overwrite"):
        folder.prepare(resume=False, overwrite=False)
    folder.prepare(resume=True, overwrite=False)
    assert folder.best(3).exists()
    folder.prepare(resume=False, overwrite=True)
    assert folder.best(3).exists() and folder.started  # until the new one is known to be sound
    folder.clear()
    assert not folder.best(3).exists() and not folder.started
    with pytest.raises(BadInputError, match="no run"):
        folder.prepare(resume=True, overwrite=False)


def test_nobody_else_trains_in_the_folder_meanwhile(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom ferplus_keras.finetune.folder import RunFolder, locked\n"
        "with locked(RunFolder(pathlib.Path(sys.argv[1]))):\n    print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             cwd=ROOT)  # fmt: skip
    try:
        assert other.stdout is not None and other.stdout.readline() == b"in\n"
        with pytest.raises(OutputError, match=f"being written by process {other.pid}"), locked(RunFolder(tmp_path)):
            pass
    finally:
        other.kill()  # without a chance to tidy up: the lock goes with the process
        other.wait()
    with locked(RunFolder(tmp_path)):
        pass


def test_a_place_that_cannot_hold_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        RunFolder(tmp_path / "file").prepare(resume=False, overwrite=False)
    with pytest.raises(OutputError), locked(RunFolder(tmp_path / "file" / "below")):
        pass


def test_arrays_keep_their_bits_and_shapes(tmp_path: Path) -> None:
    arrays = {
        "scalar": np.array(3, np.int64), "state": np.array([1, 2], np.uint32),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T, "odd": np.array([np.nan, -0.0, 1e-45], np.float32),
    }  # fmt: skip
    record = {"history": [{"val_loss": 0.1 + 0.2, "loss": None}]}
    save_arrays(tmp_path / "x.safetensors", arrays, record)
    saved = load_arrays(tmp_path / "x.safetensors")
    assert saved.record == record
    for name, array in arrays.items():
        assert saved.arrays[name].dtype == array.dtype and saved.arrays[name].shape == array.shape
        assert saved.arrays[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 100,
        lambda data: data.replace(b"ferplus_keras_run", b"somebody_elses_no"),
    ],
)  # fmt: skip
def test_a_damaged_state_is_said_to_be_one(damage: object, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_arrays(path, {"a": np.zeros(100, np.float32)}, {})
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(BadInputError, match="damaged"):
        load_arrays(path)
    with pytest.raises(BadInputError, match="first checkpoint"):
        load_arrays(tmp_path / "none.safetensors")


def test_a_run_is_opened_like_any_other_file(tmp_path: Path) -> None:
    """A pipe is not waited for, a header of megabytes not parsed, and a record of the wrong kind is no traceback."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInputError, match="a named pipe"):
        load_arrays(tmp_path / "pipe")
    save_arrays(tmp_path / "long.safetensors", {"a": np.zeros(1)}, {"history": ["x" * TEXT_BYTES]})
    with pytest.raises(BadInputError, match="its header has"):
        load_arrays(tmp_path / "long.safetensors")
    folder = RunFolder(tmp_path)
    for record in ("[", "[" * 99_999, "[1]", "x" * (TEXT_BYTES + 1), '{"options": 7}', '{"options": {"arch": "vgg"}}'):
        folder.run.write_text(record)
        with pytest.raises(BadInputError, match=r"run\.json"):
            load_teacher(tmp_path, 8)
    folder.run.write_text('{"options": {"arch": "resnet50"}}')
    folder.states.mkdir()
    save_arrays(folder.best(1), {"classifier": np.zeros(8)}, {})
    with pytest.raises(BadInputError, match="has 0 classes"):
        load_teacher(tmp_path, 8)


def test_a_full_disk_leaves_the_state_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.numpy

    path = tmp_path / "x.safetensors"
    save_arrays(path, {"a": np.zeros(2, np.float32)}, {"epoch": 1})
    before = path.read_bytes()

    def full(_arrays: object, target: Path, _metadata: object) -> None:
        Path(target).write_bytes(b"half")
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OutputError, match=r"disk is full.*unchanged"):
        save_arrays(path, {"a": np.ones(2, np.float32)}, {"epoch": 2})
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == [path.name]


def test_only_the_best_weights_are_kept(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    for epoch in (1, 2):
        folder.best(epoch).write_bytes(b"x")
    (folder.states / ".partial-1-best-0003.safetensors").write_bytes(b"killed")
    folder.forget_other_bests(2)
    assert [path.name for path in folder.states.iterdir()] == ["best-0002.safetensors"]


@pytest.mark.parametrize("epochs", [0, 1, 2, 40])
def test_the_curves_are_an_image(epochs: int) -> None:
    history = [
        {"loss": 2.0 / (number + 1), "val_loss": None if number == 1 else 1.5, "val_accuracy": 0.3 + number / 100}
        for number in range(epochs)
    ]  # fmt: skip
    root = ElementTree.fromstring(learning_curves(history, "a & b", 0.38))
    lines = [each for each in root.iter() if each.tag.endswith("polyline")]
    assert [len(line.attrib["points"].split()) for line in lines] == [epochs, max(0, epochs - (epochs > 1)), epochs]
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 720 and 0 <= y <= 460
    words = [each.text for each in root.iter() if each.tag.endswith("text")]
    assert "always the commonest class: 38.0 %" in words
    best = [f"best accuracy: {29 + epochs}.0 %, epoch {epochs}"] if epochs else []
    assert [word for word in words if word and "best" in word] == best
    axis = {0: "1", 1: "1", 2: "1 2", 40: "1 5 10 15 20 25 30 35 40"}
    assert words[words.index("epoch") + 1 :] == axis[epochs].split()


@pytest.mark.parametrize("best, epochs", [(2, {"best": 2, "last": 3}), (3, {"best": 3})])
def test_a_best_epoch_that_is_the_last_is_kept_once(best: int, epochs: dict[str, int], tmp_path: Path) -> None:
    from ferplus_keras.finetune.training import FinishedRun

    folder = RunFolder(tmp_path)
    run = FinishedRun([{}, {}, {}], best, folder.best(best), folder.last, "all epochs done")
    assert {name: epoch for name, (_, epoch) in run.kept.items()} == epochs
