"""Variances one rounding apart: how a ``.mat`` and the ``.pth`` that an importer made of it come to differ.

MatConvNet keeps sigma = sqrt(variance + epsilon), in float32, and divides by it. Several float32 variances have that
sigma, and an importer that squares in float32 finds another of them than one that squares in float64. Between such
variances the ``.mat`` does not decide: both are what it says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from convert.checkpoint import Arrays, Checkpoint, Provenance
from convert.readers.mat_file import sigma_of
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON

ROLE = "moving_variance"


@dataclass(frozen=True)
class Explained:
    """The source with the model's variances where these have the same sigmas, and how many layers that was."""

    checkpoint: Checkpoint
    layers: int = 0

    @property
    def remark(self) -> str:
        if not self.layers:
            return ""
        return (
            f"the variances of {self.layers} BatchNorm layer{'s' if self.layers > 1 else ''} are a rounding apart and "
            "have the sigma that the .mat keeps: the source is run with the model's"
        )


def explained(checkpoint: Checkpoint, ours: Arrays, model: Provenance | None) -> Explained:
    """``checkpoint`` with the variances of ``ours`` wherever one of the two files came from MatConvNet and they agree.

    A layer of which one variance belongs to another sigma keeps the source's, all of them, and will be red.
    """
    known = [each for each in (checkpoint.provenance, model) if each]
    formats = [source.format for each in known for source in (each.source, each.origin)]
    if not any(format.startswith("matconvnet") for format in formats):
        return Explained(checkpoint)
    arrays = {}
    for layer, roles in checkpoint.arrays.items():
        theirs, mine = roles.get(ROLE), ours.get(layer, {}).get(ROLE)
        if theirs is None or mine is None or mine.shape != theirs.shape or np.array_equal(theirs, mine):
            continue
        if np.all(_one_sigma(theirs, np.asarray(mine, np.float32))):
            arrays[layer] = roles | {ROLE: np.asarray(mine, np.float32)}
    if not arrays:
        return Explained(checkpoint)
    return Explained(replace(checkpoint, arrays=checkpoint.arrays | arrays), len(arrays))


def _one_sigma(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where both round to one sigma, or one is what an importer that computes in float32 makes of the other's."""
    same = sigma_of(one) == sigma_of(other)
    return np.asarray(same | (one == _imported(sigma_of(other))) | (other == _imported(sigma_of(one))))


def _imported(sigma: np.ndarray) -> np.ndarray:
    """The variance, every step in float32."""
    single = np.asarray(sigma, np.float32)
    return np.asarray(single * single - np.float32(BATCHNORM_EPSILON), np.float32)
