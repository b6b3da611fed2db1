"""The known faults of each kind of layer, as changes to what the layer computes with.

A change takes the parts of a layer (its input, kernel, padding, epsilon ...) and gives them back as they would be with
the fault in them, so that two faults can be acted out at once. What :func:`output` makes of the parts is what the layer
yields if that is what went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from convert.checkpoint import Arrays
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON, Architecture
from ferplus_keras.networks.emotions import softmax
from ferplus_keras.networks.preprocessing import PUBLISHED
from verify.acting_out import average_pool, conv2d, max_pool

#: Epsilons that libraries use: Keras 1e-3, keras_vggface 1e-4, TensorFlow Slim and old Caffe ports, Theano.
EPSILONS = (1e-3, 1e-4, 2e-5, 1e-6, 1e-7, 1e-8, 0.0)

#: Slopes of leaky ReLUs: TensorFlow's, Keras's, PyTorch's.
SLOPES = (0.2, 0.3, 0.01)

#: ImageNet's means in RGB: Caffe's, which keras.applications' "caffe" mode subtracts from pixels in BGR.
IMAGENET_MEAN = (123.68, 116.779, 103.939)

#: What torchvision subtracts from 0..1, and then divides by.
TORCHVISION_MEAN, TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: By name: "source", "kernel", "bias", "stride" and "pad" of a convolution; "source", "gamma", "beta", "mean",
#: "variance" and "epsilon" of a normalisation; "output" of anything else.
Parts = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A layer that departs: what went in, what came out on each side, and the numbers of both files."""

    table: Architecture
    layer: arch.Layer
    inputs: tuple[np.ndarray, ...]  #: the model's own, images x height x width x channels, float64
    expected: np.ndarray
    actual: np.ndarray
    reference: Arrays
    ours: Arrays
    earlier: dict[str, np.ndarray]  #: the outputs of all layers before

    @property
    def apart(self) -> float:
        """The largest difference that is to be explained: all of the output when not even the shape is right."""
        if self.expected.shape != self.actual.shape:
            return float(np.abs(self.actual).max()) or 1.0
        return float(np.abs(self.actual - self.expected).max()) or 1.0

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        return {role: np.asarray(array, np.float64) for role, array in self.reference.get(self.layer.name, {}).items()}

    def same(self, role: str) -> bool:
        """Whether the model's array is the checkpoint's."""
        wanted, other = (arrays.get(self.layer.name, {}).get(role) for arrays in (self.reference, self.ours))
        return wanted is not None and other is not None and bool(np.array_equal(wanted, other))


@dataclass(frozen=True)
class Fault:
    """``word`` is a stable name for machines, ``cause`` a sentence for people.

    Two faults of one layer are tried together when their ``groups`` differ; "" is never paired.
    """

    word: str
    cause: str
    change: Callable[[Parts], Parts]
    group: str = ""


def parts_of(case: Case) -> Parts:
    """What the layer computes with when nothing is wrong."""
    p = case.parameters
    match case.layer:
        case arch.Conv():
            layer = case.layer
            return {"source": case.inputs[0], "kernel": p["kernel"], "bias": p.get("bias"), "stride": layer.stride,
                    "pad": (layer.padding,) * 4}  # fmt: skip
        case arch.BatchNorm():
            return {"source": case.inputs[0], "gamma": p["gamma"], "beta": p["beta"], "mean": p["moving_mean"],
                    "variance": p["moving_variance"], "epsilon": BATCHNORM_EPSILON}  # fmt: skip
        case _:
            return {"output": case.expected}


def output(parts: Parts, channels: slice = slice(None)) -> np.ndarray | None:
    """What a layer of these parts yields, of some channels; None where it would divide by zero."""
    if "output" in parts:
        return np.asarray(parts["output"][..., channels])
    if "kernel" in parts:
        bias = parts["bias"]
        kept = None if bias is None else bias[channels]
        return conv2d(parts["source"], parts["kernel"][..., channels], kept, parts["stride"], parts["pad"])
    spread = np.asarray(parts["variance"] + parts["epsilon"])
    if np.any(spread <= 0):
        return None
    scaled = (parts["source"] - parts["mean"]) / np.sqrt(spread) * parts["gamma"] + parts["beta"]
    return np.asarray(scaled[..., channels])


def faults(case: Case) -> Iterator[Fault]:
    """The faults that a layer of its kind may have, the likelier first."""
    match case.layer:
        case arch.Conv():
            yield from _of_conv(case, case.layer)
        case arch.BatchNorm():
            yield from _of_batchnorm(case)
        case arch.MaxPool():
            yield from _of_pool(case, case.layer)
        case arch.Linear():
            yield from _of_head(case)
        case arch.ReLU() | arch.Sigmoid():
            yield from _of_activation(case)
        case arch.Add() | arch.Scale():
            yield from _of_merge(case)


def pairs(known: list[Fault]) -> Iterator[Fault]:
    """Two of them at once."""
    for one, other in combinations(known, 2):
        if one.group and other.group and one.group != other.group:
            yield Fault(
                f"{one.word}-and-{other.word}", f"{one.cause}, and {other.cause}",
                lambda parts, one=one, other=other: other.change(one.change(parts)),  # type: ignore[misc]
            )  # fmt: skip


def _with(**changed: Any) -> Callable[[Parts], Parts]:
    """A change that puts other values in the place of some; a function is called with what was there."""

    def change(parts: Parts) -> Parts:
        return parts | {name: value(parts[name]) if callable(value) else value for name, value in changed.items()}

    return change


def _yields(function: Callable[[], np.ndarray]) -> Callable[[Parts], Parts]:
    """A change of the output as a whole."""
    return lambda _parts: {"output": function()}


def _of_conv(case: Case, layer: arch.Conv) -> Iterator[Fault]:
    name, (source,) = layer.name, case.inputs
    kernel = case.parameters["kernel"]
    if name == "conv1_7x7_s2":
        yield from _of_input()
    if layer.kernel > 1:
        size = source.shape[1]
        total = max((-(-size // layer.stride) - 1) * layer.stride + layer.kernel - size, 0)
        before, behind = total // 2, total - total // 2
        yield Fault(
            "same-padding",
            f"{name} is padded ({before}, {behind}), as Keras's padding='same' does, not "
            f"({layer.padding}, {layer.padding})",
            _with(pad=(before, behind) * 2), "padding",
        )  # fmt: skip
        yield Fault("no-padding", f"{name} is not padded", _with(pad=(0, 0, 0, 0)), "padding")
        yield Fault("kernel-transposed", f"the kernel of {name} has height and width exchanged",
                    _with(kernel=lambda k: k.transpose(1, 0, 2, 3)), "kernel")  # fmt: skip
        yield Fault("kernel-flipped", f"the kernel of {name} is turned by 180 degrees (convolution for correlation)",
                    _with(kernel=lambda k: k[::-1, ::-1]), "kernel")  # fmt: skip
        yield Fault("kernel-flipped", f"the kernel of {name} is upside down", _with(kernel=lambda k: k[::-1]), "kernel")
        yield Fault("kernel-flipped", f"the kernel of {name} is mirrored", _with(kernel=lambda k: k[:, ::-1]), "kernel")
    if layer.in_channels == layer.out_channels:
        yield Fault("channels-swapped", f"the kernel of {name} has input and output channels exchanged",
                    _with(kernel=lambda k: k.swapaxes(2, 3)), "kernel")  # fmt: skip
    yield _of_stride(layer)
    for other, roles in case.reference.items():
        if other != name and "kernel" in roles and roles["kernel"].shape == kernel.shape:
            theirs = {role: np.asarray(roles[role], np.float64) for role in ("kernel", "bias") if role in roles}
            yield Fault("layers-exchanged", f"{name} holds the kernel of {other}", _with(kernel=theirs["kernel"]))
            if len(theirs) > 1:
                yield Fault("layers-exchanged", f"{name} holds the kernel and the bias of {other}", _with(**theirs))
    if case.parameters.get("bias") is not None:
        yield Fault("bias-missing", f"the bias of {name} is missing", _with(bias=None), "bias")
    yield Fault("kernel-zero", f"the kernel of {name} is zero", _with(kernel=np.zeros_like))


def _of_stride(layer: arch.Conv) -> Fault:
    if layer.name.endswith("_1x1_reduce") and layer.stride == 2:
        return Fault(
            "stride-on-3x3",
            f"the stage's stride 2 is not on {layer.name} but on the 3x3, as in torchvision and keras.applications",
            _with(stride=1), "stride",
        )  # fmt: skip
    wrong = 1 if layer.stride == 2 else 2
    cause = f"{layer.name} has stride {wrong} instead of {layer.stride}"
    return Fault("stride", cause, _with(stride=wrong), "stride")


def _of_input() -> Iterator[Fault]:
    """What is done to the image shows at the first convolution."""
    mean, theirs = np.asarray(PUBLISHED.mean), np.asarray(IMAGENET_MEAN)

    def image(word: str, cause: str, change: Callable[[np.ndarray], np.ndarray]) -> Fault:
        return Fault(word, cause, _with(source=change), "input")

    yield image("bgr", "the channels are taken in the order BGR, not RGB", lambda x: x[..., ::-1])
    yield image("bgr", "pixels are taken as BGR, and then the RGB mean is subtracted",
                lambda x: (x + mean)[..., ::-1] - mean)  # fmt: skip
    bgr = "the channels are taken in the order BGR, not RGB, and"
    for word, cause, of_pixels in (
        ("imagenet-mean", f"ImageNet's mean {IMAGENET_MEAN} is subtracted, not {PUBLISHED.mean}", lambda x: x - theirs),
        ("no-mean", "no mean is subtracted", lambda x: x),
        ("torchvision", "pixels are scaled to 0..1, and torchvision's mean and standard deviation are applied",
         lambda x: (x / 255 - np.asarray(TORCHVISION_MEAN)) / np.asarray(TORCHVISION_STD)),
    ):  # fmt: skip
        yield image(word, cause, lambda x, of=of_pixels: of(x + mean))  # type: ignore[misc]
        yield image(f"bgr-and-{word}", f"{bgr} {cause}", lambda x, of=of_pixels: of(x + mean)[..., ::-1])  # type: ignore[misc]
    yield image("bgr-and-scale-0-1", f"{bgr} the input is divided by 255", lambda x: x[..., ::-1] / 255)
    yield image("scale-0-1", "the input is divided by 255: 0..1 instead of 0..255", lambda x: x / 255)
    yield image("scale-0-1", "pixels are taken as 0..1, and then the mean of 0..255 is subtracted",
                lambda x: (x + mean) / 255 - mean)  # fmt: skip
    yield image("scale-minus-1-1", "pixels are scaled to -1..1", lambda x: (x + mean) / 127.5 - 1)
    yield image("mean-twice", "the mean is subtracted twice", lambda x: x - mean)


def _of_batchnorm(case: Case) -> Iterator[Fault]:
    name, (source,), p = case.layer.name, case.inputs, case.parameters
    gamma, beta, mean, variance = (p[role] for role in ("gamma", "beta", "moving_mean", "moving_variance"))
    untouched = all(case.same(role) for role in p)
    for epsilon in (*EPSILONS, *((_solved_epsilon(case),) if untouched else ())):
        yield Fault("batchnorm-epsilon", f"{name} has epsilon {epsilon:.4g}, not {BATCHNORM_EPSILON:g}",
                    _with(epsilon=epsilon), "epsilon")  # fmt: skip
    yield Fault("mean-variance-swapped", f"{name} has mean and variance exchanged",
                _with(mean=variance, variance=mean), "statistics")  # fmt: skip
    ours = {role: np.asarray(array, np.float64) for role, array in case.ours.get(name, {}).items()}
    swapped = {"mean": ours.get("moving_mean", mean), "variance": ours.get("moving_variance", variance)}
    if not untouched and set(np.unique([*swapped.values()])) == set(np.unique([mean, variance])):
        yield Fault("mean-variance-swapped", f"{name} has mean and variance partly exchanged", _with(**swapped))
    yield Fault("gamma-beta-swapped", f"{name} has gamma and beta exchanged", _with(gamma=beta, beta=gamma), "affine")
    yield Fault("sigma-as-variance", f"{name} has the standard deviation where the variance belongs",
                _with(variance=np.sqrt(np.abs(variance + BATCHNORM_EPSILON))), "statistics")  # fmt: skip
    yield Fault("mean-missing", f"the mean of {name} is missing (0 throughout)", _with(mean=0.0), "statistics")
    yield Fault("variance-missing", f"the variance of {name} is missing (1 throughout)",
                _with(variance=np.ones_like(variance)), "statistics")  # fmt: skip
    yield Fault("variance-squared", f"{name} has the square of the variance", _with(variance=variance**2), "statistics")
    yield Fault("gamma-missing", f"the gamma of {name} is missing (1 throughout)", _with(gamma=1.0), "affine")
    yield Fault("beta-missing", f"the beta of {name} is missing (0 throughout)", _with(beta=0.0), "shift")
    yield Fault("batchnorm-training", f"{name} normalises with the batch's own statistics, as in training",
                _with(mean=source.mean((0, 1, 2)), variance=source.var((0, 1, 2))))  # fmt: skip
    for other, roles in case.reference.items():
        if other != name and "gamma" in roles and roles["gamma"].shape == gamma.shape:
            g, b, m, v = (np.asarray(roles[r], np.float64) for r in ("gamma", "beta", "moving_mean", "moving_variance"))
            change = _with(gamma=g, beta=b, mean=m, variance=v)
            yield Fault("layers-exchanged", f"{name} holds the numbers of {other}", change)


def _solved_epsilon(case: Case) -> float:
    """The epsilon that fits the model's output best: from the slope of each channel, where the variance is smallest."""
    p = case.parameters
    expected, actual = case.expected - p["beta"], case.actual - p["beta"]
    if expected.shape != actual.shape:
        return BATCHNORM_EPSILON
    channel = int(np.argmin(p["moving_variance"]))
    a, b = expected[..., channel].reshape(-1), actual[..., channel].reshape(-1)
    ratio = float(a @ a) / (float(a @ b) or 1.0)  # sqrt((v + e') / (v + e))
    variance = float(p["moving_variance"][channel])
    return (variance + BATCHNORM_EPSILON) * ratio**2 - variance


def _of_pool(case: Case, layer: arch.MaxPool) -> Iterator[Fault]:
    (source,) = case.inputs

    def pool(pad: tuple[int, int, int, int]) -> Callable[[Parts], Parts]:
        return _yields(lambda: max_pool(source, layer.kernel, layer.stride, pad, -np.inf))

    name = layer.name
    yield Fault("pool-padding-symmetric", f"{name} is padded by 1 at the top and left, or on all four sides (which "
                  "is the same here), not at the bottom and right", pool((1, 1, 1, 1)))  # fmt: skip
    yield Fault("pool-padding-missing", f"{name} is not padded, and its last row and column are lost",
                  pool((0, 0, 0, 0)))  # fmt: skip
    yield Fault("pool-average", f"{name} averages where it should take the maximum",
                  _yields(lambda: average_pool(source, layer.kernel, layer.stride)))  # fmt: skip


def _of_head(case: Case) -> Iterator[Fault]:
    name, source = case.layer.name, case.inputs[0].reshape(len(case.inputs[0]), -1)
    kernel = case.parameters["kernel"]
    bias = case.parameters.get("bias", np.zeros(kernel.shape[1]))
    logits = source @ kernel + bias

    def shaped(values: np.ndarray) -> np.ndarray:
        return values[:, None, None, :]

    expected, actual = (each.reshape(len(source), -1) for each in (case.expected, case.actual))
    for subject, apart, permuted in (
        (f"{name} has", 0.0, lambda order: logits[:, order]),
        (f"the kernel of {name} alone has", bias, lambda order: source @ kernel[:, order] + bias),
        (f"the bias of {name} alone has", source @ kernel, lambda order: source @ kernel + bias[order]),
    ):
        order = _permutation(expected - apart, actual - apart) if expected.shape == actual.shape else None
        if order is not None and order != list(range(len(order))):
            yield Fault(
                "label-order", f"{subject} its classes in another order: {order}, counted from 0",
                _yields(lambda order=order, permuted=permuted: shaped(permuted(order))),  # type: ignore[misc]
            )  # fmt: skip
    yield Fault("bias-missing", f"the bias of {name} is missing", _yields(lambda: shaped(source @ kernel)))
    yield Fault(
        "softmax-inside", f"{name} yields probabilities where logits are expected",
        _yields(lambda: shaped(softmax(logits))),
    )  # fmt: skip


def _permutation(expected: np.ndarray, actual: np.ndarray) -> list[int] | None:
    """The order of columns that makes ``expected`` into ``actual``; None when there is none."""
    if expected.shape != actual.shape:
        return None
    apart = np.abs(expected[:, :, None] - actual[:, None, :]).max(axis=0)
    order = [int(index) for index in apart.argmin(axis=0)]
    scale = float(np.abs(expected).max()) or 1.0
    fits = all(apart[index, column] <= 1e-6 * scale for column, index in enumerate(order))
    return order if fits and sorted(order) == list(range(len(order))) else None


def _of_activation(case: Case) -> Iterator[Fault]:
    name, (source,) = case.layer.name, case.inputs
    yield Fault("activation-missing", f"{name} is left out", _yields(lambda: source))
    for word, function in (
        ("relu", lambda x: np.maximum(x, 0)),
        ("relu6", lambda x: np.clip(x, 0, 6)),
        *((f"leaky relu with slope {slope:g}", _leaky(slope)) for slope in SLOPES),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("hard sigmoid", lambda x: np.clip(x / 6 + 0.5, 0, 1)),
        ("hard sigmoid (Keras 2)", lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
        ("tanh", np.tanh),
    ):
        yield Fault("activation", f"{name} computes {word}", _yields(lambda function=function: function(source)))  # type: ignore[misc]


def _leaky(slope: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.where(x > 0, x, slope * x)


def _of_merge(case: Case) -> Iterator[Fault]:
    name, (first, second) = case.layer.name, case.inputs
    main, other = case.layer.inputs
    yield Fault("branch-missing", f"{name} takes {main} alone and ignores {other}", _yields(lambda: first))
    yield Fault("branch-missing", f"{name} takes {other} alone and ignores {main}",
                  _yields(lambda: second + 0 * first))  # fmt: skip
    yield Fault("merge-wrong", f"{name} adds where it should multiply", _yields(lambda: first + second))
    yield Fault("merge-wrong", f"{name} multiplies where it should add", _yields(lambda: first * second))
    verb, merged = ("adds", np.add) if isinstance(case.layer, arch.Add) else ("multiplies by", np.multiply)
    for source, output in case.earlier.items():
        for wrong, kept, lost in ((other, first, second), (main, second, first)):
            if source not in (main, other) and output.shape == lost.shape:
                yield Fault("wired-wrong", f"{name} {verb} {source} where {wrong} is right",
                            _yields(lambda kept=kept, output=output: merged(kept, output)))  # type: ignore[misc]  # fmt: skip
