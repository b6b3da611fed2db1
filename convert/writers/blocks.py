"""A kernel turned around lies scattered in memory: it is walked through in pieces that stay in the nearest cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Output channels at a time.
BLOCK = 32


def blocks(array: np.ndarray) -> Iterator[slice]:
    """Slices of the last axis of ``array``, together all of it."""
    return (slice(start, start + BLOCK) for start in range(0, array.shape[-1], BLOCK))
