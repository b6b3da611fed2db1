"""From votes to what the network is trained towards: the target kinds of the FER+ paper, and their losses.

Barsoum et al. 2016 (arXiv:1608.01041) compare four ways to use the ten votes of an image. Which images count, and
which of their votes, is the matter of :mod:`ferplus_keras.dataset.protocols`; here the votes that count become rows
that a loss can be computed against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ferplus_keras.dataset.protocols import PROTOCOLS, PUBLISHED_PROTOCOL
from ferplus_keras.dataset.records import VOTE_COLUMNS
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.emotions import EMOTIONS

#: Each kind of target, and the protocol that decides what counts where none is named.
KINDS = {
    "hard": PUBLISHED_PROTOCOL,  # the most voted emotion: what Albanie's ResNet50 was trained on
    "majority": "majority",  # the same, where most of the voters agree
    "probability": "probability",  # a single emotion, drawn anew from the votes in every epoch
    "crossentropy": "crossentropy",  # the votes as a distribution
    "multi_target": "multi_target",  # any of several emotions is right
}


@dataclass(frozen=True)
class Targets:
    """What n images are trained towards, row by row with the votes they were made of.

    ``targets`` is float32, n x classes: each row sums to 1, or is several ones where the kind is ``multi_target``, or
    is all zeros where the protocol drops the image. ``weights`` is float32, n: the class weight of the row, 0 where
    it is dropped. :meth:`epoch` makes of these what one epoch is fed with.
    """

    targets: np.ndarray
    weights: np.ndarray
    kind: str = "hard"
    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def kept(self) -> np.ndarray:
        """Mask: the images that count."""
        kept: np.ndarray = self.targets.sum(axis=1) > 0
        return kept

    @property
    def redrawn(self) -> bool:
        """Whether the targets are others in every epoch."""
        return self.kind == "probability"

    def of(self, rows: np.ndarray) -> Targets:
        """The targets of some of the images; ``rows`` is an index or a mask."""
        return replace(self, targets=self.targets[rows], weights=self.weights[rows])

    def epoch(self, seed: int, epoch: int) -> Targets:
        """What to feed in ``epoch``: where they are probabilities, one emotion for each image, drawn from them.

        A function of ``seed`` and ``epoch`` alone, so that a resumed run draws what an uninterrupted one would have.
        Other kinds are the same in every epoch.
        """
        if not self.redrawn:
            return self
        generator = np.random.default_rng([seed, epoch, 0x7A29E7])  # the last: a stream of its own, beside the order's
        upper = np.cumsum(self.targets.astype(np.float64), axis=1)
        drawn = (generator.random(len(self))[:, None] * upper[:, -1:] >= upper).sum(axis=1)
        one_hot = _one_hot(np.minimum(drawn, upper.shape[1] - 1), upper.shape[1])
        return _finished(one_hot * self.kept[:, None], self.kind, self.class_weights, self.label_smoothing)


def make(
    votes: np.ndarray,
    kind: str,
    classes: int = len(EMOTIONS),
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    *,
    protocol: str | None = None,
) -> Targets:
    """Targets of ``kind`` (:data:`KINDS`) for images with these ``votes``.

    Args:
        votes: n x 10 counts in the order of :data:`VOTE_COLUMNS`; n x 8 where unknown and NF were not voted for; or n
            class indices, of a data set that has labels and no votes (FER2013): then every image counts.
        classes: how many there are. Of votes, the first ``classes`` emotions: 7 leaves contempt out.
        class_weights: one a class. An image weighs what its class does, or the mean over its target's classes.
        label_smoothing: the share of every target that is spread over all classes.
        protocol: decides which images and votes count (:data:`PROTOCOLS`); None: the kind's own.

    Raises:
        BadInputError: on a kind, protocol, class weights or smoothing that cannot be.
    """
    if kind not in KINDS:
        raise BadInputError(f'There is no target kind "{kind}": choose one of {", ".join(KINDS)}.')
    if not 0 <= label_smoothing < 1:
        raise BadInputError(f"Label smoothing is a share of at least 0 and below 1, not {label_smoothing}.")
    if label_smoothing and kind == "multi_target":
        raise BadInputError("The target kind multi_target takes no label smoothing: several labels are right already.")
    if class_weights is not None and len(class_weights) != classes:
        raise BadInputError(f"There are {len(class_weights)} class weights for {classes} classes; give one per class.")
    if class_weights is not None and not all(0 <= weight < np.inf for weight in class_weights):
        raise BadInputError(f"Class weights are numbers of 0 and more, not {list(class_weights)}.")
    distribution, labels = _counted(np.asarray(votes), classes, protocol or KINDS[kind])
    kept = distribution.sum(axis=1) > 0
    if kind in ("hard", "majority"):
        targets = _one_hot(labels, classes) * kept[:, None]
    elif kind == "multi_target":
        targets = (distribution > 0).astype(np.float64)
    else:
        targets = distribution
    weights = None if class_weights is None else tuple(map(float, class_weights))
    return _finished(targets, kind, weights, label_smoothing, smooth=kind != "probability")


def loss(kind: str) -> Any:
    """The Keras loss that goes with targets of ``kind``, on logits."""
    import keras

    from ferplus_keras.finetune.losses import MultiTargetCrossentropy

    if kind not in KINDS:
        raise BadInputError(f'There is no target kind "{kind}": choose one of {", ".join(KINDS)}.')
    return MultiTargetCrossentropy() if kind == "multi_target" else keras.losses.CategoricalCrossentropy(True)


def _counted(votes: np.ndarray, classes: int, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """The distribution over classes (rows of zeros where dropped), and the most voted class."""
    if votes.ndim == 1:
        if len(votes) and not (np.issubdtype(votes.dtype, np.integer) and 0 <= votes.min() <= votes.max() < classes):
            raise BadInputError(
                f"Labels must be whole numbers from 0 to {classes - 1}, not {votes.min()} to {votes.max()}."
            )
        return _one_hot(votes, classes), votes
    if protocol not in PROTOCOLS:
        raise BadInputError(f'There is no protocol "{protocol}": choose one of {", ".join(PROTOCOLS)}.')
    if not 1 <= classes <= len(EMOTIONS):
        raise BadInputError(f"Votes are for {len(EMOTIONS)} emotions; {classes} classes cannot be made of them.")
    if votes.ndim == 2 and votes.shape[1] == len(EMOTIONS):
        votes = np.pad(votes, ((0, 0), (0, len(VOTE_COLUMNS) - len(EMOTIONS))))
    found = PROTOCOLS[protocol].apply(votes)
    # The label of an image whose label is no class is dropped with it; votes for it beside others are left out.
    kept = found.kept & (found.labels < classes)
    distribution = found.distribution[:, :classes] * kept[:, None]
    totals = distribution.sum(axis=1, keepdims=True)
    return distribution / np.where(totals > 0, totals, 1.0), np.minimum(found.labels, classes - 1)


def _one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    rows: np.ndarray = np.eye(classes)[labels]
    return rows


def _finished(
    targets: np.ndarray, kind: str, class_weights: tuple[float, ...] | None, smoothing: float, smooth: bool = True
) -> Targets:
    """With weights, and smoothed where ``smooth``; dropped images stay rows of zeros."""
    totals = targets.sum(axis=1)
    kept = totals > 0
    weights = kept.astype(np.float64)
    if class_weights is not None:
        weights = targets @ np.asarray(class_weights) / np.where(kept, totals, 1.0)
    if smooth and smoothing:
        targets = targets * (1 - smoothing) + kept[:, None] * (smoothing / targets.shape[1])
    return Targets(targets.astype(np.float32), weights.astype(np.float32), kind, class_weights, smoothing)
