"""Why two functions part: the known faults, tried one after the other on each layer that departs.

A layer is looked at with the model's own inputs, so that what an earlier layer did wrong does not count twice. Each
known fault can be acted out there, with the checkpoint's numbers and in float64; then each two of them together. The
fault whose output is the model's output is the cause, and there is nothing left to guess. Where none fits, the report
says how many were tried and what is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from convert.match_report import by
from verify.faults import Case, Fault, faults, output, pairs, parts_of

#: A fault is the cause when it explains all but this share of the difference. The right one explains all but rounding:
#: that of float64, or of float32 where a file keeps the wrong number in it; a wrong one explains next to nothing.
UNEXPLAINED = 1e-5

#: On how many channels a fault is tried first: most do not fit, and a few channels show that.
PROBED = slice(0, 4)

#: On how many layers after the first all faults are tried; on the rest, those found before.
FULLY = 3

#: Kernels that have less than this in common (the cosine of their angle) are not one network, trained further.
KINSHIP = 0.5


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong at ``layer``. ``confidence``: "certain" when the fault reproduces the model's numbers."""

    layer: str
    fault: str  #: a stable word for machines, such as "batchnorm-epsilon"; two of them are joined by "-and-"
    cause: str  #: a sentence for people
    confidence: str  #: "certain", "likely" or "unknown"
    tried: int
    evidence: str
    further: tuple[str, ...] = ()  #: what else is wrong, behind this layer

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"further": list(self.further)}


def diagnose_all(cases: Iterable[Case]) -> Diagnosis | None:
    """The cause at the first of the layers that depart, in order, and in ``further`` what is wrong at the others."""
    found: list[Diagnosis] = []
    searches = 0
    for case in cases:
        if not found:
            found.append(diagnose(case))
            if found[0].fault == "half-loaded":
                break
            if found[0].fault in ("other-numbers", "unknown") and (others := _other_weights(case, found[0].tried)):
                return others
            continue
        again = diagnose(case, only={each.fault for each in found})
        if again.confidence != "certain" and again.fault != "other-numbers" and searches < FULLY:
            searches += 1
            again = diagnose(case)
        found.append(again)
    return replace(found[0], further=tuple(_further(found))) if found else None


def _further(found: list[Diagnosis]) -> Iterable[str]:
    """One sentence for each fault that shows behind the first, however many layers have it."""
    counts = Counter(each.fault for each in found[1:])
    for fault, count in counts.items():
        first = next(each for each in found[1:] if each.fault == fault)
        if fault == found[0].fault:
            yield f"the same at {count} more layer{'s' if count > 1 else ''}, the next {first.layer}"
        elif count > 1:
            more = count - 1
            yield f"{first.cause} ({first.confidence}), and so {more} more layer{'s' if more > 1 else ''}"
        else:
            yield f"{first.cause} ({first.confidence})"


def diagnose(case: Case, only: Collection[str] | None = None) -> Diagnosis:
    """Try every known fault on ``case``, or those that are called ``only``; then every two of them."""
    if only is None and (loaded := _half_loaded(case)):
        return loaded
    parts = parts_of(case)
    known = None if only is None else {*only, *(word for pair in only for word in pair.split("-and-"))}
    singles = [each for each in faults(case) if known is None or each.word in known]
    tried = 0
    for fault in (*singles, *pairs(singles)):
        tried += 1
        left = _left_by(fault, case, parts)
        if left <= UNEXPLAINED:
            both = "these faults explain" if "-and-" in fault.word else "this fault explains"
            evidence = f"simulated in float64, {both} all but {left:.0e} of the difference"
            return Diagnosis(case.layer.name, fault.word, fault.cause, "certain", tried, evidence)
    return _unknown(case, tried)


def _left_by(fault: Fault, case: Case, parts: dict[str, Any]) -> float:
    """The share of the difference that the fault, acted out, does not explain."""
    for channels in (PROBED, slice(None)):
        try:
            acted = output(fault.change(parts), channels)
        except (RuntimeError, ValueError):  # of shapes that do not go together
            return np.inf
        actual = case.actual[..., channels]
        if acted is None or acted.shape != actual.shape:
            return np.inf
        left = float(np.abs(acted - actual).max()) / case.apart
        if not left <= UNEXPLAINED:
            return np.inf
    return left


def _unknown(case: Case, tried: int) -> Diagnosis:
    name = case.layer.name
    if case.expected.shape != case.actual.shape:
        ours, right = (by(each.shape[1:]) for each in (case.actual, case.expected))
        cause = f"{name} returns {ours} instead of {right}"
        return Diagnosis(name, "shape", cause, "likely", tried, "no known fault gives that shape with these numbers")
    different = [role.replace("_", " ") for role in case.reference.get(name, {}) if not case.same(role)]
    channels = np.abs(case.actual - case.expected).max(axis=(0, 1, 2)) > 0
    where = f"{int(channels.sum())} of {channels.size} channels are off"
    if different:
        cause = f"the {' and '.join(different)} of {name} in the model are not the checkpoint's"
        return Diagnosis(name, "other-numbers", cause, "likely", tried, f"no known fault explains them; {where}")
    cause = f"{name} has the checkpoint's numbers but computes something else"
    return Diagnosis(name, "unknown", cause, "unknown", tried, f"no known fault explains it; {where}")


# --- faults of the file as a whole ----------------------------------------------------------------------------------


def _half_loaded(case: Case) -> Diagnosis | None:
    """Weights as a fresh layer has them, in many layers: a loading that matched few names, or none."""
    fresh = [
        layer
        for layer, roles in case.ours.items()
        if "gamma" in roles
        and np.all(roles["gamma"] == 1) and np.all(roles["beta"] == 0)
        and np.all(roles["moving_mean"] == 0) and np.all(roles["moving_variance"] == 1)
    ]  # fmt: skip
    norms = sum("gamma" in roles for roles in case.ours.values())
    if len(fresh) < 2:
        return None
    cause = (
        f"{len(fresh)} of {norms} BatchNorm layers hold a fresh layer's numbers (gamma 1, mean 0, variance 1): the "
        "weights were never loaded, or loading by name silently matched nothing"
    )
    return Diagnosis(case.layer.name, "half-loaded", cause, "certain", 0, f"the first of them is {fresh[0]}")


def _other_weights(case: Case, tried: int) -> Diagnosis | None:
    """The diagnosis when nearly no kernel has anything in common with the checkpoint's."""
    kernels = [
        (roles["kernel"], case.ours[layer]["kernel"])
        for layer, roles in case.reference.items()
        if "kernel" in roles and case.ours.get(layer, {}).get("kernel", np.empty(0)).shape == roles["kernel"].shape
    ]
    strange = sum(_cosine(one, other) < KINSHIP for one, other in kernels)
    if len(kernels) < 3 or strange < 0.9 * len(kernels):
        return None
    cause = (
        "these are other weights altogether: the model has the network's layers, and hardly any of its kernels has "
        "anything in common with the checkpoint's"
    )
    evidence = f"{strange} of {len(kernels)} kernels are unlike; was the model made from another checkpoint?"
    return Diagnosis(case.layer.name, "other-weights", cause, "certain", tried, evidence)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    a, b = (np.asarray(each, np.float64).reshape(-1) for each in (one, other))
    return float(a @ b) / (float(np.linalg.norm(a) * np.linalg.norm(b)) or 1.0)
