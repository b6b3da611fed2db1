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

from ferplus_keras.finetune.settings import ScheduleSettings

#: What one epoch left behind: learning_rate, loss, val_loss, val_accuracy, seconds ...
Row = dict[str, Any]


@dataclass(frozen=True)
class Rate:
    """The learning rate at a step, as a plain function; :class:`RateSchedule` is the same for the optimizer."""

    settings: ScheduleSettings
    peak: float
    steps_per_epoch: int
    #: Where a stage begins, whose epochs may have another number of steps than those before.
    first_step: int = 0
    first_epoch: int = 0
    #: The cosine goes by work, not by epochs: an epoch at 224 x 224 counts for twelve at 64 x 64, or the last stages
    #: would have no learning rate left. What an epoch counts
    #: here and in the first stage, what those before this stage count, and all of them.
    weight: float = 1.0
    first_weight: float = 1.0
    before: float = 0.0
    total: float | None = None

    def epoch(self, step: Any) -> Any:
        """The epochs that were done before the step with that number, with their fraction."""
        return self.first_epoch + (step - self.first_step) / self.steps_per_epoch

    def share(self, step: Any) -> Any:
        """How much of the cosine's way is done before the step: 0 where the warm-up ends, 1 at the end of the run."""
        total = self.settings.epochs if self.total is None else self.total
        climbed = self.warmup_epochs * self.first_weight
        done = self.before + (step - self.first_step) / self.steps_per_epoch * self.weight
        return (done - climbed) / max(1e-9, total - climbed)

    @property
    def warmup_epochs(self) -> float:
        """In whole steps."""
        return round(self.settings.warmup_epochs * self.steps_per_epoch) / self.steps_per_epoch

    def at(self, step: int) -> float:
        """The rate of the step with that number, from 0."""
        settings, epoch, warmup = self.settings, self.epoch(step), self.warmup_epochs
        if epoch < warmup - 1e-9:
            return float(self.peak * (epoch + 1 / self.steps_per_epoch) / warmup)
        if settings.kind == "cosine":
            share = min(1.0, max(0.0, self.share(step)))
            low = settings.final_factor
            return float(self.peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))))
        if settings.kind == "step":
            return float(self.peak * settings.step_factor ** sum(epoch > each - 1e-9 for each in settings.step_epochs))
        return self.peak


class RateSchedule(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]  # Keras has no types
    """:class:`Rate` in the operations of the backend."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate

    def __call__(self, step: Any) -> Any:
        rate, settings = self.rate, self.rate.settings
        epoch, warmup = rate.epoch(ops.cast(step, "float32")), rate.warmup_epochs
        close = 0.5 / rate.steps_per_epoch  # float32 is not exact where an epoch begins
        full = ops.ones_like(epoch)
        if settings.kind == "cosine":
            share = ops.clip(rate.share(ops.cast(step, "float32")), 0.0, 1.0)
            low = settings.final_factor
            full = low + (1 - low) * 0.5 * (1 + ops.cos(math.pi * share))
        elif settings.kind == "step":
            for each in settings.step_epochs:
                full = full * ops.where(epoch > each - close, settings.step_factor, 1.0)
        if warmup:
            climbing = (epoch + 1 / rate.steps_per_epoch) / warmup
            full = ops.where(epoch < warmup - close, climbing, full)
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


def better(monitor: str, row: Row, than: Row | None) -> bool:
    """Whether an epoch's figure on Valid beats the other's; one that is no number never does."""
    key = f"val_{monitor}"
    if row[key] is None or not math.isfinite(row[key]):
        return False
    if than is None:
        return True
    return bool(row[key] > than[key] if monitor == "accuracy" else row[key] < than[key])


def standing(settings: ScheduleSettings, peak: float, history: Sequence[Row]) -> Standing:
    """Where a run stands after the epochs in ``history``."""
    best: Row | None = None
    flat: Row | None = None  # the best so far by the figure that the plateau watches
    stage: Any = None
    best_epoch = waited = since_cut = 0
    learning_rate = peak
    for number, row in enumerate(history, 1):
        if row.get("stage") != stage:  # another size is another network, with figures of its own
            stage, best, flat, best_epoch, waited, since_cut = row.get("stage"), None, None, 0, 0, 0
        if better(settings.plateau_monitor or settings.monitor, row, flat):
            flat, since_cut = row, 0
        else:
            since_cut += 1
            if settings.kind == "plateau" and since_cut >= settings.plateau_patience:
                learning_rate, since_cut = learning_rate * settings.plateau_factor, 0
        if better(settings.monitor, row, best):
            best, best_epoch, waited = row, number, 0
        else:
            waited += 1
    if settings.early_stop and waited >= settings.early_stop:
        return Standing(
            best_epoch, learning_rate, True, f"{waited} epochs without a better {settings.monitor} on Valid"
        )
    return Standing(best_epoch, learning_rate, len(history) >= settings.epochs, "all epochs done")


def make_schedule(rate: Rate) -> Any:
    """What the optimizer takes as its learning rate: a schedule, or for "plateau" a number that is set anew."""
    return rate.peak if rate.settings.kind == "plateau" else RateSchedule(rate)
