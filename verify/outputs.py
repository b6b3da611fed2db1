"""The end alone: what an export yields beside what its source yields, and which decisions change.

A TensorFlow Lite file has no layers with names, and a converter merges and reorders them; a quantised one computes
something else on purpose. So the ends are compared: how far the output is off, relative to its largest value, and for
how many images the class changes. What is lost is stated in both; the gates say how much may be.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from ferplus_keras.engines.engine import LOGITS, PROBABILITIES, Engine
from ferplus_keras.engines.record import Record
from ferplus_keras.networks.emotions import softmax
from ferplus_keras.wording import counted
from verify.images import Images
from verify.metrics import Difference, difference, in_words
from verify.runs import TOLERANCES

#: Kind of numbers -> how far the output may be off, relative to its largest value; None: whatever it is, it is said.
#: float16 keeps 11 bits of each weight, 2.4e-4 of it at most, and fifty layers add up some ten times that.
LIMITS: dict[str, float | None] = {"float32": TOLERANCES["float32"], "float16": 1e-2, "int8": None}

#: Kind of numbers -> percentage of decisions that may change, where nothing else is asked for.
MAX_CHANGED = {"float32": 0.0, "float16": 1.0, "int8": 10.0}

BATCH = 8

#: What an export may say that it yields.
OUTPUTS = (LOGITS, PROBABILITIES, "embedding", "features")


@dataclass(frozen=True)
class OutputComparison:
    """The outcome. ``probability`` is the largest difference of a probability, where there are classes."""

    by: str
    kind: str
    output: str
    apart: Difference
    limit: float | None
    probability: float | None
    changed: int
    classes: int  #: how many different classes the source decides for: with one alone, decisions testify to little
    count: int
    max_changed: float
    origin: str
    seconds: float

    @property
    def near(self) -> bool:
        return self.apart.finite and (self.limit is None or self.apart.relative <= self.limit)

    @property
    def decided_alike(self) -> bool:
        return 100 * self.changed <= self.max_changed * self.count

    @property
    def passed(self) -> bool:
        return self.near and self.decided_alike

    @property
    def sentences(self) -> list[tuple[bool, str]]:
        """A verdict and a sentence on the output, and on the decisions where there are any."""
        allowed = f"allowed {in_words(self.limit)}" if self.limit is not None else "stated, not judged"
        found = f"off by {in_words(self.apart.relative)} of the largest" if self.apart.finite else self.apart.problem
        first = f"{self.output}: {found} ({allowed})"
        if self.probability is None:
            return [(self.near, first)]
        decisions = (
            f"decisions: {self.changed} of {self.count} changed, {100 * self.changed / self.count:.1f} % (allowed "
            f"{self.max_changed:g} %); the source decides for {counted(self.classes, 'class', 'classes')} on these"
        )
        return [(self.near, f"{first}, a probability by {in_words(self.probability)}"), (self.decided_alike, decisions)]

    def as_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed, "run_by": self.by, "numbers": self.kind, "output": self.output,
            "difference": self.apart.as_dict(), "limit": self.limit, "probability": self.probability,
            "changed": self.changed, "max_changed_percent": self.max_changed, "images": self.count,
            "classes": self.classes, "origin": self.origin, "seconds": self.seconds,
            "compared": "the output alone: the format has no layers with names",
        }  # fmt: skip


def compare_outputs(
    engine: Engine, checkpoint: Checkpoint, images: Images, *, max_changed: float | None = None
) -> OutputComparison:
    """Run ``engine``, an export, and ``checkpoint``, its source, in PyTorch and in float32, on the same ``images``.

    ``max_changed`` is the percentage of decisions that may change; None takes :data:`MAX_CHANGED`.
    """
    start = time.perf_counter()
    classes = checkpoint.architecture.head.kind == "classifier"
    inputs = images.inputs
    wanted = reference_outputs(checkpoint, inputs)
    found = np.asarray(engine.run(images.pixels), np.float32)
    kind = engine.numbers
    output = _kind_of_output(engine.record, wanted, found, classes)
    ends = {"logits": wanted, "probabilities": softmax(wanted) if classes else wanted}
    apart = difference(output, ends.get(output, wanted).astype(np.float32), found.reshape(len(found), -1))
    probability, changed = None, 0
    if classes and apart.finite:
        ours = found if output == "probabilities" else softmax(found)
        probability = float(np.abs(softmax(wanted) - ours).max())
        changed = int((wanted.argmax(axis=1) != found.argmax(axis=1)).sum())
    return OutputComparison(
        engine.by, kind, output, apart, LIMITS[kind], probability, changed,
        len(set(wanted.argmax(axis=1).tolist())) if classes else 0, len(inputs),
        MAX_CHANGED[kind] if max_changed is None else max_changed, images.origin, time.perf_counter() - start,
    )  # fmt: skip


def reference_outputs(checkpoint: Checkpoint, inputs: np.ndarray) -> np.ndarray:
    """What the network yields before any softmax, n x units, in float32; a feature map with its channels last."""
    import torch

    from verify.references.torch_reference import as_torch, reference_module

    module = reference_module(checkpoint, "float32")
    found = []
    with torch.inference_mode():
        for start in range(0, len(inputs), BATCH):
            result = module(as_torch(inputs[start : start + BATCH], "float32"))
            result = result.permute(0, 2, 3, 1) if result.ndim == 4 else result
            found.append(result.reshape(len(result), -1).numpy())
    return np.concatenate(found)


def _kind_of_output(record: Record | None, wanted: np.ndarray, found: np.ndarray, classes: bool) -> str:
    """What the export yields: as it says, or in others' files the likelier of logits and probabilities."""
    if record is not None and record.get("output") in OUTPUTS:
        return str(record["output"])
    flat = found.reshape(len(found), -1)
    if not classes or flat.shape != wanted.shape:
        return "logits"
    distances = {"logits": np.abs(flat - wanted).max(), "probabilities": np.abs(flat - softmax(wanted)).max()}
    return min(distances, key=lambda name: distances[name])
