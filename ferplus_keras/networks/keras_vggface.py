"""keras_vggface 0.6's dialect of the same networks: its names, its channel order, its epsilons, its geometry.

Old Keras code has these networks through keras_vggface, whose graphs differ from Albanie's in ways that nobody sees:

* images come as BGR, so the kernel of the first convolution has its input axis the other way round;
* BatchNorm's epsilon is 1e-3 (ResNet50) or 1e-4 (SENet50). Gamma can absorb the difference exactly;
* the first convolution pads (2, 3) where (3, 3) is right, and the first pooling rounds its size down to 55. No numbers
  can make up for that: weights in keras_vggface's own graph are an approximation.

Everything here is derived from the architecture's own plan (:mod:`ferplus_keras.networks.keras_plan`). Source:
keras_vggface 0.6, ``models.py``; tests hold it against the package itself. This module imports
NumPy only, and runs on Python 3.9.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import Architecture
from ferplus_keras.networks.keras_plan import KerasLayer, in_keras_order, keras_plan

#: The layout's name on the command line, in messages and in files.
KERAS_VGGFACE = "keras-vggface"

#: Epsilon of every BatchNorm in keras_vggface's graphs. Source: models.py (ResNet50 leaves Keras's default).
EPSILON = {"resnet50": 1e-3, "senet50": 1e-4}

CONV1 = "conv1_7x7_s2"
THEIR_CONV1 = "conv1/7x7_s2"

#: The first convolution where a name may have no slash (Keras 3). Its kernel is Albanie's with the input axis turned
#: around: under the same name, a file of weights alone would be taken for one of ours, and red for blue.
BGR_CONV1 = "conv1_7x7_s2_bgr"

POOL5 = "pool5_7x7_s1"
AVERAGE = "avg_pool"
CLASSIFIER = "classifier"

#: Layers that only the exact geometry has, in the form of names that have slashes; they tell the two graphs apart.
ZEROS = {f"{CONV1}_pad": "conv1/zero_padding", "pool1_3x3_s2_pad": "pool1/zero_padding"}

PADDING_NOTE = (
    "keras_vggface's own graph pads the first convolution (2, 3) where (3, 3) is right and rounds the first pooling "
    "down to 55: no weights can make that exact"
)

Rename = Callable[[str], str]


# --- names ----------------------------------------------------------------------------------------------------------


def their_name(layer: str) -> str:
    """``conv1_7x7_s2_bn`` -> ``conv1/7x7_s2/bn``: what keras_vggface calls a layer of ours."""
    if layer in ZEROS:
        return ZEROS[layer]
    if layer.endswith("_global_pool_flat"):  # nobody's name; ours would say that the graph is ours
        return layer.replace("_global_pool_flat", "_squeeze")
    base, norm = (layer[:-3], "/bn") if layer.endswith("_bn") else (layer, "")
    return {CONV1: THEIR_CONV1, POOL5: AVERAGE}.get(base, base) + norm


def keras3_name(layer: str) -> str:
    """The same where a slash is forbidden: ``_`` for ``/``, and :data:`BGR_CONV1` for the first convolution."""
    return BGR_CONV1 if layer in (CONV1, THEIR_CONV1) else their_name(layer).replace("/", "_")


def our_name(layer: str) -> str:
    """Either form back: ``conv1/7x7_s2/bn`` -> ``conv1_7x7_s2_bn``. A name that is neither comes back as it is."""
    base, norm = (layer[:-3], "_bn") if layer.endswith("/bn") else (layer, "")
    return {BGR_CONV1: CONV1, THEIR_CONV1: CONV1, AVERAGE: POOL5}.get(base, base) + norm


def same_name(layer: str) -> str:
    return layer


#: A layer that owns weights, under either dialect's name, and the numbers that TensorFlow 1 put behind a name that it
#: had seen before in the process: ``conv1/7x7_s2_1``, ``conv2_1_3x3/bn_2``.
NUMBERED = re.compile(r"(conv1[/_]7x7_s2|conv\d_\d_(?:3x3|1x1_[a-z]+))(?:_\d+)?(?:([/_]bn)(?:_\d+)?)?")


def layer_of_weight(path: str) -> str:
    """The layer in what stands before a weight's role: ``base/conv1/7x7_s2/bn`` -> ``conv1/7x7_s2/bn``."""
    found = re.search(r"(?:conv1(?:_\d+)?/7x7_s2[^/]*|[^/]+)(?:/bn[^/]*)?$", path)
    name = found.group() if found else path
    known = NUMBERED.fullmatch(name)
    return known[1] + (known[2] or "") if known else name


def speaks(layers: set[str]) -> bool:
    """Whether these layers' names are of this dialect, in either form, and the first kernel is BGR's."""
    return THEIR_CONV1 in layers or BGR_CONV1 in layers


# --- numbers --------------------------------------------------------------------------------------------------------


def turned(kernel: np.ndarray) -> np.ndarray:
    """The first convolution's kernel for images of the other channel order: RGB to BGR and back. A view.

    What is no such kernel comes back as it is; whoever holds it against the network refuses it.
    """
    return kernel[:, :, ::-1] if kernel.ndim == 4 else kernel


def absorbed(gamma: np.ndarray, variance: np.ndarray, source: float, target: float) -> np.ndarray:
    """Gamma for a BatchNorm of epsilon ``target`` that does what ``gamma`` did with ``source``.

    gamma / sqrt(variance + source) is what a BatchNorm multiplies with. Computed in float64 and rounded once, so that
    there and back differs by one unit in the last place at most.
    """
    if source == target:
        return gamma
    exact = variance.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # what is impossible, the matching says
        return (gamma.astype(np.float64) * np.sqrt((exact + target) / (exact + source))).astype(np.float32)


def with_epsilon(
    arrays: dict[str, dict[str, np.ndarray]], source: float, target: float
) -> dict[str, dict[str, np.ndarray]]:
    """``arrays`` (layer -> role -> array) with every gamma made for the epsilon ``target``."""
    made = {}
    for layer, roles in arrays.items():
        gamma, variance = roles.get("gamma"), roles.get("moving_variance")
        if gamma is not None and variance is not None and gamma.shape == variance.shape:  # else it fits no model anyway
            roles = {**roles, "gamma": absorbed(gamma, variance, source, target)}
        made[layer] = roles
    return made


# --- the graph ------------------------------------------------------------------------------------------------------


def vggface_plan(
    table: Architecture,
    *,
    exact: bool,
    rename: Rename,
    input_shape: tuple[int | None, int | None, int] = (arch.INPUT_SIZE, arch.INPUT_SIZE, 3),
    pooling: str | None = None,
    activation: str | None = "softmax",
) -> tuple[KerasLayer, ...]:
    """The Keras layers of keras_vggface's graph of ``table``, in the order of ``model.layers``.

    Args:
        table: a classifier or a network without head.
        exact: with Albanie's padding and epsilon, or with keras_vggface's own.
        rename: :func:`their_name`, :func:`keras3_name` or, for our own names, :func:`same_name`.
        input_shape: height, width, 3.
        pooling: "avg", "max" or None: what follows ``avg_pool`` where there is no head.
        activation: of the head, inside the Dense layer as keras_vggface has it; None for logits.
    """
    if table.head.kind == "embedding":
        raise ValueError("keras_vggface has no embeddings: give a classifier, or no head")
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"pooling is None, 'avg' or 'max', not {pooling!r}")
    plan = {layer.name: layer for layer in keras_plan(table, input_shape=input_shape, activation=None)}
    if not exact:
        epsilon = EPSILON[table.network]
        for name in ZEROS:
            (behind,) = (layer for layer in plan.values() if name in layer.inputs)
            padding = {"padding": "same"} if behind.name == CONV1 else {}
            plan[behind.name] = replace(behind, inputs=plan.pop(name).inputs, config={**behind.config, **padding})
        for name, layer in plan.items():
            if layer.class_name == "BatchNormalization":
                plan[name] = replace(layer, config={**layer.config, "epsilon": epsilon})
    features = plan.pop(POOL5).inputs if POOL5 in plan else (table.output,)
    window = {"pool_size": (7, 7), "strides": (7, 7), "padding": "valid", "data_format": "channels_last"}
    plan[POOL5] = KerasLayer(POOL5, "AveragePooling2D", features, window)
    if table.head.kind == "classifier":
        head = plan.pop(CLASSIFIER)
        plan["flatten"] = KerasLayer("flatten", "Flatten", (POOL5,), {"data_format": "channels_last"})
        config = {**head.config, "activation": activation or "linear"}
        plan[CLASSIFIER] = replace(head, inputs=("flatten",), config=config)
    elif pooling is not None:
        kind = {"avg": "GlobalAveragePooling2D", "max": "GlobalMaxPooling2D"}[pooling]
        plan["pool"] = KerasLayer("pool", kind, (POOL5,), {"data_format": "channels_last"})
    renamed = [replace(layer, name=rename(layer.name), inputs=tuple(map(rename, layer.inputs)))
               for layer in plan.values()]  # fmt: skip
    return tuple(in_keras_order(renamed))
