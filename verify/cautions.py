"""What to know of an accuracy before believing it: whether it is of all images, and whether guessing does as well."""

from __future__ import annotations

from typing import Any

from ferplus_keras.dataset.protocols import Protocol
from ferplus_keras.dataset.records import SPLITS
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.wording import counted, percent
from verify.accuracy import SplitEvaluation
from verify.scores import better_order, guesswork, macro, per_class

#: Another order of the classes is mentioned when it is right this often, and so much more often than the file's own.
#: (The best of 40,320 orders always looks good: a network that guesses reaches 30 % or so with it.)
SENSIBLE, CLEARLY = 0.6, 0.1

#: Of fewer images nothing is concluded about the network: with ten, guesses look like a permuted head one time in four.
ENOUGH = 100


def standing(each: SplitEvaluation, protocol: Protocol) -> dict[str, Any]:
    """A split's rate and classes under ``protocol``, and what they are judged by, as plain data."""
    classes = per_class(each.confusion)
    official = protocol.kept[SPLITS.index(each.split)]
    return each.rate.as_dict() | {
        "split": each.split,
        "of_split": each.of_split,
        "official": official,
        "complete": each.complete and each.of_split == official,
        "always_the_commonest": max(row["support"] for row in classes) / max(len(each.rows), 1),
        "classes": [{"name": name} | row for name, row in zip(EMOTIONS, classes, strict=True)],
        "macro": macro(classes),
        "order": _order(each),
    }


def _order(each: SplitEvaluation) -> dict[str, Any] | None:
    """Another order of the classes under which the network would do clearly better: a head that was permuted."""
    found = better_order(each.confusion) if len(each.rows) >= ENOUGH else None
    if found is None or found[1] < max(SENSIBLE, (each.rate.accuracy or 0.0) + CLEARLY):
        return None
    return {"classes": [EMOTIONS[label] for label in found[0]], "accuracy": found[1]}


def of_images(split: dict[str, Any], protocol: str) -> list[str]:
    """A sentence where a :func:`standing` is not of all the images that are published for its split."""
    if split["complete"]:
        return []
    return [
        f"{counted(split['n'], split['split'] + ' image')}, where the protocol {protocol} keeps {split['official']:,} "
        "of the published data: the figure is not comparable with others"
    ]


def of_decisions(split: dict[str, Any]) -> list[str]:
    """Sentences where the network of a :func:`standing` hardly decides, or by classes in another order."""
    if split["n"] < ENOUGH:
        return []
    notes, where = [], split["split"]
    if split["order"]:
        notes.append(
            f"with the classes in the order {', '.join(split['order']['classes'])}, "
            f"{percent(split['order']['accuracy'], 1)} of {where} would be right: the head may be permuted"
        )
    notes += guesswork(split)
    if sum(bool(row["decided"]) for row in split["classes"]) == 1:
        notes.append(f"every {where} image gets the same decision")
    return notes
