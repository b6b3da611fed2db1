"""``.mat``: a MatConvNet network's arrays under this project's names, its moments converted to variances.

Parameters get their roles from their position in a layer's ``params`` list, as in MatConvNet, never from their names.
BatchNorm stores ``moments`` = [mean, sigma] with sigma = sqrt(variance + epsilon), and divides by sigma alone; so
variance = sigma^2 - epsilon with the epsilon that *our* BatchNorm adds again, whatever epsilon the layer states.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convert.match_report import by
from convert.matching import NamedArrays
from convert.readers.dagnn import DagLayer, DagNN, fields, names, number, numbers, read_dagnn, text
from convert.readers.dagnn_graph import dagnn_graph, our_names, sanitised
from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.provenance import provenance_of
from ferplus_keras.graph.form import Graph, GraphError
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON
from ferplus_keras.networks.emotions import EMOTIONS, emotion_of
from ferplus_keras.networks.preprocessing import PUBLISHED
from ferplus_keras.wording import counted, printable

FORMATS = {"5": "matconvnet", "7.3": "matconvnet-7.3"}

#: The field in which our writer keeps the variances from which the single-precision sigmas were made.
VARIANCES = "moving_variance"


def read_mat(file: MappedFile) -> NamedArrays:
    """The arrays of a MatConvNet network as ``layer/role``. Raises :class:`BadInputError`."""
    return named_arrays(file, read_dagnn(file))


def named_arrays(file: MappedFile, net: DagNN) -> NamedArrays:
    """The arrays of ``net``, read from ``file``."""
    notes = list(net.notes)
    roles = {layer.name: _roles(file, net, layer, notes) for layer in net.layers}
    ours = fields(net.meta.get(PROVENANCE_KEY))
    dtypes: dict[str, str] = {}
    for stored, found in roles.items():
        name = sanitised(stored)
        dtypes |= {f"{name}/{role}": str(array.dtype) for role, array in found.items()}
        if (moments := found.pop("moments", None)) is None:
            continue
        exact = fields(ours.get(VARIANCES)).get(name)
        found["moving_mean"], found["moving_variance"], stale = _statistics(file, stored, moments, exact)
        dtypes |= {f"{name}/moving_mean": str(moments.dtype), f"{name}/moving_variance": "float32"}
        dtypes.pop(f"{name}/moments")
        if stale:
            notes.append(f"the moments of {stored} were changed after the file was converted; they were used")
    arrays: dict[str, np.ndarray] = {}
    for stored, found in roles.items():
        for role, array in found.items():
            name = f"{sanitised(stored)}/{role}"
            if name in arrays:
                raise BadInputError(f"{file.path} has two layers that would both be called {sanitised(stored)}.")
            arrays[name] = array
    graph, departure = _graph(net, roles)
    used = {name for layer in net.layers for name in layer.params}
    if unused := [name for name in net.params if name not in used]:
        notes.append(f"{counted(len(unused), 'parameter')} of no layer ignored: {', '.join(unused[:3])[:200]}")
    _epsilon_note(net, notes)
    _meta_notes(net, notes)
    labels = _labels(net, notes)
    rates = {number(layer.block.get("rate"), 0.5) for layer in net.layers if layer.type == "DropOut"}
    dropout = rates.pop() if len(rates) == 1 else 0.0
    output = "probabilities" if any(layer.type == "SoftMax" for layer in net.layers) else None
    provenance = provenance_of(file.path, text(ours.get("provenance", "")))
    return NamedArrays(
        FORMATS[net.version], "keras", arrays, dtypes, notes, provenance, output,
        dropout if 0 <= dropout < 1 else 0.0, labels=labels, graph=graph, departure=departure,
    )  # fmt: skip


def names_in(file: MappedFile, net: DagNN) -> dict[str, str]:
    """Stored layer -> our name."""
    try:
        roles = {layer.name: _roles(file, net, layer, []) for layer in net.layers}
    except BadInputError:  # reading the file reports it
        roles = {}
    for found in roles.values():
        if (moments := found.pop("moments", None)) is not None:
            found |= {"moving_mean": moments[..., 0], "moving_variance": moments[..., -1]}
    return our_names(net, roles)


def _graph(net: DagNN, roles: dict[str, dict[str, np.ndarray]]) -> tuple[Graph | None, str]:
    """The stored graph, or None and the reason."""
    try:
        return dagnn_graph(net, roles), ""
    except GraphError as error:
        return None, f"it cannot be followed: {error}"


def _roles(file: MappedFile, net: DagNN, layer: DagLayer, notes: list[str]) -> dict[str, np.ndarray]:
    """Role -> array of one layer, in this project's shapes; ``moments`` as stored."""
    owned = list(layer.params)
    if layer.type == "Conv":
        wanted: tuple[str, ...] = ("kernel", "bias")
        if not number(layer.block.get("hasBias"), 1.0) and len(owned) > 1:
            notes.append(f"{layer.name} has a bias but hasBias = false; it was ignored, as in MatConvNet")
            owned = owned[:1]
    elif layer.type == "BatchNorm":
        wanted = ("gamma", "beta", "moments")
        if len(owned) < 3:
            raise BadInputError(f"{file.path}: the BatchNorm {layer.name} has no moments. Save it after training.")
    else:
        wanted = tuple(owned)  # not a layer of these networks, which the comparison will report
    if len(owned) > len(wanted):
        raise BadInputError(f"{file.path}: {layer.name}, a {layer.type}, has too many parameters ({len(owned)}).")
    if unknown := [name for name in owned if name not in net.params]:
        raise BadInputError(
            f"{file.path}: the parameter {printable(unknown[0])} of {layer.name} is missing. The file is damaged."
        )
    found = {role: net.params[name] for role, name in zip(wanted, owned, strict=False)}
    for role, array in found.items():
        if role == "kernel":
            found[role] = _kernel(array, layer)
        elif role != "moments" and array.size == max(array.shape, default=0):
            found[role] = array.reshape(-1)  # 1 x N, N x 1 and 1 x 1 x N are all vectors
    return found


def _kernel(array: np.ndarray, layer: DagLayer) -> np.ndarray:
    """A filter bank as height x width x in x out. MATLAB drops trailing dimensions of 1, some tools drop them all."""
    size = tuple(int(each) for each in numbers(layer.block.get("size"), ()) if 0 <= each < 1 << 31)
    size = (*size, 1, 1, 1, 1)[:4] if size else ()
    extents = [extent for extent in array.shape if extent != 1]
    if size and extents == [extent for extent in size if extent != 1]:
        return array.reshape(size, order="F")
    if array.ndim <= 2:  # a 1 x 1 convolution, squeezed
        return array.reshape((1, 1, *array.shape)[-4:])
    return array.reshape((*array.shape, 1)[:4]) if array.ndim == 3 else array


def _statistics(file: MappedFile, layer: str, moments: np.ndarray, exact: Any) -> tuple[np.ndarray, np.ndarray, bool]:
    """(mean, variance as float32, whether ``exact`` exists but does not fit the moments)."""
    if moments.ndim != 2 or moments.shape[1] != 2:
        raise BadInputError(
            f"{file.path}: the moments of {layer} have the size {by(moments.shape)}; MatConvNet stores "
            "channels x 2, mean and deviation."
        )
    sigma = moments[:, 1]
    if (sigma < 0).any():
        raise BadInputError(f"{file.path}: {layer} has a negative standard deviation. The moments are damaged.")
    if isinstance(exact, np.ndarray) and exact.dtype == np.float32 and exact.size == sigma.size:
        exact = exact.reshape(-1)
        if np.array_equal(sigma_of(exact), sigma):
            return moments[:, 0], exact, False
    with np.errstate(over="ignore", invalid="ignore"):
        variance = (sigma.astype(np.float64) ** 2 - BATCHNORM_EPSILON).astype(np.float32)
    return moments[:, 0], variance, exact is not None


def sigma_of(variance: np.ndarray) -> np.ndarray:
    """MatConvNet's standard deviations for float32 ``variance``, rounded once, to float32 (docs/matconvnet.md)."""
    with np.errstate(invalid="ignore"):
        deviation: np.ndarray = np.sqrt(variance.astype(np.float64) + BATCHNORM_EPSILON).astype(np.float32)
    return deviation


def _epsilon_note(net: DagNN, notes: list[str]) -> None:
    norms = [layer for layer in net.layers if layer.type == "BatchNorm"]
    stored = [number(layer.block.get("epsilon"), BATCHNORM_EPSILON) for layer in norms]
    if others := sorted({each for each in stored if not np.isclose(each, BATCHNORM_EPSILON, rtol=1e-6, atol=0.0)}):
        count = sum(each in others for each in stored)
        notes.append(
            f"{count} BatchNorms were trained with epsilon {others[0]:g}; their variances were adapted to "
            f"{BATCHNORM_EPSILON:g}, which gives the same function"
        )


def _meta_notes(net: DagNN, notes: list[str]) -> None:
    """Note where the stored preprocessing differs from the published one."""
    stored = fields(net.meta.get("normalization"))
    average = stored.get("averageImage")
    if isinstance(average, np.ndarray) and average.size:
        channels = average.size == 3 or (average.ndim == 3 and average.shape[2] == 3)
        mean = average.reshape(-1, 3, order="F").astype(np.float64).mean(axis=0) if channels else np.empty(0)
        if not channels or not np.allclose(mean, PUBLISHED.mean, rtol=0, atol=1e-3):
            said = ", ".join(f"{each:.4f}" for each in mean) if channels else f"an array of {by(average.shape)}"
            backwards = channels and np.allclose(mean[::-1], PUBLISHED.mean, rtol=0, atol=1e-3)
            notes.append(
                f"its averageImage is {said}, not the published {PUBLISHED.mean}"
                + (": the same in BGR order" if backwards else "")
            )
    size = numbers(stored.get("imageSize"), ())[:2]
    if size and size != PUBLISHED.size:
        notes.append(f"its imageSize is {' x '.join(f'{each:g}' for each in size)}, not the published 224 x 224")
    if (how := text(stored.get("interpolation", ""))) and how != "bilinear":
        notes.append(f"its interpolation is {printable(how[:40])}, not the published bilinear")
    if number(stored.get("keepAspect"), 0.0):
        notes.append("its keepAspect is true; the published evaluation resizes straight to the square")


def _labels(net: DagNN, notes: list[str]) -> tuple[str, ...] | None:
    """The classes in the file's order, which its outputs have, if they are not FERPlus's emotions in FERPlus's order.

    Emotions have FERPlus's names in it, whatever the file calls them.
    """
    classes = fields(net.meta.get("classes"))
    stored = names(classes.get("description")) or names(classes.get("name"))
    labels = tuple(emotion_of(label) or printable(label[:100]) for label in stored)
    if len(labels) != len(EMOTIONS) or labels == EMOTIONS:
        return None
    notes.append(f"its classes are {printable(', '.join(stored)[:200])}, not the published order: its own was kept")
    return labels
