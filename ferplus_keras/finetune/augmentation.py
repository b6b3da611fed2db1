"""Preprocessing and augmentation as one Keras layer: bytes in, the network's input out, on the accelerator.

The layer stands before the network in the training model. When it does not train it resizes and subtracts the mean,
as :mod:`ferplus_keras.networks.preprocessing` does. When it trains, flip, zoom, rotation, skew and crop of an image
are one affine map, and the image is sampled once, from 48 x 48 straight to the network's size: sampling twice would
blur.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from enum import IntEnum
from typing import Any

import keras
import numpy as np
from keras import ops

from ferplus_keras.finetune.noise import folded, uniforms
from ferplus_keras.finetune.settings import AugmentationSettings, Pair
from ferplus_keras.finetune.warping import resized, warped
from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.networks.preprocessing import PUBLISHED

#: How often a crop is drawn before the whole image is taken, as torchvision and Albumentations do.
CROP_TRIES = 10

#: Width to height of an erased rectangle, at most and inverted at least (Zhong et al. 2017, arXiv:1708.04896).
ERASING_RATIO = 1 / 0.3


#: What each of an image's random numbers is for: turning one thing on does not change the others'. CROP_TRIES is
#: the first of several: areas, then ratios.
_Column = IntEnum(
    "_Column",
    "FLIP WARPED ZOOM ZOOM_X ZOOM_Y ROTATION SKEW_X SKEW_Y TONED BRIGHTNESS CONTRAST ERASED ERASED_AREA ERASED_RATIO "
    "ERASED_X ERASED_Y CROP_X CROP_Y SHIFT_X SHIFT_Y CROP_TRIES",
    start=0,
)

#: Random numbers that each image takes.
COLUMNS = _Column.CROP_TRIES + 2 * CROP_TRIES


@keras.saving.register_keras_serializable(package="ferplus_keras")
class Augmentation(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Images of any size, n x h x w or n x h x w x 1 or 3, 0..255, as the network's input: n x size x size x 3.

    Grey becomes three channels; the result is RGB less the mean, float32 under any precision policy. The random
    numbers depend on ``seed``, on the steps trained so far, which are the layer's one weight and so part of every
    checkpoint, and on the row of the (global) batch; they are the same on all backends.

    Args:
        settings: what to do when training; a dict (from a saved model) does as well.
        size: side of the network's input.
        seed: 0 or more.
        beside: sides at which a teacher is to see the same images, cut, warped and lit alike; with any, the layer
            yields a list, the network's own input first.
    """

    def __init__(
        self,
        settings: AugmentationSettings | dict[str, Any] | None = None,
        size: int = INPUT_SIZE,
        seed: int = 0,
        beside: tuple[int, ...] = (),
        **arguments: Any,
    ) -> None:
        arguments.setdefault("name", "augmentation")
        arguments.setdefault("dtype", "float32")  # half precision has no room for 255 levels and their fractions
        super().__init__(**arguments)
        if isinstance(settings, dict):  # JSON has no tuples
            listed: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
            }
            settings = AugmentationSettings(**listed)
        self.settings = settings or AugmentationSettings()
        self.size, self.seed, self.beside = size, seed, tuple(beside)
        self._key = folded(seed)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        smallest = min(side or 0 for side in input_shape[1:3])  # 0 where it is not known
        if len(input_shape) not in (3, 4) or smallest < 2 or tuple(input_shape[3:]) not in ((), (1,), (3,)):
            raise ValueError(
                "Augmentation takes images of a fixed size, n x h x w, n x h x w x 1 or n x h x w x 3, "
                f"of 2 x 2 pixels or more; it was given the shape {tuple(input_shape)}"
            )
        # Replicas count alike; one of them says.
        self.steps = self.add_weight(
            name="steps", shape=(), initializer="zeros", dtype="int", trainable=False,
            aggregation="only_first_replica",
        )  # fmt: skip

    def call(self, images: Any, training: bool = False) -> Any:
        pixels = ops.cast(images, "float32")
        if len(pixels.shape) == 3:
            pixels = pixels[..., None]
        settings = self.settings
        drawn = None
        if training and (settings.geometric or settings.toning or settings.erased):
            drawn = self._drawn(ops.shape(pixels)[0])
            self.steps.assign_add(1)
        moved = maps(settings, drawn) if drawn is not None and settings.geometric else None
        made = [self._made(pixels, drawn, moved, size) for size in (self.size, *self.beside)]
        return made if self.beside else made[0]

    def _made(self, pixels: Any, drawn: Any, moved: Any, size: int) -> Any:
        """The images at ``size``, augmented where random numbers were ``drawn``."""
        settings, mean = self.settings, ops.convert_to_tensor(PUBLISHED.mean, "float32")
        pixels = resized(pixels, size) if moved is None else warped(pixels, moved, size)
        if drawn is None:
            return pixels - mean
        if settings.toning:
            pixels = _toned(settings, drawn, pixels)
        pixels = pixels - mean
        return _erased(settings, drawn, pixels) if settings.erased else pixels

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        shapes = [(input_shape[0], size, size, 3) for size in (self.size, *self.beside)]
        return shapes if self.beside else shapes[0]

    def get_config(self) -> dict[str, Any]:
        own = {"settings": asdict(self.settings), "size": self.size, "seed": self.seed, "beside": self.beside}
        return {**super().get_config(), **own}

    def _drawn(self, count: Any) -> Any:
        return uniforms(self._key, self.steps.value, ops.arange(count, dtype="int32") + _first_row(count), COLUMNS)


def maps(settings: AugmentationSettings, drawn: Any) -> Any:
    """The affine map of each image (see :func:`warped`), of its random numbers.

    From the result back to the source: mirrored, skewed and turned about the middle, zoomed about a random place, and
    moved into the crop.
    """
    ones = ops.ones_like(drawn[:, 0])
    x, y, shift_x, shift_y = (ones, 0 * ones), (0 * ones, ones), 0 * ones, 0 * ones  # rows of the map, and its shift
    if settings.warping:
        chosen = ops.cast(drawn[:, _Column.WARPED] < settings.warped, "float32")
        skew_x = chosen * _either(settings.skew, settings.skew_range, drawn[:, _Column.SKEW_X])
        skew_y = chosen * _either(settings.skew, settings.skew_range, drawn[:, _Column.SKEW_Y])
        degrees = _either(settings.rotation, settings.rotation_range, drawn[:, _Column.ROTATION])
        angle = chosen * degrees * (math.pi / 180)
        cosine, sine = ops.cos(angle), ops.sin(angle)
        # y points down: turning the image counter-clockwise looks its colours up clockwise.
        x = (cosine - sine * skew_y, cosine * skew_x - sine)
        y = (sine + cosine * skew_y, sine * skew_x + cosine)
        window = 1 + chosen * (1 / _between(settings.zoom, drawn[:, _Column.ZOOM]) - 1)
        x, y = (x[0] * window, x[1] * window), (y[0] * window, y[1] * window)
        # From -1 to 1 is the whole side: a shift by a share of it is twice that.
        shift_x = (1 - window) * (2 * drawn[:, _Column.ZOOM_X] - 1)
        shift_y = (1 - window) * (2 * drawn[:, _Column.ZOOM_Y] - 1)
        shift_x = shift_x + chosen * 2 * settings.shift * (2 * drawn[:, _Column.SHIFT_X] - 1)
        shift_y = shift_y + chosen * 2 * settings.shift * (2 * drawn[:, _Column.SHIFT_Y] - 1)
    if settings.cropping:
        width, height = _crop(settings, drawn)
        x, y = (x[0] * width, x[1] * width), (y[0] * height, y[1] * height)
        shift_x = shift_x * width + (1 - width) * (2 * drawn[:, _Column.CROP_X] - 1)
        shift_y = shift_y * height + (1 - height) * (2 * drawn[:, _Column.CROP_Y] - 1)
    if settings.flip:
        mirrored = 1 - 2 * ops.cast(drawn[:, _Column.FLIP] < settings.flip, "float32")
        x, y = (x[0] * mirrored, x[1]), (y[0] * mirrored, y[1])
    return ops.stack([ops.stack([*x, shift_x], axis=-1), ops.stack([*y, shift_y], axis=-1)], axis=1)


def _crop(settings: AugmentationSettings, drawn: Any) -> tuple[Any, Any]:
    """Width and height of each crop as shares of the image's: the first of several draws that fits into it."""
    start = int(_Column.CROP_TRIES)
    area = _between(settings.crop_scale, drawn[:, start : start + CROP_TRIES])
    low, high = settings.crop_ratio
    ratio = ops.exp(_between((math.log(low), math.log(high)), drawn[:, start + CROP_TRIES : start + 2 * CROP_TRIES]))
    width, height = ops.sqrt(area * ratio), ops.sqrt(area / ratio)
    fits = ops.cast(ops.logical_and(width <= 1, height <= 1), "float32")
    first = fits * ops.cast(ops.cumsum(fits, axis=1) == 1, "float32")
    none = 1 - ops.sum(first, axis=1)
    return ops.sum(width * first, axis=1) + none, ops.sum(height * first, axis=1) + none


def _toned(settings: AugmentationSettings, drawn: Any, pixels: Any) -> Any:
    chosen = ops.cast(drawn[:, _Column.TONED] < settings.toned, "float32")
    times = 1 + chosen * settings.contrast * (2 * drawn[:, _Column.CONTRAST] - 1)
    plus = chosen * (255 * settings.brightness) * (2 * drawn[:, _Column.BRIGHTNESS] - 1)
    return ops.clip(pixels * times[:, None, None, None] + plus[:, None, None, None], 0.0, 255.0)


def _erased(settings: AugmentationSettings, drawn: Any, pixels: Any) -> Any:
    """With a rectangle of zeros, which is the mean colour once that is subtracted."""
    chosen = drawn[:, _Column.ERASED] < settings.erased
    area = _between(settings.erased_area, drawn[:, _Column.ERASED_AREA])
    reach = math.log(ERASING_RATIO)
    ratio = ops.exp(_between((-reach, reach), drawn[:, _Column.ERASED_RATIO]))
    centres = ops.convert_to_tensor((np.arange(pixels.shape[1]) + 0.5) / pixels.shape[1], "float32")

    def inside(length: Any, place: Any) -> Any:
        length = ops.minimum(length, 1.0)
        start = (place * (1 - length))[:, None]
        return ops.logical_and(centres[None, :] >= start, centres[None, :] < start + length[:, None])

    columns = inside(ops.sqrt(area * ratio), drawn[:, _Column.ERASED_X])
    rows = ops.logical_and(inside(ops.sqrt(area / ratio), drawn[:, _Column.ERASED_Y]), chosen[:, None])
    return ops.where(ops.logical_and(rows[:, :, None], columns[:, None, :])[..., None], 0.0, pixels)


def _between(limits: Pair, drawn: Any) -> Any:
    return limits[0] + (limits[1] - limits[0]) * drawn


def _either(choices: tuple[float, ...], reach: float, drawn: Any) -> Any:
    """One of the ``choices``, each as often as another; without any, a number up to ``reach`` from 0."""
    if not choices:
        return reach * (2 * drawn - 1)
    table = ops.convert_to_tensor(choices, "float32")
    return ops.take(table, ops.cast(ops.floor(drawn * len(choices)), "int32"), axis=0)


def _first_row(count: Any) -> Any:
    """The number, in the global batch, of the first row here: replicas of TensorFlow's see only their own rows."""
    if keras.backend.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 0
    return tf.cast(context.replica_id_in_sync_group, tf.int32) * count
