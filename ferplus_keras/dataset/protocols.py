"""What counts as the right answer: each published rule that makes labels of FERPlus's votes, with its source.

Ten people voted on each image, and they disagree; which images are left out and what the label of the others is
differs from paper to paper, and with it the accuracy. Figures of different protocols are not comparable.

Everywhere: votes are counts over ten columns (eight emotions, unknown, NF: not a face), "kept" images are the ones
that are evaluated, the label is the most voted emotion, and ties go to the one that stands first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ferplus_keras.dataset.records import SPLITS, VOTE_COLUMNS
from ferplus_keras.networks.emotions import EMOTIONS

Rule = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Protocol:
    """A rule with its source.

    ``rule`` maps votes (rows x 10) to the votes that count (rows x 8), none where the image is dropped; ``equal``
    makes the target of any emotion that has some, equally. ``kept`` and ``dropped`` are what comes of the published
    label file's 35,887 rows; a test asserts them. ``training`` says what the rule's author trains on.
    """

    name: str
    title: str
    source: str
    text: str
    training: str
    rule: Rule
    kept: tuple[int, int, int]  #: train, val, test
    dropped: int
    equal: bool = False

    def apply(self, votes: np.ndarray) -> Targets:
        """The targets of images with these ``votes`` (rows x 10 counts)."""
        counts = np.asarray(votes)
        if counts.ndim != 2 or counts.shape[1] != len(VOTE_COLUMNS):
            raise ValueError(f"votes are rows x {len(VOTE_COLUMNS)} counts, not {counts.shape}")
        counted = self.rule(counts.astype(np.int64))
        weights = (counted > 0 if self.equal else counted).astype(np.float64)
        totals = weights.sum(axis=1)
        kept = totals > 0
        most = (counted == counted.max(axis=1, keepdims=True)) & kept[:, None]
        return Targets(self, kept, weights / np.where(kept, totals, 1.0)[:, None], counted.argmax(axis=1), most)


@dataclass(frozen=True)
class Targets:
    """What a protocol makes of the votes of n images.

    ``kept`` says which images count; ``distribution`` (n x 8, each row summing to 1, or to 0 where dropped) is the
    target to train on, ``labels`` the class to evaluate against, ``most_voted`` (n x 8) the classes that no other
    has more votes than: one, or several where the vote is tied.
    """

    protocol: Protocol
    kept: np.ndarray
    distribution: np.ndarray
    labels: np.ndarray
    most_voted: np.ndarray

    @property
    def tied(self) -> np.ndarray:
        """Where another class had as many votes as the label."""
        several: np.ndarray = self.most_voted.sum(axis=1) > 1
        return several

    def counts(self, split: np.ndarray) -> tuple[int, ...]:
        """Images kept in train, val and test; ``split`` has each image's code."""
        return tuple(int(n) for n in np.bincount(split[self.kept], minlength=len(SPLITS)))


def _without_outliers(votes: np.ndarray) -> np.ndarray:
    """A single vote for an emotion is taken for a slip."""
    return np.where(votes <= 1, 0, votes)


def _agreed(votes: np.ndarray, enough: np.ndarray) -> np.ndarray:
    """Votes for emotions, where the most voted columns are one or two, all emotions, and together ``enough``."""
    most = votes == votes.max(axis=1, keepdims=True)
    emotions_only = ~most[:, len(EMOTIONS) :].any(axis=1)
    kept = emotions_only & (most.sum(axis=1) < 3) & enough
    emotions: np.ndarray = votes[:, : len(EMOTIONS)] * kept[:, None]
    return emotions


def _together(votes: np.ndarray) -> np.ndarray:
    """How many votes the most voted columns have together."""
    total: np.ndarray = (votes * (votes == votes.max(axis=1, keepdims=True))).sum(axis=1)
    return total


def albanie(votes: np.ndarray) -> np.ndarray:
    votes = _without_outliers(votes)
    return _agreed(votes, 2 * _together(votes) > votes.sum(axis=1))


def wtomin(votes: np.ndarray) -> np.ndarray:
    return _agreed(votes, 2 * _together(votes) >= votes.sum(axis=1))


def majority(votes: np.ndarray) -> np.ndarray:
    votes = _without_outliers(votes)
    winner = votes * (2 * votes > votes.sum(axis=1, keepdims=True))
    emotions: np.ndarray = winner[:, : len(EMOTIONS)]
    return emotions


def peaks(votes: np.ndarray) -> np.ndarray:
    """The highest columns, equals together, until 75 % of the votes are covered or three columns are taken.

    Unknown or NF among them ends it; as the first of all, it drops the image. So do four columns, or half the votes.
    """
    left = _without_outliers(votes)
    total = left.sum(axis=1)
    taken = np.zeros_like(left)
    count = np.zeros(len(left), np.int64)
    ended = np.zeros(len(left), bool)
    emotional = np.zeros(len(left), bool)  # whether an emotion was taken before unknown or NF came up
    for _ in range(3):  # each round takes a column at the least
        going = ~ended & (4 * taken.sum(axis=1) < 3 * total) & (count < 3)
        highest = left.max(axis=1)
        for column in range(len(VOTE_COLUMNS)):
            now = going & ~ended & (left[:, column] == highest)
            if column >= len(EMOTIONS):
                ended |= now
                now = now & ~emotional
            taken[now, column] = highest[now]
            left[now, column] = 0
            count += now
            if column < len(EMOTIONS):
                emotional |= now & (highest > 0)
    emotions = taken[:, : len(EMOTIONS)]
    beyond = taken[:, len(EMOTIONS) :].any(axis=1)
    dropped = beyond | (count > 3) | (2 * taken.sum(axis=1) <= total)
    result: np.ndarray = emotions * ~dropped[:, None]
    return result


def multi_target(votes: np.ndarray) -> np.ndarray:
    votes = _without_outliers(votes)
    total = votes.sum(axis=1, keepdims=True)
    kept = np.where(10 * votes >= 3 * total, votes, 0)
    enough = 2 * kept.sum(axis=1) > total[:, 0]
    emotional = kept.argmax(axis=1) < len(EMOTIONS)
    result: np.ndarray = kept[:, : len(EMOTIONS)] * (enough & emotional)[:, None]
    return result


_MICROSOFT = "Microsoft, FERPlus/src/ferplus.py (Barsoum et al. 2016, arXiv:1608.01041)"

#: Every protocol by name. Counts: measured on fer2013new.csv, and asserted against it.
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "albanie",
            "Albanie's",
            "Albanie, mcnDatasets/FER2013+/getFerPlusImdb.m, which mcnCrossModalEmotions' published figures use",
            "Single votes are zeroed. Dropped: unknown or NF among the most voted; three or more most voted; the most "
            "voted together have at most half of the remaining votes.",
            "the most voted emotion (ResNet50), or the remaining votes as a distribution (SE-ResNet50)",
            albanie, (26196, 3318, 3294), 3079,
        ),
        Protocol(
            "wtomin",
            "wtomin's Keras",
            "wtomin, FERPlus-Emotion-Recognition-using-keras/data/FER_dataset.py",
            "Single votes count. Dropped: unknown or NF among the most voted; three or more most voted; the most voted "
            "together have less than half of the votes.",
            "the most voted emotion",
            wtomin, (26153, 3305, 3275), 3154,
        ),
        Protocol(
            "majority",
            "Microsoft's majority",
            _MICROSOFT,
            "Single votes are zeroed. Kept: one emotion has more than half of the remaining votes.",
            "that emotion",
            majority, (25060, 3199, 3153), 4475,
        ),
        Protocol(
            "probability",
            "Microsoft's probability",
            _MICROSOFT,
            "Single votes are zeroed. The highest columns are taken, ties together, until they cover 75 % of the "
            "remaining votes or there are three of them. Dropped: unknown or NF came first; more than three; at most "
            "half covered.",
            "an emotion drawn from the distribution, anew in every epoch",
            peaks, (27956, 3505, 3505), 921,
        ),
        Protocol(
            "crossentropy",
            "Microsoft's cross-entropy",
            _MICROSOFT,
            "As probability.",
            "the distribution",
            peaks, (27956, 3505, 3505), 921,
        ),
        Protocol(
            "multi_target",
            "Microsoft's multi-target",
            _MICROSOFT,
            "Single votes are zeroed. Kept are the columns with at least 30 % of the remaining votes. Dropped: they "
            "cover at most half; unknown or NF is the highest of them.",
            "any of those emotions, equally",
            multi_target, (27671, 3472, 3472), 1272, equal=True,
        ),
    )
}  # fmt: skip

#: The one that the published accuracies of these networks were measured under.
PUBLISHED_PROTOCOL = "albanie"
