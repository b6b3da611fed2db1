"""SE-ResNet50's gates for the weights of a ResNet50, which has none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ferplus_keras.networks import architecture as arch

#: Layer -> role -> array: the neutral form of ``convert.checkpoint``.
Arrays = Mapping[str, Mapping[str, np.ndarray]]

#: Bias of the gates that are given to a network without: they start at sigmoid(2) = 0.88, from where they move easily.
GATE_BIAS = 2.0


def with_gates(arrays: Arrays, table: arch.Architecture) -> Arrays:
    """``arrays`` of ResNet50 as a start of SE-ResNet50: the same function, bit for bit but for rounding.

    What the two have in common is copied. Each gate's second layer is zero with :data:`GATE_BIAS`, so every gate
    stands at the same value whatever the image, and the normalisation before it makes up for that value. Arrays that
    have gates, and those for networks without, are returned as they are.
    """
    gated = [layer.inputs for layer in table.layers if isinstance(layer, arch.Scale)]
    names = {source.removesuffix("_bn").removesuffix("_1x1_increase") for source, _ in gated}
    if not gated or not arrays or any(f"{name}_1x1_down" in arrays for name in names):
        return arrays
    made = {layer: dict(roles) for layer, roles in arrays.items()}
    open_by = 1 / (1 + np.exp(-GATE_BIAS))
    generator = np.random.default_rng(0)
    for name in sorted(names):
        norm = f"{name}_1x1_increase_bn"
        if norm in made:
            made[norm] |= {role: (made[norm][role] / open_by).astype(np.float32) for role in ("gamma", "beta")}
        down, up = table.parameters[f"{name}_1x1_down"], table.parameters[f"{name}_1x1_up"]
        spread = np.sqrt(2 / down["kernel"][2])  # He et al. 2015
        kernel = generator.normal(0, spread, down["kernel"]).astype(np.float32)
        made[f"{name}_1x1_down"] = {"kernel": kernel, "bias": np.zeros(down["bias"], np.float32)}
        made[f"{name}_1x1_up"] = {
            "kernel": np.zeros(up["kernel"], np.float32),
            "bias": np.full(up["bias"], GATE_BIAS, np.float32),
        }
    return made
