"""The networks run straight from their arrays, through ``keras.ops``: no model is built, so the first answer is near.

Making a Keras model of 174 layers takes as long as half of TensorFlow's import; running the same operations on the
same arrays takes a tenth of that. What is run is :func:`ferplus_keras.networks.keras_plan.keras_plan`, the list of
layers that the models themselves are made of, on whichever backend Keras has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from ferplus_keras.networks.architecture import Architecture
from ferplus_keras.networks.keras_plan import KerasLayer, keras_plan

Arrays = Mapping[str, Mapping[str, np.ndarray]]


class Forward:
    """``architecture`` with the ``arrays`` of its layers (layer -> role -> array), ready to run in float32."""

    def __init__(self, architecture: Architecture, arrays: Arrays) -> None:
        if architecture.head.kind != "classifier":
            raise ValueError(f"a classifier is run, not {architecture}")
        self.architecture = architecture
        self.plan = keras_plan(architecture, activation=None)
        self.weights = {
            layer.name: {
                role: ops.convert_to_tensor(np.asarray(arrays[layer.name][role], np.float32)) for role in layer.weights
            }
            for layer in self.plan
            if layer.weights
        }
        #: The layer whose map the head pools, and what is left behind it: an average, and a product with the kernel.
        self.last_map = next(layer.inputs[0] for layer in self.plan if layer.name == "pool5_7x7_s1")

    @property
    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """Kernel (2048 x classes) and bias of the classifier."""
        weights = self.weights[self.architecture.output]
        return ops.convert_to_numpy(weights["kernel"]), ops.convert_to_numpy(weights["bias"])

    def logits(self, images: np.ndarray) -> np.ndarray:
        """n x classes for preprocessed images, n x height x width x 3."""
        return self._called(self._logits, images)

    def last_maps(self, images: np.ndarray) -> np.ndarray:
        """What the head is given, before it is pooled: n x 7 x 7 x 2048 at 224 x 224."""
        return self._called(self._maps, images)

    def _called(self, function: Callable[..., Any], images: np.ndarray) -> np.ndarray:
        count = len(images)
        if keras.backend.backend() == "jax":  # each size is compiled anew: few sizes, then
            black = np.zeros(((1 << max(count - 1, 0).bit_length()) - count, *images.shape[1:]), images.dtype)
            images = np.concatenate([images, black])
        found: np.ndarray = ops.convert_to_numpy(function(ops.convert_to_tensor(images), self.weights))
        result: np.ndarray = found[:count]
        return result

    @cached_property
    def _logits(self) -> Callable[..., Any]:
        return _compiled(lambda images, weights: self.run(images, weights, self.plan[-1].name))

    @cached_property
    def _maps(self) -> Callable[..., Any]:
        return _compiled(lambda images, weights: self.run(images, weights, self.last_map))

    def run(self, images: Any, weights: Mapping[str, Mapping[str, Any]], until: str) -> Any:
        """The output of the layer ``until``; tensors are let go as soon as nothing needs them any more."""
        uses = Counter(name for layer in self.plan for name in layer.inputs)
        tensors: dict[str, Any] = {}
        for layer in self.plan:
            inputs = [tensors[name] for name in layer.inputs]
            for name in layer.inputs:
                uses[name] -= 1
                if not uses[name]:
                    del tensors[name]
            tensors[layer.name] = images if not inputs else _apply(layer, inputs, weights.get(layer.name, {}))
            if layer.name == until:
                return tensors[layer.name]
        raise ValueError(f"there is no layer {until!r}")


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """JAX compiles a function as a whole. TensorFlow and PyTorch run its operations as they come just as fast."""
    if keras.backend.backend() != "jax":
        return function
    import jax

    compiled: Callable[..., Any] = jax.jit(function)
    return compiled


def _apply(layer: KerasLayer, inputs: list[Any], weights: Mapping[str, Any]) -> Any:
    config, first = layer.config, inputs[0]
    match layer.class_name:
        case "ZeroPadding2D":
            return ops.pad(first, ((0, 0), *config["padding"], (0, 0)))
        case "Conv2D":
            found = ops.conv(
                first, weights["kernel"], config["strides"], config["padding"], data_format="channels_last"
            )
            return found + weights["bias"] if config["use_bias"] else found
        case "BatchNormalization":
            return ops.batch_normalization(
                first, weights["moving_mean"], weights["moving_variance"], axis=-1, offset=weights["beta"],
                scale=weights["gamma"], epsilon=config["epsilon"],
            )  # fmt: skip
        case "Activation":
            return {"relu": ops.relu, "sigmoid": ops.sigmoid}[config["activation"]](first)
        case "MaxPooling2D":
            return ops.max_pool(
                first, config["pool_size"], config["strides"], config["padding"], data_format="channels_last"
            )
        case "GlobalAveragePooling2D":
            return ops.mean(first, axis=(1, 2))
        case "Reshape":
            return ops.reshape(first, (-1, *config["target_shape"]))
        case "Multiply":
            return first * inputs[1]
        case "Add":
            return first + inputs[1]
        case "Dropout":
            return first
        case "Dense":
            return ops.matmul(first, weights["kernel"]) + weights["bias"]
        case _:
            raise TypeError(f"no operation is known for {layer.class_name} ({layer.name})")


def place_logits(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """What each of the places of the last feature maps says for each class: n x m x m x classes, which add up to logits
    less bias. m is 7 for images of 224 x 224.

    Its positive part is Grad-CAM's heat map, exactly and without a gradient. Grad-CAM (Selvaraju et al. 2017) weighs
    each channel by the mean gradient of the class's logit. Behind the last map (``maps``, n x 7 x 7 x 2048) there is
    only an average and a linear classifier (``kernel``, 2048 x classes): the logit is ``mean(map) @ kernel + bias``,
    its gradient at each of the 49 places ``kernel[:, class] / 49``, and Grad-CAM ``relu(map @ kernel[:, class]) / 49``:
    the class activation map of Zhou et al. (2016).
    """
    if maps.ndim != 4 or maps.shape[3] != len(kernel):
        raise ValueError(f"the last maps are n x height x width x {len(kernel)}, not {maps.shape}")
    result: np.ndarray = maps @ kernel / (maps.shape[1] * maps.shape[2])
    return result
