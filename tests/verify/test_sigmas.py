"""Variances that have one float32 sigma are one variance to a ``.mat``; any other is another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from convert.checkpoint import Checkpoint, Source
from convert.readers.mat_file import sigma_of
from ferplus_keras.networks.architecture import architecture
from tests.seeded import seeded_checkpoint
from verify.sigmas import explained
from verify.tensors import compare_tensors

LAYERS = ("conv1_7x7_s2_bn", "conv2_1_3x3_bn")


def imported(variance: np.ndarray) -> np.ndarray:
    """As PyTorch computes it in float32: what an importer does."""
    sigma = torch.from_numpy(sigma_of(variance))
    return (sigma * sigma - torch.tensor(1e-5)).numpy()


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    draw = np.random.default_rng(0)
    made = seeded_checkpoint("resnet50")
    for layer in LAYERS:  # from far below epsilon to far above it
        made.arrays[layer]["moving_variance"] = np.float32(10.0 ** draw.uniform(-9, 3, 64))
    assert made.architecture == architecture("resnet50")
    return made


def from_format(checkpoint: Checkpoint, format: str) -> Checkpoint:
    source = Source("x", 1, "0" * 64, format)
    return replace(checkpoint, provenance=replace(checkpoint.provenance, source=source, origin=source))


def other(checkpoint: Checkpoint) -> Checkpoint:
    arrays = {layer: dict(roles) for layer, roles in checkpoint.arrays.items()}
    for layer in LAYERS:
        arrays[layer]["moving_variance"] = imported(arrays[layer]["moving_variance"])
        assert not np.array_equal(arrays[layer]["moving_variance"], checkpoint.arrays[layer]["moving_variance"])
    return replace(checkpoint, arrays=arrays)


@pytest.mark.parametrize("of_mat", ["source", "model"])
def test_what_an_importer_makes_is_taken_and_remarked(checkpoint: Checkpoint, of_mat: str) -> None:
    source, model = checkpoint, other(checkpoint)
    if of_mat == "source":
        source = from_format(source, "matconvnet-5")
    else:
        source, model = other(checkpoint), from_format(checkpoint, "matconvnet-5")
    found = explained(source, model.arrays, model.provenance)
    assert found.layers == 2 and "2 BatchNorm layers" in found.remark
    assert compare_tensors(found.checkpoint.arrays, model.arrays).passed


def test_one_step_further_is_another_variance(checkpoint: Checkpoint) -> None:
    source, model = from_format(checkpoint, "matconvnet-5"), other(checkpoint)
    variance = model.arrays[LAYERS[0]]["moving_variance"]
    variance[5] *= 1 + 1e-5
    found = explained(source, model.arrays, None)
    assert found.layers == 1
    assert list(compare_tensors(found.checkpoint.arrays, model.arrays).different) == [f"{LAYERS[0]}/moving_variance"]


def test_without_matconvnet_nothing_is_explained(checkpoint: Checkpoint) -> None:
    found = explained(checkpoint, other(checkpoint).arrays, None)
    assert found.checkpoint is checkpoint and not found.remark
