"""How much a network may make of its images before it is none of these, whatever its file says.

Counted on declared sizes, before anything is allocated. For each pixel of its input, a ResNet50 makes tensors of 16
numbers, three of them at a time, and multiplies 80,000 times; VGG16's largest tensor has 64 numbers for each, and it
multiplies 310,000 times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ferplus_keras.errors import DamagedError

Shape = tuple[int, ...]

#: Numbers in one tensor, and in all that are kept at a time, for each pixel of the input.
TENSOR, ALIVE = 64, 256

#: Multiplications (and whatever costs about as much) for each pixel of the input; and those that any network may do.
WORK, LEAST_WORK = 1_000_000, 1_000_000_000

MAX_DIMENSIONS = 8


class Budget:
    """What is left for ``images`` images of ``side`` x ``side``. Raises :class:`DamagedError` when it is spent."""

    def __init__(self, images: int, side: int) -> None:
        pixels = images * side * side
        self.tensor, self.kept = TENSOR * pixels, ALIVE * pixels
        self.work = max(WORK * pixels, LEAST_WORK)
        self.alive = 0

    def made(self, shapes: Iterable[Shape], work: int = 0) -> None:
        """An operation made tensors of these ``shapes``, with ``work`` multiplications."""
        for shape in shapes:
            size = math.prod(shape)
            if len(shape) > MAX_DIMENSIONS or any(extent < 0 for extent in shape):
                raise DamagedError(f"it produces a tensor of shape {shown(shape)}")
            if size > self.tensor:
                raise DamagedError(f"it produces a tensor of {shown(shape)}, larger than any of these networks'")
            self.alive += size
            self.work -= size
        self.work -= work
        if self.alive > self.kept:
            raise DamagedError(f"it keeps {self.alive:,} numbers at a time, more than any of these networks")
        if self.work < 0:
            raise DamagedError("it computes far more than any of these networks")

    def gone(self, shape: Shape) -> None:
        """A tensor of that shape is needed no more."""
        self.alive -= math.prod(shape)


def shown(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))
