"""Faces to look at: what a network says of them beside what people voted, and where in the image it comes from.

The heat maps are Grad-CAM's, and exact: behind the last feature map these networks have an average and a linear
classifier, so a class's logit is the sum over 7 x 7 places of what each place says for it, plus a bias. No gradient is
needed (:func:`ferplus_keras.engines.forward.place_logits`), and none is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.checkpoint import Provenance
from convert.readers import read_checkpoint
from ferplus_keras.dataset import Dataset
from ferplus_keras.dataset.protocols import Protocol
from ferplus_keras.engines.engine import Takes
from ferplus_keras.engines.record import FileFacts
from ferplus_keras.errors import BadInputError, CheckFailedError
from ferplus_keras.files.provenance import named_standin
from ferplus_keras.networks.emotions import EMOTIONS, softmax
from ferplus_keras.networks.resizing import DEFAULT_RESIZER, RESIZERS
from ferplus_keras.quiet import import_keras
from verify.accuracy import Step, chosen_rows

if TYPE_CHECKING:
    from ferplus_keras.engines.forward import Forward

#: Images that are shown: mistakes over all, right ones and mistakes of each class, and those people disagree on.
MISTAKES, RIGHT_OF_CLASS, WRONG_OF_CLASS, DIVIDED = 12, 4, 2, 6

BATCH = 32


@dataclass(frozen=True)
class Network:
    """A network that can be looked into, from a file of any format that is read."""

    path: Path
    sha256: str
    provenance: Provenance
    forward: Forward
    by: str
    takes: Takes

    @property
    def standin(self) -> bool:
        return self.provenance.standin or named_standin(self.path.name)


@dataclass(frozen=True)
class Looks:
    """A network on n images: ``rows`` are their places in the data set, ``logits`` n x 8, and ``said`` n x 7 x 7 x 8
    (fewer where the network takes smaller images) what each place says for each emotion: the sum over the places and
    the bias are the logits.
    """

    rows: np.ndarray
    logits: np.ndarray
    said: np.ndarray
    labels: np.ndarray
    distribution: np.ndarray

    @cached_property
    def probabilities(self) -> np.ndarray:
        return softmax(self.logits.astype(np.float64))

    @cached_property
    def decisions(self) -> np.ndarray:
        classes: np.ndarray = self.probabilities.argmax(axis=1)
        return classes

    @cached_property
    def confidence(self) -> np.ndarray:
        sure: np.ndarray = self.probabilities.max(axis=1)
        return sure

    @property
    def correct(self) -> np.ndarray:
        hits: np.ndarray = self.decisions == self.labels
        return hits

    def heat(self, index: int, emotion: int) -> np.ndarray:
        """Grad-CAM's map of ``emotion``: what speaks for it; what speaks against it is cut off."""
        speaking: np.ndarray = np.maximum(self.said[index, :, :, emotion], 0)
        return speaking


def open_network(path: str | Path) -> Network:
    """The network in any file or folder that `ferplus convert` reads. Raises :class:`BadInputError`."""
    path = Path(path)
    checkpoint = read_checkpoint(path)
    provenance = checkpoint.provenance
    if provenance.head != "classifier" or provenance.units != len(EMOTIONS):
        raise BadInputError(
            f"{path} is a {checkpoint.architecture}; a report on FERPlus needs a classifier of 8 classes."
        )
    labels = provenance.labels or EMOTIONS
    if set(labels) != set(EMOTIONS):
        raise BadInputError(f"{path} has the classes {', '.join(labels)[:200]}; FERPlus's are {', '.join(EMOTIONS)}.")
    import_keras()
    import keras

    from ferplus_keras.engines.forward import Forward

    arrays = dict(checkpoint.arrays)
    order = [labels.index(emotion) for emotion in EMOTIONS]
    arrays["classifier"] = {role: np.asarray(array)[..., order] for role, array in arrays["classifier"].items()}
    by = f"Keras {keras.__version__} on {keras.backend.backend()}"
    mine = FileFacts.of(path, asdict(provenance))
    takes = Takes(mine.side_for(), mine.mean)
    return Network(path, provenance.source.sha256, provenance, Forward(checkpoint.architecture, arrays), by, takes)


def look(
    network: Network, dataset: Dataset, protocol: Protocol, split: str, *, limit: int | None = None,
    progress: Callable[[Step], None] = lambda _step: None,
) -> Looks:  # fmt: skip
    """``network`` on the images of ``split`` that ``protocol`` keeps, or the first ``limit`` of them."""
    targets = protocol.apply(dataset.votes)
    rows = chosen_rows(dataset, targets, split)[:limit]
    from ferplus_keras.engines.forward import place_logits  # imports Keras

    kernel, bias = network.forward.head
    said: list[np.ndarray] = []
    start = time.perf_counter()
    for first in range(0, len(rows), BATCH):
        grey = RESIZERS[DEFAULT_RESIZER].run(dataset.images[rows[first : first + BATCH]], network.takes.side)
        maps = network.forward.last_maps(network.takes.prepared(np.broadcast_to(grey[..., None], (*grey.shape, 3))))
        said.append(place_logits(maps, kernel).astype(np.float32))
        title = f"{network.path.name}, {split}"
        progress(Step(title, first + len(maps), len(rows), time.perf_counter() - start))
    whole = np.concatenate(said)
    logits = whole.sum(axis=(1, 2), dtype=np.float64) + bias
    if not np.isfinite(logits).all():
        raise CheckFailedError(f"{network.path} returned numbers that are not finite for some of these images.")
    return Looks(rows, logits, whole, targets.labels[rows], targets.distribution[rows])


@dataclass(frozen=True)
class Group:
    """Images that belong together: indices into :class:`Looks`."""

    id: str
    title: str
    text: str
    indices: Sequence[int]


def groups(looks: Looks) -> list[Group]:
    """Which images are shown; the same for the same predictions, ties by the order of the data set."""
    wrong = _surest(looks, np.flatnonzero(~looks.correct))
    found = [
        Group(
            "mistakes", "The most confident mistakes",
            "Where the network was surest and the votes say otherwise. People may be mistaken too.", wrong[:MISTAKES],
        )
    ]  # fmt: skip
    shown = set(wrong[:MISTAKES])
    for number, emotion in enumerate(EMOTIONS):
        of_class = looks.labels == number
        right = _surest(looks, np.flatnonzero(of_class & looks.correct))
        mistaken = [each for each in _surest(looks, np.flatnonzero(of_class & ~looks.correct)) if each not in shown]
        chosen = _spread(right, RIGHT_OF_CLASS) + mistaken[:WRONG_OF_CLASS]
        shown |= set(chosen)
        text = (
            f"{len(right):,} of {int(of_class.sum()):,} right. Of these, evenly from the surest to the least sure; "
            "then the surest mistakes."
        )
        found.append(Group(f"class-{emotion}", emotion.capitalize(), text, chosen))
    entropy = -np.sum(looks.distribution * np.log(np.maximum(looks.distribution, 1e-12)), axis=1)
    divided = [int(each) for each in np.argsort(-entropy, kind="stable") if int(each) not in shown]
    found.append(
        Group(
            "divided", "Where people disagree",
            "The images whose votes are spread widest: a good network is unsure here as well.", divided[:DIVIDED],
        )
    )  # fmt: skip
    return [group for group in found if group.indices]


def _surest(looks: Looks, indices: np.ndarray) -> list[int]:
    return [int(each) for each in indices[np.argsort(-looks.confidence[indices], kind="stable")]]


def _spread(ordered: list[int], count: int) -> list[int]:
    """``count`` of them, evenly from the first to the last."""
    if len(ordered) <= count:
        return ordered
    return [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, count)]
