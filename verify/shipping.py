"""A finished run as a network that comes with the package: kernels in float16, a card, accuracies for the manifest."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras.dataset import Dataset
from ferplus_keras.engines.keras_engine import engine_of_shipped
from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.files.atomic import atomic_path, write_text
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.network_folder import RELEASED
from ferplus_keras.files.opening import is_file
from ferplus_keras.files.shipped import TITLES, Recorded, Shipped
from ferplus_keras.finetune.folder import RunFolder
from ferplus_keras.finetune.recipe import load_recipe
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.wording import counted
from verify.accuracy import Predictions, Progress
from verify.card import opening
from verify.predictors import Predictor
from verify.trained import as_toml, count, look

#: A file's full path, of which the last name is published: the rest is about the machine that it lay on.
PLACE = re.compile(r"(?<![\w.:/])/(?:[^/\s\"',<>]+/)+([^/\s\"',<>]+)")

TITLE_OF = {"val": "Valid", "test": "Test"}


@dataclass(frozen=True)
class Halving:
    """What float16 changed on one split: other decisions, and the largest difference of a probability."""

    split: str
    images: int
    decisions: int
    probability: float

    def __str__(self) -> str:
        changed = f"changes {counted(self.decisions, 'decision')}" if self.decisions else "changes no decision"
        return (f"On the {counted(self.images, 'image')} of {TITLE_OF[self.split]} that a protocol counts, "
                f"float16 {changed}, and no probability by more than {self.probability:.1g}.")  # fmt: skip


@dataclass(frozen=True)
class Release:
    """What was written, the figures of the float32 original, and what float16 changed, split by split."""

    shipped: Shipped
    original: tuple[Recorded, ...]
    halving: tuple[Halving, ...]

    @property
    def manifest(self) -> str:
        each = self.shipped
        place = f"trained/{each.path.parent.name}/{each.path.name}"
        return (f'[trained.{each.name}]\nfile = "{place}"\nnetwork = "{each.network}"\nsize = {each.size}\n'
                f'sha256 = "{each.sha256}"\n{as_toml(each.accuracy)}')  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        return {"file": str(self.shipped.path), "sha256": self.shipped.sha256, "manifest": self.manifest,
                "float16": [asdict(each) for each in self.shipped.accuracy],
                "float32": [asdict(each) for each in self.original],
                "changed": [asdict(each) for each in self.halving]}  # fmt: skip


def record_of(run: Path) -> dict[str, Any]:
    """The record of a ``run`` that can be shipped. Raises :class:`BadInputError` when it is not one."""
    if not is_file(RunFolder(run).run):
        raise BadInputError(f"{run} is not the folder of a training run: give one that `ferplus finetune --out` made.")
    record = RunFolder(run).read_run()
    if not RunFolder(run).read_release():
        raise BadInputError(f"The run in {run} is not finished: `ferplus finetune --resume {run}` goes on with it.")
    if tuple(record.get("classes", ())) != EMOTIONS:
        raise BadInputError(f"{run} is not a run on FERPlus's eight emotions, and only those are shipped.")
    return record


def ship(run: Path, out: Path, dataset: Dataset, progress: Progress = lambda _step: None) -> Release:
    """Write the best epoch of the finished ``run`` into ``out``, whose name is the network's.

    Raises :class:`BadInputError` when there is no finished run of eight emotions, or its numbers do not fit float16;
    :class:`OutputError` when ``out`` cannot be written.
    """
    from ferplus_keras.finetune.state import best_of

    folder = RunFolder(run)
    network = str(record_of(run)["options"]["arch"])
    size = load_recipe(folder.recipe, network=network).legs[-1].recipe.network.size
    # In PyTorch's names, which `convert` reads, if the run was to write a .safetensors.
    best = run / "best.safetensors"
    best = best if best.exists() else best_of(run)
    original = Shipped(out.name, network, best, sha256_of(best), size)
    try:
        out.mkdir(parents=True, exist_ok=True)
        # Of the accuracy report the figures alone: its page shows FERPlus's faces, which are not ours to publish.
        for path in (folder.recipe, folder.run, folder.history, folder.curves, folder.accuracy / "accuracy.json"):
            if path.exists():
                write_text(out / path.name, PLACE.sub(r"\1", path.read_text(encoding="utf-8")))
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}.") from None
    _halve(best, out / RELEASED)
    half = Shipped(out.name, network, out / RELEASED, sha256_of(out / RELEASED), size)
    looked = [look(_predictor(each), dataset, progress=progress) for each in (half, original)]
    figures, before = (count(each, dataset) for each in looked)
    half = Shipped(out.name, network, half.path, half.sha256, size, figures)
    made = Release(
        half, before, tuple(_halving(split, *(each[split].predictions for each in looked)) for split in looked[0])
    )
    write_text(out / "README.md", _card(made))
    return made


def _halve(source: Path, target: Path) -> None:
    """Write the kernels of ``source`` in float16, everything else as it is, and its record with them.

    Batch norm's numbers are one percent of the file, and the variance of pixels after conv1 is beyond float16.
    """
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    with safe_open(source, "np") as file:
        metadata = file.metadata()
    with np.errstate(over="ignore"):
        arrays = {
            name: array.astype(np.float16) if array.dtype == np.float32 and array.ndim > 1 else array
            for name, array in load_file(source).items()
        }
    if wrong := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
        raise BadInputError(f"{source}: {wrong[0]} has numbers that float16 cannot represent, so it cannot be shipped.")
    with atomic_path(target) as temporary:
        save_file(arrays, temporary, metadata)


def _halving(split: str, half: Predictions, whole: Predictions) -> Halving:
    return Halving(
        split, len(half.probabilities), int((half.decisions != whole.decisions).sum()),
        float(np.abs(half.probabilities - whole.probabilities).max()),
    )  # fmt: skip


def _predictor(network: Shipped) -> Predictor:
    return Predictor(engine_of_shipped(network), network.source)


def _card(made: Release) -> str:
    """The model card."""
    each = made.shipped
    rows = [
        f"| {TITLE_OF[got.split]} | {got.protocol} | {'with' if got.copies else 'without'} "
        f"| {got.percent:.2f} % of {got.n:,} |"
        for got in each.accuracy
    ]
    return "\n".join([
        *opening(f"{TITLES[each.network]}, trained on FERPlus", EMOTIONS, each.size, RELEASED),
        "| split | protocol | copies of other splits' images | accuracy |", "|---|---|---|---|", *rows, "",
        f"Kernels are stored in float16, the rest in float32. {' '.join(map(str, made.halving))}", "",
        "`recipe.toml` has every value, `history.csv` and `curves.svg` the epochs, `run.json` data and versions.", "",
        "Raters chose the labels by looking: the answer is what they would call an expression, not what somebody "
        "feels. Rare expressions have few examples. Do not use it to make decisions about people.", "",
    ])  # fmt: skip
