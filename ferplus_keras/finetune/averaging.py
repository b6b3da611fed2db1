"""The exponential moving average of all weights, BatchNorm's statistics included, on every backend.

Keras's own leaves the statistics out, and an averaged kernel under the statistics of the last few batches is another
network. This is a layer that passes its input through and, while training, brings its averages up to date: what
layers may do to their variables is the same on TensorFlow, JAX and PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


class WeightAverage(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Keeps the average of every weight of ``network``.

    After step t it is ``m * average + (1 - m) * weight`` with ``m = min(momentum, (1 + t) / (10 + t))``: short at the
    start, so that the random weights are soon forgotten. It sees the weights before the step's update, one step late.
    """

    def __init__(self, network: keras.Model, momentum: float, name: str = "weight_average") -> None:
        super().__init__(name=name, dtype="float32", trainable=False)
        self.momentum = momentum
        # In a function: Keras would take the network for a part of this layer.
        self._sources: Callable[[], list[Any]] = lambda: network.weights
        self.steps = self.add_weight(
            name="steps",
            shape=(),
            dtype="float32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        self.averages = [
            self.add_weight(
                name=weight.path.replace("/", "_"), shape=weight.shape, dtype="float32", initializer="zeros",
                trainable=False, aggregation="only_first_replica",
            )
            for weight in network.weights
        ]  # fmt: skip
        self.restart()

    def restart(self) -> None:
        """Take the weights as they are now for the averages."""
        self.steps.assign(0.0)
        for average, weight in zip(self.averages, self._sources(), strict=True):
            average.assign(copy_of(weight))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if training:
            momentum = ops.minimum(self.momentum, (1.0 + self.steps) / (10.0 + self.steps))
            for average, weight in zip(self.averages, self._sources(), strict=True):
                new = ops.stop_gradient(ops.cast(weight, "float32"))
                average.assign(average + (1.0 - momentum) * (new - average))
            self.steps.assign_add(1.0)
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> Any:
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)


def copy_of(variable: Any) -> np.ndarray:
    """The variable's values in memory of their own: JAX gives a step's buffers away, and no two may be one."""
    return np.array(ops.convert_to_numpy(variable.value))
