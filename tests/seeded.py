"""Checkpoints with seeded numbers, of the real names and sizes, for tests that need tensors but no sense in them."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Arrays, Checkpoint, Provenance, Source, labels_for
from convert.layouts import torch_layout
from convert.writers.torch_files import torch_arrays
from ferplus_keras.networks.architecture import FERPLUS_HEAD, Head, architecture


def seeded_arrays(network: str, head: Head = FERPLUS_HEAD, seed: int = 0) -> Arrays:
    """Normal numbers in the neutral layout; variances and gammas are positive. The same for the same seed."""
    generator = np.random.default_rng(seed)
    arrays: Arrays = {}
    for layer, roles in architecture(network, head).parameters.items():
        arrays[layer] = {}
        for role, shape in roles.items():
            values = generator.standard_normal(shape, np.float32)
            if role == "kernel":
                values *= np.float32(np.sqrt(2 / np.prod(shape[:-1])))
            elif role in ("moving_variance", "gamma"):
                values = np.abs(values) + np.float32(0.5)
            arrays[layer][role] = values
    return arrays


def seeded_checkpoint(
    network: str, head: Head = FERPLUS_HEAD, seed: int = 0, *, steps: Any = 0, torch_head: str = "conv"
) -> Checkpoint:
    source = Source(f"seeded-{network}.pth", 1, "0" * 64, "made by the tests")
    provenance = Provenance(
        source, source, network, head.kind, head.units,
        labels=labels_for(head), num_batches_tracked=steps, torch_head=torch_head,
    )  # fmt: skip
    return Checkpoint(architecture(network, head), seeded_arrays(network, head, seed), provenance)


def seeded_state(network: str, head: Head = FERPLUS_HEAD, seed: int = 0, **options: Any) -> OrderedDict[str, Any]:
    """A state dict as PyTorch has it: torch tensors under Albanie's names, with step counters."""
    import torch

    checkpoint = seeded_checkpoint(network, head, seed, **options)
    return OrderedDict((name, torch.from_numpy(np.array(array))) for name, array in torch_arrays(checkpoint))


def hollow_state(network: str, value: float = 1.0, head: Head = FERPLUS_HEAD) -> dict[str, Any]:
    """A state dict of full shapes and one number: each tensor repeats a storage of four bytes."""
    import torch

    slots = torch_layout(architecture(network, head))
    return {name: torch.full((1,), value).expand(slot.shape) for name, slot in slots.items()}


def save_state(state: Any, path: Path, *, legacy: bool = False) -> Path:
    """``torch.save`` in the zip format, or in the one before PyTorch 1.6."""
    import torch

    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path
