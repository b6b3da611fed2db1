"""Kaggle's file in another order than the votes is refused; in one order it is taken, however its labels differ."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest

from ferplus_keras.dataset.labels import read_labels
from ferplus_keras.dataset.order import KAGGLE_CLASSES, check_order
from ferplus_keras.dataset.pixels_csv import read_pixels
from ferplus_keras.dataset.records import Labels
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.emotions import EMOTIONS
from tests.ferplus_files import small

#: FERPlus's shares of the emotions, about.
SHARES = (0.36, 0.26, 0.12, 0.12, 0.09, 0.01, 0.02, 0.02)
ROWS = (600, 100, 100)


def data(agreement: float, seed: int = 0, rows: tuple[int, ...] = ROWS) -> tuple[Labels, np.ndarray]:
    """Votes, and Kaggle's codes that agree with them in that share of the rows, and else as chance has it."""
    draw = np.random.default_rng(seed)
    split = np.repeat(np.arange(len(rows)), rows)
    voted = draw.choice(8, len(split), p=SHARES)
    votes = np.zeros((len(split), 10), np.uint8)
    votes[np.arange(len(split)), voted] = 6
    votes[np.arange(len(split)), draw.integers(0, 10, len(split))] += 3
    codes = np.array([KAGGLE_CLASSES.index(name) if name in KAGGLE_CLASSES else 2 for name in EMOTIONS])
    said = np.where(draw.random(len(split)) < agreement, codes[voted], draw.integers(0, 7, len(split)))
    names, lines = ("",) * len(split), tuple(range(2, len(split) + 2))
    return Labels(votes, split.astype(np.uint8), names, lines, "fer2013new.csv"), said.astype(np.int8)


def checked(labels: Labels, emotions: np.ndarray) -> tuple[str, ...]:
    return check_order(emotions, range(2, len(emotions) + 2), labels, "fer2013.csv")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("agreement", [0.6, 0.75, 1.0])
def test_one_order_is_taken(agreement: float, seed: int) -> None:
    assert checked(*data(agreement, seed)) == ()


def test_one_order_of_both_files_is_taken_whatever_it_is() -> None:
    labels, emotions = data(0.7)
    for key in (emotions, labels.votes.argmax(axis=1)):
        order = np.lexsort((key, labels.split))
        both = Labels(labels.votes[order], labels.split[order], labels.names, labels.lines, labels.origin)
        assert checked(both, emotions[order]) == ()


ORDERS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "shuffled": lambda part, draw: draw.permutation(part),
    "sorted": lambda part, _draw: np.sort(part),
    "reversed": lambda part, _draw: part[::-1],
    "one row lower": lambda part, _draw: np.roll(part, 1),
    "half shuffled": lambda part, draw: np.r_[part[: len(part) // 2], draw.permutation(part[len(part) // 2 :])],
}  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("code", [0, 1, 2])
def test_another_order_within_one_usage_is_refused(order: str, code: int) -> None:
    labels, emotions = data(0.7, rows=(600, 300, 300))
    part = labels.split == code
    emotions[part] = ORDERS[order](emotions[part], np.random.default_rng(1))
    with pytest.raises(BadInputError, match=r"fer2013\.csv is not in the order of fer2013new\.csv") as caught:
        checked(labels, emotions)
    told = str(caught.value)
    assert told.count(" says ") == 3 and "of 9 votes for" in told
    shares = [float(told.split(f" % of {usage}")[0].split()[-1]) for usage in ("Training", "PublicTest", "PrivateTest")]
    assert shares[code] < min(share for other, share in enumerate(shares) if other != code)


def test_other_numbers_for_the_emotions_are_called_so() -> None:
    labels, emotions = data(0.7)
    for order in ([6, 3, 5, 4, 0, 1, 2], [0, 1, 2, 3, 4, 6, 5]):  # FERPlus's own; two exchanged
        told = np.array(order).argsort()[emotions].astype(np.int8)
        with pytest.raises(BadInputError, match=f"fits fer2013new.csv only if 0 is {KAGGLE_CLASSES[order[0]]}, 1 is"):
            checked(labels, told)


def test_what_cannot_be_told_is_noted_and_not_refused() -> None:
    labels, emotions = data(0.7)
    for nothing in (-1, 0):
        (note,) = checked(labels, np.full_like(emotions, nothing))
        assert "nothing tells" in note
    few, said = data(0.0, rows=(12, 3, 3))
    assert checked(few, said) == ()


def test_the_files_of_such_rows_are_refused_too() -> None:
    labels, emotions = data(1.0, rows=(60, 0, 0))
    files = small(60)
    files.votes, files.split = labels.votes, labels.split
    for order, fits in ((np.arange(60), True), (np.arange(60)[::-1], False)):
        files.emotions = emotions[order].tolist()
        content = (io.BytesIO(files.pixels()), read_labels(files.labels()), "fer2013.csv")
        if fits:
            assert read_pixels(*content)[1] == ()
        else:
            with pytest.raises(BadInputError, match="line 2 has"):
                read_pixels(*content)
