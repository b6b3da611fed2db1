"""How the learning rate goes, and when training ends.

Within the optimizer the rate is a function of the step alone ("constant", "cosine", "step"). "Plateau" and the early
stop look at the figures on Valid: a function of the epochs so far. Neither keeps a state of its own, so a run that was
resumed cannot have another one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from ferplus_keras.finetune.recipe import ScheduleSettings

#: What one epoch left behind: learning_rate, loss, val_loss, val_accuracy, seconds ...
Row = dict[str, Any]


@dataclass(frozen=True)
class Rate:
    """The learning rate at a step, as a plain function; :class:`RateSchedule` is the same for the optimizer."""

    settings: ScheduleSettings
    peak: float
    steps_per_epoch: int

    @property
    def warmup_steps(self) -> int:
        return round(self.settings.warmup_epochs * self.steps_per_epoch)

    @property
    def steps(self) -> int:
        return self.settings.epochs * self.steps_per_epoch

    def at(self, step: int) -> float:
        """The rate of the step with that number, from 0."""
        settings = self.settings
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if settings.kind == "cosine":
            share = min(1.0, (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps))
            low = settings.final_factor
            return self.peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share)))
        if settings.kind == "step":
            done = sum(step >= epoch * self.steps_per_epoch for epoch in settings.step_epochs)
            return self.peak * settings.step_factor**done
        return self.peak


class RateSchedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras has no types
    """:class:`Rate` in the operations of the backend."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate

    def __call__(self, step: Any) -> Any:
        rate, settings = self.rate, self.rate.settings
        step = ops.cast(step, "float32")
        full = ops.ones_like(step)
        if settings.kind == "cosine":
            share = (step - rate.warmup_steps) / max(1, rate.steps - rate.warmup_steps)
            low = settings.final_factor
            full = low + (1 - low) * 0.5 * (1 + ops.cos(math.pi * ops.clip(share, 0.0, 1.0)))
        elif settings.kind == "step":
            for epoch in settings.step_epochs:
                full = full * ops.where(step >= epoch * rate.steps_per_epoch, settings.step_factor, 1.0)
        if rate.warmup_steps:
            full = ops.where(step < rate.warmup_steps, (step + 1) / rate.warmup_steps, full)
        return rate.peak * full

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate}


@dataclass(frozen=True)
class Standing:
    """What the epochs so far say: the best of them (its number from 1; 0: none yet), the rate for the next, the end."""

    best_epoch: int
    learning_rate: float
    stop: bool
    reason: str = ""


def better(settings: ScheduleSettings, row: Row, than: Row | None) -> bool:
    """Whether an epoch's figure on Valid beats the other's; one that is no number never does."""
    key = f"val_{settings.monitor}"
    if row[key] is None or not math.isfinite(row[key]):
        return False
    if than is None:
        return True
    return bool(row[key] > than[key] if settings.monitor == "accuracy" else row[key] < than[key])


def standing(settings: ScheduleSettings, peak: float, history: Sequence[Row]) -> Standing:
    """Where a run stands after the epochs in ``history``."""
    best: Row | None = None
    best_epoch = waited = since_cut = 0
    learning_rate = peak
    for number, row in enumerate(history, 1):
        if better(settings, row, best):
            best, best_epoch, waited, since_cut = row, number, 0, 0
            continue
        waited, since_cut = waited + 1, since_cut + 1
        if settings.kind == "plateau" and since_cut >= settings.plateau_patience:
            learning_rate, since_cut = learning_rate * settings.plateau_factor, 0
    if settings.early_stop and waited >= settings.early_stop:
        return Standing(
            best_epoch, learning_rate, True, f"{waited} epochs without a better {settings.monitor} on Valid"
        )
    return Standing(best_epoch, learning_rate, len(history) >= settings.epochs, "all epochs done")


def make_schedule(settings: ScheduleSettings, peak: float, steps_per_epoch: int) -> Any:
    """What the optimizer takes as its learning rate: a schedule, or for "plateau" a number that is set anew."""
    return peak if settings.kind == "plateau" else RateSchedule(Rate(settings, peak, steps_per_epoch))


__all__ = ["Rate", "RateSchedule", "Row", "Standing", "better", "make_schedule", "standing"]
