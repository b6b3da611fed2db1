"""A transposed kernel is scattered in memory; it is processed in blocks that fit the fastest cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Output channels per block.
BLOCK = 32


def blocks(array: np.ndarray) -> Iterator[slice]:
    """Slices that cover the last axis of ``array``."""
    return (slice(start, start + BLOCK) for start in range(0, array.shape[-1], BLOCK))
