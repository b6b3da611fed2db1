"""The training loop: ``model.fit``, an epoch at a time, with a complete checkpoint after each.

The order of the images is a function of the seed and the epoch, the learning rate one of the step and the figures
so far, and every other random number comes from a state that is saved with the weights. So a run that was interrupted
at any moment resumes from its last checkpoint and ends with the same result as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ferplus_keras.errors import BadInputError, CheckFailedError
from ferplus_keras.finetune import targets
from ferplus_keras.finetune.augmentation import Augmentation
from ferplus_keras.finetune.averaging import WeightAverage, copy_of
from ferplus_keras.finetune.curves import learning_curves
from ferplus_keras.finetune.devices import (
    gpu_capability,
    jit_compile,
    make_repeatable,
    out_of_memory,
    precision_of,
)
from ferplus_keras.finetune.distribution import World, logits
from ferplus_keras.finetune.examples import Examples, Part
from ferplus_keras.finetune.feeding import Feed, for_keras
from ferplus_keras.finetune.folder import RunFolder
from ferplus_keras.finetune.losses import AverageAnswer, Distilled
from ferplus_keras.finetune.memory import PROCESS_BYTES, activation_bytes
from ferplus_keras.finetune.network import factor_of, get_arrays, training_network, training_table
from ferplus_keras.finetune.optimizers import make_optimizer
from ferplus_keras.finetune.progress import Meter, Moment
from ferplus_keras.finetune.recipe import Leg, Recipe
from ferplus_keras.finetune.schedules import Rate, Row, Standing, make_schedule, standing
from ferplus_keras.finetune.start import Start
from ferplus_keras.finetune.state import load_arrays, restore, save_arrays, save_state, state_of
from ferplus_keras.finetune.teacher import Teacher

#: Images of Valid that are looked at together: without gradients, more of them fit than in a training step.
VALID_BATCH = 128

#: Steps that a dry run takes in each stage: the first is compiled, the others are timed.
DRY_STEPS = 3

#: Pixels of all images of such a step together: eight images of 224 x 224.
DRY_PIXELS = 8 * 224**2


@dataclass
class Hooks:
    """What a run tells while it goes."""

    moment: Callable[[Moment], None] = lambda _moment: None
    say: Callable[[str], None] = lambda _line: None
    epoch: Callable[[Row], None] = lambda _row: None


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its epochs, the best of them (from 1), and where the weights of the best and the last are.

    There is no file ``last`` where the best epoch is the last.
    """

    history: list[Row]
    best_epoch: int
    best: Path
    last: Path
    reason: str

    @property
    def kept(self) -> dict[str, tuple[Path, int]]:
        """Name -> weights and epoch: "best" and "last", or "best" alone where both are one epoch."""
        best, last = {"best": (self.best, self.best_epoch)}, {"last": (self.last, len(self.history))}
        return best if self.best_epoch == len(self.history) else best | last


@dataclass(frozen=True)
class StageCost:
    """What one stage would take."""

    size: int  #: side of the images, pixels
    epochs: int
    batch: int
    steps_per_epoch: int
    step_seconds: float
    epoch_seconds: float  #: with Valid
    bytes: int  #: of memory for the whole process, estimated


@dataclass(frozen=True)
class Rehearsal:
    """What a run would take."""

    train_images: int
    valid_images: int
    precision: str
    parameters: int
    trained_parameters: int
    stages: tuple[StageCost, ...]

    @property
    def seconds(self) -> float:
        return sum(stage.epochs * stage.epoch_seconds for stage in self.stages)


@dataclass
class Run:
    """A network, its images and a recipe, ready to be trained."""

    network_name: str
    recipe: Recipe
    examples: Examples
    start: Start = field(default_factory=Start)
    hooks: Hooks = field(default_factory=Hooks)
    world: World = field(default_factory=World)
    teachers: tuple[Teacher, ...] = ()

    def __post_init__(self) -> None:
        training = self.recipe.training
        self.table = training_table(self.network_name, len(self.examples.classes), self.recipe.network)
        self._capability = gpu_capability()
        self.precision = precision_of(training, self._capability)
        self.deterministic = make_repeatable(training, self._capability)
        for leg in self.recipe.legs:
            self.world.check_batch(self._batch(leg))
        self._enter(self.recipe.legs[0])

    @property
    def size(self) -> int:
        """Side of the images that the network is for in the end: those of the last stage."""
        return self.recipe.legs[-1].recipe.network.size

    def steps_after(self, epochs: int) -> int:
        """How many steps the first ``epochs`` epochs have."""
        return sum(
            max(0, min(leg.epochs, epochs - leg.first_epoch)) * (len(self.examples.train) // self._batch(leg))
            for leg in self.recipe.legs
        )

    def _batch(self, leg: Leg) -> int:
        return min(leg.recipe.training.batch, len(self.examples.train))

    def _enter(self, leg: Leg) -> None:
        """Build what trains in the stage ``leg``: its batches, and the network for images of its size."""
        recipe, examples = leg.recipe, self.examples
        self.leg = leg
        self.feed = Feed(
            examples.train.images, examples.targets.targets, examples.targets.weights, self._batch(leg),
            recipe.training.seed, mixup=recipe.data.mixup, share=self.world.share,
        )  # fmt: skip
        with _policy(self.precision):
            self._build(recipe)

    def _build(self, recipe: Recipe) -> None:
        self.network = training_network(self.network_name, len(self.examples.classes), recipe, self.start)
        inputs = keras.Input(self.examples.train.images.shape[1:], dtype="uint8", name="images")
        beside = tuple(teacher.size for teacher in self.teachers)
        augment = Augmentation(recipe.augmentation, recipe.network.size, recipe.training.seed, beside)
        seen = augment(inputs)
        own, *shown = seen if beside else [seen]
        answers = self.network(own)
        self.average = WeightAverage(self.network, recipe.optimizer.ema) if recipe.optimizer.ema else None
        if self.average is not None:
            answers = self.average(answers)
        outputs, loss = answers, targets.loss(recipe.data.target)
        if self.teachers:
            taught = [
                teacher.model()(images, training=False) for teacher, images in zip(self.teachers, shown, strict=True)
            ]
            outputs = keras.layers.Concatenate(dtype="float32")([answers, AverageAnswer(dtype="float32")(taught)])
            loss = Distilled(loss, recipe.data.teacher_share, recipe.data.temperature)
        self.model = keras.Model(inputs, outputs, name="training")
        self.answering = keras.Model(inputs, answers, name="answering")
        settings = recipe.optimizer
        optimizer = make_optimizer(settings, make_schedule(self._rate()), factor_of(self.network, self.table, settings))
        self.model.compile(optimizer, loss, jit_compile=jit_compile(self._capability))
        self.model.optimizer.build(self.model.trainable_variables)
        self._inner = optimizer

    def _rate(self) -> Rate:
        """The learning rate's way through the stage."""
        legs, recipe = self.recipe.legs, self.leg.recipe
        weights = [leg.recipe.network.size**2 / self.size**2 for leg in legs] if len(legs) > 1 else [1.0]
        work = [leg.epochs * weight for leg, weight in zip(legs, weights, strict=True)]
        now = legs.index(self.leg)
        return Rate(
            recipe.schedule, recipe.optimizer.learning_rate, len(self.feed), self.steps_after(self.leg.first_epoch),
            self.leg.first_epoch, weights[now], weights[0], sum(work[:now]), sum(work),
        )  # fmt: skip

    def _go_to(self, leg: Leg) -> None:
        """Go over to the stage ``leg``, with the state as it is."""
        state = state_of(self.model)
        self._enter(leg)
        restore(state, self.model, Path(f"stage at {leg.recipe.network.size}"))

    # --- the run ----------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> str:
        """What must be the same for a checkpoint to be resumed: everything that the result depends on."""
        parts = [
            self.network_name, self.recipe.to_toml(), self.examples.fingerprint, list(self.examples.classes),
            self.start.source, keras.backend.backend(), self.precision, [teacher.sha256 for teacher in self.teachers],
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def train(self, folder: RunFolder, *, resume: bool = False) -> FinishedRun:
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
            if (leg := self.recipe.leg_of(len(history))) != self.leg:
                self._go_to(leg)
            row = self._epoch(len(history), place, history)
            history.append(row)
            with self._averaged():
                row["val_accuracy"], row["val_loss"] = figures(self.logits(self.examples.valid), self.examples.valid)
                if self._standing(history).best_epoch == len(history) and self.chief:
                    save_arrays(folder.best(len(history)), self._flat(), {"epoch": len(history)})
            row["seconds"] = round(time.perf_counter() - self._began, 2)
            if self.chief:
                self._save(folder, history)
            self.hooks.epoch(row)
        if not place.best_epoch:
            raise CheckFailedError("No epoch has a finite result on Valid: nothing was learned.")
        if self.chief:
            if place.best_epoch < len(history) and not folder.last.exists():
                with self._averaged():
                    save_arrays(folder.last, self._flat(), {"epoch": len(history)})
            if not (folder.history.exists() and folder.curves.exists()):
                self._derive(folder, history)
        return FinishedRun(history, place.best_epoch, folder.best(place.best_epoch), folder.last, place.reason)

    @property
    def chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.world.process == 0

    def _standing(self, history: list[Row]) -> Standing:
        return standing(self.recipe.schedule, self.recipe.optimizer.learning_rate, history)

    def check_same_as(self, folder: RunFolder) -> None:
        """Raises :class:`BadInputError` when the run that was begun in ``folder`` is another one."""
        self._check_identity(folder.read_run(), folder)

    def _check_identity(self, record: Mapping[str, Any], folder: RunFolder) -> None:
        if record.get("identity") != self.identity:
            raise BadInputError(
                f"{folder.path} holds another run: the recipe, the data, the starting weights or the backend has "
                "changed. Use the same ones, or start again with --overwrite."
            )

    def _resumed(self, folder: RunFolder) -> list[Row]:
        saved = load_arrays(folder.state)
        self._check_identity(saved.record, folder)
        history: list[Row] = saved.record["history"]
        if (leg := self.recipe.leg_of(max(0, len(history) - 1))) != self.leg:
            self._enter(leg)
        restore(saved, self.model, folder.state)
        self.hooks.say(f"resuming after epoch {len(history)} of {self.recipe.schedule.epochs}")
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
        meter = Meter(
            self.hooks.moment, number + 1, schedule.epochs, len(self.feed), self.feed.batch,
            self.recipe.epochs_after(number),
        )  # fmt: skip
        if history:
            meter.between_epochs = max(0.0, history[-1]["seconds"] - history[-1]["fit_seconds"])
        with out_of_memory(self.feed.batch):
            logs = self.model.fit(for_keras(self.feed), epochs=1, verbose=0, shuffle=False, callbacks=[meter]).history
        loss = float(logs["loss"][-1])
        if not math.isfinite(loss):
            raise CheckFailedError(
                f"In epoch {number + 1} the loss became {loss}: start again (--overwrite) with a lower learning rate "
                "(--set learning_rate=...) or bounded gradients (--set clip_norm=1). The previous checkpoint is kept."
            )
        seconds = time.perf_counter() - self._began
        rate = place.learning_rate
        if schedule.kind != "plateau":
            rate = self._rate().at(self.steps_after(number + 1) - 1)
        return {
            "epoch": number + 1, "stage": self.recipe.legs.index(self.leg) + 1, "size": self.leg.recipe.network.size,
            "learning_rate": rate, "loss": loss, "val_loss": None, "val_accuracy": None,
            "fit_seconds": round(seconds, 2), "seconds": round(seconds, 2),
            "images_per_second": round(len(self.feed) * self.feed.batch / seconds, 1),
            "waiting_for_data": round(self.feed.waiting, 4),
        }  # fmt: skip

    def logits(self, part: Part) -> np.ndarray:
        """n x classes for the images of ``part``, with the weights as they are now."""
        found: np.ndarray = np.asarray(logits(self.answering, part.images, VALID_BATCH), np.float64)
        return found

    def _save(self, folder: RunFolder, history: list[Row]) -> None:
        # The state is the one that counts: what is derived of it is written after it, and again by a resumed run.
        save_state(folder.state, self.model, {"identity": self.identity, "history": history})
        folder.forget_other_bests(self._standing(history).best_epoch)
        self._derive(folder, history)

    def _derive(self, folder: RunFolder, history: list[Row]) -> None:
        """Write what is made of the epochs so far."""
        folder.write_history(history)
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

    def rehearse(self) -> Rehearsal:
        """What the run would take, from a few small steps in each stage; nothing is written.

        A step is taken with few images and its time multiplied: a full batch of 128 at 224 x 224 takes 13 GB, which
        whoever asks may not have. Memory is estimated from the table, see :func:`activation_bytes`.
        """
        stages = []
        for number, leg in enumerate(self.recipe.legs, 1):
            size = leg.recipe.network.size
            self.hooks.say(f"measuring stage {number} of {len(self.recipe.legs)}, at {size} x {size}")
            if leg != self.leg:
                self._enter(leg)
            stages.append(self._rehearsed(leg))
        return Rehearsal(
            len(self.examples.train), len(self.examples.valid), self.precision, count(self.network.weights),
            count(self.network.trainable_weights), tuple(stages),
        )  # fmt: skip

    def _rehearsed(self, leg: Leg) -> StageCost:
        size, batch, steps = leg.recipe.network.size, self.feed.batch, len(self.feed)
        few = min(batch, max(1, DRY_PIXELS // size**2 // self.world.devices) * self.world.devices)
        images, wanted, weights = (array[:few] for array in self.feed[0])
        seconds = []
        for _ in range(DRY_STEPS):
            began = time.perf_counter()
            self.model.train_on_batch(images, wanted, sample_weight=weights)
            seconds.append(time.perf_counter() - began)
        shown = self.examples.valid.images[:few]
        self.answering.predict_on_batch(shown)
        began = time.perf_counter()
        self.answering.predict_on_batch(shown)
        valid = (time.perf_counter() - began) * len(self.examples.valid) / len(shown)
        step = min(seconds[1:]) * batch / few
        bytes_per_number = 4 if self.precision == "float32" else 2
        memory = PROCESS_BYTES + batch * activation_bytes(self.table, size, bytes_per_number)
        memory += 4 * count(self.model.variables + self.model.optimizer.variables)
        return StageCost(size, leg.epochs, batch, steps, step, step * steps + valid, memory)


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
