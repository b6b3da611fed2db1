"""48 x 48 to 224 x 224: what libraries mean by "bilinear" differs, and so do, now and then, a network's decisions.

All of these are bilinear; they differ in where the corners lie and in how they round. The formulas are those of the
libraries, and tests hold them against the libraries themselves, bit for bit where that is stated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ferplus_keras.networks.architecture import INPUT_SIZE


@dataclass(frozen=True)
class Resizer:
    """``run`` turns grey images, n x height x width bytes, into n x size x size (224), bytes or float32."""

    name: str
    title: str
    text: str
    run: Callable[..., np.ndarray]


def pillow(images: np.ndarray, size: int = INPUT_SIZE) -> np.ndarray:
    from PIL import Image

    resized = np.empty((len(images), size, size), np.uint8)
    for target, image in zip(resized, images, strict=True):
        target[:] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
    return resized


def align_corners(images: np.ndarray, size: int = INPUT_SIZE) -> np.ndarray:
    def places(length: int) -> np.ndarray:
        ends: np.ndarray = np.arange(size, dtype=np.float32) * np.float32((length - 1) / (size - 1))
        return ends

    return _interpolated(images, places)


def tensorflow(images: np.ndarray, size: int = INPUT_SIZE) -> np.ndarray:
    def places(length: int) -> np.ndarray:
        scale = np.float32(length) / np.float32(size)
        centres: np.ndarray = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
        return centres

    return _interpolated(images, places)


def _interpolated(images: np.ndarray, places: Callable[[int], np.ndarray]) -> np.ndarray:
    """In float32, rows last, not rounded; ``places``: where each new pixel lies in a row of the old ones."""

    def between(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        where = places(length)
        below = np.floor(where)
        low = np.clip(below.astype(np.intp), 0, length - 1)
        high = np.clip(np.ceil(where).astype(np.intp), 0, length - 1)
        return low, high, where - below

    pixels = images.astype(np.float32)
    left, right, across = between(images.shape[2])
    rows = pixels[:, :, left] + (pixels[:, :, right] - pixels[:, :, left]) * across
    upper, lower, down = between(images.shape[1])
    result: np.ndarray = rows[:, upper] + (rows[:, lower] - rows[:, upper]) * down[:, None]
    return result


def opencv(images: np.ndarray, size: int = INPUT_SIZE) -> np.ndarray:
    """In whole numbers: weights of 11 bits, 4 bits dropped between the passes, 16 and 2 after them."""

    def places(length: int) -> tuple[np.ndarray, np.ndarray]:
        where = ((np.arange(size) + 0.5) * (length / size) - 0.5).astype(np.float32)
        below = np.floor(where).astype(np.intp)
        return below, where - below.astype(np.float32)

    def weights(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        one = np.float32(1)
        return tuple(np.rint(each * np.float32(2048)).astype(np.int32) for each in (one - share, share))  # type: ignore[return-value]

    pixels, (height, width) = images.astype(np.int32), images.shape[1:]
    left, share = places(width)
    share = np.where((left < 0) | (left >= width - 1), np.float32(0), share)  # across, the edge is a pixel by itself
    left = np.clip(left, 0, width - 1)
    here, beyond = weights(share)
    rows = pixels[:, :, left] * here + pixels[:, :, np.minimum(left + 1, width - 1)] * beyond
    rows >>= 4
    upper, share = places(height)  # down, the edge row is counted twice
    here, beyond = weights(share)
    top, bottom = (rows[:, np.clip(row, 0, height - 1)] for row in (upper, upper + 1))
    total = ((top * here[:, None]) >> 16) + ((bottom * beyond[:, None]) >> 16)
    result: np.ndarray = ((total + 2) >> 2).astype(np.uint8)
    return result


#: By name; the first is the default. "pillow" is also what the PyTorch benchmark of these networks uses.
RESIZERS = {
    resizer.name: resizer
    for resizer in (
        Resizer("pillow", "Pillow, bilinear", "pixel centres, rounded to bytes after each pass; Pillow itself", pillow),
        Resizer(
            "align-corners", "corners aligned", "corner pixels on corner pixels, not rounded: as the published MATLAB "
            "evaluation; equals torch's interpolate(align_corners=True) to 1e-4 grey levels", align_corners,
        ),
        Resizer(
            "opencv", "OpenCV, INTER_LINEAR", "pixel centres, 11-bit weights, rounded to bytes; equals cv2.resize bit "
            "for bit (4.10, 5.0)", opencv,
        ),
        Resizer(
            "tensorflow", "TensorFlow, bilinear", "pixel centres, not rounded; equals tf.image.resize bit for bit",
            tensorflow,
        ),
    )
}  # fmt: skip

DEFAULT_RESIZER = "pillow"
