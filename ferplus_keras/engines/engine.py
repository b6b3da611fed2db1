"""What every engine is: a network's file ready to run, with what it takes and what it gives.

Whatever runs the file, images go in the same way and probabilities come out by the same rule: `predict`,
`verify accuracy`, `report`, and the check of an export differ in where their images come from, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras.engines.card import BGR, GRAY, RGB
from ferplus_keras.engines.interruptible import interruptible
from ferplus_keras.errors import BadInputError, CheckFailedError, FerplusError, first_line
from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.networks.emotions import softmax
from ferplus_keras.networks.natural import natural_pixels
from ferplus_keras.networks.preprocessing import PUBLISHED
from ferplus_keras.wording import counted

Run = Callable[[np.ndarray], np.ndarray]

LOGITS, PROBABILITIES = "logits", "probabilities"

#: Images on which it is seen whether a network gives logits or probabilities, where its file does not say.
PROBES = 4

#: Images at a time, unless the file has a fixed number of its own.
BATCH = 32

#: By how much probabilities may miss 1 together and still be meant as such, by the kind of numbers: eight of them in
#: int8's steps of 1/256 miss it by some of these.
ROUNDING = {"float32": 1e-3, "float16": 3e-3, "bfloat16": 1e-2, "int8": 3e-2}


@dataclass(frozen=True)
class Takes:
    """The images that a network takes: n x side x side x 3 in RGB, 0..255 less ``mean``, unless it says otherwise."""

    side: int = INPUT_SIZE
    mean: tuple[float, ...] = PUBLISHED.mean  #: zeros where the graph takes it off by itself
    std: tuple[float, ...] = (1.0,)  #: what is divided by then
    order: str = RGB  #: "RGB", "BGR" or "gray", which has one channel
    range: tuple[float, float] = (0.0, 255.0)  #: what 0..255 is brought to before the mean is taken off
    dtype: str = "float32"  #: "uint8" where bytes go in
    channels_first: bool = False
    fixed: int | None = None  #: how many images at a time, where the file insists on it

    def prepared(self, pixels: np.ndarray) -> np.ndarray:
        """``pixels`` (n x side x side x 3, RGB, 0..255, bytes or floats) as the network takes them."""
        if self.order == GRAY:
            pixels = _gray(pixels)
        elif self.order == BGR:
            pixels = pixels[..., ::-1]
        if self.dtype == "uint8":
            images = pixels if pixels.dtype == np.uint8 else np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        else:
            images = pixels.astype(np.float32)
            if self.range != (0.0, 255.0):
                low, high = self.range
                images = images * np.float32((high - low) / 255) + np.float32(low)
            if any(self.mean):
                images -= np.asarray(self.mean, np.float32)
            if any(each != 1 for each in self.std):
                images /= np.asarray(self.std, np.float32)
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if self.channels_first else images

    @property
    def text(self) -> str:
        """In words: "gray 48 x 48, 0..1", "RGB 224 x 224, 0..255 less (131.0912, 103.8827, 91.4953)"."""
        shown = f"{self.order} {self.side} x {self.side}"
        if self.dtype == "uint8":
            return f"{shown}, bytes"
        low, high = self.range
        words = [f"{shown}, {low:g}..{high:g}"]
        for lead, values, nothing in (("less", self.mean, 0), ("divided by", self.std, 1)):
            if any(each != nothing for each in values):
                shown = ", ".join(f"{each:g}" for each in dict.fromkeys(values))
                words.append(f"{lead} {shown if len(set(values)) == 1 else f'({shown})'}")
        return " ".join(words)


def _gray(pixels: np.ndarray) -> np.ndarray:
    """n x side x side x 1: the brightness by ITU-R 601, as Pillow and OpenCV have it; bytes stay bytes."""
    gray = pixels.astype(np.float32) @ np.asarray([[0.299], [0.587], [0.114]], np.float32)
    return np.rint(gray).astype(np.uint8) if pixels.dtype == np.uint8 else gray


@dataclass(frozen=True)
class Engine:
    """A network's file, opened by what runs it.

    ``call`` takes one batch as ``takes`` has it and gives whatever the network yields; everybody else uses :meth:`run`
    and :meth:`probabilities`.
    """

    path: Path
    by: str  #: what runs it, in words
    call: Run
    takes: Takes = Takes()
    gives: str | None = None  #: "logits" or "probabilities"; None: inferred from the numbers
    labels: tuple[str, ...] | None = None  #: names of the classes in order; None where nothing tells them
    classes: int | None = None  #: how many numbers it gives for an image, where that is known before it runs
    network: str = ""
    standin: bool = False
    numbers: str = "float32"  #: the coarsest that it computes with, of :data:`ROUNDING`
    batch: int = BATCH
    record: dict[str, Any] | None = None  #: what the file says of how it was made
    notes: tuple[str, ...] = ()  #: what its user should know
    output: str = ""  #: what an ONNX file calls the output that is used
    close: Callable[[], None] = lambda: None

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """n x k numbers for ``pixels``, n x side x side x 3 in RGB, 0..255, bytes or floats.

        Raises :class:`BadInputError` when the network cannot be run on them.
        """
        side, fixed = self.takes.side, self.takes.fixed
        if pixels.shape[1:] != (side, side, 3):
            raise ValueError(f"{self.path.name} takes n x {side} x {side} x 3 pixels, not {pixels.shape}")
        size = fixed or min(self.batch, max(len(pixels), 1))
        found = []
        for start in range(0, len(pixels), size):
            part = pixels[start : start + size]
            count = len(part)
            if fixed and count < fixed:  # filled up with black
                part = np.concatenate([part, np.zeros((fixed - count, *part.shape[1:]), part.dtype)])
            found.append(self._called(self.takes.prepared(part), count))
        return np.concatenate(found) if found else np.zeros((0, self.classes or len(self.labels or ())), np.float32)

    def _called(self, batch: np.ndarray, count: int) -> np.ndarray:
        side = self.takes.side
        try:
            found = np.asarray(interruptible(self.call, batch))
        except (MemoryError, FerplusError):
            raise
        except Exception as error:  # whatever the library raises on somebody else's graph
            raise BadInputError(
                f"{self.path} cannot be run on images of {side} x {side} x 3: {telling_line(error)}"
            ) from None
        if found.ndim < 1 or len(found) != len(batch):
            shape = " x ".join(map(str, found.shape)) or "a single number"
            raise BadInputError(f"{self.path} returned {shape} for {counted(len(batch), 'image')}, not a row each.")
        rows: np.ndarray = found.reshape(len(batch), -1)[:count]
        return rows

    @cached_property
    def output_kind(self) -> str:
        """ "logits" or "probabilities": what the file says of itself, or else what the numbers for some images are.

        Decided once: were it by the images at hand, an image's answer could depend on those beside it.
        """
        if self.gives is not None:
            return self.gives
        rows = self.run(natural_pixels(PROBES, size=self.takes.side)).astype(np.float64)
        return PROBABILITIES if self._sums_to_1(rows) else LOGITS

    def _sums_to_1(self, rows: np.ndarray) -> bool:
        return bool((rows >= 0).all() and np.abs(rows.sum(axis=1) - 1).max(initial=0) < ROUNDING[self.numbers])

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """n x classes float64, rows that sum to 1: by softmax where the network gives logits (:attr:`output_kind`).

        Raises :class:`BadInputError` when it gives probabilities and these do not sum to 1, or are not as many as it
        has classes; :class:`CheckFailedError` on NaN.
        """
        rows = self.run(pixels).astype(np.float64)
        if self.labels is not None and rows.shape[1] != len(self.labels):
            raise BadInputError(
                f"{self.path} gives {rows.shape[1]} numbers for an image and has {len(self.labels)} classes: it is "
                "another network, or one without its head."
            )
        if not np.isfinite(rows).all():
            raise CheckFailedError(f"{self.path} returned numbers that are not finite for some of these images.")
        if self.output_kind == LOGITS:
            return softmax(rows)
        if not self._sums_to_1(rows):
            raise BadInputError(f"{self.path} has a softmax, but its numbers are not probabilities that sum to 1.")
        result: np.ndarray = rows / rows.sum(axis=1, keepdims=True)
        return result


def telling_line(error: BaseException, limit: int = 300) -> str:
    """The first line of ``error`` that says something; Keras's own begin with where it happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return telling[0][:limit] if telling else first_line(error, limit)
