"""Whether Kaggle's pixel file is in the order of Microsoft's label file, by its own ``emotion`` column.

Nothing but its place tells which image a row of votes belongs to. Where the two files are in one order, Kaggle's
label is the most voted emotion in about two rows of three; where they are not, as often as chance has it, in one of
five. Both are measured in each Usage, and in stretches of it, for a part may be in another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ferplus_keras.dataset.records import SPLITS, Labels
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.emotions import EMOTIONS

#: What 0 to 6 in the ``emotion`` column mean (Kaggle, "Challenges in Representation Learning"), in FERPlus's words.
KAGGLE_CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
KAGGLE_CODES = {str(code).encode(): code for code in range(len(KAGGLE_CLASSES))}
UNKNOWN = -1

#: Rows of a stretch, and the fewest that tell anything.
STRETCH, FEWEST = 100, 20

#: Agreement beyond chance, as a share of what there could be (Cohen's kappa), that one order has at least. The
#: published files have about 0.6. What falls short of it by this many standard deviations is in another order.
LEAST_KAPPA, DEVIATIONS = 0.4, 3.0

#: How Kaggle calls the splits.
USAGES = ("Training", "PublicTest", "PrivateTest")


def check_order(emotions: np.ndarray, lines: Sequence[int], labels: Labels, where: str) -> tuple[str, ...]:
    """Hold each row's Kaggle label against its votes; the notes to make where nothing can be concluded.

    Args:
        emotions: the codes of the pixel file's rows, :data:`UNKNOWN` where there is none.
        lines: where these rows stand in the pixel file, ``where``.
        labels: the rows of votes.

    Raises:
        BadInputError: the rows are in another order; with the agreement in each Usage, and some rows.
    """
    if not labels.votes.any():
        return ()
    if len(np.unique(emotions)) < 2:
        return (f"{where} has no labels of Kaggle's, so nothing tells whether its rows are in the order of the votes",)
    voted = _most_voted(labels.votes)
    shares, wrong = [], np.zeros(len(voted), bool)
    for code in range(len(SPLITS)):
        rows = np.flatnonzero((labels.split == code) & (voted != UNKNOWN) & (emotions != UNKNOWN))
        if len(rows) < FEWEST:
            continue
        agree = emotions[rows] == voted[rows]
        shares.append(f"{agree.mean():.0%} of {USAGES[code]}".replace("%", " %"))
        counts = [np.bincount(each[rows], minlength=len(KAGGLE_CLASSES)) / len(rows) for each in (emotions, voted)]
        least = LEAST_KAPPA + (1 - LEAST_KAPPA) * float(counts[0] @ counts[1])
        for part in (np.arange(len(rows)), *np.array_split(np.arange(len(rows)), max(1, len(rows) // STRETCH))):
            if agree[part].mean() < least - DEVIATIONS * np.sqrt(least * (1 - least) / len(part)):
                wrong[rows[part]] |= ~agree[part]
    if wrong.any():
        if meanings := _renumbered(emotions, voted):
            raise BadInputError(
                f"The emotion column of {where} fits {labels.origin} only if {meanings}, and so is not Kaggle's, whose "
                f"0 to 6 are {', '.join(KAGGLE_CLASSES)}. Get the file as it was published; without that column the "
                "order of its rows is not checked."
            )
        raise BadInputError(
            f"{where} is not in the order of {labels.origin}, so its images would get the labels of others: its "
            f"emotion column agrees with the most voted emotion in {', '.join(shares)} (in one order: about two rows "
            f"of three). For example, {_examples(wrong, emotions, voted, lines, labels)}. Get both files as they were "
            "published."
        )
    return ()


def _renumbered(emotions: np.ndarray, voted: np.ndarray) -> str:
    """What each code means where the column numbers the emotions in a way of its own; "" where it does not."""
    rows = (emotions != UNKNOWN) & (voted != UNKNOWN)
    together = np.zeros((len(KAGGLE_CLASSES),) * 2, int)
    np.add.at(together, (emotions[rows], voted[rows]), 1)
    meant: dict[int, int] = {}
    for pair in np.argsort(-together, axis=None, kind="stable").tolist():  # the most frequent first, each taken once
        code, emotion = divmod(pair, len(KAGGLE_CLASSES))
        if code not in meant and emotion not in meant.values():
            meant[code] = emotion
    agree = sum(together[pair] for pair in meant.items()) / together.sum()
    chance = sum(together[code].sum() * together[:, each].sum() for code, each in meant.items()) / together.sum() ** 2
    if all(code == each for code, each in meant.items()) or agree < LEAST_KAPPA + (1 - LEAST_KAPPA) * chance:
        return ""
    return ", ".join(f"{code} is {KAGGLE_CLASSES[meant[code]]}" for code in sorted(meant))


def _most_voted(votes: np.ndarray) -> np.ndarray:
    """Kaggle's code of each row's most voted emotion; unknown where it is tied or Kaggle has no such class."""
    codes = [KAGGLE_CLASSES.index(name) if name in KAGGLE_CLASSES else UNKNOWN for name in EMOTIONS]
    codes += [UNKNOWN] * (votes.shape[1] - len(codes))
    alone = (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) == 1
    found: np.ndarray = np.where(alone, np.array(codes, np.int8)[votes.argmax(axis=1)], np.int8(UNKNOWN))
    return found


def _examples(wrong: np.ndarray, emotions: np.ndarray, voted: np.ndarray, lines: Sequence[int], labels: Labels) -> str:
    """Three of the rows that do not fit, the least disputed ones."""
    rows = np.flatnonzero(wrong)
    clearest = sorted(rows[np.argsort(-labels.votes[rows].max(axis=1).astype(int), kind="stable")[:3]].tolist())
    return ", ".join(
        f"line {lines[row]} says {KAGGLE_CLASSES[emotions[row]]} where line {labels.lines[row]} has "
        f"{labels.votes[row].max()} of {labels.votes[row].sum()} votes for {KAGGLE_CLASSES[voted[row]]}"
        for row in clearest
    )
