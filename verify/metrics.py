"""How far an array is from its reference: shape, type and NaN first, values after; never a mean of signed errors."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Difference:
    """One array against its reference.

    ``relative`` is ``absolute`` over the reference's largest magnitude; ``rms`` is the root of the mean squared
    difference; ``cosine`` the cosine of the angle between the two. All are infinite (the cosine NaN) when ``problem``
    says why no number can be given.
    """

    layer: str
    absolute: float
    relative: float
    rms: float
    cosine: float
    problem: str = ""

    @property
    def finite(self) -> bool:
        return not self.problem

    def as_dict(self) -> dict[str, Any]:
        """Plain data for strict JSON: what is not finite becomes null."""
        plain = {key: finite_or_none(value) for key, value in asdict(self).items()}
        return plain | {"finite": self.finite}


def finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def difference(layer: str, reference: np.ndarray, ours: np.ndarray) -> Difference:
    """``ours`` against ``reference``, computed in float64."""
    problem = ""
    if reference.shape != ours.shape:
        problem = f"shape {ours.shape} where the reference has {reference.shape}"
    elif reference.dtype != ours.dtype:
        problem = f"{ours.dtype} where the reference has {reference.dtype}"
    else:
        bad_reference, bad_ours = ~np.isfinite(reference), ~np.isfinite(ours)
        if bad_reference.any() or bad_ours.any():
            problem = f"{int(bad_ours.sum())} numbers are not finite, the reference has {int(bad_reference.sum())}"
    if problem:
        return Difference(layer, math.inf, math.inf, math.inf, math.nan, problem)
    a, b = reference.astype(np.float64).reshape(-1), ours.astype(np.float64).reshape(-1)
    apart = b - a
    absolute = float(np.abs(apart).max(initial=0.0))
    largest = float(np.abs(a).max(initial=0.0)) or 1.0
    lengths = math.sqrt(float(a @ a) * float(b @ b))
    return Difference(
        layer,
        absolute,
        absolute / largest,
        math.sqrt(float(apart @ apart) / max(apart.size, 1)),
        float(a @ b) / lengths if lengths else float(absolute == 0.0),
    )


def worst(differences: list[Difference]) -> Difference:
    """The one that is furthest off; one without a number is further off than any."""
    return max(differences, key=lambda each: (not each.finite, each.relative))


def ulps(reference: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """How many float32 numbers lie between the two arrays, element by element; 0 where they are the same number."""
    a, b = (np.ascontiguousarray(each, np.float32).view(np.int32).astype(np.int64) for each in (reference, ours))
    a, b = (np.where(each < 0, -(each & 0x7FFFFFFF), each) for each in (a, b))  # sign and magnitude, as one line
    distance: np.ndarray = np.abs(a - b)
    return distance
