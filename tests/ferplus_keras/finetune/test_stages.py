"""Runs in stages and under teachers, by the compact network: it takes seconds where the large ones take minutes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from convert.conversion import convert
from ferplus_keras import EmotionClassifier
from ferplus_keras.dataset import Dataset
from ferplus_keras.errors import BadInputError
from ferplus_keras.finetune.augmentation import Augmentation
from ferplus_keras.finetune.examples import Examples, make_examples
from ferplus_keras.finetune.folder import RunFolder
from ferplus_keras.finetune.recipe import Recipe, load_recipe
from ferplus_keras.finetune.state import load_arrays
from ferplus_keras.finetune.teacher import Teacher, load_teacher
from ferplus_keras.finetune.training import Hooks, Run
from tests.conftest import ROOT, typed
from tests.ferplus_files import Small, write_pair
from tests.verify.oracles import painted

TRAINED = ROOT / "weights" / "trained" / "compact"

STAGED = """
base = "compact"
[training]
batch = 8
[[stage]]
epochs = 2
size = 32
[[stage]]
epochs = 1
size = 40
batch = 4
"""


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher(TRAINED, 8)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    path = tmp_path_factory.mktemp("recipes") / "staged.toml"
    path.write_text(STAGED)
    return load_recipe(path, network="compact")


@pytest.fixture(scope="module")
def examples() -> Examples:
    data = painted(list(range(8)) * 3, [0] * 12 + [1] * 6 + [2] * 6)
    return make_examples(data, load_recipe("compact").data)


class EndedError(Exception):
    """A run was ended from without."""


def folder_of(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.prepare(resume=False, overwrite=False)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(
    recipe: Recipe, examples: Examples, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory
) -> RunFolder:
    folder = folder_of(tmp_path_factory.mktemp("whole") / "run")
    outcome = Run("compact", recipe, examples, teachers=(teacher,)).train(folder)
    assert outcome.best_epoch == 3  # the best of the last stage, whatever the others had
    return folder


@pytest.mark.slow  # five runs; test_state.py resumes one in the small
@pytest.mark.parametrize("after", [1, 2])
def test_a_run_resumed_within_or_between_stages_ends_with_the_same_bits(
    after: int, uninterrupted: RunFolder, recipe: Recipe, examples: Examples, teacher: Teacher, tmp_path: Path
) -> None:
    broken = folder_of(tmp_path / "broken")

    def end(row: dict[str, object]) -> None:
        if row["epoch"] == after:
            raise EndedError

    with pytest.raises(EndedError):
        Run("compact", recipe, examples, hooks=Hooks(epoch=end), teachers=(teacher,)).train(broken)
    with pytest.raises(BadInputError, match="another run"):  # without its teacher it is one
        Run("compact", recipe, examples).train(broken, resume=True)
    Run("compact", recipe, examples, teachers=(teacher,)).train(broken, resume=True)

    first, second = load_arrays(uninterrupted.state), load_arrays(broken.state)
    assert first.arrays.keys() == second.arrays.keys()
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(second.arrays[name], array, err_msg=name)
    with broken.history.open() as file:
        rows = [(row["epoch"], row["stage"], row["size"]) for row in csv.DictReader(file)]
    assert rows == [("1", "1", "32"), ("2", "1", "32"), ("3", "2", "40")]


@pytest.mark.slow
def test_a_rehearsal_tells_each_stage_and_writes_nothing(recipe: Recipe, examples: Examples) -> None:
    found = Run("compact", recipe, examples).rehearse()
    assert [(stage.size, stage.epochs, stage.batch, stage.steps_per_epoch) for stage in found.stages] == [
        (32, 2, 8, 1), (40, 1, 4, 3),
    ]  # fmt: skip
    assert found.seconds == pytest.approx(sum(each.epochs * each.epoch_seconds for each in found.stages))
    assert all(stage.bytes > 4 * found.parameters for stage in found.stages)


def test_a_teacher_with_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="has 8 classes, and this run has 7"):
        load_teacher(TRAINED, 7)
    with pytest.raises(BadInputError, match="takes the folder of a `ferplus finetune` run"):
        load_teacher(tmp_path, 8)


@pytest.mark.slow
def test_a_run_of_the_compact_network_ends_in_files_like_every_run(tmp_path: Path) -> None:
    data = painted(list(range(8)) * 3, [0] * 12 + [1] * 6 + [2] * 6)
    write_pair(Small.of(data), tmp_path / "faces")
    run, small = tmp_path / "run", ("--size", 32, "--set", "epochs=1", "--set", "batch=4", "--set", "warmup_epochs=0")
    made = typed("finetune", "--arch", "compact", "--data", tmp_path / "faces", "--out", run, *small)
    assert made.returncode == 0, made.stderr
    assert {path.suffix for path in run.glob("best.*")} == {".h5", ".keras", ".pth", ".safetensors"}
    assert "ferplus verify accuracy" in (run / "accuracy" / "accuracy.json").read_text()
    for path in (run, run / "best.keras"):
        assert (found := EmotionClassifier(path)).network == "compact" and found.side == 32
    convert(run, tmp_path / "x.onnx")
    assert load_teacher(run, 8).size == 32


@pytest.mark.slow
def test_the_shipped_teacher_has_the_accuracy_that_its_card_says(ferplus: Dataset, teacher: Teacher) -> None:
    valid = make_examples(ferplus, load_recipe("compact").data).valid
    images = np.asarray(Augmentation(None, teacher.size)(valid.images))
    answers = teacher.model().predict(images, batch_size=256, verbose=0).argmax(axis=1)
    assert abs(int((answers == valid.labels).sum()) - 2878) <= 2  # of 3,318: 86.74 %
    recall = [(answers[valid.labels == label] == label).mean() for label in range(8)]
    np.testing.assert_allclose(recall, [0.87, 0.95, 0.91, 0.71, 0.85, 0.37, 0.66, 0.23], atol=0.05)
