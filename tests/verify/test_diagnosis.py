"""Faults acted out: one, two at once, several layers with their own, and other weights altogether."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convert.checkpoint import Arrays
from ferplus_keras.networks.architecture import Architecture, Layer, architecture
from ferplus_keras.networks.preprocessing import PUBLISHED
from verify.diagnosis import diagnose, diagnose_all
from verify.faults import IMAGENET_MEAN, TORCHVISION_MEAN, TORCHVISION_STD, Case, Parts, output, parts_of

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


def pixels(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Parts], Parts]:
    """Another preprocessing of the pixels 0..255."""
    return lambda parts: parts | {"source": change(parts["source"] + np.asarray(PUBLISHED.mean))}


CONV1 |= {
    "Caffe's": ("bgr-and-imagenet-mean", pixels(lambda x: x[..., ::-1] - np.asarray(IMAGENET_MEAN)[::-1])),
    "torchvision's": ("torchvision", pixels(lambda x: (x / 255 - TORCHVISION_MEAN) / TORCHVISION_STD)),
    "BGR as it is": ("bgr-and-no-mean", pixels(lambda x: x[..., ::-1])),
    "without a mean, and unpadded": (
        "no-mean-and-no-padding", lambda parts: pixels(lambda x: x)(parts) | {"pad": (0, 0, 0, 0)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONV1)
def test_faults_of_the_first_convolution_alone_and_in_pairs(name: str) -> None:
    fault, change = CONV1[name]
    found = diagnose(case("conv1_7x7_s2", change))
    assert (found.fault, found.confidence) == (fault, "certain")
    assert " and " in found.cause or "-and-" not in fault


NORMS: dict[str, Callable[[Parts], Parts]] = {
    "batchnorm-epsilon-and-gamma-beta-swapped": lambda p: p | {"epsilon": 1e-3, "gamma": p["beta"], "beta": p["gamma"]},
    "batchnorm-epsilon-and-mean-missing": lambda p: p | {"epsilon": 1e-3, "mean": 0 * p["mean"]},
    "variance-missing-and-gamma-missing": lambda p: p | {"variance": 0 * p["mean"] + 1, "gamma": 0 * p["mean"] + 1},
}


@pytest.mark.parametrize("faults", NORMS)
def test_two_faults_of_a_normalisation(faults: str) -> None:
    assert diagnose(case("conv2_1_3x3_bn", NORMS[faults])).fault == faults


@pytest.mark.parametrize("permuted", ["kernel and bias", "kernel", "bias"])
def test_classes_in_another_order_in_one_array_or_in_both(permuted: str) -> None:
    layer = TABLE.by_name["classifier"]
    reference = {"classifier": numbers(layer)}
    kernel, bias = (np.asarray(reference["classifier"][role], np.float64) for role in ("kernel", "bias"))
    source, order = DRAW.normal(0, 1, (1, 1, 1, len(kernel))), [1, 0, 2, 3, 4, 5, 7, 6]
    theirs = kernel[:, order] if "kernel" in permuted else kernel, bias[order] if "bias" in permuted else bias
    expected, actual = source @ kernel + bias, source @ theirs[0] + theirs[1]
    found = diagnose(Case(TABLE, layer, (source,), expected, actual, reference, reference, {}))
    assert found.fault == "label-order" and str(order) in found.cause
    assert ("alone" in found.cause) == (" and " not in permuted) and permuted.split(" ")[0] in f"{found.cause} kernel"


def test_gates_exchanged_and_taken_from_another_block() -> None:
    table = architecture("senet50")
    first, second = "conv3_2_1x1_down", "conv3_3_1x1_down"
    reference = {name: numbers(table.by_name[name]) for name in (first, second)}
    source = DRAW.normal(0, 1, (1, 1, 1, reference[first]["kernel"].shape[2]))

    def through(name: str) -> np.ndarray:
        result: np.ndarray = source @ reference[name]["kernel"][0, 0].astype(float) + reference[name]["bias"]
        return result

    exchanged = Case(table, table.by_name[first], (source,), through(first), through(second), reference, reference, {})
    assert f"{first} holds the kernel and the bias of {second}" in diagnose(exchanged).cause
    map_, gate, other = (DRAW.uniform(0, 1, (1, *sides, 4)) for sides in ((5, 5), (1, 1), (1, 1)))
    scale = table.by_name["conv3_3_scale"]
    inputs = (map_, gate) if "scale" not in scale.inputs[0] else (gate, map_)
    rewired = Case(table, scale, inputs, map_ * gate, map_ * other, {}, {}, {"conv3_2_prob": other})
    assert "multiplies by conv3_2_prob where conv3_3_prob is right" in diagnose(rewired).cause


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
