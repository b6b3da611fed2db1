"""One model against several references in one floating-point type, image by image and layer by layer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from convert.checkpoint import Arrays, Checkpoint, Provenance
from ferplus_keras.networks.architecture import Architecture
from ferplus_keras.networks.emotions import softmax
from verify.metrics import Difference, difference, finite_or_none, worst
from verify.pairing import Pairing

#: Largest difference allowed, relative to the reference's largest magnitude. Float64 leaves 4 decimal digits above
#: its rounding (about 3e-14 over 50 layers); float32's 5e-5 is about ten times what rounding alone gives.
TOLERANCES = {"float64": 1e-12, "float32": 5e-5}

#: In float32 a layer may be off by this many times what rounding is likely to do to it: a mistake is off by far more.
ROUNDING_SLACK = 10

Progress = Callable[[str], None]

#: (our layer's name, its output as images x height x width x channels)
Observe = Callable[[str, np.ndarray], None]


class Side(Protocol):
    """The model under test, opened: its layers paired with the checkpoint's, its arrays in the neutral form."""

    backend: str  #: what computes
    pairing: Pairing
    arrays: Arrays
    provenance: Provenance | None  #: what the file says of itself, where it is one of ours

    @property
    def dtypes(self) -> tuple[str, ...]:
        """What it computes in, the finest first."""
        ...

    @property
    def preprocess(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """The file's own way from pixels to input, where it is inside the file; the network is run without it."""
        ...

    def runner(self, dtype: str) -> Callable[[np.ndarray, Observe], np.ndarray]:
        """A function that runs a batch, hands over each layer's output as it comes, and returns the model's own."""
        ...


class Reference(Protocol):
    """A network to hold the model against. ``run`` yields outputs by layer name, in Keras's layout."""

    name: str
    title: str
    independent: bool
    note: str

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Run:
    """The outcome in one floating-point type against one reference."""

    reference: str
    dtype: str
    tolerance: float
    layers: tuple[Difference, ...]  #: in network order, the worst over all images
    bounds: dict[str, float]  #: layer -> what rounding can do, relative
    logits: Difference
    probabilities: Difference | None  #: None where the head is no classifier
    top1_agreement: float
    closest_margin: float  #: smallest distance between the two highest reference logits, over the largest logit
    images: int
    seconds: float
    output: Difference | None = None  #: what the model itself returns, against what its own head yields
    worst_image: dict[str, int] = field(default_factory=dict)  #: layer -> index of the image where it was furthest off

    def over(self, layer: Difference) -> bool:
        """Whether a layer is off by more than it may be: in float32, than rounding can do with some slack."""
        rounding = ROUNDING_SLACK * self.bounds.get(layer.layer, 0.0) if self.dtype == "float32" else 0.0
        return not layer.finite or not layer.relative <= max(self.tolerance, rounding)

    def _beyond(self, end: Difference | None) -> bool:
        return end is not None and (not end.finite or not end.relative <= self.tolerance)

    @property
    def first_over(self) -> str | None:
        """The first layer beyond the tolerance, where the two part."""
        return next((each.layer for each in self.layers if self.over(each)), None)

    @property
    def worst_layer(self) -> Difference:
        return worst(list(self.layers))

    @property
    def passed(self) -> bool:
        """Every layer, the logits and what the model returns within what is allowed, and the same decisions."""
        ends = (self.logits, self.probabilities, self.output)
        return self.first_over is None and self.top1_agreement == 1.0 and not any(map(self._beyond, ends))

    def as_dict(self, table: Architecture) -> dict[str, Any]:
        def entry(each: Difference, *, end: bool = False) -> dict[str, Any]:
            bound = self.bounds.get(each.layer)
            kind = type(table.by_name[each.layer]).__name__ if each.layer in table.by_name else "Output"
            return each.as_dict() | {
                "kind": kind,
                "bound": bound,
                "passed": not (self._beyond(each) if end else self.over(each)),
            }

        return {
            "reference": self.reference,
            "dtype": self.dtype,
            "tolerance": self.tolerance,
            "passed": self.passed,
            "seconds": self.seconds,
            "first_over": self.first_over,
            "layers": [entry(each) for each in self.layers],
            "worst_layer": entry(self.worst_layer),
            "logits": entry(self.logits, end=True),
            "probabilities": entry(self.probabilities, end=True) if self.probabilities else None,
            "output": entry(self.output, end=True) if self.output else None,
            "decisions": {
                "agreement": self.top1_agreement,
                "closest_margin": finite_or_none(self.closest_margin),
                "images": self.images,
            },
        }


def compare(
    side: Side, checkpoint: Checkpoint, references: list[Reference], batch: np.ndarray, dtype: str,
    tolerance: float, bounds: dict[str, float], progress: Progress,
) -> list[Run]:  # fmt: skip
    """The model against every reference: it runs once for all of them."""
    table = checkpoint.architecture
    run = side.runner(dtype)
    found = [_Found(reference) for reference in references]
    mine: list[np.ndarray] = []
    returned: list[np.ndarray] = []
    for number, image in enumerate(batch, 1):  # one at a time: a batch's activations in float64 take gigabytes
        progress(f"{dtype}: image {number} of {len(batch)}, beside {' and '.join(each.name for each in references)}")
        for each in found:
            each.take(image[None].astype(dtype), table.output)

        def observe(layer: str, output: np.ndarray) -> None:
            if layer == table.output:
                mine.append(output.reshape(-1))
            for each in found:  # as it comes: nothing of the model's side is kept
                each.hold_against(layer, output)

        returned.append(run(image[None].astype(dtype), observe))
    ours = np.stack(mine)
    classes = table.head.kind == "classifier"
    runs = []
    for each in found:
        logits = np.stack(each.logits)
        runs.append(
            Run(
                reference=each.reference.name,
                dtype=dtype,
                tolerance=tolerance,
                layers=tuple(each.furthest[layer.name] for layer in table.layers if layer.name in each.furthest),
                bounds=bounds,
                logits=difference(table.output, logits, ours),
                probabilities=difference("prob", softmax(logits), softmax(ours)) if classes else None,
                top1_agreement=float((logits.argmax(axis=1) == ours.argmax(axis=1)).mean()) if classes else 1.0,
                closest_margin=_closest_margin(logits) if classes else float("inf"),
                images=len(batch),
                seconds=each.seconds,
                output=_output(table, ours, returned),
                worst_image=each.worst_image,
            )
        )
    return runs


class _Found:
    """What one reference said, and how far the model was from it at each layer at worst."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.logits: list[np.ndarray] = []
        self.furthest: dict[str, Difference] = {}
        self.worst_image: dict[str, int] = {}
        self.seconds = 0.0
        self._kept: dict[str, np.ndarray] = {}

    def take(self, image: np.ndarray, output: str) -> None:
        start = time.perf_counter()
        self._kept = self.reference.run(image)
        self.logits.append(self._kept[output].reshape(-1))
        self.seconds += time.perf_counter() - start

    def hold_against(self, layer: str, output: np.ndarray) -> None:
        if layer in self._kept:  # a module from elsewhere may not show every layer
            start = time.perf_counter()
            apart = difference(layer, self._kept.pop(layer), output)
            self.furthest[layer] = worst([self.furthest.get(layer, apart), apart])
            if self.furthest[layer] is apart:
                self.worst_image[layer] = len(self.logits) - 1
            self.seconds += time.perf_counter() - start


def _output(table: Architecture, ours: np.ndarray, returned: list[np.ndarray]) -> Difference:
    """What the model returns against its own head's output: that itself, its softmax, or the features, pooled or not.

    Whether the head is the reference's is the logits' matter.
    """
    name = "what the model returns"
    own = np.stack([each.reshape(-1) for each in returned])
    candidates: list[Callable[[np.ndarray], np.ndarray]] = [lambda head: head]
    if table.head.kind == "classifier":
        candidates.append(softmax)
    elif table.head.kind == "none":
        candidates += [lambda head: head.reshape(len(head), -1, table.features).mean(axis=1),
                       lambda head: head.reshape(len(head), -1, table.features).max(axis=1)]  # fmt: skip
    likely = min(candidates, key=lambda of: _apart(of(ours), own))
    return difference(name, likely(ours), own)


def _apart(wanted: np.ndarray, own: np.ndarray) -> float:
    return float(np.abs(wanted - own).max()) if wanted.shape == own.shape else float("inf")


def _closest_margin(logits: np.ndarray) -> float:
    if logits.shape[1] < 2:
        return float("inf")
    highest = np.sort(logits, axis=1)
    return float((highest[:, -1] - highest[:, -2]).min() / (np.abs(logits).max() or 1.0))
