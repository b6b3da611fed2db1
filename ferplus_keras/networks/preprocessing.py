"""From pixels to the network's input: one function, one declared channel order."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.networks.pixel_range import range_problem


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its input; travels inside every file that is written.

    ``mean`` is subtracted per channel from pixels in ``pixel_range``; nothing is divided.
    """

    channel_order: str = "RGB"
    pixel_range: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, float, float] = (131.0912, 103.8827, 91.4953)  # VGGFace2's, in *_dag.py's meta
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    size: tuple[int, int] = (INPUT_SIZE, INPUT_SIZE)
    resize: str = "straight to size, no crop, bilinear"
    layout: str = "height x width x channels"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


#: The one preprocessing of both FERPlus networks and of the VGGFace2 networks they come from.
PUBLISHED = Preprocessing()


#: Sides of the images that these networks can take: below, the last stage has nothing left to look at (five halvings;
#: keras.applications has the same bound); above, nobody trains.
MIN_SIZE, MAX_SIZE = 32, 1024


def trained_side(size: Any) -> int:
    """The side of the images that a network was trained on, by its record's ``size``; 224 where that is no square."""
    if not isinstance(size, (list, tuple)) or len(size) != 2 or size[0] != size[1]:
        return INPUT_SIZE
    return size[0] if isinstance(size[0], int) and MIN_SIZE <= size[0] <= MAX_SIZE else INPUT_SIZE


def preprocess_input(images: Any) -> np.ndarray:
    """``images`` (height x width x 3, or a batch of them; RGB; 0..255, any dtype) as float32 less the mean.

    Raises ``ValueError`` on what cannot be such images: another shape, channels first, NaN, and numbers of another
    range (0..1, -1..1, 16 bits, pixels that were preprocessed before). Floats may lie beyond 0..255 as far as bicubic
    resizing takes them. Does not change its argument.
    """
    return checked_pixels(images).astype(np.float32) - np.asarray(PUBLISHED.mean, np.float32)


def checked_pixels(images: Any) -> np.ndarray:
    """``images`` as an array, once nothing about it says that it is not images of 0..255 with the channels last."""
    pixels = np.asarray(images)
    if pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
        first = pixels.ndim in (3, 4) and pixels.shape[-3] == 3
        raise ValueError(
            "preprocess_input takes RGB images as height x width x 3, or a batch of them; "
            f"it was given the shape {pixels.shape}"
            + (": the channels come first, move them to the end (numpy.moveaxis(images, -3, -1))" if first else "")
        )
    if problem := range_problem(pixels, overshoot=True):
        raise ValueError(f"preprocess_input takes pixels from 0 to 255: {problem}")
    return pixels
