"""Match a file's arrays with an architecture, both ways: every array consumed, every slot filled, values checked."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.checkpoint import Arrays
from convert.layouts import LAYOUTS, STEP_COUNTER, Slot, array_name, head_units, layer_of
from convert.match_report import INSPECT, Mismatch
from convert.torchvision_names import MARKER
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.provenance_fields import MAX_COUNT
from ferplus_keras.networks.architecture import (
    BATCHNORM_EPSILON,
    COMPACT,
    KNOWN,
    NO_HEAD,
    Architecture,
    BatchNorm,
    Head,
    Shape,
    architecture,
    classifier,
    embedding,
)
from ferplus_keras.wording import counted, printable

if TYPE_CHECKING:
    from ferplus_keras.graph.form import Graph

#: Values of missing arrays that were allowed by name, as in a new layer. Kernels have none.
NEUTRAL_VALUES = {"gamma": 1.0, "beta": 0.0, "moving_mean": 0.0, "moving_variance": 1.0, "bias": 0.0}

#: What torch.optim.swa_utils.AveragedModel keeps beside the network.
AVERAGED = "n_averaged"

#: The first layer of each network. Its kernel's name shows the prefix of all names: "module." of DataParallel,
#: "_orig_mod." of torch.compile.
FIRST_LAYER = {network: architecture(network).layers[1].name for network in KNOWN}


@dataclass
class NamedArrays:
    """What a reader found: arrays under the file's own names, not yet matched.

    ``layout`` is a key of :data:`convert.layouts.LAYOUTS`. Where ``dtypes`` has "bfloat16", the array holds raw 16-bit
    patterns, or the float32 numbers that they stand for.
    """

    format: str
    layout: str
    arrays: dict[str, np.ndarray]
    dtypes: dict[str, str]
    notes: list[str] = field(default_factory=list)
    provenance: dict[str, Any] | None = None
    output: str | None = None  # "logits" or "probabilities" if the file says so
    dropout: float = 0.0
    standin: bool = False  # the file itself says that its weights are made up
    graph: Graph | None = None  # of a Keras file that has one
    akin: bool = True  # whether that graph has many of these networks' layers
    departure: str = ""  # where that graph differs from the most similar network
    preprocessed: bool = False  # whether that graph subtracts the published mean
    listed: tuple[str, ...] = ()  # all layers that a Keras file names, including those without arrays
    adopted: str | None = None  # the layer of another name that was taken as the classifier
    labels: tuple[str, ...] | None = None  # the classes in order, if the format has a place for them
    size: tuple[int, int] | None = None  # height and width of the images, where the file's graph fixes them

    def renamed(self, name: Callable[[str], str], note: str) -> NamedArrays:
        """The same arrays with names mapped by ``name``, and a ``note`` that says so.

        Raises :class:`BadInputError` when two of them would have one name.
        """
        arrays: dict[str, np.ndarray] = {}
        for old, array in self.arrays.items():
            if (new := name(old)) in arrays:
                former = next(each for each in self.arrays if name(each) == new)
                raise BadInputError(
                    f"Two of the tensors, {printable(former)} and {printable(old)}, are what the network calls "
                    f"{printable(new)}: save the network with one of them only."
                )
            arrays[new] = array
        dtypes = {name(old): dtype for old, dtype in self.dtypes.items()}
        return replace(self, arrays=arrays, dtypes=dtypes, notes=[*self.notes, note])


@dataclass
class Match:
    """The result: arrays in the neutral form, and notes."""

    architecture: Architecture
    arrays: Arrays
    num_batches_tracked: int | dict[str, int] | None
    torch_head: str
    notes: list[str]


def match(
    found: NamedArrays,
    where: str,
    *,
    network: str = "auto",
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
) -> Match:
    """``found`` as the arrays of a network, or a :class:`BadInputError` with a table of everything that is wrong.

    Args:
        found: a reader's arrays.
        where: the file's name for messages.
        network: "resnet50", "senet50", "compact", or "auto" to recognise it.
        allow_missing, allow_unexpected: names or shell patterns of arrays whose absence or presence is intended.
            A missing array gets a new layer's value; a kernel can never be missing.
    """
    found = without_prefix(found)
    arrays, notes = dict(found.arrays), list(found.notes)
    shapes = {name: array.shape for name, array in arrays.items()}
    expected_architecture = recognise(shapes, found.layout, where, network=network, dropout=found.dropout)
    slots = LAYOUTS[found.layout](expected_architecture)
    for pattern in (allow_missing := tuple(allow_missing)):
        if not any(_named(name, [pattern]) for name in slots):
            raise BadInputError(
                f'No tensor of {expected_architecture.network} is called "{pattern}", so none of that name can be '
                f"allowed to be missing. The names are like {next(iter(slots))}; check it."
            )
    mismatch = Mismatch()
    neutral: Arrays = {layer: {} for layer in expected_architecture.parameters}
    counters: dict[str, int] = {}
    floating = 0
    torch_head = "conv"
    for name, slot in slots.items():
        array = arrays.pop(name, None)
        if array is None:
            if slot.role in NEUTRAL_VALUES and _named(name, allow_missing):
                neutral[slot.layer][slot.role] = np.full(slot.neutral, NEUTRAL_VALUES[slot.role], np.float32)
                notes.append(f"{name} is missing and was set to {NEUTRAL_VALUES[slot.role]:g}, as requested")
            else:
                mismatch.missing.append(name)
        elif not slot.accepts(array.shape):
            mismatch.wrong_shape.append((name, array.shape, slot.shape))
        else:
            if found.layout == "torch" and slot.role == "kernel" and array.ndim == 2:
                torch_head = "linear"
            values, problem = _values(array, found.dtypes.get(name, str(array.dtype)), slot)
            if problem:
                mismatch.bad_values.append((name, problem))
            neutral[slot.layer][slot.role] = slot.to_neutral(values)
    for name in list(arrays):
        layer, _, last = name.rpartition(".")
        if found.layout == "torch" and last == STEP_COUNTER and "gamma" in neutral.get(layer, {}):
            counter = _widened(arrays.pop(name), found.dtypes.get(name, ""))
            if counter.size != 1:
                mismatch.wrong_shape.append((name, counter.shape, ()))
            else:
                values = counter.reshape(-1)
                floating += counter.dtype.kind == "f"
                if np.isfinite(values[0]) and 0 <= values[0] <= MAX_COUNT:
                    counters[layer] = round(values.item())
        elif name.rpartition(".")[2] == AVERAGED and arrays[name].size == 1:
            arrays.pop(name)
            notes.append(f"{name}, the number of averaged models, was ignored")
        elif _named(name, allow_unexpected):
            arrays.pop(name)
            notes.append(f"{name} was left out, as requested")
        else:
            mismatch.unexpected.append((name, arrays[name].shape))
    if floating:
        notes.append(
            f"floating-point BatchNorm step counters ({floating}), as left by averaging checkpoints, were rounded; "
            "they do not affect the network's output"
        )
    if mismatch:
        raise BadInputError(
            f"{where} is not a complete {expected_architecture.network} checkpoint: {mismatch.summary()}. "
            f"{mismatch.advice}",
            details=f"{printable(where)} against {expected_architecture}:\n{mismatch.table()}",
        )
    notes += _dtype_notes(found, slots)
    return Match(expected_architecture, neutral, _folded(counters, expected_architecture), torch_head, notes)


def recognise(
    shapes: Mapping[str, Shape], layout: str, where: str, *, network: str = "auto", dropout: float = 0.0
) -> Architecture:
    """The architecture of arrays with these names and ``shapes``, known by the names and the head's shape.

    Raises :class:`BadInputError` if there is no tensor of these networks, describing the names.
    """
    layers = {layer_of(name, layout) for name in shapes}
    ours = any(layer in FIRST_LAYER.values() or layer.startswith("conv2_1_1x1_") for layer in layers)
    if not ours or "conv1/7x7_s2" in layers:  # keras_vggface shares some names
        raise BadInputError(f"{where} is not one of Albanie's networks: {_looks_like(list(shapes))}")
    if network == "auto":
        network = network_of(layers)
    elif network not in KNOWN:
        raise BadInputError(f"There is no network called {network}: choose auto, {' or '.join(KNOWN)}.")
    # A bias in the first convolution and no batch normalisation: they were folded (convert.folding).
    folded = array_name(FIRST_LAYER[network], "bias", layout) in shapes and not any(
        layer.endswith("_bn") for layer in layers
    )
    return architecture(network, _head(shapes, layout), 0.0 if folded else dropout, folded=folded)


def network_of(layers: Iterable[str]) -> str:
    """The network that has layers of these names: only SE-ResNet50 has gates, only the compact one begins with 3x3."""
    layers = set(layers)
    if FIRST_LAYER[COMPACT] in layers:
        return COMPACT
    return "senet50" if any(layer.endswith("_1x1_down") for layer in layers) else "resnet50"


def _head(shapes: Mapping[str, Shape], layout: str) -> Head:
    for head in (classifier, embedding):
        name = head(1).layer_name
        assert name is not None
        kernel = shapes.get(array_name(name, "kernel", layout), ())
        if len(kernel) in (2, 4) and head_units(kernel, layout) > 0:
            return head(head_units(kernel, layout))
    return NO_HEAD


def _looks_like(names: list[str]) -> str:
    if not names:
        return "it holds no tensors."
    shown = ", ".join(names[:3])
    if any(name.endswith(MARKER) for name in names):
        return (
            f"its names ({shown}, ...) are those of torchvision's ResNet, which do not determine the geometry: "
            "torchvision's own network strides on the 3x3 and pads its pooling, ports of Albanie's do not. If this one "
            "has Albanie's geometry, confirm it with --geometry published, and test it with the network's own code: "
            "ferplus verify parity CONVERTED --against THIS --reference-code CODE.py"
        )
    if any(name.startswith(("conv1/7x7_s2", "conv2_1_1x1_reduce/")) or "/7x7_s2" in name for name in names):
        return f"its names ({shown}, ...) are keras_vggface's, but it is incomplete."
    return (
        f"it holds {counted(len(names), 'tensor')} ({shown}{', ...' if len(names) > 3 else ''}), but no conv1_7x7_s2."
        f"{INSPECT}"
    )


def first_kernels(layout: str) -> tuple[str, ...]:
    """The tensors that identify one of these networks: under its own names and, in PyTorch's, under torchvision's."""
    ours = dict.fromkeys(array_name(first, "kernel", layout) for first in FIRST_LAYER.values())
    return (*ours, MARKER) if layout == "torch" else (*ours,)


def without_prefix(found: NamedArrays) -> NamedArrays:
    """``found`` without the prefix of all names (``module.``, ``model.backbone.``), with a note about it."""
    markers = first_kernels(found.layout)
    prefixes = [name.removesuffix(marker) for marker in markers for name in found.arrays if name.endswith(marker)]
    prefix = min(prefixes, key=len, default="")
    if not prefix or not prefix.endswith((".", "/")):
        return found
    return found.renamed(lambda name: name.removeprefix(prefix), f"the prefix {prefix} was removed from the names")


def _widened(array: np.ndarray, dtype: str) -> np.ndarray:
    """``array`` as numbers: bfloat16's sixteen bits are the upper half of a float32."""
    if dtype != "bfloat16" or array.dtype.kind == "f":
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def _values(array: np.ndarray, dtype: str, slot: Slot) -> tuple[np.ndarray, str]:
    """``array`` as float32, and what is impossible about its numbers ("" if nothing is)."""
    array = _widened(array, dtype)
    if array.dtype.kind != "f":
        return np.zeros(array.shape, np.float32), f"holds {dtype}, not floating-point numbers"
    finite = np.isfinite(array)
    if not finite.all():
        nans = int(np.isnan(array).sum())
        return array.astype(np.float32, copy=False), _count(nans, "NaN", array.size - int(finite.sum()) - nans)
    with np.errstate(over="ignore"):
        values = array.astype(np.float32, copy=False)
    if values is not array and not np.isfinite(values).all():
        return values, "has numbers too large for float32"
    if slot.role == "moving_variance" and values.size:
        # MatConvNet's files may have negative variances, as long as the square root exists.
        # In float32, as the layer computes: float32's -1e-5 is slightly above -1e-5, and the sum is still zero.
        lowest = values.min()
        if lowest + np.float32(BATCHNORM_EPSILON) <= 0:
            return values, f"variance + epsilon is not positive (lowest variance {lowest:.3g})"
    return values, ""


def _count(nans: int, what: str, infinities: int) -> str:
    parts = [f"{nans:,} {what}" if nans else "", f"{infinities:,} infinite" if infinities else ""]
    return "has " + " and ".join(part for part in parts if part)


def _dtype_notes(found: NamedArrays, slots: dict[str, Slot]) -> list[str]:
    notes = []
    for dtype in sorted({found.dtypes[name] for name in slots if name in found.dtypes} - {"float32"}):
        names = [name for name in slots if found.dtypes.get(name) == dtype]
        exact = "rounded to the nearest" if dtype == "float64" else "which holds them exactly"
        notes.append(f"{len(names)} of {len(slots)} tensors were {dtype} and became float32, {exact}")
    return notes


def _folded(counters: dict[str, int], table: Architecture) -> int | dict[str, int] | None:
    """One number if all counters are equal, as after ordinary training; None if the file had none."""
    if not counters:
        return None
    values = set(counters.values())
    normalisations = sum(isinstance(layer, BatchNorm) for layer in table.layers)
    return values.pop() if len(values) == 1 and len(counters) == normalisations else counters


def _named(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
