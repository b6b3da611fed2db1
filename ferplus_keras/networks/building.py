"""A plan made live, by Keras 3, by Keras 2 or by tf_keras: whichever is handed over.

This module imports no Keras itself, and runs on Python 3.9: old environments have nothing newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ferplus_keras.networks.keras_plan import KerasLayer


def model_from_plan(
    keras: Any,
    plan: tuple[KerasLayer, ...],
    *,
    name: str,
    input_tensor: Any = None,
    classes: Mapping[str, Any] | None = None,
) -> Any:
    """The model of ``plan``, its weights random.

    Args:
        keras: the module ``keras`` (of either generation) or ``tf_keras``.
        plan: its first layer is the InputLayer.
        name: the model's.
        input_tensor: a tensor of that Keras to build upon, in the InputLayer's place.
        classes: class name -> class to make such layers of, instead of ``keras.layers``' own.
    """
    tensors: dict[str, Any] = {}
    for layer in plan:
        if layer.class_name == "InputLayer":
            shape = layer.config["batch_input_shape"][1:]
            if input_tensor is None:
                tensors[layer.name] = keras.Input(shape, name=layer.name, dtype=layer.config.get("dtype"))
            else:
                tensors[layer.name] = input_tensor
            continue
        inputs = [tensors[source] for source in layer.inputs]
        made_of = (classes or {}).get(layer.class_name) or getattr(keras.layers, layer.class_name)
        instance = made_of(**layer.config, name=layer.name)
        tensors[layer.name] = instance(inputs if len(inputs) > 1 else inputs[0])
    inputs = tensors[plan[0].name]
    if input_tensor is not None:
        inputs = source_inputs(keras, input_tensor)
    return keras.Model(inputs, tensors[plan[-1].name], name=name)


def source_inputs(keras: Any, tensor: Any) -> Any:
    """The model inputs that ``tensor`` was computed from: one tensor, or a list of several."""
    found = getattr(keras.utils, "get_source_inputs", None)
    if found is None:  # Keras 2 before 2.13 keeps it elsewhere
        from importlib import import_module

        found = import_module(f"{keras.__name__}.src.utils.layer_utils").get_source_inputs
    sources = found(tensor)
    return sources[0] if len(sources) == 1 else sources  # a list of one would be the model's input for ever
