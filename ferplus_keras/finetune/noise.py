"""Random numbers that are the same on every backend: a function of seed, step, row and column, not of a hidden state.

Keras's own generators are another one for each backend, so the same seed warps other images on JAX than on
TensorFlow. A counter-based generator (Salmon et al. 2011, doi:10.1145/2063384.2063405) has nothing to hold but the
step, needs only integer arithmetic, which every backend has, and gives each row its numbers whatever device or process
the row is on. The mixing function is a 32-bit finalizer (two multiplications, three shifts: C. Wellons, "lowbias32",
public domain), in signed integers that wrap, because those are the only 32-bit ones that all three backends multiply.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

#: Odd, and far from any pattern: 2^32 divided by the golden ratio; as signed numbers like the two of the finalizer.
_STRIDE = 0x9E3779B9 - (1 << 32)
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)


def folded(seed: int) -> int:
    """Any seed of 0 or more as a signed 32-bit number, so that neighbours have nothing in common."""
    return int(np.random.SeedSequence(seed).generate_state(1).view(np.int32)[0])


def uniforms(seed: int, step: Any, rows: Any, columns: int) -> Any:
    """``rows`` x ``columns`` float32 in [0, 1), in steps of 2^-24.

    Args:
        seed: see :func:`folded`.
        step: an integer scalar, Python's or the backend's.
        rows: the rows' numbers, a vector of integers.
        columns: how many numbers each row gets; column i is the same however many there are.
    """
    key = _mixed(ops.bitwise_xor(_mixed(ops.cast(step, "int32") * _STRIDE), seed))
    row = _mixed(ops.bitwise_xor(_mixed(ops.cast(rows, "int32") * _STRIDE), key))
    cell = _mixed(row[:, None] + ops.arange(1, columns + 1, dtype="int32")[None, :] * _STRIDE)
    return ops.cast(_shifted(cell, 8), "float32") * 2.0**-24


def _mixed(value: Any) -> Any:
    value = ops.bitwise_xor(value, _shifted(value, 16)) * _FIRST
    value = ops.bitwise_xor(value, _shifted(value, 15)) * _SECOND
    return ops.bitwise_xor(value, _shifted(value, 16))


def _shifted(value: Any, by: int) -> Any:
    """To the right, with zeros from the left, as for unsigned numbers."""
    return ops.bitwise_and(ops.right_shift(value, by), (1 << (32 - by)) - 1)
