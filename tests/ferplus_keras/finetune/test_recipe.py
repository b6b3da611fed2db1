"""Recipes: what ships with the package, what may be changed, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferplus_keras.errors import BadInputError
from ferplus_keras.finetune.recipe import RECIPES, load_recipe
from ferplus_keras.finetune.settings import AugmentationSettings


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("network", ["resnet50", "senet50"])
def test_the_resolved_recipe_is_itself_a_recipe(name: str, network: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["layer_factors={'conv5_*' = 0.5}", "seed=7"], network=network)
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    assert load_recipe(tmp_path / "recipe.toml") == recipe


@pytest.mark.slow
@given(st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_text_in_a_recipe_survives_the_round_trip(text: str) -> None:
    import tomllib

    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        return  # no text that a file can hold
    assert tomllib.loads(replace(load_recipe("scratch"), summary=text).to_toml())["summary"] == text


def test_the_published_recipes_are_what_was_published() -> None:
    albanie, senet = load_recipe("albanie", network="resnet50"), load_recipe("albanie", network="senet50")
    assert (albanie.data.target, senet.data.target) == ("hard", "crossentropy")
    assert replace(senet, data=albanie.data) == albanie  # and nothing else differs
    assert albanie.augmentation == AugmentationSettings(
        flip=0.5, warped=0.5, zoom=(0.96, 1.04), rotation=(-10.0, 0.0, 10.0), skew=(-0.1, 0.0, 0.1)
    )
    assert (albanie.optimizer.learning_rate, albanie.optimizer.body_factor) == (0.01, 0.1)
    assert (albanie.schedule.epochs, albanie.schedule.step_epochs, albanie.training.batch) == (180, (60, 120), 128)
    assert (albanie.network.dropout, albanie.network.dropout_place) == (0.5, "published")
    wtomin = load_recipe("wtomin")
    assert wtomin.augmentation == AugmentationSettings(  # with the defaults of the library that he calls
        flip=0.5, crop_scale=(0.8, 1.0), crop_ratio=(4 / 5, 5 / 4), brightness=0.1, contrast=0.1, toned=0.5
    )
    assert (wtomin.optimizer.name, wtomin.optimizer.beta_1, wtomin.optimizer.learning_rate) == ("adam", 0.5, 0.001)
    assert (wtomin.schedule.kind, wtomin.schedule.plateau_patience, wtomin.schedule.early_stop) == ("plateau", 3, 8)
    assert wtomin.network.train_from == "conv4_5_1x1_increase" and len(wtomin.data.class_weights) == 8
    assert load_recipe("wtomin", network="senet50").network.train_from == "conv5_2_1x1_reduce"
    assert (wtomin.schedule.epochs, wtomin.schedule.plateau_monitor, wtomin.schedule.monitor) == (
        50,
        "loss",
        "accuracy",
    )


def test_a_file_says_only_what_differs(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('base = "scratch"\n[optimizer]\nlearning_rate = 1\n[for.senet50.schedule]\nepochs = 7\n')
    recipe, scratch = load_recipe(mine, network="senet50"), load_recipe("scratch")
    assert (recipe.name, recipe.optimizer.learning_rate, recipe.schedule.epochs) == ("mine", 1.0, 7)
    assert recipe.augmentation == scratch.augmentation
    assert load_recipe(mine, network="resnet50").schedule.epochs == scratch.schedule.epochs


@pytest.mark.parametrize(
    "override, told",
    [
        ("learnin_rate=1", "optimizer.learning_rate"),
        ("optimiser.momentum=0.5", "optimizer.momentum"),
        ("schedule.epoch=3", "schedule.epochs"),
        ("nonsense=1", "Sections are"),
        ("epochs", "KEY=VALUE"),
        ("nesterov=1", "true or false"),
        ("epochs=1.5", "whole number"),
        ("epochs=true", "whole number"),
        ("learning_rate=nan", "finite"),
        ("learning_rate=-1", "from 0"),
        ("dropout=1.0", "below 1"),
        ("kind=cosin", "did you mean cosine"),
        ("protocol=albani", "did you mean albanie"),
        ("zoom=[1, 2, 3]", "list of 2"),
        ("zoom=[1.2, 0.8]", "list of 2"),
        ("zoom=1.2", "is a list"),
        ("crop_scale=[0.5, 1.5]", "at most 1"),
        ("rotation=[1.0]", "rotation_range"),
        ("skew_range=-1", "from 0"),
        ("brightness=nan", "finite"),
        ("flip=2", "from 0 to 1"),
        ("layer_factors=3", "table"),
        ("class_weights=[1, 0]", "above 0"),
        ("kind=step", "step_epochs"),
        ("step_epochs=[5, 3]", "rise"),
        ("warmup_epochs=500", "fewer"),
        ("kind=plateau", "stages"),
        ("early_stop=5", "early_stop does not go with stages"),
        ("size=31", "from 32"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(override: str, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        load_recipe("scratch", [override])


def test_two_values_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(BadInputError, match="mixup does not go with multi_target"):
        load_recipe("scratch", ["target=multi_target", "mixup=0.2"])


def test_fewer_epochs_leave_nothing_of_the_schedule_behind() -> None:
    """Steps and warm-up shrink with the epochs, unless they are given, in whatever order."""
    assert load_recipe("albanie", ["epochs=30"], network="resnet50").schedule.step_epochs == (10, 20)
    assert load_recipe("albanie", ["step_epochs=[4,8]", "epochs=30"], network="resnet50").schedule.step_epochs == (4, 8)
    for order in (["warmup_epochs=5", "epochs=20"], ["epochs=20", "warmup_epochs=5"]):
        assert load_recipe("scratch", order).schedule.warmup_epochs == 5


@pytest.mark.parametrize(
    "text, told",
    [
        ("[optimizer]\nlr = 1", 'no value "optimizer.lr"'),
        ("learning_rate = 1", r"below \[optimizer\]"),
        ('base = "scrach"', "base is"),
        ("[for.vgg16.data]\ntarget = 'hard'", "for.NETWORK"),
        ("[for.senet50.data]\ntarge = 'hard'", "data.target"),
        ("optimizer = 3", "section of values"),
        ("[[stage]]\nepochs = 1\ndata.label_smoothing = 0.1", r"data\.label_smoothing is the same in all stages"),
        ("name = 3", "must be text"),
        ("[", "not TOML"),
        ("", "gives no value"),
        ("# of comments alone", "gives no value"),
        ("\ufeff[data]".encode("utf-16"), "not in UTF-8"),
    ],
)
def test_a_file_that_is_no_recipe(text: str | bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInputError, match=told):
        load_recipe(path)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_quick_trial_of_every_recipe(name: str, epochs: int) -> None:
    recipe = load_recipe(name, [f"epochs={epochs}"])
    assert recipe.schedule.epochs == epochs


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(BadInputError, match="did you mean scratch"):
        load_recipe("scrach")


STAGED = """
base = "scratch"
[[stage]]
epochs = 6
size = 64
[[stage]]
epochs = 2
network.size = 96
training.batch = 32
augmentation.erased = 0.0
"""


def test_stages_are_whole_recipes_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(STAGED)
    recipe = load_recipe(tmp_path / "mine.toml")
    assert recipe.schedule.epochs == 8
    first, second = recipe.legs
    assert (first.first_epoch, first.epochs, first.recipe.network.size, first.recipe.training.batch) == (0, 6, 64, 64)
    assert (second.first_epoch, second.epochs, second.recipe.network.size) == (6, 2, 96)
    assert (second.recipe.training.batch, second.recipe.augmentation.erased) == (32, 0.0)
    assert first.recipe.augmentation.erased == load_recipe("scratch").augmentation.erased
    assert [recipe.epochs_after(epoch) for epoch in (0, 5, 6, 7)] == [5 + 2 * 2.25, 2 * 2.25, 1, 0]


def test_what_is_set_for_the_run_holds_in_every_stage(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(STAGED)
    batches = [leg.recipe.training.batch for leg in load_recipe(tmp_path / "mine.toml", ["batch=16"]).legs]
    assert batches == [16, 16]
    (alone,) = load_recipe(tmp_path / "mine.toml", ["size=48"]).legs  # one size, one stage
    assert (alone.recipe.network.size, alone.epochs, alone.recipe.training.batch) == (48, 8, 64)


@pytest.mark.parametrize("epochs, lengths", [(4, [3, 1]), (16, [12, 4]), (1, [1]), (2, [2])])
def test_other_epochs_are_shared_by_the_stages_and_the_warm_up(tmp_path: Path, epochs: int, lengths: list[int]) -> None:
    (tmp_path / "mine.toml").write_text(STAGED)
    recipe = load_recipe(tmp_path / "mine.toml", [f"epochs={epochs}"])
    assert [leg.epochs for leg in recipe.legs] == lengths and recipe.schedule.epochs == epochs
    assert recipe.schedule.warmup_epochs == min(0.5, 0.5 * epochs / 8)


@pytest.mark.parametrize(
    "text, told",
    [
        ("[[stage]]\nsize = 64", "stage 1: epochs"),
        ("[[stage]]\nepochs = 3\nseed = 1", "training.seed is the same in all stages"),
        ("[[stage]]\nepochs = 3\nsise = 64", "network.size"),
        ("[[stage]]\nepochs = 3\n[schedule]\nepochs = 4", "Leave it out"),
        ("stage = 3", r"\[\[stage\]\]"),
        ("[[stage]]\nepochs = 3\nnetwork = 64", "section of values"),
    ],
)
def test_a_stage_that_cannot_be_is_refused_in_a_sentence(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(BadInputError, match=told):
        load_recipe(tmp_path / "mine.toml")
