"""Why two functions part: the known faults, tried one after the other on the first layer that departs.

At that layer both sides still had the same input. So each known fault can be acted out on the reference's side, with
the checkpoint's numbers and in float64; the fault whose output is the model's output is the cause, and there is
nothing left to guess. Where none fits, the report says how many were tried and what is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from convert.checkpoint import Arrays
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON, Architecture
from ferplus_keras.networks.emotions import softmax
from ferplus_keras.networks.preprocessing import PUBLISHED
from verify.acting_out import average_pool, conv2d, max_pool

#: A fault is the cause when it explains all but this share of the difference. The right one explains all but rounding:
#: that of float64, or of float32 where a file keeps the wrong number in it; a wrong one explains next to nothing.
UNEXPLAINED = 1e-5

#: Epsilons that libraries use: Keras 1e-3, keras_vggface 1e-4, TensorFlow Slim and old Caffe ports, Theano.
EPSILONS = (1e-3, 1e-4, 2e-5, 1e-6, 1e-7, 1e-8, 0.0)

#: ImageNet's means in RGB: Caffe's, which keras.applications' "caffe" mode subtracts, and torchvision's.
IMAGENET_MEAN = (123.68, 116.779, 103.939)


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong at ``layer``. ``confidence``: "certain" when the fault reproduces the model's numbers."""

    layer: str
    fault: str  #: a stable word for machines, such as "batchnorm-epsilon"
    cause: str  #: a sentence for people
    confidence: str  #: "certain", "likely" or "unknown"
    tried: int
    evidence: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Case:
    """The first layer that departs: what went in, what came out on each side, and the numbers of both files."""

    table: Architecture
    layer: arch.Layer
    inputs: tuple[np.ndarray, ...]  #: of the reference, images x height x width x channels, float64
    expected: np.ndarray
    actual: np.ndarray
    reference: Arrays
    ours: Arrays
    earlier: dict[str, np.ndarray]  #: the outputs of all layers before, on the reference's side

    @property
    def apart(self) -> float:
        """The largest difference that is to be explained: all of the output when not even the shape is right."""
        if self.expected.shape != self.actual.shape:
            return float(np.abs(self.actual).max()) or 1.0
        return float(np.abs(self.actual - self.expected).max()) or 1.0

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        return {role: np.asarray(array, np.float64) for role, array in self.reference.get(self.layer.name, {}).items()}


@dataclass(frozen=True)
class Suspect:
    """One fault, acted out: the layer's output if this is what went wrong."""

    fault: str
    cause: str
    output: Callable[[], np.ndarray | None]


def diagnose(case: Case) -> Diagnosis:
    """Try every known fault on ``case``."""
    if loaded := _half_loaded(case):
        return loaded
    if case.expected.shape == case.actual.shape and np.array_equal(case.expected, case.actual):
        said = "on the image that was looked at again the two agree"
        return Diagnosis(
            case.layer.name, "unknown", f"{case.layer.name} differs on some images only", "unknown", 0, said
        )
    tried = 0
    for suspect in _suspects(case):
        tried += 1
        output = suspect.output()
        if output is not None and output.shape == case.actual.shape:
            left = float(np.abs(output - case.actual).max()) / case.apart
            if left <= UNEXPLAINED:
                evidence = f"acted out in float64, this fault explains all but {left:.0e} of the difference"
                return Diagnosis(case.layer.name, suspect.fault, suspect.cause, "certain", tried, evidence)
    return _unknown(case, tried)


def _unknown(case: Case, tried: int) -> Diagnosis:
    name = case.layer.name
    if case.expected.shape != case.actual.shape:
        cause = f"{name} yields the shape {case.actual.shape[1:]} where {case.expected.shape[1:]} is right"
        return Diagnosis(name, "shape", cause, "likely", tried, "no known fault gives that shape with these numbers")
    different = [role for role, array in case.reference.get(name, {}).items() if not _same(case, name, role, array)]
    channels = np.abs(case.actual - case.expected).max(axis=(0, 1, 2)) > 0
    where = f"{int(channels.sum())} of {channels.size} channels are off"
    if different:
        cause = f"the {' and '.join(different)} of {name} in the model are not the checkpoint's"
        return Diagnosis(name, "other-numbers", cause, "likely", tried, f"no known fault explains them; {where}")
    cause = f"{name} has the checkpoint's numbers and computes something else"
    return Diagnosis(name, "unknown", cause, "unknown", tried, f"no known fault explains it; {where}")


def _same(case: Case, layer: str, role: str, array: np.ndarray) -> bool:
    other = case.ours.get(layer, {}).get(role)
    return other is not None and other.shape == array.shape and bool(np.array_equal(other, array))


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
        "weights were never loaded, or by-name loading matched nothing and said nothing"
    )
    return Diagnosis(case.layer.name, "half-loaded", cause, "certain", 0, f"the first of them is {fresh[0]}")


# --- faults of one layer --------------------------------------------------------------------------------------------


def _suspects(case: Case) -> Iterator[Suspect]:
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


def _of_conv(case: Case, layer: arch.Conv) -> Iterator[Suspect]:
    name, (source,) = layer.name, case.inputs
    kernel, bias = case.parameters["kernel"], case.parameters.get("bias")
    right = (layer.padding,) * 4

    def conv(data: np.ndarray, weights: np.ndarray, pad: tuple[int, ...] = right, stride: int = layer.stride) -> Any:
        return lambda: conv2d(data, weights, bias, stride, pad)

    if name == "conv1_7x7_s2":
        yield from _of_input(case, layer)
    if layer.kernel > 1:
        size = source.shape[1]
        total = max((-(-size // layer.stride) - 1) * layer.stride + layer.kernel - size, 0)
        same = (total // 2, total - total // 2) * 2
        yield Suspect(
            "same-padding",
            f"{name} is padded {same[:2]} like Keras's padding='same', not {right[:2]} like PyTorch and Caffe",
            conv(source, kernel, same),
        )
        yield Suspect("no-padding", f"{name} is not padded", conv(source, kernel, (0, 0, 0, 0)))
        yield Suspect(
            "kernel-transposed", f"the kernel of {name} has height and width exchanged",
            conv(source, kernel.transpose(1, 0, 2, 3)),
        )  # fmt: skip
        yield Suspect(
            "kernel-flipped", f"the kernel of {name} is turned by 180 degrees (convolution for correlation)",
            conv(source, kernel[::-1, ::-1]),
        )  # fmt: skip
        yield Suspect(
            "kernel-flipped", f"the kernel of {name} is upside down", conv(source, kernel[::-1]),
        )  # fmt: skip
        yield Suspect("kernel-flipped", f"the kernel of {name} is mirrored", conv(source, kernel[:, ::-1]))
    if layer.in_channels == layer.out_channels:
        yield Suspect(
            "channels-swapped", f"the kernel of {name} has input and output channels exchanged",
            conv(source, kernel.swapaxes(2, 3)),
        )  # fmt: skip
    yield from _of_stride(case, layer, conv)
    for other, roles in case.reference.items():
        if other != name and "kernel" in roles and roles["kernel"].shape == kernel.shape:
            yield Suspect(
                "layers-exchanged", f"{name} holds the kernel of {other}",
                conv(source, np.asarray(roles["kernel"], np.float64)),
            )  # fmt: skip
    if bias is not None:
        yield Suspect(
            "bias-missing", f"the bias of {name} is missing",
            lambda: conv2d(source, kernel, None, layer.stride, right),
        )  # fmt: skip
    yield Suspect("kernel-zero", f"the kernel of {name} is zero", conv(source, np.zeros_like(kernel)))


def _of_stride(case: Case, layer: arch.Conv, conv: Callable[..., Any]) -> Iterator[Suspect]:
    (source,) = case.inputs
    kernel = case.parameters["kernel"]
    if layer.name.endswith("_1x1_reduce"):
        yield Suspect(
            "stride-on-3x3",
            f"the stage's stride 2 is not on {layer.name} but, as in torchvision and keras.applications, on the 3x3",
            conv(source, kernel, stride=1),
        )
    elif layer.stride == 2:
        yield Suspect("stride", f"{layer.name} has stride 1 where 2 is right", conv(source, kernel, stride=1))
    else:
        yield Suspect("stride", f"{layer.name} has stride 2 where 1 is right", conv(source, kernel, stride=2))


def _of_input(case: Case, layer: arch.Conv) -> Iterator[Suspect]:
    """What is done to the picture shows at the first convolution."""
    (source,) = case.inputs
    kernel = case.parameters["kernel"]
    pixels = source + np.asarray(PUBLISHED.mean)
    pad = (layer.padding,) * 4

    def conv(data: np.ndarray) -> Callable[[], np.ndarray]:
        return lambda: conv2d(data, kernel, None, layer.stride, pad)

    yield Suspect("bgr", "the channels are taken in the order BGR, not RGB", conv(source[..., ::-1]))
    yield Suspect(
        "bgr", "pixels are taken as BGR, and then the RGB mean is subtracted",
        conv(pixels[..., ::-1] - np.asarray(PUBLISHED.mean)),
    )  # fmt: skip
    yield Suspect("scale-0-1", "the input is divided by 255: 0..1 where 0..255 is right", conv(source / 255))
    yield Suspect(
        "scale-0-1", "pixels are taken as 0..1, and then the mean of 0..255 is subtracted",
        conv(pixels / 255 - np.asarray(PUBLISHED.mean)),
    )  # fmt: skip
    yield Suspect("scale-minus-1-1", "pixels are scaled to -1..1", conv(pixels / 127.5 - 1))
    yield Suspect(
        "imagenet-mean", f"ImageNet's mean {IMAGENET_MEAN} is subtracted, not {PUBLISHED.mean}",
        conv(pixels - np.asarray(IMAGENET_MEAN)),
    )  # fmt: skip
    yield Suspect("no-mean", "no mean is subtracted", conv(pixels))
    yield Suspect("mean-twice", "the mean is subtracted twice", conv(source - np.asarray(PUBLISHED.mean)))


def _of_batchnorm(case: Case) -> Iterator[Suspect]:
    name, (source,), p = case.layer.name, case.inputs, case.parameters
    gamma, beta, mean, variance = (p[role] for role in ("gamma", "beta", "moving_mean", "moving_variance"))

    def norm(g: Any = gamma, b: Any = beta, m: Any = mean, v: Any = variance, e: Any = BATCHNORM_EPSILON) -> Any:
        def output() -> np.ndarray | None:
            if np.any(v + e <= 0):
                return None
            return np.asarray((source - m) / np.sqrt(v + e) * g + b)

        return output

    ours = {role: np.asarray(array, np.float64) for role, array in case.ours.get(name, {}).items()}
    if all(_same(case, name, role, array) for role, array in case.reference[name].items()):
        for epsilon in (*EPSILONS, _solved_epsilon(case, norm)):
            yield Suspect(
                "batchnorm-epsilon", f"{name} has epsilon {epsilon:.4g}, not {BATCHNORM_EPSILON:g}", norm(e=epsilon)
            )
    yield Suspect(
        "mean-variance-swapped", f"{name} has mean and variance exchanged", norm(m=variance, v=mean)
    )  # fmt: skip
    swapped = {"m": ours.get("moving_mean", mean), "v": ours.get("moving_variance", variance)}
    if set(np.unique([swapped["m"], swapped["v"]])) == set(np.unique([mean, variance])):
        yield Suspect("mean-variance-swapped", f"{name} has mean and variance partly exchanged", norm(**swapped))
    yield Suspect("gamma-beta-swapped", f"{name} has gamma and beta exchanged", norm(g=beta, b=gamma))
    yield Suspect("sigma-as-variance", f"{name} has the standard deviation where the variance belongs",
                  norm(v=np.sqrt(np.abs(variance + BATCHNORM_EPSILON))))  # fmt: skip
    yield Suspect("variance-squared", f"{name} has the square of the variance", norm(v=variance**2))
    yield Suspect("gamma-missing", f"the gamma of {name} is missing (1 throughout)", norm(g=1.0))
    yield Suspect("beta-missing", f"the beta of {name} is missing (0 throughout)", norm(b=0.0))
    yield Suspect(
        "batchnorm-training", f"{name} normalises with the batch's own statistics, as in training",
        lambda: (source - source.mean((0, 1, 2))) / np.sqrt(source.var((0, 1, 2)) + BATCHNORM_EPSILON) * gamma + beta,
    )  # fmt: skip
    for other, roles in case.reference.items():
        if other != name and "gamma" in roles and roles["gamma"].shape == gamma.shape:
            q = [np.asarray(roles[r], np.float64) for r in ("gamma", "beta", "moving_mean", "moving_variance")]
            yield Suspect("layers-exchanged", f"{name} holds the numbers of {other}", norm(*q))


def _solved_epsilon(case: Case, norm: Callable[..., Any]) -> float:
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


def _of_pool(case: Case, layer: arch.MaxPool) -> Iterator[Suspect]:
    (source,) = case.inputs

    def pool(pad: tuple[int, int, int, int], value: float = -np.inf) -> Callable[[], np.ndarray]:
        return lambda: max_pool(source, layer.kernel, layer.stride, pad, value)

    name = layer.name
    yield Suspect("pool-padding-symmetric", f"{name} is padded by 1 at the top and left, or on all four sides (which "
                  "is the same here), not at the bottom and right", pool((1, 1, 1, 1)))  # fmt: skip
    yield Suspect("pool-padding-missing", f"{name} is not padded, and its last row and column are lost",
                  pool((0, 0, 0, 0)))  # fmt: skip
    yield Suspect("pool-average", f"{name} averages where it should take the maximum",
                  lambda: average_pool(source, layer.kernel, layer.stride))  # fmt: skip


def _of_head(case: Case) -> Iterator[Suspect]:
    name, source = case.layer.name, case.inputs[0].reshape(len(case.inputs[0]), -1)
    kernel = case.parameters["kernel"]
    bias = case.parameters.get("bias", np.zeros(kernel.shape[1]))
    logits = source @ kernel + bias

    def shaped(values: np.ndarray) -> np.ndarray:
        return values[:, None, None, :]

    order = _permutation(case.expected.reshape(len(source), -1), case.actual.reshape(len(source), -1))
    if order is not None and order != list(range(len(order))):
        yield Suspect(
            "label-order", f"{name} has its classes in another order: {order}, counted from 0",
            lambda: shaped(logits[:, order]),
        )  # fmt: skip
        yield Suspect(
            "label-order", f"the kernel of {name} has its classes in another order, and the bias has not",
            lambda: shaped(source @ kernel[:, order] + bias),
        )  # fmt: skip
    yield Suspect("bias-missing", f"the bias of {name} is missing", lambda: shaped(source @ kernel))
    yield Suspect(
        "softmax-inside", f"{name} yields probabilities where logits are expected",
        lambda: shaped(softmax(logits)),
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


def _of_activation(case: Case) -> Iterator[Suspect]:
    name, (source,) = case.layer.name, case.inputs
    yield Suspect("activation-missing", f"{name} is left out", lambda: source)
    for word, function in (
        ("relu", lambda x: np.maximum(x, 0)),
        ("relu6", lambda x: np.clip(x, 0, 6)),
        ("leaky relu", lambda x: np.where(x > 0, x, 0.2 * x)),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("hard sigmoid", lambda x: np.clip(x / 6 + 0.5, 0, 1)),
        ("hard sigmoid (Keras 2)", lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
        ("tanh", np.tanh),
    ):
        yield Suspect("activation", f"{name} computes {word}", lambda function=function: function(source))  # type: ignore[misc]


def _of_merge(case: Case) -> Iterator[Suspect]:
    name, (first, second) = case.layer.name, case.inputs
    main, other = case.layer.inputs
    yield Suspect("branch-missing", f"{name} takes {main} alone and leaves {other} out", lambda: first)
    yield Suspect("branch-missing", f"{name} takes {other} alone and leaves {main} out",
                  lambda: second + 0 * first)  # fmt: skip
    yield Suspect("merge-wrong", f"{name} adds where it should multiply", lambda: first + second)
    yield Suspect("merge-wrong", f"{name} multiplies where it should add", lambda: first * second)
    for source, output in case.earlier.items():
        if isinstance(case.layer, arch.Add) and source not in (main, other) and output.shape == first.shape:
            yield Suspect("wired-wrong", f"{name} adds {source} where {other} is right",
                          lambda output=output: first + output)  # type: ignore[misc]  # fmt: skip
            yield Suspect("wired-wrong", f"{name} adds {source} where {main} is right",
                          lambda output=output: second + output)  # type: ignore[misc]  # fmt: skip


__all__ = ["Case", "Diagnosis", "diagnose"]
