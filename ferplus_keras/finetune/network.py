"""The network as it is trained: the published graph with a recipe's dropout, frozen layers and start."""

from __future__ import annotations

import fnmatch
from difflib import get_close_matches
from typing import Any

import keras
import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.finetune.normalization import FusedBatchNormalization
from ferplus_keras.finetune.optimizers import factors_by_layer, unmatched
from ferplus_keras.finetune.recipe import Recipe
from ferplus_keras.finetune.settings import NetworkSettings, OptimizerSettings
from ferplus_keras.finetune.start import Start
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.gates import Arrays, with_gates
from ferplus_keras.networks.models import model_from_architecture

#: After which layer "head" dropout stands.
FEATURES = "pool5_7x7_s1"


def training_table(network: str, classes: int, settings: NetworkSettings) -> arch.Architecture:
    """The layers of the network in training; without its dropouts, they are the released network's."""
    table = arch.architecture(network, arch.classifier(classes))
    if not settings.dropout:
        return table
    if settings.dropout_place == "published" and network not in arch.DROPOUT_AFTER:
        raise BadInputError(
            f"network.dropout_place is published, and {network} was never published: use --set dropout_place=head."
        )
    after = arch.DROPOUT_AFTER[network] if settings.dropout_place == "published" else (FEATURES,)
    return arch.with_dropout(table, after, settings.dropout)


def training_network(network: str, classes: int, recipe: Recipe, start: Start) -> keras.Model:
    """The Keras model from preprocessed images to logits, its weights those of ``start`` or random.

    Raises :class:`BadInputError` when the start or the recipe does not fit the network.
    """
    settings = recipe.network
    table = training_table(network, classes, settings)
    model = model_from_architecture(
        table,
        input_shape=(settings.size, settings.size, 3),
        activation=None,
        classes={"BatchNormalization": FusedBatchNormalization},
    )
    # Logits of few significant bits decide wrongly: the head computes in float32 under mixed precision, too.
    model.get_layer(table.output).dtype_policy = keras.dtype_policies.DTypePolicy("float32")
    if settings.zero_init_residual and not start.arrays:
        for layer in table.layers:
            if isinstance(layer, arch.BatchNorm) and layer.name.endswith("_increase_bn"):
                gamma = model.get_layer(layer.name).gamma
                gamma.assign(np.zeros(gamma.shape, np.float32))
    set_arrays(model, table, with_gates(start.arrays, table))
    freeze(model, settings)
    regularize(model, table, settings)
    if wrong := unmatched(recipe.optimizer, list(table.parameters)):
        raise BadInputError(
            f'optimizer.layer_factors: no layer of {network} matches "{wrong[0]}"; use a pattern such as conv5_* or '
            "conv4_6_1x1_increase_bn."
        )
    return model


def freeze(model: keras.Model, settings: NetworkSettings) -> None:
    """Freeze all layers before ``train_from``, and every BatchNorm where the recipe says so.

    A frozen BatchNorm uses its moving statistics in training too, and leaves them as they are. Raises
    :class:`BadInputError` when there is no such layer.
    """
    layers = model.layers
    names = [layer.name for layer in layers]
    if settings.train_from and settings.train_from not in names:
        near = get_close_matches(settings.train_from, names, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise BadInputError(f"network.train_from is {settings.train_from}, but there is no such layer.{hint}")
    first = names.index(settings.train_from) if settings.train_from else 0
    for number, layer in enumerate(layers):
        frozen_norm = settings.batchnorm == "frozen" and isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = number >= first and not frozen_norm


def regularize(model: keras.Model, table: arch.Architecture, settings: NetworkSettings) -> None:
    """Give the weights that learn the recipe's penalty, which Keras adds to the loss.

    Raises :class:`BadInputError` when a pattern fits no layer that has weights.
    """
    patterns = settings.regularizer_layers or ("*",)
    if wrong := [each for each in patterns if not fnmatch.filter(table.parameters, each)]:
        raise BadInputError(f'network.regularizer_layers: no layer with weights matches "{wrong[0]}".')
    if not settings.regularizer:
        return
    kind = {"l1": keras.regularizers.L1, "l2": keras.regularizers.L2}[settings.regularizer]
    for name, shapes in table.parameters.items():
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        for role, weight in zip(shapes, model.get_layer(name).weights, strict=True):
            if role in ("kernel", "gamma", "beta") or (role == "bias" and settings.regularize_bias):
                weight.regularizer = kind(settings.regularizer_factor)


def set_arrays(model: keras.Model, table: arch.Architecture, arrays: Arrays) -> None:
    """Set the weights of the layers that ``arrays`` has. Raises :class:`BadInputError` when one is missing or wrong."""
    if not arrays:
        return
    if strange := sorted(set(arrays) - set(table.parameters)):
        raise BadInputError(f"The starting weights have {strange[0]}, which the network has not: they are another's.")
    for name, shapes in table.parameters.items():
        if name not in arrays:
            if name == table.output:
                continue  # a new head
            raise BadInputError(f"The starting weights have no {name}: they are another network's.")
        if missing := sorted(set(shapes) - set(arrays[name])):
            raise BadInputError(f"{name} in the starting weights has no {missing[0]}: they are another network's.")
        values = [np.asarray(arrays[name][role]) for role in shapes]
        if [value.shape for value in values] != list(shapes.values()):
            found = ", ".join(str(value.shape) for value in values)
            here = ", ".join(map(str, shapes.values()))
            raise BadInputError(f"{name} is {found} in the starting weights, and {here} here.")
        model.get_layer(name).set_weights(values)


def get_arrays(model: keras.Model, table: arch.Architecture) -> dict[str, Any]:
    """Layer -> role -> array of all weights."""
    return {
        name: dict(
            zip(shapes, (np.asarray(each, np.float32) for each in model.get_layer(name).get_weights()), strict=True)
        )
        for name, shapes in table.parameters.items()
    }


def factor_of(model: keras.Model, table: arch.Architecture, settings: OptimizerSettings) -> Any:
    """Variable -> its learning-rate factor."""
    factors = factors_by_layer(settings, list(table.parameters), table.output)
    by_variable = {
        weight.path: factors[name] for name in table.parameters for weight in model.get_layer(name).trainable_weights
    }
    return lambda variable: by_variable.get(getattr(variable, "path", ""), 1.0)
