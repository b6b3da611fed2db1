"""The networks as data: every layer of every variant, once, in order.

Everything else is derived from the table that :func:`architecture` returns: the Keras graph
(:mod:`ferplus_keras.networks.keras_plan`), the PyTorch reference (``ferplus_keras.networks.torch_module``), the set of
tensors a checkpoint must hold and their names in every file format (``convert.matching``), and the points
where two runs are compared (``verify.parity``).

The geometry and the layer names are those of Samuel Albanie's ``resnet50_ferplus_dag`` and
``senet50_ferplus_dag``: Caffe-style bottlenecks, a stage's stride on the *first* 1x1 convolution, and a first
max pooling that rounds its output size up. This module imports the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

NETWORKS = ("resnet50", "senet50")

#: A network of our own, a fifteenth of their size, for 48 x 48 images: what predicts where no network is named, and
#: the teacher of a training run (``finetune --teacher``). No checkpoint of anybody else's has its layers.
COMPACT = "compact"

#: Every network that is read and written.
KNOWN = (*NETWORKS, COMPACT)

#: Side of the square input image, in pixels. The published networks take no other size.
INPUT_SIZE = 224

#: Epsilon inside the square root of every batch normalisation (PyTorch's and MatConvNet's default; Keras's is 1e-3).
BATCHNORM_EPSILON = 1e-5

#: Keras's share of the old running statistics; PyTorch calls ``1 - 0.9 = 0.1`` the momentum.
BATCHNORM_MOMENTUM = 0.9

Shape = tuple[int, ...]


# --- the operations -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """One operation. ``inputs`` are names of earlier layers; the layer's output goes by its own name."""

    name: str
    inputs: tuple[str, ...]

    @property
    def parameters(self) -> dict[str, Shape]:
        """Role -> shape of each array the layer owns. Kernels are height x width x in x out, as Keras has them."""
        return {}


class Input(Layer):
    """The image: RGB, 0..255 less the mean (see :mod:`ferplus_keras.networks.preprocessing`), height x width x 3."""


@dataclass(frozen=True)
class Conv(Layer):
    """Convolution with a square kernel and ``padding`` zeros on each of the four sides."""

    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    bias: bool = False

    @property
    def parameters(self) -> dict[str, Shape]:
        kernel = (self.kernel, self.kernel, self.in_channels, self.out_channels)
        return {"kernel": kernel} | ({"bias": (self.out_channels,)} if self.bias else {})


@dataclass(frozen=True)
class BatchNorm(Layer):
    channels: int

    @property
    def parameters(self) -> dict[str, Shape]:
        # The order is Keras's own (gamma, beta, mean, variance), in which its files store them.
        return dict.fromkeys(("gamma", "beta", "moving_mean", "moving_variance"), (self.channels,))


class ReLU(Layer):
    pass


class Sigmoid(Layer):
    pass


@dataclass(frozen=True)
class MaxPool(Layer):
    """Max pooling without padding whose output size is rounded *up* (Caffe's rule, PyTorch's ``ceil_mode``)."""

    kernel: int = 3
    stride: int = 2


@dataclass(frozen=True)
class AveragePool(Layer):
    """Average over a ``kernel`` x ``kernel`` window, stride 1; at 224 x 224 the window is the whole map."""

    kernel: int = 7


@dataclass(frozen=True)
class GlobalPool(Layer):
    """Average over the whole map, which stays 1 x 1 x channels: the squeeze of squeeze-and-excitation."""

    channels: int


class Scale(Layer):
    """The first input (a map) times the second (1 x 1 x channels): the excitation."""


class Add(Layer):
    """Sum of the two inputs: the residual."""


@dataclass(frozen=True)
class Dropout(Layer):
    rate: float


@dataclass(frozen=True)
class Linear(Layer):
    """The head: a 1 x 1 convolution over the 1 x 1 x 2048 features, in other words a dense layer.

    The kernel is kept as features x units; a checkpoint may hold it as a 1 x 1 convolution or as a matrix.
    """

    in_channels: int
    units: int
    bias: bool = True

    @property
    def parameters(self) -> dict[str, Shape]:
        return {"kernel": (self.in_channels, self.units)} | ({"bias": (self.units,)} if self.bias else {})


# --- heads and whole networks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """What stands on the 2048 features: a classifier, an embedding, or nothing.

    ``classifier`` (with bias) is the name in the FERPlus and the VGGFace2 networks; ``feat_extract`` (without
    bias) is the one in VGGFace2's 128-D and 256-D embedding networks.
    """

    kind: str  # "classifier", "embedding" or "none"
    units: int = 0

    @property
    def layer_name(self) -> str | None:
        return {"classifier": "classifier", "embedding": "feat_extract", "none": None}[self.kind]

    def __str__(self) -> str:
        return {
            "classifier": f"{self.units} classes",
            "embedding": f"{self.units}-D embedding",
            "none": "no head",
        }[self.kind]


NO_HEAD = Head("none")


def classifier(units: int) -> Head:
    """A classifier over ``units`` classes: 8 emotions, VGGFace2's 8631 identities, or your own."""
    if units < 1:
        raise ValueError(f"a classifier needs at least one class, not {units}")
    return Head("classifier", units)


def embedding(units: int) -> Head:
    """A bias-free projection to ``units`` dimensions; VGGFace2 publishes 128 and 256."""
    if units < 1:
        raise ValueError(f"an embedding needs at least one dimension, not {units}")
    return Head("embedding", units)


#: The eight emotions.
FERPLUS_HEAD = classifier(8)


@dataclass(frozen=True)
class Stage:
    """A row of bottleneck blocks that share their width. The first block carries stride and projection."""

    number: int
    blocks: int
    mid: int
    out: int
    stride: int


#: What the published networks have.
STAGES = (
    Stage(2, blocks=3, mid=64, out=256, stride=1),
    Stage(3, blocks=4, mid=128, out=512, stride=2),
    Stage(4, blocks=6, mid=256, out=1024, stride=2),
    Stage(5, blocks=3, mid=512, out=2048, stride=2),
)


@dataclass(frozen=True)
class Body:
    """What is below the head: the stages, the first convolution's channels, and whether there are gates (SE)."""

    gated: bool
    stem: int = 64
    stages: tuple[Stage, ...] = STAGES


#: Every network of bottlenecks that is known, by name. Whatever is made or read goes by what stands here.
BODIES = {"resnet50": Body(gated=False), "senet50": Body(gated=True)}


@dataclass(frozen=True)
class PlainBlock:
    """Two 3x3 convolutions and a shortcut, which is projected where the width or the size changes."""

    name: str
    out: int
    stride: int


#: The compact network: a stem of 32 channels at full size, then these.
COMPACT_STEM = 32
COMPACT_BLOCKS = (
    PlainBlock("conv2_1", 32, 2), PlainBlock("conv3_1", 64, 2), PlainBlock("conv3_2", 64, 1),
    PlainBlock("conv4_1", 128, 2), PlainBlock("conv4_2", 128, 1), PlainBlock("conv5_1", 256, 2),
)  # fmt: skip

#: Squeeze-and-excitation narrows the channels by this factor.
SE_REDUCTION = 16

#: Where the published FERPlus networks had dropout while they were fine-tuned (after these layers).
DROPOUT_AFTER = {
    "resnet50": ("conv5_3_3x3", "conv5_3_1x1_increase"),
    "senet50": ("conv5_3_1x1_down", "conv5_3_1x1_up"),
}


@dataclass(frozen=True)
class Architecture:
    """A network and its head: the ordered layers, from ``data`` to the last."""

    network: str
    head: Head
    layers: tuple[Layer, ...]

    @cached_property
    def by_name(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    @property
    def output(self) -> str:
        """Name of the layer whose output is the network's: ``classifier``, ``feat_extract`` or the last ReLU."""
        return self.layers[-1].name

    @property
    def features(self) -> int:
        """Width of what enters the head: 2048 in the published networks."""
        return next(layer.out_channels for layer in reversed(self.layers) if isinstance(layer, Conv))

    @cached_property
    def parameters(self) -> dict[str, dict[str, Shape]]:
        """Layer -> role -> shape, of every layer that owns arrays, in order."""
        return {layer.name: layer.parameters for layer in self.layers if layer.parameters}

    @property
    def parameter_count(self) -> int:
        """Trainable numbers: everything but the moving statistics (ResNet-50: 23,524,424; SENet-50: 26,055,416)."""
        trained = (shape for roles in self.parameters.values() for role, shape in roles.items() if role[:6] != "moving")
        return sum(map(math.prod, trained))

    @cached_property
    def folded(self) -> bool:
        """Whether the batch normalisations stand in the convolutions: for inference only."""
        return not any(isinstance(layer, BatchNorm) for layer in self.layers)

    def __str__(self) -> str:
        return f"{self.network}, {self.head}{', batch normalisation folded' if self.folded else ''}"


def architecture(
    network: str, head: Head = FERPLUS_HEAD, dropout: float = 0.0, *, folded: bool = False
) -> Architecture:
    """The table of ``network`` (one of :data:`KNOWN`) with ``head``.

    ``dropout`` > 0 puts dropout layers of that rate where the published FERPlus networks had them
    (:data:`DROPOUT_AFTER`; theirs was 0.5). Dropout owns no arrays and does nothing at inference.

    ``folded`` leaves the batch normalisations out and gives the convolutions before them a bias, with which they do
    the same (``convert.folding`` has the numbers). Such a network is not for training, and so has no dropout either.
    """
    if network not in KNOWN:
        raise ValueError(f"unknown network {network!r}: choose from {', '.join(KNOWN)}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout is a rate of at least 0 and below 1, not {dropout}")
    if folded and dropout:
        raise ValueError("a folded network is for inference, where dropout does nothing: leave one of them out")
    if dropout and network == COMPACT:
        raise ValueError("the compact network was not published, so it has no published dropout")
    return _table(network, BODIES.get(network), head, dropout, folded)


@lru_cache(maxsize=64)
def _table(network: str, body: Body | None, head: Head, dropout: float, folded: bool) -> Architecture:
    layers = list(_bottlenecks(body) if body else _compact_body())
    if head.kind != "none":
        assert head.layer_name is not None
        features = Architecture(network, NO_HEAD, tuple(layers)).features
        layers.append(AveragePool("pool5_7x7_s1", (layers[-1].name,)))
        layers.append(Linear(head.layer_name, ("pool5_7x7_s1",), features, head.units, bias=head.kind == "classifier"))
    table = Architecture(network, head, tuple(layers))
    if dropout:
        table = with_dropout(table, DROPOUT_AFTER[network], dropout)
    return replace(table, layers=tuple(_without_batchnorm(table.layers))) if folded else table


def with_dropout(table: Architecture, after: tuple[str, ...], rate: float) -> Architecture:
    """``table`` with a dropout behind each of the layers ``after``."""
    return replace(table, layers=tuple(_with_dropout(table.layers, after, rate)))


def _bottlenecks(body: Body) -> Iterator[Layer]:
    yield Input("data", ())
    yield Conv("conv1_7x7_s2", ("data",), 3, body.stem, kernel=7, stride=2, padding=3)
    yield BatchNorm("conv1_7x7_s2_bn", ("conv1_7x7_s2",), body.stem)
    yield ReLU("conv1_relu_7x7_s2", ("conv1_7x7_s2_bn",))
    yield MaxPool("pool1_3x3_s2", ("conv1_relu_7x7_s2",))
    source, channels = "pool1_3x3_s2", body.stem
    for stage in body.stages:
        for block in range(1, stage.blocks + 1):
            name = f"conv{stage.number}_{block}"
            stride = stage.stride if block == 1 else 1
            yield from _bottleneck(name, source, channels, stage, stride, first=block == 1, gated=body.gated)
            source, channels = f"{name}_relu", stage.out


def _compact_body() -> Iterator[Layer]:
    yield Input("data", ())
    yield from _conv_bn("conv1_3x3", "data", 3, COMPACT_STEM, kernel=3, padding=1)
    yield ReLU("conv1_relu", ("conv1_3x3_bn",))
    source, channels = "conv1_relu", COMPACT_STEM
    for block in COMPACT_BLOCKS:
        name = block.name
        yield from _conv_bn(f"{name}_3x3", source, channels, block.out, kernel=3, stride=block.stride, padding=1)
        yield ReLU(f"{name}_3x3_relu", (f"{name}_3x3_bn",))
        yield from _conv_bn(f"{name}_3x3_increase", f"{name}_3x3_relu", block.out, block.out, kernel=3, padding=1)
        shortcut = source
        if block.stride > 1 or channels != block.out:
            yield from _conv_bn(f"{name}_1x1_proj", source, channels, block.out, stride=block.stride)
            shortcut = f"{name}_1x1_proj_bn"
        yield Add(name, (f"{name}_3x3_increase_bn", shortcut))
        yield ReLU(f"{name}_relu", (name,))
        source, channels = f"{name}_relu", block.out


def _bottleneck(
    name: str, source: str, channels: int, stage: Stage, stride: int, *, first: bool, gated: bool
) -> Iterator[Layer]:
    # The stride sits on the first 1x1 convolution, as in Caffe's ResNet; torchvision and keras.applications v1.5
    # have it on the 3x3, and a port that mixes the two has the right shapes and the wrong values.
    yield from _conv_bn(f"{name}_1x1_reduce", source, channels, stage.mid, stride=stride)
    yield ReLU(f"{name}_1x1_reduce_relu", (f"{name}_1x1_reduce_bn",))
    yield from _conv_bn(f"{name}_3x3", f"{name}_1x1_reduce_relu", stage.mid, stage.mid, kernel=3, padding=1)
    yield ReLU(f"{name}_3x3_relu", (f"{name}_3x3_bn",))
    yield from _conv_bn(f"{name}_1x1_increase", f"{name}_3x3_relu", stage.mid, stage.out)
    main = f"{name}_1x1_increase_bn"
    if gated:
        squeezed = stage.out // SE_REDUCTION
        yield GlobalPool(f"{name}_global_pool", (main,), stage.out)
        yield Conv(f"{name}_1x1_down", (f"{name}_global_pool",), stage.out, squeezed, bias=True)
        yield ReLU(f"{name}_1x1_down_relu", (f"{name}_1x1_down",))
        yield Conv(f"{name}_1x1_up", (f"{name}_1x1_down_relu",), squeezed, stage.out, bias=True)
        yield Sigmoid(f"{name}_prob", (f"{name}_1x1_up",))
        yield Scale(f"{name}_scale", (main, f"{name}_prob"))
        main = f"{name}_scale"
    shortcut = source
    if first:
        yield from _conv_bn(f"{name}_1x1_proj", source, channels, stage.out, stride=stride)
        shortcut = f"{name}_1x1_proj_bn"
    yield Add(name, (main, shortcut))
    yield ReLU(f"{name}_relu", (name,))


def _conv_bn(
    name: str, source: str, in_channels: int, out_channels: int, *, kernel: int = 1, stride: int = 1, padding: int = 0
) -> Iterator[Layer]:
    yield Conv(name, (source,), in_channels, out_channels, kernel, stride, padding)
    yield BatchNorm(f"{name}_bn", (name,), out_channels)


def _with_dropout(layers: Iterable[Layer], after: tuple[str, ...], rate: float) -> Iterator[Layer]:
    """The same layers with a dropout behind each of ``after``, the consumers rewired to it."""
    renamed: dict[str, str] = {}
    for layer in layers:
        inputs = tuple(renamed.get(name, name) for name in layer.inputs)
        yield replace(layer, inputs=inputs)
        if layer.name in after:
            renamed[layer.name] = f"{layer.name}_drop"
            yield Dropout(f"{layer.name}_drop", (layer.name,), rate)


def _without_batchnorm(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    """The same layers without the batch normalisations: each one's convolution has a bias, and takes its place."""
    renamed = {layer.name: layer.inputs[0] for layer in layers if isinstance(layer, BatchNorm)}
    normalised = set(renamed.values())
    for layer in layers:
        if layer.name in renamed:
            continue
        if isinstance(layer, Conv) and layer.name in normalised:
            layer = replace(layer, bias=True)
        yield replace(layer, inputs=tuple(renamed.get(name, name) for name in layer.inputs))


def sides(table: Architecture, size: int = INPUT_SIZE) -> dict[str, int]:
    """Height (and width) of each layer's output for an image of ``size`` x ``size`` pixels."""
    side: dict[str, int] = {}
    for layer in table.layers:
        before = side[layer.inputs[0]] if layer.inputs else size
        if isinstance(layer, Conv):
            side[layer.name] = (before + 2 * layer.padding - layer.kernel) // layer.stride + 1
        elif isinstance(layer, MaxPool):
            side[layer.name] = -((layer.kernel - before) // layer.stride) + 1
        elif isinstance(layer, (AveragePool, GlobalPool, Linear)):
            side[layer.name] = 1
        else:
            side[layer.name] = before
    return side


# --- names in PyTorch files -------------------------------------------------------------------------------------

#: Role -> suffix in a PyTorch state dict. Source: torch.nn.Conv2d, Linear and BatchNorm2d.
TORCH_SUFFIX = {
    "kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_variance": "running_var",
}  # fmt: skip


def torch_name(layer: str, role: str) -> str:
    """The state-dict name of an array, for example ``conv1_7x7_s2_bn.running_var``."""
    return f"{layer}.{TORCH_SUFFIX[role]}"
