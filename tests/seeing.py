"""A start that sees: weights made by rule, through which a small image arrives at the head without being blurred.

Learning to see takes a network hours. What a test has seconds for is learning to tell faces apart by what is seen, so
it starts from this: the first convolution are oriented edges (Gabor 1946), and the residual blocks fetch neighbouring
places into further channels, so that halving the map loses little. Nothing of it was learned from any image, and
with a fresh head it says nothing at all of emotions.
"""

from __future__ import annotations

import math

import numpy as np

from convert.checkpoint import Arrays, Checkpoint
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON, NO_HEAD, STAGES, architecture
from tests.seeded import seeded_checkpoint

#: Grey levels that an edge in a face comes to, about; what the first convolution's answers are divided by.
CONTRAST = 100.0

#: Where a block looks, as (row, column) away from its own place.
NEIGHBOURS = ((0, 1), (1, 0), (1, 1))


def gabors(count: int = 64, side: int = 7) -> np.ndarray:
    """side x side x count edge filters: orientations, two wavelengths, phases; each of sum 0 and length 1."""
    axis = np.arange(side) - side // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    filters = []
    for number in range(count):
        angle = math.pi * (number % 8) / 8
        wavelength, phase = (4.0, 7.0)[number // 8 % 2], math.pi / 2 * (number // 16 % 4)
        along = x * math.cos(angle) + y * math.sin(angle)
        one = np.exp(-(x**2 + y**2) / 8) * np.cos(2 * math.pi * along / wavelength + phase)
        one -= one.mean()
        filters.append(one / np.linalg.norm(one))
    return np.stack(filters, axis=-1)


def seeing_arrays(network: str = "resnet50", seed: int = 0) -> Arrays:
    """The arrays of ``network`` without a head. BatchNorm does nothing: mean 0, variance 1."""
    generator = np.random.default_rng(seed)
    arrays: Arrays = {
        layer: {role: np.zeros(shape, np.float32) for role, shape in roles.items()}
        for layer, roles in architecture(network, NO_HEAD).parameters.items()
    }
    for layer, roles in arrays.items():
        if layer.endswith("_bn"):
            roles["gamma"][:] = 1.0
            roles["moving_variance"][:] = 1.0 - BATCHNORM_EPSILON
    arrays["conv1_7x7_s2"]["kernel"][:] = gabors()[:, :, None, :] / (3 * CONTRAST)
    width = 64
    for stage in STAGES:
        arrays[f"conv{stage.number}_1_1x1_proj"]["kernel"][0, 0, :width, :width] = np.eye(width)
        fetched = (stage.out - width) // stage.blocks  # channels that each block adds
        for block in range(1, stage.blocks + 1):
            name = f"conv{stage.number}_{block}"
            reduce = arrays[f"{name}_1x1_reduce"]["kernel"][0, 0]
            exact = fetched == width  # room for every channel of the neighbour; else for mixtures of them
            mixed = np.eye(width) if exact else generator.normal(0, math.sqrt(2 / width), (width, fetched))
            reduce[:width, :fetched] = mixed
            row, column = NEIGHBOURS[(block - 1) % len(NEIGHBOURS)]
            arrays[f"{name}_3x3"]["kernel"][1 + row, 1 + column, range(fetched), range(fetched)] = 1.0
            first = width + fetched * (block - 1)
            increase = arrays[f"{name}_1x1_increase"]["kernel"][0, 0]
            increase[range(fetched), range(first, first + fetched)] = 1.0
        width = stage.out
    return arrays


def seeing_checkpoint(network: str = "resnet50") -> Checkpoint:
    """The same as a checkpoint to be written, in the form of one without a head."""
    told = seeded_checkpoint(network, NO_HEAD).provenance
    return Checkpoint(architecture(network, NO_HEAD), seeing_arrays(network), told)
