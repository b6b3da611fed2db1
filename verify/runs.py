"""One model against several references in one floating-point type, image by image and layer by layer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from convert.checkpoint import Arrays, Checkpoint, Provenance
from ferplus_keras.architecture import Architecture
from verify.metrics import Difference, difference, finite_or_none, worst
from verify.pairing import Pairing

#: Largest difference allowed, relative to the reference's largest magnitude. Float64 leaves 4 decimal digits above
#: its rounding (about 3e-14 over 50 layers); float32's 5e-5 is about ten times what rounding alone gives.
TOLERANCES = {"float64": 1e-12, "float32": 5e-5}

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

    def runner(self, dtype: str) -> Callable[[np.ndarray, Observe], list[np.ndarray]]:
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

    def over(self, layer: Difference) -> bool:
        return not layer.finite or layer.relative > self.tolerance

    @property
    def first_over(self) -> str | None:
        """The first layer beyond the tolerance, where the two part."""
        return next((each.layer for each in self.layers if self.over(each)), None)

    @property
    def worst_layer(self) -> Difference:
        return worst(list(self.layers))

    @property
    def passed(self) -> bool:
        """Logits within the tolerance, the same decisions; in float64 every layer too (in float32 that is rounding)."""
        layers = self.worst_layer.finite if self.dtype != "float64" else self.first_over is None
        ends = (self.logits, self.probabilities)
        return layers and self.top1_agreement == 1.0 and not any(each is not None and self.over(each) for each in ends)

    def as_dict(self, table: Architecture) -> dict[str, Any]:
        def entry(each: Difference) -> dict[str, Any]:
            bound = self.bounds.get(each.layer)
            kind = type(table.by_name[each.layer]).__name__ if each.layer in table.by_name else "Output"
            return each.as_dict() | {"kind": kind, "bound": bound, "passed": not self.over(each)}

        return {
            "reference": self.reference,
            "dtype": self.dtype,
            "tolerance": self.tolerance,
            "passed": self.passed,
            "seconds": self.seconds,
            "first_over": self.first_over,
            "layers": [entry(each) for each in self.layers],
            "worst_layer": entry(self.worst_layer),
            "logits": entry(self.logits),
            "probabilities": entry(self.probabilities) if self.probabilities else None,
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
    mine, returned = [], []
    for number, image in enumerate(batch, 1):  # one at a time: a batch's activations in float64 take gigabytes
        progress(f"{dtype}: image {number} of {len(batch)}, beside {' and '.join(each.name for each in references)}")
        for each in found:
            each.take(image[None].astype(dtype), table.output)

        def observe(layer: str, output: np.ndarray) -> None:
            if layer == table.output:
                mine.append(output.reshape(-1))
            for each in found:  # as it comes: nothing of the model's side is kept
                each.hold_against(layer, output)

        returned.append(run(image[None].astype(dtype), observe)[0].reshape(-1))
    ours = np.stack(mine)
    # The model's own softmax where it has one; else the same function of both sides' logits.
    own = np.stack(returned) if np.allclose([each.sum() for each in returned], 1.0, atol=1e-4) else _softmax(ours)
    runs = []
    for each in found:
        logits = np.stack(each.logits)
        classes = table.head.kind == "classifier"
        runs.append(
            Run(
                reference=each.reference.name,
                dtype=dtype,
                tolerance=tolerance,
                layers=tuple(each.furthest[layer.name] for layer in table.layers if layer.name in each.furthest),
                bounds=bounds,
                logits=difference(table.output, logits, ours),
                probabilities=difference("prob", _softmax(logits), own) if classes else None,
                top1_agreement=float((logits.argmax(axis=1) == ours.argmax(axis=1)).mean()),
                closest_margin=_closest_margin(logits),
                images=len(batch),
                seconds=each.seconds,
            )
        )
    return runs


class _Found:
    """What one reference said, and how far the model was from it at each layer at worst."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.logits: list[np.ndarray] = []
        self.furthest: dict[str, Difference] = {}
        self.seconds = 0.0
        self._kept: dict[str, np.ndarray] = {}

    def take(self, image: np.ndarray, output: str) -> None:
        start = time.perf_counter()
        self._kept = self.reference.run(image)
        self.logits.append(self._kept[output].reshape(-1))
        self.seconds += time.perf_counter() - start

    def hold_against(self, layer: str, output: np.ndarray) -> None:
        if layer in self._kept:  # a stranger's module may not show every layer
            start = time.perf_counter()
            apart = difference(layer, self._kept.pop(layer), output)
            self.furthest[layer] = worst([apart, self.furthest.get(layer, apart)])
            self.seconds += time.perf_counter() - start


def _closest_margin(logits: np.ndarray) -> float:
    if logits.shape[1] < 2:
        return float("inf")
    highest = np.sort(logits, axis=1)
    return float((highest[:, -1] - highest[:, -2]).min() / (np.abs(logits).max() or 1.0))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result


__all__ = ["TOLERANCES", "Observe", "Progress", "Reference", "Run", "Side", "compare"]
