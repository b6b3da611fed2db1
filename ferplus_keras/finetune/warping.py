"""Small images to the network's size on the accelerator: straight, or through one affine map each.

Written in ``keras.ops`` alone, so that TensorFlow, JAX and PyTorch run the same code. Images are float32, n x height
x width x channels. Coordinates of a map run from -1 to 1 over the whole image, edge to edge, x to the right and y
down; pixel i of k has its centre at (2i + 1) / k - 1, which is where Pillow, OpenCV and TensorFlow see it.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

#: TensorFlow adds 32-bit integers on the host, even where the rest is on a GPU; JAX has no others.
_INDEX = "int64" if keras.backend.backend() == "tensorflow" else "int32"


def resized(images: Any, size: int) -> Any:
    """``images`` as squares of ``size``: what :func:`warped` makes of them with nothing warped, in less time."""
    height, width = images.shape[1:3]
    fine = size * oversampling(height, width, size)

    def along(pixels: Any, length: int, axis: int) -> Any:
        place = np.clip((np.arange(fine) + 0.5) * (length / fine) - 0.5, 0, length - 1)
        low = np.minimum(place.astype(np.int32), length - 2)
        share = ops.convert_to_tensor((place - low).reshape([-1 if at == axis else 1 for at in range(4)]), "float32")
        before, after = ops.take(pixels, low, axis=axis), ops.take(pixels, low + 1, axis=axis)
        return before + (after - before) * share

    return _averaged(along(along(images, width, 2), height, 1), size)


def warped(images: Any, maps: Any, size: int) -> Any:
    """``images`` as squares of ``size``, sampled once, bilinearly, each through its own affine map.

    Args:
        images: n x height x width x channels, float32; at least 2 x 2 pixels.
        maps: n x 2 x 3: where in the source a place of the result lies, (x, y) = map @ (x', y', 1). Places outside of
            the source have the colour of the nearest edge.
        size: side of the result.
    """
    height, width, channels = images.shape[1:]
    fine = size * oversampling(height, width, size)
    grid = ops.convert_to_tensor((2 * np.arange(fine) + 1) / fine - 1, "float32")

    def places(row: int, length: int) -> tuple[Any, Any]:
        """The pixel to the left of (or above) each sample, and how far beyond it the sample is."""
        in_x, in_y, shift = (maps[:, row, column, None, None] * (length / 2) for column in range(3))
        place = in_x * grid[None, None, :] + (in_y * grid[None, :, None] + (shift + (length - 1) / 2))
        place = ops.clip(place, 0.0, length - 1.0)
        low = ops.minimum(ops.floor(place), length - 2.0)
        return low, place - low

    left, across = places(0, width)
    upper, down = places(1, height)
    # Each pixel with its three neighbours in one row, so that a sample is one look-up.
    right = ops.concatenate([images[:, :, 1:], images[:, :, -1:]], axis=2)
    pairs = ops.concatenate([images, right], axis=-1)
    below = ops.concatenate([pairs[:, 1:], pairs[:, -1:]], axis=1)
    table = ops.reshape(ops.concatenate([pairs, below], axis=-1), (-1, 4 * channels))
    first = ops.arange(ops.shape(images)[0], dtype=_INDEX) * (height * width)
    found = ops.take(table, ops.cast(upper * width + left, _INDEX) + first[:, None, None], axis=0)
    at = [found[..., corner * channels : (corner + 1) * channels] for corner in range(4)]
    across, down = across[..., None], down[..., None]
    top = at[0] + (at[1] - at[0]) * across
    bottom = at[2] + (at[3] - at[2]) * across
    return _averaged(top + (bottom - top) * down, size)


def oversampling(height: int, width: int, size: int) -> int:
    """Samples a side of each new pixel: 1 when enlarging, and when shrinking enough to look at every old one."""
    return max(1, -(-max(height, width) // size))


def _averaged(images: Any, size: int) -> Any:
    times = images.shape[1] // size
    if times == 1:
        return images
    return ops.mean(ops.reshape(images, (-1, size, times, size, times, images.shape[-1])), axis=(2, 4))
