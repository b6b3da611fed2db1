"""The trained networks that come with the package: how often they are right, and whether that is what was recorded.

The record is Keras's (``ferplus release``). ONNX Runtime repeats it: a second opinion, and a faster one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.conversion import convert
from ferplus_keras.dataset import Dataset
from ferplus_keras.dataset.duplicates import find_duplicates
from ferplus_keras.dataset.protocols import PROTOCOLS
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.shipped import Recorded, Shipped
from ferplus_keras.networks.resizing import DEFAULT_RESIZER
from verify.accuracy import Predictions, Progress, predict
from verify.predictors import Predictor, open_predictor

#: Under which protocols accuracies are recorded.
RECORDED = ("albanie", "majority", "wtomin")
SPLITS = ("val", "test")

#: By how many images a figure may differ on another machine: rounding turns decisions that are all but tied.
TOLERANCE = 2


@dataclass(frozen=True)
class Repeated:
    """A recorded accuracy and the one that was measured now, of the same network and the same images."""

    name: str
    recorded: Recorded
    measured: Recorded

    @property
    def passed(self) -> bool:
        same = self.recorded.n == self.measured.n
        return same and abs(self.recorded.correct - self.measured.correct) <= TOLERANCE

    def as_dict(self) -> dict[str, Any]:
        return {"network": self.name, "passed": self.passed, "recorded": asdict(self.recorded),
                "measured": asdict(self.measured)}  # fmt: skip


@dataclass(frozen=True)
class Looked:
    """What a network said of the images of one split that count under any recorded protocol."""

    rows: np.ndarray  #: their places in the data set: n
    predictions: Predictions


def look(
    predictor: Predictor, dataset: Dataset, splits: Sequence[str] = SPLITS, progress: Progress = lambda _step: None
) -> dict[str, Looked]:
    """Run ``predictor`` on each image of the ``splits`` once.

    Raises :class:`BadInputError` when a split has no images.
    """
    kept = np.any([PROTOCOLS[name].apply(dataset.votes).kept for name in RECORDED], axis=0)
    found = {}
    for split in splits:
        rows = dataset.rows_of(split)
        rows = rows[kept[rows]]
        if not len(rows):
            raise BadInputError(f"{dataset.origin} has no {split} images that count.")
        title = f"{predictor.path.name}, {split}"
        found[split] = Looked(rows, predict(predictor, dataset.images, rows, DEFAULT_RESIZER, progress, title))
    return found


def count(looked: Mapping[str, Looked], dataset: Dataset) -> tuple[Recorded, ...]:
    """How often a network was right on each split, under each protocol, with and without copies."""
    targets = {name: PROTOCOLS[name].apply(dataset.votes) for name in RECORDED}
    duplicates = find_duplicates(dataset)
    found = []
    for split, seen in looked.items():
        for name, target in targets.items():
            right, kept = seen.predictions.decisions == target.labels[seen.rows], target.kept[seen.rows]
            for copies in (True, False):
                counted = kept if copies else kept & ~duplicates.seen(split)[seen.rows]
                found.append(Recorded(split, name, copies, int(right[counted].sum()), int(counted.sum())))
    return tuple(found)


def measure(
    predictor: Predictor, dataset: Dataset, splits: Sequence[str] = SPLITS, progress: Progress = lambda _step: None
) -> tuple[Recorded, ...]:
    """:func:`look`, then :func:`count`."""
    return count(look(predictor, dataset, splits, progress), dataset)


def repeat(
    network: Shipped, dataset: Dataset, progress: Progress = lambda _step: None,
    measured: Callable[..., tuple[Recorded, ...]] = measure,
) -> list[Repeated]:  # fmt: skip
    """Measure again what is recorded of ``network``.

    Raises :class:`BadInputError` when nothing is recorded, or when its file is not the one that the manifest names.
    """
    if not network.accuracy:
        raise BadInputError(f"The manifest records no accuracy of {network.name}: there is nothing to measure again.")
    splits = [split for split in SPLITS if any(each.split == split for each in network.accuracy)]
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / f"{network.name}.onnx"
        convert(network.path, [path])
        now = {_key(each): each for each in measured(open_predictor(path), dataset, splits, progress)}
    if unknown := [each for each in network.accuracy if _key(each) not in now]:
        raise BadInputError(f"{network.name}: the protocol {unknown[0].protocol} in the manifest is not measured.")
    return [Repeated(network.name, each, now[_key(each)]) for each in network.accuracy]


def _key(each: Recorded) -> tuple[str, str, bool]:
    return each.split, each.protocol, each.copies


def as_toml(found: Sequence[Recorded]) -> str:
    """``found`` as it stands in the manifest's ``accuracy``."""
    lines = [
        f'    {{ split = "{each.split}", protocol = "{each.protocol}", copies = {str(each.copies).lower()}, '
        f"correct = {each.correct}, n = {each.n} }},"
        for each in found
    ]
    return "\n".join(["accuracy = [", *lines, "]"])


def table(repeated: Sequence[Repeated]) -> str:
    """What was recorded beside what was measured, one line for each figure."""
    lines = ["network           split  protocol  copies   recorded          measured          verdict"]
    lines += [
        f"{each.name:<17} {each.recorded.split:<6} {each.recorded.protocol:<9} "
        f"{'with' if each.recorded.copies else 'without':<8} {_shown(each.recorded):<17} {_shown(each.measured):<17} "
        f"{'repeated' if each.passed else 'ANOTHER FIGURE'}"
        for each in repeated
    ]
    return "\n".join(lines)


def _shown(each: Recorded) -> str:
    return f"{each.percent:.2f} % of {each.n:,}"
