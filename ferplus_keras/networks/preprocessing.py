"""From pixels to the network's input: one function, one declared channel order."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ferplus_keras.networks.architecture import INPUT_SIZE


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


#: Resizing with a wider kernel than bilinear overshoots by some grey levels; taking the mean off does by 91 and more.
OVERSHOOT = 32.0


def preprocess_input(images: Any) -> np.ndarray:
    """``images`` (height x width x 3, or a batch of them; RGB; 0..255, any dtype) as float32 less the mean.

    Raises ``ValueError`` on what cannot be such images: another shape, channels first, NaN, floats from 0 to 1, or
    pixels that were preprocessed before. Does not change its argument.
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
    if pixels.dtype.kind not in "fiub":
        raise ValueError(f"preprocess_input takes pixels as numbers; it was given {pixels.dtype}")
    if pixels.dtype.kind != "f" or not pixels.size:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError("preprocess_input was given NaN or infinity among the pixels")
    if low < -OVERSHOOT or high > 255.0 + OVERSHOOT:
        raise ValueError(
            f"preprocess_input takes pixels from 0 to 255; it was given {low:.4g} to {high:.4g}. "
            "Was the mean taken off before?"
        )
    if low >= 0.0 and 0.0 < high <= 1.0:
        raise ValueError(
            f"preprocess_input takes pixels from 0 to 255; it was given floats from {low:.4g} to {high:.4g}, which "
            "look like pixels from 0 to 1. Multiply them by 255 (an image that is as dark as that: give it as bytes)"
        )
    return pixels
