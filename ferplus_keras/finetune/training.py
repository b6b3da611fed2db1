"""The training loop: ``model.fit``, an epoch at a time, with a complete checkpoint after each.

The order of the pictures is a function of the seed and the epoch, the learning rate one of the step and the figures
so far, and every other random number comes from a state that is saved with the weights. So a run that was ended at any
moment goes on from its last checkpoint to the same result as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ferplus_keras.durations import duration
from ferplus_keras.errors import BadInputError, CheckFailedError
from ferplus_keras.finetune import targets, tensorboard
from ferplus_keras.finetune.augmentation import Augmentation
from ferplus_keras.finetune.averaging import WeightAverage, copy_of
from ferplus_keras.finetune.curves import learning_curves
from ferplus_keras.finetune.devices import (
    gpu_capability,
    jit_compile,
    make_repeatable,
    out_of_memory,
    peak_memory,
    precision_of,
)
from ferplus_keras.finetune.distribution import World, logits
from ferplus_keras.finetune.examples import Examples, Part
from ferplus_keras.finetune.feeding import Feed, for_keras
from ferplus_keras.finetune.folder import RunFolder
from ferplus_keras.finetune.network import Start, factor_of, get_arrays, training_network, training_table
from ferplus_keras.finetune.optimizers import make_optimizer
from ferplus_keras.finetune.progress import Meter, Moment
from ferplus_keras.finetune.recipe import Recipe
from ferplus_keras.finetune.schedules import Rate, Row, Standing, make_schedule, standing
from ferplus_keras.finetune.state import load_arrays, restore, save_arrays, save_state

#: Pictures of Valid that are looked at together: without gradients, more of them fit than in a training step.
VALID_BATCH = 128

#: Steps that a dry run takes: the first is compiled, the others are timed.
DRY_STEPS = 3


@dataclass
class Hooks:
    """What a run tells while it goes."""

    moment: Callable[[Moment], None] = lambda _moment: None
    say: Callable[[str], None] = lambda _line: None
    epoch: Callable[[Row], None] = lambda _row: None


@dataclass(frozen=True)
class Outcome:
    """A finished run: its epochs, the best of them (from 1), and where the weights of the best and the last are."""

    history: list[Row]
    best_epoch: int
    best: Path
    last: Path
    reason: str


@dataclass
class Run:
    """A network, its pictures and a recipe, ready to be trained."""

    network_name: str
    recipe: Recipe
    examples: Examples
    start: Start = field(default_factory=Start)
    hooks: Hooks = field(default_factory=Hooks)
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.table = training_table(self.network_name, len(self.examples.classes), recipe.network)
        capability = gpu_capability()
        self.precision = precision_of(recipe.training, capability)
        self.deterministic = make_repeatable(recipe.training, capability)
        batch = min(recipe.training.batch, len(self.examples.train))
        self.world.check_batch(batch)
        self.feed = Feed(
            self.examples.train.images, self.examples.targets.targets, self.examples.targets.weights, batch,
            recipe.training.seed, drop_remainder=True, mixup=recipe.data.mixup,
            share=self.world.share,
        )  # fmt: skip
        with _policy(self.precision):
            self._build(capability)

    def _build(self, capability: tuple[int, int] | None) -> None:
        recipe = self.recipe
        self.network = training_network(self.network_name, len(self.examples.classes), recipe, self.start)
        inputs = keras.Input(self.examples.train.images.shape[1:], dtype="uint8", name="images")
        augmented = Augmentation(recipe.augmentation, recipe.network.size, recipe.training.seed)(inputs)
        outputs = self.network(augmented)
        self.average = WeightAverage(self.network, recipe.optimizer.ema) if recipe.optimizer.ema else None
        if self.average is not None:
            outputs = self.average(outputs)
        self.model = keras.Model(inputs, outputs, name="training")
        settings = recipe.optimizer
        rate = make_schedule(recipe.schedule, settings.learning_rate, len(self.feed))
        optimizer = make_optimizer(settings, rate, factor_of(self.network, self.table, settings))
        self.model.compile(optimizer, targets.loss(recipe.data.target), jit_compile=jit_compile(capability))
        self.model.optimizer.build(self.model.trainable_variables)
        self._inner = optimizer

    # --- the run ----------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        """What must be the same for a checkpoint to be gone on with: everything that the result depends on."""
        parts = [
            self.network_name, self.recipe.to_toml(), self.examples.fingerprint, list(self.examples.classes),
            self.start.told, keras.backend.backend(), self.precision,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def train(self, folder: RunFolder, *, resume: bool = False) -> Outcome:
        """Train to the end, from the last checkpoint in ``folder`` with ``resume``.

        Raises:
            BadInputError: the checkpoint is another run's.
            OutputError: a checkpoint could not be written; the one before it is whole.
            CheckFailedError: the loss is no number any more; the last good checkpoint is kept.
        """
        history: list[Row] = []
        if resume and folder.state.exists():
            history = self._resumed(folder)
        while not (place := self._standing(history)).stop:
            row = self._epoch(len(history), place, history)
            history.append(row)
            with self._averaged():
                self._look_at_valid(row)
                if self._standing(history).best_epoch == len(history) and self.chief:
                    save_arrays(folder.best(len(history)), self._flat(), {"epoch": len(history)})
            row["seconds"] = round(time.perf_counter() - self._began, 2)
            if self.chief:
                self._save(folder, history)
            self.hooks.epoch(row)
        if not place.best_epoch:
            raise CheckFailedError("No epoch has a figure on Valid that is a number: nothing was learned.")
        if self.chief:
            with self._averaged():
                save_arrays(folder.last, self._flat(), {"epoch": len(history)})
        return Outcome(history, place.best_epoch, folder.best(place.best_epoch), folder.last, place.reason)

    @property
    def chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.world.process == 0

    def _standing(self, history: list[Row]) -> Standing:
        return standing(self.recipe.schedule, self.recipe.optimizer.learning_rate, history)

    def _resumed(self, folder: RunFolder) -> list[Row]:
        saved = load_arrays(folder.state)
        if saved.record.get("identity") != self.identity:
            raise BadInputError(
                f"{folder.path} holds another run: the recipe, the data, the start or the backend is not what it was. "
                "Give the same ones, or begin anew with --overwrite."
            )
        restore(saved, self.model, folder.state)
        history: list[Row] = saved.record["history"]
        self.hooks.say(f"going on after epoch {len(history)} of {self.recipe.schedule.epochs}")
        return history

    def _epoch(self, number: int, place: Standing, history: list[Row]) -> Row:
        """Train epoch ``number`` (from 0) and return what is known of it before Valid."""
        self._began = time.perf_counter()
        schedule = self.recipe.schedule
        if schedule.kind == "plateau":
            self._inner.learning_rate = place.learning_rate
        self.feed.epoch = number
        if self.examples.targets.redrawn:
            drawn = self.examples.targets.epoch(self.recipe.training.seed, number)
            self.feed.retarget(drawn.targets, drawn.weights)
        meter = Meter(self.hooks.moment, number + 1, schedule.epochs, len(self.feed), self.feed.batch)
        if history:
            meter.between_epochs = max(0.0, history[-1]["seconds"] - history[-1]["fit_seconds"])
        with out_of_memory(self.feed.batch):
            logs = self.model.fit(for_keras(self.feed), epochs=1, verbose=0, shuffle=False, callbacks=[meter]).history
        loss = float(logs["loss"][-1])
        if not math.isfinite(loss):
            raise CheckFailedError(
                f"In epoch {number + 1} the loss became {loss}: begin anew (--overwrite) with a lower learning rate "
                "(--set learning_rate=...) or bounded gradients (--set clip_norm=1). The checkpoint before is kept."
            )
        seconds = time.perf_counter() - self._began
        rate = place.learning_rate
        if schedule.kind != "plateau":
            steps = len(self.feed)
            rate = Rate(schedule, self.recipe.optimizer.learning_rate, steps).at((number + 1) * steps - 1)
        return {
            "epoch": number + 1, "learning_rate": rate, "loss": loss, "val_loss": None, "val_accuracy": None,
            "fit_seconds": round(seconds, 2), "seconds": round(seconds, 2),
            "pictures_per_second": round(len(self.feed) * self.feed.batch / seconds, 1),
            "waiting_for_data": round(self.feed.waiting, 4),
        }  # fmt: skip

    def _look_at_valid(self, row: Row) -> None:
        row["val_accuracy"], row["val_loss"] = figures(self.logits(self.examples.valid), self.examples.valid)

    def logits(self, part: Part) -> np.ndarray:
        """n x classes for the pictures of ``part``, with the weights as they are now."""
        found: np.ndarray = np.asarray(logits(self.model, part.images, VALID_BATCH), np.float64)
        return found

    def _save(self, folder: RunFolder, history: list[Row]) -> None:
        # The state is the one that counts: what is derived of it is written after it, and again by whoever goes on.
        save_state(folder.state, self.model, {"identity": self.identity, "history": history})
        folder.forget_other_bests(self._standing(history).best_epoch)
        folder.write_history(history)
        folder.write_bytes(folder.tensorboard / tensorboard.FILE, tensorboard.events(history))
        folder.write_text(folder.curves, learning_curves(history, self.recipe.name, self.examples.valid.commonest))

    def _flat(self) -> dict[str, np.ndarray]:
        arrays = get_arrays(self.network, self.table)
        return {f"{layer}/{role}": array for layer, roles in arrays.items() for role, array in roles.items()}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within, the network has its averaged weights, where the recipe averages."""
        if self.average is None:
            yield
            return
        own = [copy_of(weight) for weight in self.network.weights]
        for weight, average in zip(self.network.weights, self.average.averages, strict=True):
            weight.assign(copy_of(average))
        try:
            yield
        finally:
            for weight, value in zip(self.network.weights, own, strict=True):
                weight.assign(value)

    # --- a dry run --------------------------------------------------------------------------------------------------

    def rehearse(self) -> dict[str, Any]:
        """What the run would take: a few steps are taken and timed, and nothing is written."""
        batches = [self.feed[index % len(self.feed)] for index in range(DRY_STEPS)]
        times = []
        for images, wanted, weights in batches:
            began = time.perf_counter()
            with out_of_memory(self.feed.batch):
                self.model.train_on_batch(images, wanted, sample_weight=weights)
            times.append(time.perf_counter() - began)
        shown = self.examples.valid.images[:VALID_BATCH]
        self.model.predict_on_batch(shown)
        began = time.perf_counter()
        self.model.predict_on_batch(shown)
        valid = (time.perf_counter() - began) * len(self.examples.valid) / len(shown)
        step, steps, epochs = min(times[1:]), len(self.feed), self.recipe.schedule.epochs
        memory, kind = peak_memory()
        return {
            "train_pictures": len(self.examples.train), "valid_pictures": len(self.examples.valid),
            "batch": self.feed.batch, "steps_per_epoch": steps, "epochs": epochs, "steps": steps * epochs,
            "step_seconds": step, "epoch_seconds": step * steps + valid, "run_seconds": epochs * (step * steps + valid),
            "compile_seconds": times[0] - step, "peak_bytes": memory, "memory": kind, "precision": self.precision,
            "parameters": count(self.network.weights), "trained_parameters": count(self.network.trainable_weights),
        }  # fmt: skip


def figures(logits: np.ndarray, part: Part) -> tuple[float, float | None]:
    """Accuracy, and the cross-entropy against the votes; None where that is no number."""
    accuracy = float((logits.argmax(axis=1) == part.labels).mean())
    if not np.isfinite(logits).all():
        return 0.0, None
    shifted = logits - logits.max(axis=1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return accuracy, float(-(part.distribution * log).sum(axis=1).mean())


def count(weights: list[Any]) -> int:
    return int(sum(np.prod(weight.shape) for weight in weights))


@contextmanager
def _policy(name: str) -> Iterator[None]:
    """Within, new layers compute by the dtype policy of that name."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


__all__ = ["Hooks", "Outcome", "Run", "duration", "figures"]
