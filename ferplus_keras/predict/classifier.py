"""``EmotionClassifier``: a network's file, asked about pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.errors import BadInputError, CheckFailedError, first_line
from ferplus_keras.networks.emotions import softmax
from ferplus_keras.predict.decoding import as_rgb, from_array, read_picture
from ferplus_keras.predict.records import Prediction
from ferplus_keras.predict.runtimes import BATCH, open_runtime
from ferplus_keras.predict.streaming import Preparation, stream

if TYPE_CHECKING:
    from PIL.Image import Image


#: By how much probabilities may miss 1 together and still be meant as such.
ROUNDING = 0.03


class EmotionClassifier:
    """The network in a ``.h5``, ``.weights.h5``, ``.keras``, ``.onnx`` or ``.tflite`` file, ready to be asked.

    >>> classifier = EmotionClassifier("resnet50_ferplus.h5")
    >>> classifier.predict("face.png").emotion
    >>> [each.probabilities["happiness"] for each in classifier.predict(["a.png", picture, pixels])]

    ``labels`` are its classes in order, ``side`` is that of the square pictures it takes, ``by`` what runs it,
    ``standin`` whether its weights are made up. ``threads`` bounds the processor threads of ONNX Runtime and LiteRT.
    Raises :class:`ferplus_keras.errors.BadInputError` when the file is not such a network.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        self._runtime = open_runtime(path, threads)
        self.path = self._runtime.path
        self.by, self.labels, self.standin = self._runtime.by, self._runtime.labels, self._runtime.standin
        self.network, self.side = self._runtime.network, self._runtime.side
        self._mean = np.asarray(self._runtime.mean, np.float32)

    def predict(self, images: Any, *, batch: int = BATCH) -> Any:
        """What is seen in ``images``, each taken as a face crop and resized straight to what the network takes.

        Args:
            images: a path, a Pillow picture or an array of pixels 0..255 (height x width, or height x width x 3 in
                RGB), or a list or iterable of these, or an array of n x height x width x 3.
            batch: pictures at a time.

        Returns:
            A :class:`Prediction` (``emotion``, ``confidence``, ``probabilities`` by name, ``as_dict()``) for one
            image, a list of them for several.

        Raises:
            BadInputError: naming the first picture that cannot be read.
        """
        if batch < 1:
            raise ValueError(f"a batch is at least one picture, not {batch}")
        if _is_one(images):
            return self.predict([images], batch=batch)[0]
        found: list[Prediction] = []
        numbered = enumerate(images)
        prepare = Preparation[tuple[int, Any]](lambda item: _opened(item[1]), side=self.side)
        for answers in stream(numbered, prepare, self, batch=batch, threads=decoding_threads()):
            for prepared, predictions in answers:
                if prepared.error:
                    number, image = prepared.item
                    name = str(image) if isinstance(image, str | Path) else f"image {number + 1}"
                    raise BadInputError(f"{name}: {prepared.error}.")
                found.extend(predictions)
        return found

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """n x classes float64 for ``pixels``, n x ``side`` x ``side`` x 3 in RGB, 0..255."""
        if pixels.shape[1:] != (self.side, self.side, 3):
            raise ValueError(f"pixels are n x {self.side} x {self.side} x 3, not {pixels.shape}")
        images = pixels
        if not self._runtime.pixels:
            images = pixels.astype(np.float32)
            images -= self._mean
        fixed = self._runtime.fixed or len(images)
        try:
            parts = [self._run(images[start : start + fixed], fixed) for start in range(0, len(images), fixed)]
        except MemoryError:
            raise
        except Exception as error:  # whatever the runtime of a stranger's graph raises
            raise BadInputError(
                f"{self.path} cannot be run on images of {self.side} x {self.side} x 3: {first_line(error, 300)}"
            ) from None
        rows = np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, len(self.labels)))
        if rows.shape != (len(images), len(self.labels)):
            raise BadInputError(
                f"{self.path} gives {rows.size // max(len(images), 1)} numbers for a picture and has "
                f"{len(self.labels)} classes: it is another network, or one without its head."
            )
        if not np.isfinite(rows).all():
            raise CheckFailedError(f"{self.path} gives numbers that are not finite for some of these pictures.")
        return self._distributions(rows)

    def predict_pixels(self, pixels: np.ndarray) -> list[Prediction]:
        """:meth:`probabilities`, with names."""
        return [Prediction.of(self.labels, row) for row in self.probabilities(pixels)]

    def _run(self, images: np.ndarray, size: int) -> np.ndarray:
        """One run, filled up to ``size`` where the network insists on it."""
        if len(images) < size and self._runtime.fixed:
            black = np.zeros((size - len(images), *images.shape[1:]), images.dtype)
            return self._runtime.run(np.concatenate([images, black]))[: len(images)].reshape(len(images), -1)
        return self._runtime.run(images).reshape(len(images), -1)

    def _distributions(self, rows: np.ndarray) -> np.ndarray:
        """Rows that sum to 1: by softmax where they are logits, which the file says or the numbers do."""
        sums = rows.sum(axis=1, keepdims=True)
        # Eight numbers in int8's steps of 1/256 miss 1 by some of these.
        alike = bool((rows >= 0).all() and np.abs(sums - 1).max(initial=0) < ROUNDING)
        if self._runtime.logits or (self._runtime.logits is None and not alike):
            return softmax(rows)
        if not alike:
            raise BadInputError(f"{self.path} has a softmax, and yet its numbers are no probabilities that sum to 1.")
        result: np.ndarray = rows / sums
        return result


def decoding_threads() -> int:
    """Threads that decode: as many as there are processors, up to four; past that the network is what is waited for."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, usable))


def _is_one(images: Any) -> bool:
    if isinstance(images, str | Path):
        return True
    if isinstance(images, np.ndarray):
        return images.ndim in (2, 3)
    return hasattr(images, "getexif") or not isinstance(images, Iterable)


def _opened(image: Any) -> Image:
    if isinstance(image, str | Path):
        return read_picture(image)
    if hasattr(image, "getexif"):  # a Pillow picture, told without importing Pillow
        try:
            return as_rgb(image)
        except BadInputError:
            raise
        except Exception as error:  # what Pillow decodes only now
            raise BadInputError(f"damaged: {str(error)[:120]}") from None
    return from_array(image)


__all__ = ["EmotionClassifier", "decoding_threads"]
