"""What a checkpoint must hold for the next step to be the same: all of it, shown by leaving each part out."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from ferplus_keras.errors import BadInputError
from ferplus_keras.finetune.augmentation import Augmentation
from ferplus_keras.finetune.averaging import WeightAverage
from ferplus_keras.finetune.optimizers import make_optimizer
from ferplus_keras.finetune.recipe import load_recipe
from ferplus_keras.finetune.settings import OptimizerSettings
from ferplus_keras.finetune.state import Saved, load_arrays, restore, save_state, variables_of

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 12, 12), dtype=np.uint8)
TARGETS = np.eye(8, dtype=np.float32)


def made(seed: int, units: int = 4, *, scaled: bool = False) -> keras.Model:
    """A small network with everything that has a state; ``scaled``: under the loss scaling of float16."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 3))
    hidden = keras.layers.Conv2D(units, 3, name="conv")(inputs)
    hidden = keras.layers.BatchNormalization(name="bn")(hidden)
    hidden = keras.layers.Dropout(0.5)(keras.layers.Flatten()(hidden))
    network = keras.Model(inputs, keras.layers.Dense(8, name="head")(hidden))
    images = keras.Input((12, 12), dtype="uint8")
    outputs = WeightAverage(network, 0.9)(network(Augmentation(load_recipe("albanie").augmentation, 8, seed=3)(images)))
    model = keras.Model(images, outputs)
    settings = OptimizerSettings(name="adamw", weight_decay=0.01, accumulate=1 if scaled else 2)
    optimizer = make_optimizer(settings, 0.01, lambda _variable: 0.5)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(True), jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


def train(model: keras.Model, steps: int) -> None:
    for _ in range(steps):
        model.train_on_batch(IMAGES, TARGETS)


def bits(model: keras.Model) -> dict[str, bytes]:
    return {name: np.array(keras.ops.convert_to_numpy(value)).tobytes() for name, value in variables_of(model).items()}


@pytest.fixture(
    scope="module", params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "loss-scaled"]
)
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bool, Path, dict[str, bytes]]:
    """A state in the midst of things, and where three more steps lead from it."""
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    model = made(0, scaled=request.param)
    train(model, 3)
    save_state(path, model, {"history": []})
    train(model, 3)
    return request.param, path, bits(model)


def test_another_process_goes_on_to_the_same_bits(saved: tuple[bool, Path, dict[str, bytes]]) -> None:
    scaled, path, wanted = saved
    model = made(99, scaled=scaled)  # other weights, other random states
    restore(load_arrays(path), model, path)
    train(model, 3)
    assert bits(model) == wanted


@pytest.mark.parametrize("part", ["augmentation/steps", *(pytest.param(part, marks=pytest.mark.slow) for part in (
    "seed_generator_state", "moving_mean", "velocity", "iteration", "weight_average/conv"))])  # fmt: skip
def test_without_any_part_of_it_they_are_others(part: str, saved: tuple[bool, Path, dict[str, bytes]]) -> None:
    scaled, path, wanted = saved
    stored = load_arrays(path)
    left_out = [name for name in stored.arrays if part in name]
    assert left_out, list(stored.arrays)
    arrays = {name: array * 0 if name in left_out else array for name, array in stored.arrays.items()}
    model = made(99, scaled=scaled)
    restore(Saved(arrays, stored.record), model, path)
    train(model, 3)
    assert bits(model) != wanted


def test_a_state_of_something_else_is_refused(saved: tuple[bool, Path, dict[str, bytes]]) -> None:
    scaled, path, _ = saved
    stored = load_arrays(path)
    with pytest.raises(BadInputError, match="another version"):
        restore(Saved(stored.arrays, {"version": 99}), made(0, scaled=scaled), path)
    with pytest.raises(BadInputError, match=r"model/.* is \("):
        restore(stored, made(0, units=5, scaled=scaled), path)
    fewer = dict(list(stored.arrays.items())[1:])
    with pytest.raises(BadInputError, match="differs in 1 variable,"):
        restore(Saved(fewer, stored.record), made(0, scaled=scaled), path)
