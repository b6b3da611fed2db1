"""How far an array is from its reference: shape, type and NaN first, values after; never a mean of signed errors."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from convert.match_report import by


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
    if reference.shape != ours.shape:
        return without_number(layer, f"{by(ours.shape)} where the reference has {by(reference.shape)}")
    if reference.dtype != ours.dtype:
        return without_number(layer, f"{ours.dtype} where the reference has {reference.dtype}")
    a, b = (each.astype(np.float64, copy=False).reshape(-1) for each in (reference, ours))
    with np.errstate(invalid="ignore", over="ignore"):
        apart = b - a
    absolute = _largest(apart)
    if not math.isfinite(absolute):  # exactly when one of the two numbers is not
        bad_reference, bad_ours = (int((~np.isfinite(each)).sum()) for each in (a, b))
        return without_number(layer, f"{bad_ours} numbers are not finite, the reference has {bad_reference}")
    # |b|^2 and a.b from a and the difference: a tenth of the passes over memory that the textbook takes.
    aa, across, squares = float(a @ a), float(a @ apart), float(apart @ apart)
    lengths = math.sqrt(aa * max(aa + 2 * across + squares, 0.0))
    return Difference(
        layer,
        absolute,
        absolute / (_largest(a) or 1.0),
        math.sqrt(squares / max(apart.size, 1)),
        (aa + across) / lengths if lengths else float(absolute == 0.0),
    )


def in_words(share: float) -> str:
    """A share as it is read aloud: ``3.2 %``, ``0.00005 %``; of what is next to nothing, nobody counts the zeros."""
    if share < 1e-9:
        return "less than a billionth"
    return f"{np.format_float_positional(100 * share, precision=2, unique=False, fractional=False, trim='-')} %"


def _largest(values: np.ndarray) -> float:
    """The largest magnitude; NaN when one is among them."""
    return max(float(values.max()), -float(values.min())) if values.size else 0.0


def without_number(layer: str, problem: str) -> Difference:
    """A difference that has no number, and why."""
    return Difference(layer, math.inf, math.inf, math.inf, math.nan, problem)


def worst(differences: list[Difference]) -> Difference:
    """The one that is furthest off; one without a number is further off than any."""
    return max(differences, key=lambda each: (not each.finite, each.relative))


def ulps(reference: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """How many float32 numbers lie between the two arrays, element by element; 0 where they are the same number."""
    a, b = (np.ascontiguousarray(each, np.float32).view(np.int32).astype(np.int64) for each in (reference, ours))
    a, b = (np.where(each < 0, -(each & 0x7FFFFFFF), each) for each in (a, b))  # sign and magnitude, as one line
    distance: np.ndarray = np.abs(a - b)
    return distance
