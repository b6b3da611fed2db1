"""One call of a Keras layer, of any version, as an operation of the graph form.

Arguments that make no difference at inference are passed over. What is not known here is added under its own name, for
the matcher to stumble over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ferplus_keras.graph.building import Builder, Window
from ferplus_keras.graph.form import Four, GraphError, Pair

#: Layers that hand on what they get when a network is applied: regularisation, and augmentation of training images.
PASSING = {
    "Identity", "Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout", "GaussianNoise",
    "ActivityRegularization", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom", "RandomContrast",
    "RandomBrightness",
}  # fmt: skip

#: Layers that Keras 3 saves as called in training, whatever they were, and that then do the same.
TRAINING_OR_NOT = {"Resizing", "CenterCrop"}

#: Layers that do something else in training; of a model that is called in training, all of them.
OTHERWISE_IN_TRAINING = {"BatchNormalization", *PASSING} - {"Identity", "ActivityRegularization"}

#: Activations by Keras's name -> the form's; any other goes by its own.
ACTIVATIONS = {"relu": "relu", "sigmoid": "sigmoid", "softmax": "softmax", "linear": ""}

#: Bare operations (``x + y``) of Keras 3 by class, of Keras 2 by function -> the layer that does the same.
FUNCTIONS = {
    "__operators__.add": "Add", "math.add": "Add", "math.multiply": "Multiply", "__operators__.multiply": "Multiply",
    "nn.relu": "Relu", "nn.sigmoid": "Sigmoid", "math.sigmoid": "Sigmoid", "nn.softmax": "Softmax",
}  # fmt: skip

#: What is added to a call's key for the node before an activation that the layer has inside.
BEFORE_ACTIVATION = ", before activation"

CHANNELS = (-1, 3)  #: the axis of the channels, which stand last


@dataclass(frozen=True)
class Call:
    """A layer as its config has it, called on ``sources`` (keys of the builder).

    ``numbers`` counts the plain numbers among its arguments, as in ``x * 2``.
    """

    name: str
    kind: str
    config: Mapping[str, Any]
    sources: tuple[str, ...]
    arrays: Mapping[str, Any] = field(default_factory=dict)
    numbers: int = 0
    training: bool = False


def add_layer(builder: Builder, key: str, call: Call) -> None:
    """Add ``call`` to ``builder`` under ``key``. Raises :class:`GraphError` when its config makes no sense."""
    kind = FUNCTIONS.get(str(call.config.get("function")), call.kind) if call.kind == "TFOpLambda" else call.kind
    trains = call.training and kind not in TRAINING_OR_NOT
    further = kind != call.kind and kind in ("Relu", "Sigmoid", "Softmax") and call.numbers  # such as another axis
    if kind == "InputLayer":
        shape = call.config.get("batch_shape") or call.config.get("batch_input_shape") or ()
        builder.image(key, call.name, shape[1:] if isinstance(shape, (list, tuple)) else ())
    elif trains or not call.sources or call.config.get("data_format") == "channels_first":
        why = " in training" if trains else " with the channels first" if call.sources else " without input"
        builder.other(key, call.name, f"{kind}{why}", call.sources)
    elif further:
        builder.other(key, call.name, f"{kind} with further arguments", call.sources)
    elif kind in PASSING:
        builder.same(key, call.sources[0])
    elif kind in LAYERS:
        inner = key if _activation(call.config) in ("", None) or kind in OWN_ACTIVATION else f"{key}{BEFORE_ACTIVATION}"
        LAYERS[kind](builder, inner, call)
        if inner != key:
            operation = str(_activation(call.config))
            builder.activation(key, call.name, operation, inner, operation)
    else:
        builder.other(key, call.name, kind, call.sources)


# --- the layers ---------------------------------------------------------------------------------------------------


def _convolution(builder: Builder, key: str, call: Call) -> None:
    config = call.config
    window = Window(
        _pair(call, "kernel_size"), _pair(call, "strides", 1), _padding(call), _pair(call, "dilation_rate", 1),
        _whole(call, config.get("groups", 1)),
    )  # fmt: skip
    channels = _whole(call, config.get("filters"))
    builder.convolution(key, call.name, call.kind, call.sources[0], call.arrays, channels, window)


def _dense(builder: Builder, key: str, call: Call) -> None:
    units = _whole(call, call.config.get("units"))
    builder.convolution(key, call.name, call.kind, call.sources[0], call.arrays, units)


def _normalisation(builder: Builder, key: str, call: Call) -> None:
    config = call.config
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, (list, tuple)) and len(axis) == 1 else axis
    more: dict[str, Any] = {} if axis in CHANNELS else {"axis": str(axis)[:20]}
    more |= {name: False for name in ("scale", "center") if config.get(name, True) is not True}
    epsilon = config.get("epsilon", 1e-3)
    if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)):
        raise GraphError(f"the epsilon of {call.name} is {str(epsilon)[:40]}")
    builder.normalisation(key, call.name, call.kind, call.sources[0], call.arrays, float(epsilon), **more)


def _activated(builder: Builder, key: str, call: Call) -> None:
    operation = _activation(call.config)
    if not operation:
        builder.same(key, call.sources[0])
    else:
        builder.activation(key, call.name, operation, call.sources[0], operation)


def _relu(builder: Builder, key: str, call: Call) -> None:
    plain = {"max_value": (None,), "negative_slope": (None, 0), "threshold": (None, 0)}
    found = {name: call.config.get(name) for name in plain}
    said = [f"{name} {str(value)[:20]}" for name, value in found.items() if value not in plain[name]]
    kind = f"{call.kind} with {' and '.join(said)}" if said else call.kind
    builder.activation(key, call.name, kind, call.sources[0], "another ReLU" if said else "relu")


def _sigmoid(builder: Builder, key: str, call: Call) -> None:
    builder.activation(key, call.name, call.kind, call.sources[0], "sigmoid")


def _softmax(builder: Builder, key: str, call: Call) -> None:
    axis = call.config.get("axis", -1)
    operation = "softmax" if axis in (-1, [-1]) else f"softmax over the axis {str(axis)[:20]}"
    builder.activation(key, call.name, call.kind, call.sources[0], operation)


def _zeros(builder: Builder, key: str, call: Call) -> None:
    builder.pad(key, call.name, call.kind, call.sources[0], _four(call, call.config.get("padding", 1)))


def _maximum(builder: Builder, key: str, call: Call) -> None:
    builder.maximum(key, call.name, call.kind, call.sources[0], *_window(call), _padding(call))


def _average(builder: Builder, key: str, call: Call) -> None:
    builder.average(key, call.name, call.kind, call.sources[0], *_window(call), _padding(call))


def _global(operation: str) -> Callable[[Builder, str, Call], None]:
    return lambda builder, key, call: builder.whole(key, call.name, call.kind, call.sources[0], operation)


def _mean(builder: Builder, key: str, call: Call) -> None:
    axis = call.config.get("axis")
    if isinstance(axis, (list, tuple)) and list(axis) in ([1, 2], [2, 1], [-3, -2], [-2, -3]):
        builder.whole(key, call.name, call.kind, call.sources[0], "average")
    else:
        builder.other(key, call.name, call.kind, call.sources)


def _flatten(builder: Builder, key: str, call: Call) -> None:
    builder.flatten(key, call.name, call.kind, call.sources)


def _reshape(builder: Builder, key: str, call: Call) -> None:
    """To a vector, or to a map of one pixel."""
    target = call.config.get("target_shape", call.config.get("newshape"))
    target = target[1:] if "newshape" in call.config and isinstance(target, (list, tuple)) else target
    if isinstance(target, (list, tuple)) and len(target) in (1, 3) and all(each == 1 for each in target[:-1]):
        builder.flatten(key, call.name, call.kind, call.sources)
    else:
        builder.other(key, call.name, call.kind, call.sources)


def _merge(operation: str) -> Callable[[Builder, str, Call], None]:
    def add(builder: Builder, key: str, call: Call) -> None:
        if call.numbers:
            builder.other(key, call.name, f"{call.kind} with a number", call.sources)
        else:
            builder.merge(key, call.name, call.kind, call.sources, operation)

    return add


def _rescaling(builder: Builder, key: str, call: Call) -> None:
    """Nothing at all, a mean that is taken off, or something else."""
    scale, offset = _numbers(call.config.get("scale")), _numbers(call.config.get("offset", 0.0))
    if scale is None or offset is None or any(each != 1 for each in scale):
        builder.other(key, call.name, call.kind, call.sources, scale=scale, offset=offset)
    elif any(offset):
        mean = tuple(-each for each in (offset if len(offset) > 1 else offset * 3))
        builder.subtract(key, call.name, call.kind, call.sources[0], mean)
    else:
        builder.same(key, call.sources[0])


def _sized(builder: Builder, key: str, call: Call) -> None:
    """Nothing, where the images have that size already and cannot have another."""
    value = builder.values[call.sources[0]]
    wanted = tuple(call.config.get(name) for name in ("height", "width"))
    known = None not in builder.graph.input_shape and not any(value.padding)
    if known and value.shape is not None and value.shape[:-1] == wanted:
        builder.same(key, call.sources[0])
    else:
        builder.other(key, call.name, call.kind, call.sources)


LAYERS: dict[str, Callable[[Builder, str, Call], None]] = {
    "Conv2D": _convolution, "Dense": _dense, "BatchNormalization": _normalisation,
    "Activation": _activated, "ReLU": _relu, "Relu": _relu, "Sigmoid": _sigmoid, "Softmax": _softmax,
    "ZeroPadding2D": _zeros, "MaxPooling2D": _maximum, "AveragePooling2D": _average,
    "GlobalAveragePooling2D": _global("average"), "GlobalMaxPooling2D": _global("global maximum"), "Mean": _mean,
    "Flatten": _flatten, "Reshape": _reshape, "Add": _merge("add"), "Multiply": _merge("multiply"),
    "Rescaling": _rescaling, "Resizing": _sized, "CenterCrop": _sized, "RandomCrop": _sized,
}  # fmt: skip

#: Layers that are an activation; in any other the argument stands for one behind the layer.
OWN_ACTIVATION = ("Activation", "ReLU", "Relu", "Sigmoid", "Softmax")


# --- arguments ----------------------------------------------------------------------------------------------------


def _activation(config: Mapping[str, Any]) -> str:
    """The form's word for the argument ``activation``, "" for none; written as a name or as an object."""
    value = config.get("activation")
    if isinstance(value, dict):
        inner = value.get("config")
        plain = not inner or not isinstance(inner, dict) or set(inner) <= {"name"}
        value = inner if isinstance(inner, str) else str(value.get("class_name")).lower() if plain else "another"
    name = "linear" if value is None else str(value)[:40]
    return ACTIVATIONS.get(name, name)


def _whole(call: Call, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 20:
        raise GraphError(f"{call.name}, a {call.kind}, has {str(value)[:40]} for a size")
    return value


def _pair(call: Call, name: str, default: Any = None) -> Pair:
    value = call.config.get(name)
    value = default if value is None else value
    values = list(value) if isinstance(value, (list, tuple)) else [value, value]
    if len(values) != 2 or not all(_whole(call, each) for each in values):
        raise GraphError(f"{call.name}, a {call.kind}, has {str(value)[:40]} for {name}")
    return values[0], values[1]


def _window(call: Call) -> tuple[Pair, Pair]:
    size = _pair(call, "pool_size", 2)
    return size, _pair(call, "strides", size)


def _padding(call: Call) -> Any:
    padding = call.config.get("padding", "valid")
    if padding not in ("valid", "same"):
        raise GraphError(f"{call.name}, a {call.kind}, has {str(padding)[:40]} for padding")
    return (0, 0, 0, 0) if padding == "valid" else "same"


def _four(call: Call, value: Any) -> Four:
    """One number for all sides, two for vertical and horizontal, or two pairs."""
    rows = list(value) if isinstance(value, (list, tuple)) else [value, value]
    pairs = [list(each) if isinstance(each, (list, tuple)) else [each, each] for each in rows]
    flat = [_whole(call, each) for pair in pairs for each in pair]
    if len(flat) != 4:
        raise GraphError(f"{call.name}, a {call.kind}, has {str(value)[:40]} for padding")
    return flat[0], flat[1], flat[2], flat[3]


def _numbers(value: Any) -> tuple[float, ...] | None:
    values = value if isinstance(value, (list, tuple)) else [value]
    if 0 < len(values) <= 3 and all(isinstance(each, (int, float)) for each in values):
        return tuple(float(each) for each in values)
    return None
