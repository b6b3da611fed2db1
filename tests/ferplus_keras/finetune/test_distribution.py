"""Several devices and several processes train the weights that one would, through the feed and the augmentation."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ferplus_keras.errors import BadInputError
from ferplus_keras.finetune.distribution import Spec, World, logits, parse, scope
from tests.conftest import ROOT

#: A small network with batch normalisation, two epochs of five batches, everything random at work.
TRAIN = """
import sys
import numpy as np
import keras
from ferplus_keras.finetune.augmentation import Augmentation
from ferplus_keras.finetune.recipe import load_recipe
from ferplus_keras.finetune.distribution import logits, scope
from ferplus_keras.finetune.feeding import Feed, for_keras

def train(spec, normalised):
    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (43, 48, 48), dtype=np.uint8)
    targets = np.eye(8, dtype=np.float32)[generator.integers(0, 8, 43)]
    weights = generator.uniform(0.5, 2, 43).astype(np.float32)
    with scope(spec) as world:
        world.check_batch(8)
        augmentation = load_recipe("albanie").augmentation
        model = keras.Sequential([
            keras.Input((48, 48), dtype="uint8"), Augmentation(augmentation, 32, seed=3),
            keras.layers.Rescaling(1 / 128), keras.layers.Conv2D(4, 3),
            *([keras.layers.BatchNormalization()] if normalised else []),
            keras.layers.ReLU(), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(8),
        ])
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, weighted_metrics=["accuracy"])
        feed = Feed(images, targets, weights, 8, seed=5, mixup=0.2, share=world.share)
        losses = []
        for feed.epoch in range(2):
            losses += model.fit(for_keras(feed), epochs=1, shuffle=False, verbose=0).history["loss"]
        found = {str(index): array for index, array in enumerate(model.get_weights())}
        found |= {"logits": logits(model, images, 8), "loss": np.array(losses)}
        return found, world.process == 0, world
"""

ONE = (
    TRAIN
    + """
found, chief, world = train(sys.argv[1] or None, True)
assert chief == (world.process == 0) and [world.devices, world.processes] == [int(each) for each in sys.argv[3:]]
np.savez(sys.argv[2], **found)
"""
)

MIRRORED = (
    TRAIN
    + """
found, chief, world = train("mirrored:2", False)  # first: the processor can be cut in two only before it is used
assert world.devices == 2 and chief
alone, _, _ = train(None, False)
np.savez(sys.argv[1], **found)
np.savez(sys.argv[2], **alone)
"""
)


def run_together(backend: str, *calls: Sequence[object]) -> None:
    """Each of ``calls`` (code, arguments...) as a process of its own, at the same time."""
    environment = {
        **os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", *map(str, call)],
            env=environment,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for call in calls
    ]
    try:
        said = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, said, strict=True):
        assert process.returncode == 0, output


def assert_same(one: Path, other: Path, tolerance: float) -> None:
    with np.load(one) as first, np.load(other) as second:
        assert sorted(first) == sorted(second)
        assert len(first["logits"]) == 43  # all of them, though batches of 8 leave a rest
        for name in first:
            np.testing.assert_allclose(first[name], second[name], atol=tolerance, rtol=tolerance, err_msg=name)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one device makes of it, on JAX."""
    path = tmp_path_factory.mktemp("alone") / "alone.npz"
    run_together("jax", (ONE, "", path, 1, 1))
    return path


@pytest.mark.slow
def test_two_processes_train_what_one_would(alone: Path, tmp_path: Path) -> None:
    """On loopback, through JAX's own collectives: both end with the same weights, bit for bit; and one alone with
    these up to the rounding of sums in another order, batch normalisation included."""
    address = f"127.0.0.1:{free_port()}"
    results = [tmp_path / name for name in ("first.npz", "second.npz")]

    run_together(
        "jax",
        (ONE, f"data:{address}:0/2", results[0], 2, 2),
        (ONE, f"data:{address}:1/2", results[1], 2, 2),
    )

    assert_same(results[0], results[1], 0)
    assert_same(results[0], alone, 2e-4)


@pytest.mark.slow
def test_two_devices_of_one_process_do_too(alone: Path, tmp_path: Path) -> None:
    run_together("jax", (ONE, "data:2", tmp_path / "both.npz", 2, 1))

    assert_same(tmp_path / "both.npz", alone, 2e-4)


@pytest.mark.slow
def test_mirrored_devices_of_tensorflow_do_too(tmp_path: Path) -> None:
    """Without batch normalisation, which each device does for its own part of the batch there."""
    results = [tmp_path / name for name in ("both.npz", "alone.npz")]

    run_together("tensorflow", (MIRRORED, *results))

    assert_same(*results, 2e-4)


def test_specs_are_taken_apart() -> None:
    assert parse(None) is None and parse("") is None
    assert parse("mirrored") == Spec("mirrored")
    assert parse("mirrored:4") == Spec("mirrored", 4)
    assert parse("data") == Spec("data")
    assert parse("data:10.0.0.1:1234:1/3") == Spec("data", None, "10.0.0.1:1234", 1, 3)
    assert parse("data:[fe80::1]:1234:0/2") == Spec("data", None, "[fe80::1]:1234", 0, 2)


@pytest.mark.parametrize(
    "spec", ["horovod", "mirrored:0", "data:host:0/2", "mirrored:host:12:0/2", "data:", "data:2:3"]
)
def test_specs_that_are_none_are_said(spec: str) -> None:
    with pytest.raises(BadInputError, match="--distribute takes"):
        parse(spec)


def test_what_cannot_be_distributed_is_said() -> None:
    with pytest.raises(BadInputError, match="counted from 0"):
        parse("data:host:12:2/2")
    with pytest.raises(BadInputError, match="KERAS_BACKEND=jax"), scope("data:2"):
        pass
    with pytest.raises(BadInputError, match="multiple of 3"):
        World(devices=3).check_batch(8)
    with scope(None) as world:
        assert (world.devices, world.share, world.process) == (1, (0, 1), 0)
        world.check_batch(7)


def test_a_scope_that_comes_too_late_is_said() -> None:
    import keras
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("GPUs need no cutting up")
    keras.ops.ones(1)
    with pytest.raises(RuntimeError, match="before the backend has computed"), scope("mirrored:3"):
        pass


def test_alone_the_logits_are_those_of_predict() -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    some = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    np.testing.assert_array_equal(logits(model, some, 3), model.predict(some, batch_size=3, verbose=0))
