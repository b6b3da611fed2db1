"""Where a run is: a line now and then while an epoch goes, with the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ferplus_keras.durations import duration

#: Seconds between two reports of one epoch. Asking for the loss waits for the device, so it is not done each step.
BETWEEN = 1.0


@dataclass(frozen=True)
class Moment:
    """How far a run has come."""

    epoch: int  #: from 1
    epochs: int
    step: int
    steps: int
    loss: float
    per_second: float  #: images
    epoch_left: float  #: seconds
    run_left: float

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch} of {self.epochs}, step {self.step} of {self.steps}: loss {self.loss:.3f}, "
            f"{self.per_second:.1f} images/s, {duration(self.epoch_left)} left of the epoch and "
            f"{duration(self.run_left)} of the run"
        )


class Meter(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
    """Reports :class:`Moment`s of the epoch that ``fit`` is at; ``later`` is how many as long as it are to come.

    ``between_epochs`` is what Valid and saving take.
    """

    def __init__(
        self, report: Callable[[Moment], None], epoch: int, epochs: int, steps: int, batch: int, later: float
    ) -> None:
        super().__init__()
        self.report, self.epoch, self.epochs, self.steps, self.batch = report, epoch, epochs, steps, batch
        self.later = later
        self.between_epochs = 0.0
        self._start = self._last = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        now = time.perf_counter()
        if batch == 0:
            self._first = now  # the first step is compiled, which says nothing of the others
        if now - self._last < BETWEEN and batch + 1 < self.steps:
            return
        self._last = now
        done = batch + 1
        pace = (now - self._first) / batch if batch else now - self._start
        left = pace * (self.steps - done)
        others = (pace * self.steps + self.between_epochs) * self.later
        loss = float(np.asarray(keras.ops.convert_to_numpy((logs or {}).get("loss", float("nan")))))
        self.report(
            Moment(self.epoch, self.epochs, done, self.steps, loss, self.batch / pace if pace else 0.0, left,
                   left + self.between_epochs + others)
        )  # fmt: skip
