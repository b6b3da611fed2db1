"""An architecture's table as a live Keras model, on whichever backend Keras runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from ferplus_keras.networks.architecture import INPUT_SIZE, Architecture
from ferplus_keras.networks.building import model_from_plan
from ferplus_keras.networks.keras_plan import keras_plan

Activation = str | Callable[..., Any] | None


def model_from_architecture(
    architecture: Architecture,
    *,
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] = (INPUT_SIZE, INPUT_SIZE, 3),
    pooling: str | None = None,
    activation: Activation = "softmax",
    name: str | None = None,
    pixels: bool = False,
    classes: Mapping[str, Any] | None = None,
) -> keras.Model:
    """The Keras model of any architecture table. Weights are random until they are set.

    ``pixels`` puts the preprocessing inside (see :func:`ferplus_keras.networks.keras_plan.keras_plan`). ``classes``
    gives layer classes to use instead of Keras's own, by Keras's class name.
    """
    plan = keras_plan(architecture, input_shape=input_shape, activation=activation, pooling=pooling, pixels=pixels)
    return model_from_plan(keras, plan, name=name or architecture.network, input_tensor=input_tensor, classes=classes)
