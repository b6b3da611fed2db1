"""Faults acted out: one, two at once, several layers with their own, and other weights altogether."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convert.checkpoint import Arrays
from ferplus_keras.networks.architecture import Architecture, Layer, architecture
from verify.diagnosis import diagnose, diagnose_all
from verify.faults import Case, Parts, output, parts_of

TABLE = architecture("resnet50")
DRAW = np.random.default_rng(0)


def numbers(layer: Layer) -> dict[str, np.ndarray]:
    return {
        role: DRAW.uniform(0.5, 1.5, shape).astype(np.float32)
        if role in ("gamma", "moving_variance")
        else DRAW.standard_normal(shape).astype(np.float32)
        for role, shape in layer.parameters.items()
    }


def case(name: str, change: Callable[[Parts], Parts], ours: Arrays | None = None, table: Architecture = TABLE) -> Case:
    """The layer ``name`` on a small map, in which ``change`` went wrong."""
    layer = table.by_name[name]
    reference = {name: numbers(layer)}
    channels = (
        next(iter(layer.parameters.values()))[-2] if "kernel" in layer.parameters else layer.parameters["gamma"][0]
    )
    source = DRAW.normal(0, 50, (1, 13, 13, channels))
    right = Case(table, layer, (source,), np.empty(0), np.empty(0), reference, ours or reference, {})
    expected, actual = output(parts_of(right)), output(change(parts_of(right)))
    assert expected is not None and actual is not None
    return Case(table, layer, (source,), expected, actual, reference, ours or reference, {})


CONV1: dict[str, tuple[str, Callable[[Parts], Parts]]] = {
    "one": ("bgr", lambda parts: parts | {"source": parts["source"][..., ::-1]}),
    "two": (
        "bgr-and-no-padding",
        lambda parts: parts | {"source": parts["source"][..., ::-1], "pad": (0, 0, 0, 0)},
    ),
    "scaled and flipped": (
        "scale-0-1-and-kernel-flipped",
        lambda parts: parts | {"source": parts["source"] / 255, "kernel": parts["kernel"][::-1, ::-1]},
    ),
}


@pytest.mark.parametrize("name", CONV1)
def test_faults_of_the_first_convolution_alone_and_in_pairs(name: str) -> None:
    fault, change = CONV1[name]
    found = diagnose(case("conv1_7x7_s2", change))
    assert (found.fault, found.confidence) == (fault, "certain")
    assert (" and " in found.cause) == ("-and-" in fault) or fault == "bgr"


def test_two_faults_of_a_normalisation() -> None:
    def change(parts: Parts) -> Parts:
        return parts | {"epsilon": 1e-3, "gamma": parts["beta"], "beta": parts["gamma"]}

    assert diagnose(case("conv2_1_3x3_bn", change)).fault == "batchnorm-epsilon-and-gamma-beta-swapped"


def test_what_nothing_explains_is_not_explained() -> None:
    found = diagnose(case("conv1_7x7_s2", lambda parts: parts | {"kernel": parts["kernel"] ** 2}))
    assert found.confidence != "certain" and found.tried > 50


def epsilon(value: float) -> Callable[[Parts], Parts]:
    return lambda parts: parts | {"epsilon": value}


def test_behind_the_first_cause_the_others_are_named() -> None:
    cases = [
        case("conv1_7x7_s2", lambda parts: parts | {"source": parts["source"][..., ::-1]}),
        *(case(name, epsilon(1e-3)) for name in ("conv1_7x7_s2_bn", "conv2_1_3x3_bn", "conv2_2_3x3_bn")),
        case("conv2_3_3x3", lambda parts: parts | {"kernel": parts["kernel"].swapaxes(2, 3)}),
    ]
    found = diagnose_all(cases)
    assert found is not None and found.fault == "bgr"
    norms, swapped = found.further
    assert "conv1_7x7_s2_bn has epsilon 0.001" in norms and "2 more layers" in norms
    assert "conv2_3_3x3" in swapped and "exchanged" in swapped
    alike = diagnose_all(case(name, epsilon(1e-3)) for name in ("conv1_7x7_s2_bn", "conv2_1_3x3_bn"))
    assert alike is not None and alike.further == ("the same at 1 more layer, the next conv2_1_3x3_bn",)


def strangers(kinship: float) -> Any:
    """A case at the first convolution of a network whose kernels are so far the checkpoint's."""
    names = ("conv1_7x7_s2", "conv2_1_3x3", "conv2_2_3x3", "conv2_3_3x3")
    reference = {name: numbers(TABLE.by_name[name]) for name in names}
    ours = {
        name: {"kernel": np.float32(kinship * roles["kernel"] + DRAW.normal(0, 0.3, roles["kernel"].shape))}
        for name, roles in reference.items()
    }
    made = case("conv1_7x7_s2", lambda parts: parts | {"kernel": DRAW.standard_normal(parts["kernel"].shape)})
    return Case(TABLE, made.layer, made.inputs, made.expected, made.actual, reference, ours, {})


def test_other_weights_are_called_so_and_further_training_is_not() -> None:
    other, trained = (diagnose_all([strangers(kinship)]) for kinship in (0.0, 1.0))
    assert other is not None and other.fault == "other-weights" and "other weights altogether" in other.cause
    assert trained is not None and trained.fault == "other-numbers"
