"""The training set, batch by batch: bytes in memory, in an order that depends on the seed and the epoch alone.

What leaves here are 48 x 48 bytes; resizing and warping are layers (:mod:`ferplus_keras.finetune.augmentation`), on
the accelerator. A batch of 128 is 295 kB and takes some tens of microseconds, so no step waits for it; how long it
could have waited at most is measured all the same.
"""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

#: Batches that TensorFlow has ready while a step runs.
AHEAD = 2

#: Streams of random numbers that have nothing to do with one another, for the same seed and epoch.
_ORDER, _MIXUP = 0x0D3D, 0x3175


class Feed(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
    """Batches of ``(images, targets, weights)`` for ``model.fit(for_keras(feed), epochs=1, shuffle=False)``.

    ``fit`` must not shuffle: it would hand out the batches in an order of its own, other than the resumed run's. Each
    epoch is a ``fit`` of its own, after :attr:`epoch` was set: whoever fetches ahead may have begun the next already.
    Nothing of the set is copied; each batch is gathered when it is asked for, from any thread.

    Args:
        images: n x 48 x 48 bytes (or any n x ...).
        targets, weights: n x classes and n float32, see :mod:`ferplus_keras.finetune.targets`.
        batch: images a batch, over all processes. What is left at the end of an epoch and fills no batch waits for
            the next epoch, whose order is another.
        seed: with :attr:`epoch`, all that the order and the mixing depend on.
        mixup: parameter a of the Beta(a, a) that two images and their targets are mixed by (Zhang et al. 2017,
            arXiv:1710.09412); 0 mixes nothing.
        share: (i, k): hand out the ith of k equal parts of each batch, for one process of k.

    Raises:
        ValueError: arrays of different lengths, or a batch that cannot be.
    """

    def __init__(
        self,
        images: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
        batch: int,
        seed: int = 0,
        *,
        mixup: float = 0.0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__()
        if not len(images) == len(targets) == len(weights):
            raise ValueError(
                f"images, targets and weights go together row by row; there are {len(images)}, {len(targets)} and "
                f"{len(weights)}"
            )
        if batch < 1 or len(images) < batch:
            raise ValueError(f"{len(images)} images do not make a batch of {batch}")
        part, parts = share
        if not 0 <= part < parts or batch % parts:
            raise ValueError(f"batches of {batch} cannot be shared as {share}: equal parts are needed")
        self.images, self.targets, self.weights = images, targets, weights
        self.batch, self.seed, self.mixup, self._share = batch, seed, mixup, share
        self.epoch = 0

    def __len__(self) -> int:
        """Steps an epoch."""
        return len(self.images) // self.batch

    @property
    def epoch(self) -> int:
        """The epoch whose batches are handed out; set it before each, from 0. Setting it restarts the clock."""
        return self._current[0]

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        # One assignment, so that a thread that asks meanwhile gets a batch of the old epoch or of the new one.
        self._current = epoch, self.order(epoch)
        self._busy, self._since = 0.0, time.perf_counter()

    def order(self, epoch: int) -> np.ndarray:
        """The rows in the order of ``epoch``."""
        return np.random.default_rng([self.seed, epoch, _ORDER]).permutation(len(self.images))

    def retarget(self, targets: np.ndarray, weights: np.ndarray) -> None:
        """Other targets and weights for the same images, where they are drawn anew in every epoch."""
        if targets.shape != self.targets.shape or weights.shape != self.weights.shape:
            raise ValueError(f"targets {self.targets.shape} cannot become {targets.shape}")
        self.targets, self.weights = targets, weights

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Batch ``index`` of the current epoch, or this process's part of it."""
        if not 0 <= index < len(self):
            raise IndexError(f"an epoch has {len(self)} batches; there is no batch {index}")
        began = time.perf_counter()
        epoch, order = self._current
        rows = order[index * self.batch : (index + 1) * self.batch]
        made = self._mixed(rows, epoch, index) if self.mixup else self._gathered(self._mine(rows))
        self._busy += time.perf_counter() - began
        return made

    @property
    def waiting(self) -> float:
        """The share of the time since :attr:`epoch` was set that went into making batches.

        Steps have waited no more than this: they wait that long where nothing is fetched ahead, and less where it is.
        """
        return self._busy / max(time.perf_counter() - self._since, 1e-9)

    def _mine(self, rows: np.ndarray) -> np.ndarray:
        part, parts = self._share
        length = len(rows) // parts
        return rows[part * length : (part + 1) * length]

    def _gathered(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.images[rows], self.targets[rows], self.weights[rows]

    def _mixed(self, rows: np.ndarray, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each image with another of the batch, which is drawn for the whole batch, whatever part is ours."""
        generator = np.random.default_rng([self.seed, epoch, _MIXUP, index])
        others = self._mine(generator.permutation(rows))
        shares = self._mine(generator.beta(self.mixup, self.mixup, len(rows))).astype(np.float32)
        first, second = self._gathered(self._mine(rows)), self._gathered(others)

        def mixed(one: Any, other: Any) -> Any:
            share = shares.reshape(-1, *[1] * (one.ndim - 1))
            return one * share + other * (1 - share)

        images, targets, weights = (mixed(one, other) for one, other in zip(first, second, strict=True))
        return np.rint(images).astype(self.images.dtype), targets, weights


class InOrder(keras.utils.PyDataset):  # type: ignore[misc]
    """The ``images`` as they stand, ``batch`` at a time, for ``predict``; the last batch may be smaller."""

    def __init__(self, images: np.ndarray, batch: int) -> None:
        super().__init__()
        self._images, self._batch = images, batch

    def __len__(self) -> int:
        return -(-len(self._images) // self._batch)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        return (self._images[index * self._batch : (index + 1) * self._batch],)


def for_keras(batches: keras.utils.PyDataset) -> Any:
    """``batches`` in the form in which ``fit`` and ``predict`` go through them without waiting at the end.

    On TensorFlow Keras would make a ``tf.data.Dataset`` that finds out by itself how much to fetch ahead. When such a
    one ends, TensorFlow may wait for its next look at that; they come after 10 ms, 20 ms, 40 ms ..., so that an epoch
    takes up to twice as long as it need, and up to a minute more. This one has nothing to find out.
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    kinds = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in batches[0])
    made = tf.data.Dataset.from_generator(lambda: map(batches.__getitem__, range(len(batches))), output_signature=kinds)
    options = tf.data.Options()
    options.autotune.enabled = False
    made = made.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return made.prefetch(AHEAD).with_options(options)
