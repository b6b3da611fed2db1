"""It learns, shown on real faces; and what becomes of a run is a release like any other file of this project."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from ferplus_keras.finetune.recipe import load_recipe
from ferplus_keras.networks.emotions import EMOTIONS
from tests.conftest import run_ferplus
from tests.ferplus_keras.finetune.conftest import Learned

pytestmark = pytest.mark.slow  # a run of the command takes a minute; test_stages.py trains in the small


def test_it_tells_real_faces_apart_far_better_than_the_commonest_class_would(learned: Learned) -> None:
    """Eight standard errors beyond always saying the commonest class: no luck reaches that."""
    for rate in learned.told["accuracy"]:
        error = (rate["accuracy"] * (1 - rate["accuracy"]) / rate["n"]) ** 0.5
        assert rate["n"] == 1600
        assert rate["accuracy"] > rate["always_the_commonest"] + 8 * error, rate
    with (learned.folder / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in history]
    assert losses == sorted(losses, reverse=True)
    assert all(float(row["waiting_for_data"]) < 0.05 for row in history)


def kept(learned: Learned) -> list[str]:
    """What the run's networks are called: a best epoch that is the last is written once."""
    return ["best"] if learned.told["best_epoch"] == learned.told["epochs"] else ["best", "last"]


def test_the_folder_is_a_release(learned: Learned) -> None:
    names = {path.name for path in learned.folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        "recipe.toml", "run.json", "history.csv", "curves.svg", "state", "accuracy", "model-card.md",
        "release.json", *(f"{name}{suffix}" for name in kept(learned) for suffix in (".h5", ".safetensors")),
    }  # fmt: skip
    assert load_recipe(learned.folder / "recipe.toml").network.train_from == "classifier"
    record = json.loads((learned.folder / "run.json").read_text())
    assert record["versions"]["keras"] and record["seed"] == 0 and len(record["data"]) == 64
    assert record["start"]["name"] == "seeing.safetensors"
    card = (learned.folder / "model-card.md").read_text()
    assert card.startswith("---\nlibrary_name: keras\n") and 'EmotionClassifier("best.h5")' in card
    for told in (record["data"], "seeing.safetensors", "curves.svg", learned.told["files"][0]["sha256"], "1,600"):
        assert told in card
    report = json.loads((learned.folder / "accuracy" / "accuracy.json").read_text())
    assert [split["split"] for split in report["splits"]] == ["val", "test"] and not report["standin"]
    assert report["command"].startswith(f"ferplus verify accuracy {learned.folder / 'best.h5'} --data ")
    assert report["command"].endswith(" --split both --protocol albanie --limit 1600")


def test_the_files_say_how_they_were_trained(learned: Learned) -> None:
    from convert.readers import read_checkpoint

    best = read_checkpoint(learned.folder / "best.h5")
    told = best.provenance
    assert (told.network, told.units, told.labels, told.standin) == ("resnet50", 8, EMOTIONS, False)
    assert told.preprocessing["size"] == (32, 32)
    assert told.training is not None
    assert told.training["epoch"] == str(learned.told["best_epoch"]) and told.training["recipe"] == "small"
    assert told.training["start"] == "seeing.safetensors" and len(told.training["start_sha256"]) == 64
    other = read_checkpoint(learned.folder / "best.safetensors")
    assert other.provenance.training == told.training
    assert all(
        (other.arrays[layer][role] == array).all()
        for layer, roles in best.arrays.items()
        for role, array in roles.items()
    )


def test_frozen_layers_are_the_starts(learned: Learned) -> None:
    from convert.readers import read_checkpoint
    from tests.seeing import seeing_arrays

    found = read_checkpoint(learned.folder / f"{kept(learned)[-1]}.safetensors").arrays
    for layer, roles in seeing_arrays().items():
        for role, array in roles.items():
            assert (found[layer][role] == array).all(), (layer, role)


@pytest.mark.parametrize("name", ["best.h5", "best.safetensors"])
def test_the_accuracy_check_takes_the_files_at_the_size_that_they_were_trained_on(
    name: str, learned: Learned, ferplus_data: Path
) -> None:
    run = run_ferplus("verify", "accuracy", learned.folder / name, "--data", ferplus_data, "--split", "val",
                      "--limit", 400, "--json")  # fmt: skip
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert any("32 x 32" in note for note in result["notes"])
    assert result["splits"][0]["accuracy"] > result["splits"][0]["always_the_commonest"] + 0.04


def test_the_parity_check_takes_them(learned: Learned) -> None:
    run = run_ferplus("verify", "parity", learned.folder / "best.h5", "--against", learned.folder / "best.safetensors",
                      "--n", 1, "--json")  # fmt: skip
    assert run.returncode == 0, run.stderr + run.stdout
    assert json.loads(run.stdout)["passed"]


def test_a_finished_run_is_refused_and_can_be_a_start(learned: Learned, ferplus_data: Path) -> None:
    common = ("finetune", "--data", ferplus_data, "--limit", 16, "--size", 32)
    again = run_ferplus(*common, "--out", learned.folder)
    assert again.returncode == 2 and "--resume" in again.stderr and "--overwrite" in again.stderr
    other = run_ferplus("finetune", "--resume", learned.folder, "--set", "learning_rate=1", "--recipe", "albanie")
    assert other.returncode == 2 and "another run" in other.stderr and "To continue" not in other.stderr
    dry = run_ferplus(*common, "--weights", learned.folder, "--recipe", "wtomin", "--set", "epochs=4", "--dry-run",
                      "--set", "batch=4", "--json")  # fmt: skip
    assert dry.returncode == 0, dry.stderr
    plan = json.loads(dry.stdout)
    (stage,) = plan["stages"]
    assert (stage["size"], stage["steps_per_epoch"], stage["epochs"], plan["train_images"]) == (32, 4, 4, 16)
    assert 0 < plan["trained_parameters"] < plan["parameters"] and stage["bytes"] > 1e8


def test_a_finished_run_is_left_as_it_is(learned: Learned) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in learned.folder.rglob("*") if path.is_file()}

    before = files()
    run = run_ferplus("finetune", "--resume", learned.folder)
    assert run.returncode == 0 and run.stdout.startswith("finished already"), run.stderr
    assert files() == before
