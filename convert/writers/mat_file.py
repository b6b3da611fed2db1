"""``X.mat``: a MATLAB 5 file that MatConvNet's ``dagnn.DagNN.loadobj`` takes, from the architecture table.

Only MatConvNet's own classes are used, so no extra module is needed: a global pooling is a Pooling over the whole map,
the excitation a Scale, the residual a Sum. All options exist in every release.

MatConvNet requires a BatchNorm's moments in single precision, like the images. A float32 sigma cannot represent every
float32 variance (docs/matconvnet.md has the bound), so the variances themselves are in ``meta.ferplus_keras``, which
MatConvNet keeps and ignores. Our reader uses them if they still fit the sigmas.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.folding import refuse_folded
from convert.readers.mat_file import VARIANCES, sigma_of
from ferplus_keras import PROVENANCE_KEY, __version__
from ferplus_keras.errors import OutputError
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON, Architecture, Layer
from ferplus_keras.networks.preprocessing import PUBLISHED

#: The name of the output variable in MatConvNet's examples.
PREDICTION = "prediction"

#: Suffixes of parameter names, as in MatConvNet's importer: a convolution's, then a BatchNorm's.
SUFFIXES = {"kernel": "filter", "bias": "bias", "gamma": "mult", "beta": "bias", "moments": "moments"}


@dataclass
class _Block:
    """A layer's class and its options."""

    type: str
    options: dict[str, Any]


def write_mat(checkpoint: Checkpoint, path: Path, **_: Any) -> None:
    """Write ``checkpoint`` as the fields of a saved DagNN, whose output is the logits. Needs SciPy."""
    refuse_folded(checkpoint, "A .mat file needs the batch normalisations.")
    try:
        from scipy.io import savemat
    except ImportError:
        raise OutputError(
            ".mat files are written by SciPy, which is not installed. Install it with: pip install scipy."
        ) from None
    savemat(path, dagnn_fields(checkpoint), long_field_names=True, oned_as="column")
    _sign(path)


def dagnn_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """The network's root fields, in the form that SciPy writes as structs and cells."""
    table = checkpoint.architecture
    layers, params = [], []
    side = arch.sides(table)
    for layer in table.layers:
        if isinstance(layer, arch.Input):
            continue
        block = _block(layer, table, side)
        arrays = _params(layer, checkpoint)
        owned = [f"{layer.name}_{SUFFIXES[role]}" for role in arrays]
        inputs = [_variable(table, name) for name in layer.inputs]
        outputs = [_variable(table, layer.name)]
        options = block.options or {}
        layers.append((layer.name, f"dagnn.{block.type}", _cell(inputs), _cell(outputs), _cell(owned), options))
        params += [(name, array, 1.0, 1.0) for name, array in zip(owned, arrays.values(), strict=True)]
    variables = [(_variable(table, layer.name), False) for layer in table.layers]
    return {
        "vars": _structs(("name", "precious"), variables),
        "params": _structs(("name", "value", "learningRate", "weightDecay"), params),
        "layers": _structs(("name", "type", "inputs", "outputs", "params", "block"), layers),
        "meta": _meta(checkpoint),
        "conserveMemory": True,
    }


def _variable(table: Architecture, layer: str) -> str:
    is_prediction = layer == table.output and table.head.kind != "none"
    return PREDICTION if is_prediction else layer


def _block(layer: Layer, table: Architecture, side: dict[str, int]) -> _Block:
    match layer:
        case arch.Conv():
            size = (layer.kernel, layer.kernel, layer.in_channels, layer.out_channels)
            return _convolution(size, layer.bias, layer.padding, layer.stride)
        case arch.Linear():
            return _convolution((1, 1, layer.in_channels, layer.units), layer.bias, 0, 1)
        case arch.BatchNorm():
            return _Block("BatchNorm", {"numChannels": float(layer.channels), "epsilon": BATCHNORM_EPSILON})
        case arch.ReLU():
            return _Block("ReLU", {})
        case arch.Sigmoid():
            return _Block("Sigmoid", {})
        case arch.MaxPool():
            # MatConvNet rounds sizes down; padding at the bottom and right makes up for ceil mode's rounding up.
            more = -(side[layer.inputs[0]] - layer.kernel) % layer.stride
            return _pooling("max", layer.kernel, layer.stride, (0, more, 0, more))
        case arch.AveragePool():
            return _pooling("avg", layer.kernel, 1, (0, 0, 0, 0))
        case arch.GlobalPool():
            return _pooling("avg", side[layer.inputs[0]], 1, (0, 0, 0, 0))
        case arch.Scale():
            return _Block("Scale", {"hasBias": False})
        case arch.Add():
            return _Block("Sum", {})
        case arch.Dropout():
            return _Block("DropOut", {"rate": layer.rate})
        case _:
            raise TypeError(f"no MatConvNet layer is known for {type(layer).__name__} ({layer.name})")


def _convolution(size: tuple[int, ...], bias: bool, padding: int, stride: int) -> _Block:
    options = {"size": _row(size), "hasBias": bias, "pad": _row((padding,) * 4), "stride": _row((stride,) * 2)}
    return _Block("Conv", options)


def _pooling(method: str, size: int, stride: int, pad: tuple[int, ...]) -> _Block:
    options = {"method": method, "poolSize": _row((size,) * 2), "pad": _row(pad), "stride": _row((stride,) * 2)}
    return _Block("Pooling", options)


def _params(layer: Layer, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Role -> array with MATLAB's dimensions, in MatConvNet's order."""
    arrays = checkpoint.arrays.get(layer.name, {})
    if isinstance(layer, arch.BatchNorm):
        moments = np.stack([arrays["moving_mean"], sigma_of(arrays["moving_variance"])], axis=1)
        return {"gamma": arrays["gamma"][:, None], "beta": arrays["beta"][:, None], "moments": moments}
    found = {}
    for role, array in arrays.items():
        found[role] = array[:, None] if role == "bias" else array.reshape((1, 1, *array.shape)[-4:])
    return found


def _meta(checkpoint: Checkpoint) -> dict[str, Any]:
    provenance = checkpoint.provenance
    normalization = {
        "imageSize": _row((*PUBLISHED.size, 3)),
        "averageImage": np.array(PUBLISHED.mean, np.float32).reshape(1, 1, 3),
        "interpolation": "bilinear",
        "keepAspect": False,
    }
    variances = {
        layer: roles["moving_variance"][:, None]
        for layer, roles in checkpoint.arrays.items()
        if "moving_variance" in roles
    }
    meta: dict[str, Any] = {
        "normalization": normalization,
        "inputs": {"name": checkpoint.architecture.layers[0].name, "size": _row((*PUBLISHED.size, 3))},
        PROVENANCE_KEY: {"provenance": provenance.to_json(), VARIANCES: variances},
    }
    if provenance.labels:
        labels = _cell(provenance.labels)
        meta["classes"] = {"name": labels, "description": labels}
    return meta


def _structs(fields: tuple[str, ...], rows: list[tuple[Any, ...]]) -> np.ndarray:
    """A 1 x N struct array."""
    array = np.empty((1, len(rows)), [(name, object) for name in fields])
    for index, row in enumerate(rows):
        for name, value in zip(fields, row, strict=True):
            array[name][0, index] = value
    return array


def _cell(names: Any) -> np.ndarray:
    """A 1 x N cell array of char rows."""
    array = np.empty((1, len(names)), object)
    array[0, :] = list(names)
    return array


def _row(values: tuple[float, ...]) -> np.ndarray:
    return np.array([values], np.float64)


def _sign(path: Path) -> None:
    """Replace the header text, in which SciPy puts the date, so that the same network gives the same bytes."""
    with path.open("r+b") as stream:
        stream.write(f"MATLAB 5.0 MAT-file, written by ferplus-keras {__version__}".encode().ljust(116))
