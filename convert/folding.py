"""Batch normalisation merged into the convolution before it: the same function with fewer layers, for inference.

A normalisation in inference is y = gamma (x - mean) / sqrt(variance + epsilon) + beta, a scale and a shift for each
channel, and a convolution can do both: its kernel is scaled and it gets a bias. The arithmetic is in float64 and each
number is rounded to float32 once. The statistics, which training needs, cannot be recovered, so :func:`refuse_folded`
refuses folded networks elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from convert.checkpoint import Arrays, Checkpoint
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON, Architecture, BatchNorm, architecture


def folded_table(table: Architecture) -> Architecture:
    """The folded architecture of the same network and head, without dropout, which does nothing at inference."""
    return architecture(table.network, table.head, folded=True)


def normalisation_of(table: Architecture) -> dict[str, str]:
    """Convolution -> the batch normalisation that follows it, perhaps after a dropout.

    The normalisation's output in ``table`` is the convolution's in the folded network.
    """
    found = {}
    for layer in table.layers:
        if isinstance(layer, BatchNorm):
            before = layer.inputs[0]
            while not table.by_name[before].parameters:
                before = table.by_name[before].inputs[0]
            found[before] = layer.name
    return found


def folded_arrays(checkpoint: Checkpoint) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Layer -> role -> array of the folded network, in its order, in float64 and not rounded."""
    follows = normalisation_of(checkpoint.architecture)
    for layer in folded_table(checkpoint.architecture).parameters:
        roles = {role: array.astype(np.float64) for role, array in checkpoint.arrays[layer].items()}
        if layer in follows:
            norm = {role: array.astype(np.float64) for role, array in checkpoint.arrays[follows[layer]].items()}
            scale = norm["gamma"] / np.sqrt(norm["moving_variance"] + BATCHNORM_EPSILON)
            roles = {
                "kernel": roles["kernel"] * scale,  # the output channels are the last axis
                "bias": norm["beta"] + (roles.get("bias", 0.0) - norm["moving_mean"]) * scale,
            }
        yield layer, roles


def fold(checkpoint: Checkpoint) -> Checkpoint:
    """``checkpoint`` with its batch normalisations in the convolutions, every number rounded to float32 once.

    One that is folded already is returned as it is. Raises :class:`BadInputError` when a number becomes too large for
    float32, as with a variance close to -epsilon.
    """
    if checkpoint.architecture.folded:
        return checkpoint
    arrays: Arrays = {}
    for layer, roles in folded_arrays(checkpoint):
        with np.errstate(over="ignore"):
            arrays[layer] = {role: array.astype(np.float32) for role, array in roles.items()}
        if not all(np.isfinite(array).all() for array in arrays[layer].values()):
            raise BadInputError(
                f"{checkpoint.provenance.source.name} cannot be folded: with its batch normalisation merged in, "
                f"{layer} has numbers too large for float32. Leave out --fold."
            )
    provenance = replace(checkpoint.provenance, folded=True, dropout=0.0, num_batches_tracked=None)
    return Checkpoint(folded_table(checkpoint.architecture), arrays, provenance)


def refuse_folded(checkpoint: Checkpoint, purpose: str) -> None:
    """Raises :class:`BadInputError` if ``checkpoint`` is folded; ``purpose`` is the message's advice."""
    if checkpoint.architecture.folded:
        origin = checkpoint.provenance.origin.name
        raise BadInputError(
            f"{checkpoint.provenance.source.name} is folded, for inference only: its batch normalisations were merged "
            f"into its convolutions and cannot be recovered. {purpose} Or use the file it was made from ({origin})."
        )
