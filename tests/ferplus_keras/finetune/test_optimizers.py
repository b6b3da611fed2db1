"""Learning-rate factors, weight decay and averages, on a small model: on every backend the same numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ferplus_keras.finetune.settings import OptimizerSettings
from tests.conftest import run_python

#: Two dense layers of one weight each; the gradient of the sum of outputs w.r.t. `second` is what `first` yields.
CODE = """
import json, sys
import keras, numpy as np
from ferplus_keras.finetune.averaging import WeightAverage
from ferplus_keras.finetune.optimizers import make_optimizer
from ferplus_keras.finetune.settings import OptimizerSettings

found = {}
for case, values in json.loads(sys.argv[1]).items():
    inputs = keras.Input((1,))
    first = keras.layers.Dense(1, name="first", kernel_initializer="ones")
    second = keras.layers.Dense(1, name="second", kernel_initializer="ones")
    network = keras.Model(inputs, second(first(inputs)))
    average = WeightAverage(network, 0.5)
    model = keras.Model(inputs, average(network(inputs)))
    factors = {"first": 0.1}
    optimizer = make_optimizer(OptimizerSettings(**values), 0.1, lambda v: factors.get(v.path.split("/")[0], 1.0))
    model.compile(optimizer, loss=lambda wanted, found: found, jit_compile="auto")
    data = np.ones((4, 1), "float32")
    for _ in range(4):
        model.train_on_batch(data, data)
    kernels = [float(np.asarray(keras.ops.convert_to_numpy(layer.kernel))[0, 0]) for layer in (first, second)]
    found[case] = kernels + [float(np.asarray(keras.ops.convert_to_numpy(average.averages[0]))[0, 0])]
print("found:" + json.dumps(found))
"""

CASES: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd", "momentum": 0.0, "accumulate": 1},
    "nesterov": {"name": "sgd", "momentum": 0.9, "nesterov": True},
    "decay": {"name": "sgd", "momentum": 0.0, "weight_decay": 0.5},
    "accumulate": {"name": "sgd", "momentum": 0.0, "accumulate": 2},
    "adam": {"name": "adam", "beta_1": 0.5},
    "adamw": {"name": "adamw", "weight_decay": 0.1},
    "clipped": {"name": "sgd", "momentum": 0.0, "clip_norm": 0.1},
}


def by_hand(values: dict[str, Any]) -> list[float]:
    """Plain SGD on the same model: kernels a and b, biases c and d; output b (a + c) + d for the input 1."""
    a, b, c, d = 1.0, 1.0, 0.0, 0.0
    average, steps = 1.0, 0
    decay, each = values.get("weight_decay", 0.0), values.get("accumulate", 1)
    total = np.zeros(4)
    for number in range(4):
        momentum = min(0.5, (1 + steps) / (10 + steps))
        average, steps = average + (1 - momentum) * (a - average), steps + 1
        total += np.array([b, a + c, b, 1.0])  # of a, b, c, d
        if (number + 1) % each:
            continue
        gradient, total = total / each, np.zeros(4)
        if bound := values.get("clip_norm"):
            gradient *= bound / max(bound, float(np.sqrt((gradient**2).sum())))
        a, b = a - decay * 0.01 * a, b - decay * 0.1 * b
        a, b, c, d = np.array([a, b, c, d]) - np.array([0.01, 0.1, 0.01, 0.1]) * gradient
    return [a, b, average]


def found_on(backend: str) -> dict[str, list[float]]:
    said = run_python(CODE, json.dumps(CASES), KERAS_BACKEND=backend)
    result: dict[str, list[float]] = json.loads(said.split("found:")[1])
    return result


@pytest.mark.slow  # a process of Keras for each backend
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_each_layer_learns_at_its_own_rate(backend: str) -> None:
    found = found_on(backend)
    for case in ("sgd", "decay", "accumulate", "clipped"):
        np.testing.assert_allclose(found[case], by_hand(CASES[case]), rtol=2e-5, err_msg=f"{case} on {backend}")
    # Adam's first steps are the learning rate itself: ten times as far in the layer whose factor is 1.
    first, second, _ = found["adam"]
    assert 1 - second == pytest.approx(10 * (1 - first), rel=0.05)
    assert found["adamw"][1] < found["adam"][1] and found["nesterov"][1] < found["sgd"][1]


def test_patterns_choose_the_factors() -> None:
    from ferplus_keras.finetune.optimizers import factors_by_layer, unmatched

    settings = OptimizerSettings(body_factor=0.1, layer_factors={"conv5_*": 0.5, "conv5_3_*": 0.0, "conv9*": 1.0})
    layers = ["conv1_7x7_s2", "conv5_1_3x3", "conv5_3_3x3", "classifier"]
    assert list(factors_by_layer(settings, layers, "classifier").values()) == [0.1, 0.5, 0.0, 1.0]
    assert unmatched(settings, layers) == ["conv9*"]
