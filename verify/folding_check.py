"""Is folding the same function? The folded network, its numbers not rounded yet, beside the network as it was.

In float64 the two agree to rounding, or a scale, a shift or a sign is wrong. What the one rounding of the folded
numbers to float32 does to the logits is measured apart from that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.folding import fold, folded_arrays, folded_table, normalisation_of
from verify.metrics import Difference, difference, in_words, worst
from verify.runs import TOLERANCES


@dataclass(frozen=True)
class FoldingComparison:
    """The network folded against the network as it was, on a few images in float64."""

    exact: Difference  #: the worst layer, no number rounded
    rounded: Difference  #: the output of the network whose numbers were rounded to float32
    decisions: tuple[int, int]  #: how many are the same, of how many

    @property
    def passed(self) -> bool:
        within = self.exact.relative <= TOLERANCES["float64"] and self.rounded.relative <= TOLERANCES["float32"]
        return self.exact.finite and self.rounded.finite and within and self.decisions[0] == self.decisions[1]

    @property
    def summary(self) -> str:
        same, count = self.decisions
        return (
            f"folding in float64: {self.exact.layer}, the furthest layer, is off by {_figure(self.exact)} of its "
            f"largest value; rounding the folded numbers once: a logit is off by {_figure(self.rounded)} of the "
            f"largest, {same} of {count} decisions the same"
        )

    def figures(self) -> dict[str, Any]:
        return {"folding": self.exact.as_dict(), "folding_rounded": self.rounded.as_dict()}


def check_folding(checkpoint: Checkpoint, images: np.ndarray) -> FoldingComparison:
    """Fold ``checkpoint`` and hold it against itself on preprocessed ``images``, one at a time, in float64."""
    from verify.references.torch_reference import TorchReference, exact_module

    table = checkpoint.architecture
    before, after = TorchReference(checkpoint, "float64"), TorchReference(fold(checkpoint), "float64")
    unrounded = replace(checkpoint, architecture=folded_table(table), arrays=dict(folded_arrays(checkpoint)))
    exact = TorchReference(fold(checkpoint), "float64")
    exact.module = exact_module(unrounded)
    stands_for = normalisation_of(table)
    furthest: list[Difference] = []
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    for image in images:
        theirs, ours = (reference.run(image[None].astype("float64")) for reference in (before, exact))
        furthest += [
            difference(name, theirs[stands_for.get(name, name)], output) for name, output in ours.items()
        ]  # fmt: skip
        rounded = after.run(image[None].astype("float64"))
        ends.append((theirs[table.output].reshape(1, -1), rounded[table.output].reshape(1, -1)))
    wanted, found = (np.concatenate(each) for each in zip(*ends, strict=True))
    same = (
        int((wanted.argmax(axis=1) == found.argmax(axis=1)).sum()) if table.head.kind == "classifier" else len(images)
    )
    return FoldingComparison(worst(furthest), difference(table.output, wanted, found), (same, len(images)))


def _figure(found: Difference) -> str:
    return in_words(found.relative) if found.finite else found.problem
