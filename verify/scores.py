"""Figures of a classifier on labelled images: counts, intervals, calibration, and tests. NumPy alone.

Conventions: ``probabilities`` is n x 8, ``labels`` n classes; a decision is the class with the largest probability, the
first of them where two are equal. Rates over nothing are None, never NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ferplus_keras.wording import percent

#: Normal quantile of a two-sided 95 % interval.
Z95 = 1.959963984540054

#: Equal-width bins of the expected calibration error (Guo et al. 2017 use 15).
BINS = 15

#: Below this a probability counts as this in a log loss, so that one certain mistake does not make it infinite.
FLOOR = 1e-12


@dataclass(frozen=True)
class Rate:
    """``correct`` of ``n``, with Wilson's 95 % interval; shares of one, None where n is 0."""

    correct: int
    n: int

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's score interval: right near 0 and 1 and for few images, where the textbook's is not."""
        if not self.n:
            return None
        share, z2 = self.correct / self.n, Z95**2
        middle = (share + z2 / (2 * self.n)) / (1 + z2 / self.n)
        half = Z95 / (1 + z2 / self.n) * math.sqrt(share * (1 - share) / self.n + z2 / (4 * self.n**2))
        return max(0.0, middle - half), min(1.0, middle + half)

    @classmethod
    def of(cls, correct: np.ndarray) -> Rate:
        """The rate of a mask of hits."""
        return cls(int(np.count_nonzero(correct)), int(correct.size))

    def as_dict(self) -> dict[str, Any]:
        interval = self.interval
        return {
            "n": self.n,
            "correct": self.correct,
            "accuracy": self.accuracy,
            "interval": list(interval) if interval else None,
        }


def confusion_matrix(labels: np.ndarray, decisions: np.ndarray, classes: int) -> np.ndarray:
    """classes x classes counts: rows are labels, columns decisions."""
    counts = np.bincount(labels * classes + decisions, minlength=classes * classes)
    return counts.reshape(classes, classes)


def guesswork(rate: dict[str, Any]) -> list[str]:
    """A sentence where a split's rate (``split``, ``accuracy``, ``always_the_commonest``) is what guessing gives."""
    accuracy, commonest = rate["accuracy"], rate["always_the_commonest"]
    if accuracy is None or accuracy > commonest:
        return []
    return [
        f"{percent(accuracy)} on {rate['split']} is no better than always deciding for the commonest class, which "
        f"gives {percent(commonest)}: the network has learned nothing useful, or is given different images from those "
        "it was trained on"
    ]


def per_class(confusion: np.ndarray) -> list[dict[str, Any]]:
    """Support, number of decisions, precision, recall and F1 of each class."""
    rows = []
    for index in range(len(confusion)):
        hit, support, decided = confusion[index, index], confusion[index].sum(), confusion[:, index].sum()
        rows.append(
            {
                "support": int(support),
                "decided": int(decided),
                "correct": int(hit),
                "precision": float(hit / decided) if decided else None,
                "recall": float(hit / support) if support else None,
                "f1": float(2 * hit / (support + decided)) if support else None,
            }
        )
    return rows


def macro(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Averages over the classes that occur. A class that is never decided for has precision 0 in them."""
    present = [row for row in rows if row["support"]]
    if not present:
        return {"precision": None, "recall": None, "f1": None}
    return {key: float(np.mean([row[key] or 0.0 for row in present])) for key in ("precision", "recall", "f1")}


def calibration(probabilities: np.ndarray, correct: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Expected calibration error over ``bins`` of equal width, and the bins: is 80 % sure right 80 % of the time?"""
    sure = probabilities.max(axis=1) if len(probabilities) else np.zeros(0)
    number = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    found, error = [], 0.0
    for index in range(bins):
        inside = number == index
        n = int(inside.sum())
        entry: dict[str, Any] = {"low": index / bins, "high": (index + 1) / bins, "n": n}
        entry["confidence"] = float(sure[inside].mean()) if n else None
        entry["accuracy"] = float(correct[inside].mean()) if n else None
        if n:
            error += n / len(sure) * abs(entry["confidence"] - entry["accuracy"])
        found.append(entry)
    mean = float(sure.mean()) if len(sure) else None
    return {"ece": error if len(sure) else None, "confidence": mean, "bins": found}


def log_loss(probabilities: np.ndarray, distribution: np.ndarray) -> dict[str, float | None]:
    """Mean cross-entropy in nats against a protocol's targets (n x 8), and their entropy, which none can be below."""
    if not len(probabilities):
        return {"cross_entropy": None, "entropy": None}
    surprise = -np.log(np.clip(probabilities, FLOOR, 1.0))
    own = -np.log(np.clip(distribution, FLOOR, 1.0))
    return {
        "cross_entropy": float((distribution * surprise).sum(axis=1).mean()),
        "entropy": float((distribution * own).sum(axis=1).mean()),
    }


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """McNemar's exact test on two masks of hits over the same images.

    Only images on which one is right and the other wrong count; if the two are equally good, each of those is a coin
    tossed. ``p`` is two-sided.
    """
    only_ours = int(np.count_nonzero(ours & ~theirs))
    only_theirs = int(np.count_nonzero(theirs & ~ours))
    n, least = only_ours + only_theirs, min(only_ours, only_theirs)
    tail = sum(math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
               for k in range(least + 1))  # fmt: skip
    return {"only_first": only_ours, "only_second": only_theirs, "p": min(1.0, 2 * tail) if n else 1.0}


def better_order(confusion: np.ndarray) -> tuple[list[int], float] | None:
    """The order of classes under which most decisions would be right, and that share; None without SciPy.

    ``order[decision]`` is the label that this decision mostly means.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        return None
    labels, decisions = linear_sum_assignment(-confusion)
    order = [0] * len(confusion)
    for label, decision in zip(labels, decisions, strict=True):
        order[decision] = int(label)
    return order, float(confusion[labels, decisions].sum() / max(confusion.sum(), 1))
