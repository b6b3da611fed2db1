"""How often is a network right on FERPlus? One evaluator and one preprocessing for files of every kind.

Images stream through in batches, from the data set's bytes; what is kept of each are eight probabilities.
:mod:`verify.scores` makes figures of them, :mod:`verify.accuracy_result` plain data for reports.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ferplus_keras.dataset import Dataset
from ferplus_keras.dataset.duplicates import Duplicates, find_duplicates
from ferplus_keras.dataset.protocols import Protocol, Targets
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.resizing import DEFAULT_RESIZER, RESIZERS
from verify.predictors import Predictor
from verify.scores import Rate, confusion_matrix

#: Probability up to which two classes are as good as equal: rounding in float32 moves one by 1e-6 or so.
NEAR_TIE = 1e-4

Progress = Callable[["Step"], None]


@dataclass(frozen=True)
class Step:
    """How far an evaluation has come: ``done`` of ``total`` images in ``seconds``."""

    title: str
    done: int
    total: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.done / self.seconds if self.seconds > 0 else 0.0

    @property
    def left(self) -> float:
        """Seconds that the rest will take at this pace."""
        return (self.total - self.done) / self.per_second if self.per_second else 0.0


@dataclass(frozen=True)
class Predictions:
    """n x 8 probabilities, and where the time went: on the images, and in the network."""

    probabilities: np.ndarray
    data_seconds: float
    network_seconds: float

    @property
    def decisions(self) -> np.ndarray:
        """The class with the largest probability; the first of them where several are equal."""
        classes: np.ndarray = self.probabilities.argmax(axis=1)
        return classes


@dataclass(frozen=True)
class SplitEvaluation:
    """A network's predictions on one split, beside the truth.

    ``rows`` are the images' places in the data set; everything else goes by them. ``of_split`` counts the images
    that the protocol keeps in that split, of which ``--limit`` may have left some out.
    """

    split: str
    rows: np.ndarray
    of_split: int
    predictions: Predictions
    labels: np.ndarray
    distribution: np.ndarray
    most_voted: np.ndarray
    copied: np.ndarray  #: whether an exact copy stands in train (for test: or in val)

    @cached_property
    def correct(self) -> np.ndarray:
        hits: np.ndarray = self.predictions.decisions == self.labels
        return hits

    @cached_property
    def confusion(self) -> np.ndarray:
        return confusion_matrix(self.labels, self.predictions.decisions, len(EMOTIONS))

    @property
    def rate(self) -> Rate:
        return Rate.of(self.correct)

    def among(self, emotions: Sequence[str]) -> np.ndarray:
        """Whether the label is one of ``emotions``."""
        return np.isin(self.labels, [EMOTIONS.index(each) for each in emotions])

    @property
    def complete(self) -> bool:
        return len(self.rows) == self.of_split

    def most_confident_mistakes(self, count: int = 12) -> np.ndarray:
        """Places among ``rows`` of the mistakes with the largest probability, the surest first."""
        wrong = np.flatnonzero(~self.correct)
        sure = self.predictions.probabilities[wrong].max(axis=1)
        mistakes: np.ndarray = wrong[np.argsort(-sure, kind="stable")[:count]]
        return mistakes


@dataclass(frozen=True)
class Agreement:
    """Two networks' decisions on the same images.

    ``near_ties``: different, but both all but undecided, and of the same opinion of every class.
    """

    same: int
    near_ties: int
    n: int

    @property
    def passed(self) -> bool:
        return self.same + self.near_ties == self.n


@dataclass
class Evaluation:
    """A network on one or both splits, under one protocol and one way of resizing."""

    predictor: Predictor
    dataset: Dataset
    protocol: Protocol
    resize: str
    splits: list[SplitEvaluation]
    #: resizer -> split -> predictions; of another network -> the same, under its own path
    resized: dict[str, dict[str, Predictions]] = field(default_factory=dict)
    versus: tuple[Predictor, dict[str, Predictions]] | None = None
    duplicates: Duplicates | None = None


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    protocol: Protocol,
    *,
    splits: Sequence[str] = ("test",),
    resize: str = DEFAULT_RESIZER,
    limit: int | None = None,
    progress: Progress = lambda _step: None,
) -> Evaluation:
    """Run ``predictor`` on the images that ``protocol`` keeps.

    Args:
        predictor: the network; see :func:`verify.predictors.open_predictor`.
        dataset: the data; see :func:`ferplus_keras.dataset.load_ferplus`.
        protocol: which images count, and what is right.
        splits: of "train", "val" and "test".
        resize: a name of :data:`ferplus_keras.networks.resizing.RESIZERS`.
        limit: at most this many images of each split, the first.
        progress: called after every batch.

    Raises:
        BadInputError: a split has no images, or the network has other classes.
    """
    targets = protocol.apply(dataset.votes)
    duplicates = find_duplicates(dataset)
    chosen = {split: chosen_rows(dataset, targets, split) for split in splits}
    result = Evaluation(predictor, dataset, protocol, resize, [], duplicates=duplicates)
    for split, rows in chosen.items():
        taken = rows[:limit]
        predictions = predict(predictor, dataset.images, taken, resize, progress, f"{predictor.path.name}, {split}")
        result.splits.append(
            SplitEvaluation(
                split, taken, len(rows), predictions, targets.labels[taken], targets.distribution[taken],
                targets.most_voted[taken], duplicates.seen(split)[taken],
            )
        )  # fmt: skip
    return result


def run_other_resizers(evaluation: Evaluation, progress: Progress = lambda _step: None) -> None:
    """Run the network on the same images again, resized in each of the other ways."""
    for name in (name for name in RESIZERS if name != evaluation.resize):
        evaluation.resized[name] = _run_again(evaluation, evaluation.predictor, name, f", {name}", progress)


def run_second_network(
    evaluation: Evaluation, other: Predictor, progress: Progress = lambda _step: None
) -> dict[str, Predictions]:
    """Run ``other`` on the same images, for a comparison of the two. Returns its predictions for each split."""
    predictions = _run_again(evaluation, other, evaluation.resize, "", progress)
    evaluation.versus = other, predictions
    return predictions


def _run_again(
    evaluation: Evaluation, predictor: Predictor, resize: str, said: str, progress: Progress
) -> dict[str, Predictions]:
    images, name = evaluation.dataset.images, predictor.path.name
    return {
        each.split: predict(predictor, images, each.rows, resize, progress, f"{name}, {each.split}{said}")
        for each in evaluation.splits
    }


def chosen_rows(dataset: Dataset, targets: Targets, split: str) -> np.ndarray:
    """The images of ``split`` that count. Raises :class:`BadInputError` when there are none."""
    rows: np.ndarray = dataset.rows_of(split)
    rows = rows[targets.kept[rows]]
    if not len(rows):
        raise BadInputError(f"{dataset.origin} has no {split} images that the protocol {targets.protocol.name} keeps.")
    kept: np.ndarray = rows
    return kept


def predict(
    predictor: Predictor, images: np.ndarray, rows: np.ndarray, resize: str, progress: Progress, title: str
) -> Predictions:
    """The probabilities for ``images[rows]``, batch by batch."""
    resizer = RESIZERS[resize].run
    probabilities = np.empty((len(rows), len(EMOTIONS)), np.float64)
    data = network = 0.0
    start = time.perf_counter()
    for first in range(0, len(rows), predictor.batch):
        began = time.perf_counter()
        grey = resizer(images[rows[first : first + predictor.batch]], predictor.size)
        batch = np.broadcast_to(grey[..., None], (*grey.shape, 3))
        ready = time.perf_counter()
        probabilities[first : first + len(batch)] = predictor.probabilities(batch)
        done = time.perf_counter()
        data, network = data + ready - began, network + done - ready
        progress(Step(title, first + len(batch), len(rows), done - start))
    return Predictions(probabilities, data, network)


def agreement(ours: Predictions, theirs: Predictions) -> Agreement:
    """How many decisions are the same, and how many differ by no more than rounding can do."""
    mine, other = ours.decisions, theirs.decisions
    index = np.arange(len(mine))
    margins = [
        np.abs(each.probabilities[index, mine] - each.probabilities[index, other]) for each in (ours, theirs)
    ]  # fmt: skip
    apart = np.abs(ours.probabilities - theirs.probabilities).max(axis=1)
    different = mine != other
    near = different & (np.maximum(*margins) < NEAR_TIE) & (apart < NEAR_TIE)
    return Agreement(int((~different).sum()), int(near.sum()), len(mine))
