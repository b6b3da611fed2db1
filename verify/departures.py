"""Every layer that computes something else than the reference's *on the model's own inputs*.

The reference runs once, and at each layer the model's output takes the place of its own: what an earlier layer did
wrong is in the input of the next for both sides, and does not count again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from convert.checkpoint import Arrays, Checkpoint
from ferplus_keras.networks import architecture as arch
from verify.faults import Case
from verify.metrics import Difference, difference
from verify.references.torch_reference import as_torch, reference_module

#: How many departing layers are looked at, one after the other; later ones tell nothing new.
MOST = 120


def departures(
    checkpoint: Checkpoint, ours: Arrays, image: np.ndarray, actual: dict[str, np.ndarray],
    over: Callable[[Difference], bool],
) -> list[Case]:  # fmt: skip
    """The layers that depart, in network order, each as a case.

    Args:
        checkpoint: the source.
        ours: the model's arrays.
        image: one image, 1 x height x width x channels.
        actual: the model's output at each layer that it shows, 1 x height x width x channels.
        over: whether a difference is beyond what rounding does.
    """
    import torch

    table = checkpoint.architecture
    found: list[Case] = []
    earlier: dict[str, np.ndarray] = {}

    def take(layer: arch.Layer, inputs: list[torch.Tensor], value: torch.Tensor) -> torch.Tensor:
        expected = _channels_last(value)
        mine = actual.get(layer.name)
        if mine is None or isinstance(layer, arch.Input):
            earlier[layer.name] = expected
            return value
        mine = np.asarray(mine, np.float64)
        apart = difference(layer.name, expected, mine)
        if over(apart) and len(found) < MOST:
            sources = tuple(_channels_last(each) for each in inputs)
            found.append(Case(table, layer, sources, expected, mine, checkpoint.arrays, ours, dict(earlier)))
        earlier[layer.name] = mine
        return torch.from_numpy(np.ascontiguousarray(mine.transpose(0, 3, 1, 2)))

    module = reference_module(checkpoint, "float64")
    with torch.no_grad(), suppress(RuntimeError):  # behind an output of another shape a layer may compute nothing
        module(as_torch(image, "float64"), perturb=take)
    return found


def _channels_last(value: Any) -> np.ndarray:
    result: np.ndarray = value.permute(0, 2, 3, 1).contiguous().numpy()
    return result


def in_order(cases: list[Case]) -> Iterator[Case]:
    """The cases, each let go of when it has been looked at: they hold a network's activations."""
    while cases:
        yield cases.pop(0)
