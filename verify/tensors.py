"""The first level of proof: the numbers in the model file are the numbers in the checkpoint, bit for bit or in ulps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.checkpoint import Arrays
from convert.match_report import fold
from ferplus_keras.wording import counted
from verify.metrics import ulps

if TYPE_CHECKING:
    from verify.folding_check import FoldingComparison


#: Numbers that are further apart than this (a quarter of a per cent or so) are other numbers, and steps say nothing.
COUNTED = 1 << 15


@dataclass
class TensorComparison:
    """Arrays of two checkpoints side by side. ``different`` maps ``layer/role`` to the largest distance in ulps."""

    compared: int = 0
    different: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)  #: not the checkpoint's, and not zero
    remark: str = ""  #: what was known and put right before the comparison
    folding: FoldingComparison | None = None  #: of a folded file, held against its source folded anew

    @property
    def passed(self) -> bool:
        equal = bool(self.compared) and not (self.different or self.missing or self.extra)
        return equal and (self.folding is None or self.folding.passed)

    @property
    def summary(self) -> str:
        parts = [self.folding.summary] if self.folding else []
        parts += [self.remark] if self.remark else []
        if not (self.different or self.missing or self.extra):
            source = " to the source's, folded" if self.folding else ""
            but = " but for known roundings" if self.remark else ""
            return "; ".join([f"{counted(self.compared, 'array')}, equal bit for bit{source}{but}", *parts])
        if self.different:
            names = ", ".join(fold(self.different)[:4])
            furthest = max(self.different.values())
            steps = f"by up to {furthest:,} ulp{'s' if furthest > 1 else ''}" if furthest <= COUNTED else "by far"
            parts.append(f"{len(self.different)} of {counted(self.compared, 'array')} differ, {steps}: {names}")
        if self.missing:
            parts.append(
                f"{counted(len(self.missing), 'array is', 'arrays are')} not there: {', '.join(fold(self.missing)[:4])}"
            )
        if self.extra:
            parts.append(
                f"{counted(len(self.extra), 'array is', 'arrays are')} there that the checkpoint lacks: "
                f"{', '.join(fold(self.extra)[:4])}"
            )
        return "; ".join(parts)

    def figures(self) -> dict[str, Any]:
        return {
            "compared": self.compared,
            "different": len(self.different),
            "missing": len(self.missing),
            "extra": len(self.extra),
            "largest_ulps": max(self.different.values(), default=0),
        } | (self.folding.figures() if self.folding else {})


def compare_tensors(reference: Arrays, ours: Arrays) -> TensorComparison:
    """Every array of ``reference`` held against the one of the same layer and role in ``ours``."""
    result = TensorComparison()
    for layer, roles in reference.items():
        for role, array in roles.items():
            other = ours.get(layer, {}).get(role)
            if other is None or other.shape != array.shape:
                result.missing.append(f"{layer}/{role}")
                continue
            result.compared += 1
            if not np.array_equal(
                np.ascontiguousarray(array).view(np.uint32), np.ascontiguousarray(other, np.float32).view(np.uint32)
            ):
                result.different[f"{layer}/{role}"] = int(ulps(array, other).max())
    for layer, roles in ours.items():
        for role, array in roles.items():
            # A bias of zeros, where the checkpoint's convolution has none, is the same function.
            if role not in reference.get(layer, {}) and np.any(array):
                result.extra.append(f"{layer}/{role}")
    return result
