"""The images of a run: what is learned from, what is chosen on, and a fingerprint of both."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ferplus_keras.dataset.records import Dataset
from ferplus_keras.errors import BadInputError
from ferplus_keras.finetune import targets
from ferplus_keras.finetune.settings import DataSettings
from ferplus_keras.finetune.targets import Targets
from ferplus_keras.networks.emotions import EMOTIONS


@dataclass(frozen=True)
class Part:
    """The images of one split that count: n x 48 x 48 bytes, what the network is to say, and who voted what.

    ``labels`` are n classes, ``distribution`` n x classes: what figures are computed against.
    """

    images: np.ndarray
    labels: np.ndarray
    distribution: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def commonest(self) -> float:
        """How often somebody is right who always says the commonest class."""
        return float(np.bincount(self.labels).max() / len(self.labels))


@dataclass(frozen=True)
class Examples:
    """What a run learns from (``train`` with its ``targets``) and is chosen on (``valid``)."""

    classes: tuple[str, ...]
    train: Part
    targets: Targets
    valid: Part
    test: Part
    fingerprint: str  #: SHA-256 over the images, votes and splits that are used


def make_examples(
    dataset: Dataset,
    settings: DataSettings,
    *,
    labels: np.ndarray | None = None,
    classes: tuple[str, ...] = EMOTIONS,
    limit: int | None = None,
) -> Examples:
    """The examples of ``dataset`` under the recipe's protocol.

    Args:
        dataset: see :func:`ferplus_keras.dataset.load_ferplus`.
        settings: the recipe's [data].
        labels: one class for each row, in place of the votes (FER2013).
        classes: their names.
        limit: at most this many images of each split, the first, as `verify accuracy --limit` takes them.

    Raises:
        BadInputError: a split is empty, or the recipe does not go with the classes.
    """
    if settings.class_weights and len(settings.class_weights) != len(classes):
        raise BadInputError(
            f"data.class_weights are {len(settings.class_weights)} and there are {len(classes)} classes: give one "
            "factor a class (--set class_weights=[...]), or none (--set class_weights=[])."
        )
    votes = dataset.votes if labels is None else labels
    # Two kinds of target are rules about the votes, too: under another protocol they would say something else.
    own = targets.KINDS[settings.target] if settings.target in ("majority", "multi_target") else settings.protocol
    wanted = targets.make(
        votes, settings.target, len(classes), settings.class_weights or None, settings.label_smoothing,
        protocol=settings.train_protocol or own,
    )  # fmt: skip
    truth = targets.make(votes, "crossentropy", len(classes), protocol=settings.protocol)
    answers = targets.make(votes, "hard", len(classes), protocol=settings.protocol).targets.argmax(axis=1)
    rows: dict[str, np.ndarray] = {}
    for split in ("train", "val", "test"):
        found = dataset.rows_of(split)
        found = found[wanted.kept[found] if split == "train" else truth.kept[found]]
        found = found[:limit]
        if not len(found):
            raise BadInputError(f"{dataset.origin} has no {split} images that {settings.protocol} keeps.")
        rows[split] = found
    parts = {
        split: Part(dataset.images[found], answers[found], truth.targets[found]) for split, found in rows.items()
    }  # fmt: skip
    return Examples(
        classes, parts["train"], wanted.of(rows["train"]), parts["val"], parts["test"], _fingerprint(parts, wanted)
    )  # fmt: skip


def _fingerprint(parts: dict[str, Part], wanted: Targets) -> str:
    digest = hashlib.sha256(f"{wanted.kind} {wanted.class_weights} {wanted.label_smoothing}".encode())
    for split, part in parts.items():
        digest.update(split.encode())
        for array in (part.images, part.labels, part.distribution):
            digest.update(str((array.dtype, array.shape)).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
