"""Ports of the networks as people write them by hand: Keras's default names, dense layers for squeeze and excitation,
``x + y`` for Add, a model in the model. Written without a look at ``ferplus_keras/networks/keras_plan.py``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from convert.checkpoint import Arrays, Checkpoint

Layers = Any


def port(
    checkpoint: Checkpoint,
    *,
    epsilon: float = 1e-5,
    projection_first: bool = False,
    dense_excitation: bool = True,
    fused: bool = True,
    operators: bool = True,
    stem_padding: Any = 3,
    nested: bool = False,
) -> keras.Model:
    """The network of ``checkpoint``, with its weights, under Keras's default names."""
    arrays = checkpoint.arrays
    se = checkpoint.architecture.network == "senet50"
    loads: list[tuple[Any, dict[str, np.ndarray]]] = []

    def conv(x: Any, name: str, stride: int = 1, padding: str = "same", **more: Any) -> Any:
        kernel = arrays[name]["kernel"]
        layer = keras.layers.Conv2D(
            kernel.shape[-1], kernel.shape[:2], stride, padding, use_bias="bias" in arrays[name], **more
        )
        loads.append((layer, arrays[name]))
        return layer(x)

    def norm(x: Any, name: str) -> Any:
        layer = keras.layers.BatchNormalization(epsilon=epsilon)
        loads.append((layer, arrays[f"{name}_bn"]))
        return layer(x)

    def excite(x: Any, name: str) -> Any:
        squeezed = keras.layers.GlobalAveragePooling2D(keepdims=not dense_excitation)(x)
        ends: tuple[Any, Any] = ("relu", "sigmoid") if fused else (None, None)
        if dense_excitation:
            for part, activation in zip(("down", "up"), ends, strict=True):
                values = arrays[f"{name}_1x1_{part}"]
                layer = keras.layers.Dense(values["bias"].size, activation=activation)
                loads.append((layer, {"kernel": values["kernel"][0, 0], "bias": values["bias"]}))
                squeezed = layer(squeezed)
                if not fused:
                    squeezed = keras.layers.Activation({"down": "relu", "up": "sigmoid"}[part])(squeezed)
            squeezed = keras.layers.Reshape((1, 1, -1))(squeezed)
        else:
            squeezed = conv(squeezed, f"{name}_1x1_down", activation="relu")
            squeezed = conv(squeezed, f"{name}_1x1_up", activation="sigmoid")
        return x * squeezed if operators else keras.layers.Multiply()([x, squeezed])

    def block(x: Any, name: str, stride: int, first: bool) -> Any:
        shortcut = x
        if first and projection_first:
            shortcut = norm(conv(x, f"{name}_1x1_proj", stride), f"{name}_1x1_proj")
        y = keras.layers.ReLU()(norm(conv(x, f"{name}_1x1_reduce", stride), f"{name}_1x1_reduce"))
        y = keras.layers.ReLU()(norm(conv(y, f"{name}_3x3"), f"{name}_3x3"))
        y = norm(conv(y, f"{name}_1x1_increase"), f"{name}_1x1_increase")
        if se:
            y = excite(y, name)
        if first and not projection_first:
            shortcut = norm(conv(x, f"{name}_1x1_proj", stride), f"{name}_1x1_proj")
        y = y + shortcut if operators else keras.layers.Add()([shortcut, y])
        return keras.layers.ReLU()(y)

    image = keras.Input((224, 224, 3))
    x = keras.layers.ZeroPadding2D(stem_padding)(image)
    x = keras.layers.ReLU()(norm(conv(x, "conv1_7x7_s2", 2, "valid"), "conv1_7x7_s2"))
    x = keras.layers.MaxPooling2D(3, 2, "same")(x)
    for stage, number in itertools.product((2, 3, 4, 5), range(1, 7)):
        if f"conv{stage}_{number}_3x3" in arrays:
            x = block(x, f"conv{stage}_{number}", 2 if stage > 2 and number == 1 else 1, number == 1)
    body = keras.Model(image, x) if nested else None
    if body is not None:
        image = keras.Input((224, 224, 3))
        x = body(keras.layers.Rescaling(1.0)(image))
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(7)(x))
    head = keras.layers.Dense(arrays["classifier"]["bias"].size, activation="softmax", name="emotions")
    loads.append((head, arrays["classifier"]))
    model = keras.Model(image, head(x))
    for layer, values in loads:
        layer.set_weights(list(values.values()))
    return model


#: Run by Keras 2.15: a network in keras_vggface's manner, names with slashes, saved as a whole model by Keras 2.
KERAS2_VGGFACE = """
import json, sys
import numpy as np
from tensorflow import keras
L = keras.layers
arrays = np.load(sys.argv[1])
epsilon = float(sys.argv[3])

def conv(x, name, ours, stride=1, padding='valid'):
    kernel = arrays[ours + '/kernel']
    return L.Conv2D(kernel.shape[-1], kernel.shape[:2], strides=stride, padding=padding, use_bias=False, name=name)(x)

def norm(x, name):
    return L.BatchNormalization(epsilon=epsilon, name=name + '/bn')(x)

image = keras.Input((224, 224, 3))
x = L.ZeroPadding2D(3)(image)
x = L.Activation('relu')(norm(conv(x, 'conv1/7x7_s2', 'conv1_7x7_s2', 2), 'conv1/7x7_s2'))
x = L.MaxPooling2D(3, 2, 'same')(x)
for stage in (2, 3, 4, 5):
    for number in [each for each in range(1, 7) if f'conv{stage}_{each}_3x3/kernel' in arrays]:
        base, stride, shortcut = f'conv{stage}_{number}', 2 if stage > 2 and number == 1 else 1, x
        y = x
        for part, s, padding in (('1x1_reduce', stride, 'valid'), ('3x3', 1, 'same'), ('1x1_increase', 1, 'valid')):
            y = norm(conv(y, f'{base}_{part}', f'{base}_{part}', s, padding), f'{base}_{part}')
            if part != '1x1_increase':
                y = L.Activation('relu')(y)
        if number == 1:
            shortcut = norm(conv(x, base + '_1x1_proj', base + '_1x1_proj', stride), base + '_1x1_proj')
        x = L.Activation('relu')(L.add([y, shortcut]))
x = L.Flatten()(L.AveragePooling2D((7, 7), name='avg_pool')(x))
model = keras.Model(image, L.Dense(8, activation='softmax', name='classifier')(x))
roles = {'kernel': 'kernel', 'bias': 'bias', 'gamma': 'gamma', 'beta': 'beta', 'moving_mean': 'moving_mean',
         'moving_variance': 'moving_variance'}
for layer in model.layers:
    if layer.weights:
        ours = layer.name.replace('/', '_')
        layer.set_weights([arrays[ours + '/' + w.name.split('/')[-1].split(':')[0]] for w in layer.weights])
model.save(sys.argv[2])
"""


def as_npz(arrays: Arrays, path: Path) -> Path:
    """``layer/role`` -> array, for another process."""
    np.savez(path, **{f"{layer}/{role}": array for layer, roles in arrays.items() for role, array in roles.items()})
    return path


Change = Callable[[keras.Model], None]
