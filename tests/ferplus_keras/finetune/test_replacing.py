"""What stands in a run's folder is kept until a new run is known to be sound, and no other run goes on with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ferplus_keras.cli import main
from ferplus_keras.finetune.folder import RunFolder
from ferplus_keras.finetune.recipe import load_recipe
from tests import ferplus_files

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(ferplus_files.write_pair(ferplus_files.small(64), tmp_path / "data"))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that was begun: its recipe and its record, and a file that it made."""
    folder = RunFolder(tmp_path / "run")
    folder.prepare(resume=False, overwrite=False)
    folder.write_text(folder.recipe, load_recipe("scratch", ["size=32"]).to_toml())
    folder.write_run({"options": {"arch": "resnet50", "labels": "ferplus"}, "identity": "another's"})
    (folder.path / "best.h5").write_text("twelve hours")
    return folder


def test_a_run_that_is_refused_replaces_nothing(run: RunFolder, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["finetune", "--data", data, "--size", "32", "--out", str(run.path), "--overwrite"]
    assert main([*command, "--set", "train_from=conv9_1"]) == 2
    assert "there is no such layer" in capsys.readouterr().err
    assert (run.path / "best.h5").read_text() == "twelve hours" and run.started


def test_a_run_without_a_checkpoint_is_resumed_as_it_was_begun(
    run: RunFolder, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = run.recipe.read_text()
    assert main(["finetune", "--resume", str(run.path), "--data", data, "--set", "learning_rate=0.5"]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert run.recipe.read_text() == before and not run.history.exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--arch", "senet50"], "with other values it is another run"),
        (["--limit", "10"], "with other values it is another run"),
        (["--formats", "keras"], "best.keras cannot be made again"),
        (["--formats", "h5"], ""),
    ],
)
def test_a_finished_run_does_not_pass_over_what_it_is_asked_for(
    options: list[str], told: str, run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (run.card, run.history, run.curves):
        path.write_text("here")
    run.write_release({"files": [{"path": "elsewhere/best.h5", "size": 12, "sha256": "0"}], "accuracy": [],
                       "folder": "elsewhere", "best_epoch": 1, "epochs": 1, "reason": "all epochs done"})  # fmt: skip
    code = main(["finetune", "--resume", str(run.path), "--json", *options])
    found = capsys.readouterr()
    assert code == (2 if told else 0), found.err
    assert told in found.err + found.out
    assert not told or json.loads(found.out)["error"]
