"""Architecture -> the list of Keras layers that realises it, still as data and without importing Keras.

Two things are made from the plan and must agree to the last layer: the live model
(:mod:`ferplus_keras.networks.models`) and the ``.h5`` file that is written without Keras
(``convert.writers.keras_h5``). So the translation stands here, once: which Keras class, which arguments, which
weights, and in which order Keras will list them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import Architecture, Shape
from ferplus_keras.networks.preprocessing import PUBLISHED

#: The softmax behind the classifier; Caffe's name for it. ``classifier`` itself always yields logits.
PROBABILITIES = "prob"

#: The input of a model that has its preprocessing inside: RGB bytes.
PIXELS = "image"

#: Every spatial layer says so itself: a user's keras.json with channels_first must not turn the graph around.
CHANNELS_LAST = {"data_format": "channels_last"}

# Weights that training starts from where no file gives them. He et al. 2015 for convolutions before a ReLU; the
# classifier as Albanie's recipe has it, N(0, 0.01). Spelled as Keras 2 and Keras 3 both read them from a file.
HE_NORMAL = "he_normal"
CLASSIFIER_NORMAL = {"class_name": "RandomNormal", "config": {"mean": 0.0, "stddev": 0.01, "seed": None}}


@dataclass(frozen=True)
class KerasLayer:
    """One Keras layer: ``class_name(**config, name=name)`` called on ``inputs``."""

    name: str
    class_name: str
    inputs: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    #: Role -> shape in the order in which Keras stores them; empty for most layers.
    weights: dict[str, Shape] = field(default_factory=dict)


def keras_plan(
    architecture: Architecture,
    *,
    input_shape: tuple[int | None, int | None, int] = (arch.INPUT_SIZE, arch.INPUT_SIZE, 3),
    activation: str | Callable[..., Any] | None = "softmax",
    pooling: str | None = None,
    pixels: bool = False,
) -> tuple[KerasLayer, ...]:
    """The Keras layers of ``architecture``, in the order in which ``model.layers`` lists them.

    ``activation`` follows a classifier as a layer of its own, so that the logits stay within reach; ``None`` leaves
    it out. ``pooling`` ("avg" or "max") ends a network that has no head, as in ``keras.applications``. ``pixels`` puts
    the preprocessing inside: the input is RGB bytes, and the layer ``data`` takes the mean off.
    """
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"pooling is None, 'avg' or 'max', not {pooling!r}")
    layers: list[KerasLayer] = []
    for layer in architecture.layers:
        if isinstance(layer, arch.Input):
            layers.extend(_input(layer.name, input_shape, pixels))
        else:
            layers.extend(_translate(layer))
    if architecture.head.kind == "none" and pooling is not None:
        layers.append(_global_pooling("pool5_7x7_s1", architecture.output, pooling))
    if architecture.head.kind == "classifier" and activation is not None:
        layers.append(KerasLayer(PROBABILITIES, "Activation", (architecture.output,), {"activation": activation}))
    return tuple(in_keras_order(layers))


def _input(name: str, shape: tuple[int | None, int | None, int], pixels: bool) -> Iterable[KerasLayer]:
    config = {"batch_input_shape": (None, *shape)}
    if not pixels:
        yield KerasLayer(name, "InputLayer", config=config)
        return
    # Rescaling multiplies by 1 and adds the offset: in float32, bit for bit what preprocess_input computes.
    yield KerasLayer(PIXELS, "InputLayer", config={**config, "dtype": "uint8"})
    offset = [-mean for mean in PUBLISHED.mean]
    yield KerasLayer(name, "Rescaling", (PIXELS,), {"scale": 1.0, "offset": offset})


def _translate(layer: arch.Layer) -> Iterable[KerasLayer]:
    name, inputs = layer.name, layer.inputs
    if isinstance(layer, arch.Conv):
        padding = "valid"
        if layer.padding and layer.stride == 1:
            padding = "same"  # the same number of zeros on each side: here Keras and PyTorch agree
        elif layer.padding:
            # At stride 2 Keras's "same" pads (2, 3) where PyTorch pads (3, 3): the zeros are laid by hand.
            yield KerasLayer(
                f"{name}_pad", "ZeroPadding2D", inputs, {"padding": ((layer.padding,) * 2,) * 2} | CHANNELS_LAST
            )
            inputs = (f"{name}_pad",)
        config = {
            "filters": layer.out_channels,
            "kernel_size": (layer.kernel, layer.kernel),
            "strides": (layer.stride, layer.stride),
            "padding": padding,
            "use_bias": layer.bias,
            "kernel_initializer": HE_NORMAL,
        }
        yield KerasLayer(name, "Conv2D", inputs, config | CHANNELS_LAST, layer.parameters)
    elif isinstance(layer, arch.BatchNorm):
        config = {"axis": -1, "momentum": arch.BATCHNORM_MOMENTUM, "epsilon": arch.BATCHNORM_EPSILON}
        yield KerasLayer(name, "BatchNormalization", inputs, config, layer.parameters)
    elif isinstance(layer, arch.ReLU):
        yield KerasLayer(name, "Activation", inputs, {"activation": "relu"})
    elif isinstance(layer, arch.Sigmoid):
        yield KerasLayer(name, "Activation", inputs, {"activation": "sigmoid"})
    elif isinstance(layer, arch.MaxPool):
        # Rounding the output size up means at most one more row and column, at the bottom and on the right. Zeros
        # serve as minus infinity because a ReLU comes before; Keras's "same" would differ on odd sizes.
        yield KerasLayer(f"{name}_pad", "ZeroPadding2D", inputs, {"padding": ((0, 1), (0, 1))} | CHANNELS_LAST)
        config = {"pool_size": (layer.kernel,) * 2, "strides": (layer.stride,) * 2, "padding": "valid"}
        yield KerasLayer(name, "MaxPooling2D", (f"{name}_pad",), config | CHANNELS_LAST)
    elif isinstance(layer, arch.AveragePool):
        # 7 x 7 over the 7 x 7 map of a 224 x 224 image is the global average; written so, other sizes work too.
        yield _global_pooling(name, inputs[0], "avg")
    elif isinstance(layer, arch.GlobalPool):
        # A Reshape and not keepdims=True: Keras before 2.6 does not know the argument.
        yield _global_pooling(f"{name}_flat", inputs[0], "avg")
        yield KerasLayer(name, "Reshape", (f"{name}_flat",), {"target_shape": (1, 1, layer.channels)})
    elif isinstance(layer, arch.Scale):
        yield KerasLayer(name, "Multiply", inputs)
    elif isinstance(layer, arch.Add):
        yield KerasLayer(name, "Add", inputs)
    elif isinstance(layer, arch.Dropout):
        yield KerasLayer(name, "Dropout", inputs, {"rate": layer.rate})
    elif isinstance(layer, arch.Linear):
        config = {
            "units": layer.units,
            "use_bias": layer.bias,
            "activation": "linear",
            "kernel_initializer": CLASSIFIER_NORMAL,
        }
        yield KerasLayer(name, "Dense", inputs, config, layer.parameters)
    else:
        raise TypeError(f"no Keras layer is known for {type(layer).__name__} ({name})")


def _global_pooling(name: str, source: str, kind: str) -> KerasLayer:
    class_name = {"avg": "GlobalAveragePooling2D", "max": "GlobalMaxPooling2D"}[kind]
    return KerasLayer(name, class_name, (source,), dict(CHANNELS_LAST))


def in_keras_order(layers: list[KerasLayer]) -> list[KerasLayer]:
    """``layers`` sorted as Keras sorts ``model.layers``: by depth, deepest first, then by first visit from the output.

    The order is part of the file format: ``load_weights`` without names goes by position. The depth of a layer is
    its longest distance to the output; the visit goes down from the output, along each layer's inputs from left to
    right (``Functional`` in Keras 2 and ``map_graph`` in Keras 3). Tests hold it against both.
    """
    by_name = {layer.name: layer for layer in layers}
    depth = {layer.name: 0 for layer in layers}
    for layer in reversed(layers):  # layers come topologically sorted, so consumers are settled first
        for name in layer.inputs:
            depth[name] = max(depth[name], depth[layer.name] + 1)
    visited: dict[str, int] = {}
    stack = [layers[-1].name]
    while stack:
        name = stack.pop()
        if name not in visited:
            visited[name] = len(visited)
            stack.extend(reversed(by_name[name].inputs))
    return sorted(layers, key=lambda layer: (-depth[layer.name], visited[layer.name]))
