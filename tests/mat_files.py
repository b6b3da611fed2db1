"""MATLAB files of MatConvNet networks as other people's tools make them: the stand-ins that the reader is tested on.

Nothing here is taken from the project's reader, writer or architecture table. The networks are written down once more
the way MatConvNet's Caffe importer leaves them (``utils/layers.py``: parameters called ``_filter``, ``_mult``,
``_moments``; variables of layers that work in place with an ``x`` at the end; a projection before its block; pooling
that pads [0 1 0 1]), with Albanie's classes for squeeze-and-excitation (``dagnn.Axpy``, ``dagnn.GlobalPooling``, a
``dagnn.Reshape`` in between), and as his FERPlus training leaves them: dropout called ``<layer>_drop``, the output
called ``prediction``, two loss layers behind it.

A value is a str (char), a list (cell), a dict (struct), :class:`Rows` (struct array) or a numpy array.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from convert.checkpoint import Arrays

MEAN = (131.0912, 103.8827, 91.4953)
EMOTIONS = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]


class Rows(list):  # type: ignore[type-arg]
    """A struct array, as a list of dicts with the same keys."""


class Handle:
    """A function handle, of which only the 7.3 writer can make one."""


# --- the networks ---------------------------------------------------------------------------------------------------


class Builder:
    """Collects layers and parameters in the order in which a Caffe definition lists them."""

    def __init__(self, arrays: Arrays, *, slashes: bool = False) -> None:
        self.arrays, self.slashes = arrays, slashes
        self.layers, self.params = Rows(), Rows()
        self.top = "data"

    def add(self, kind: str, name: str, inputs: list[str], output: str, block: Any, **params: np.ndarray) -> str:
        owned = [f"{name}_{suffix}" for suffix in params]
        for key, value in zip(owned, params.values(), strict=True):
            self.params.append({"name": key, "value": value, "learningRate": 1.0, "weightDecay": 1.0})
        self.layers.append(
            {"name": name, "type": f"dagnn.{kind}", "inputs": list(inputs), "outputs": [output], "params": owned,
             "block": block}
        )  # fmt: skip
        return output

    def conv(self, name: str, bottom: str, *, pad: int = 0, stride: int = 1) -> str:
        roles = self.arrays[name]
        kernel = roles["kernel"]
        kernel = kernel.reshape((1, 1, *kernel.shape)) if kernel.ndim == 2 else kernel
        block = {
            "size": row(*kernel.shape), "hasBias": "bias" in roles, "opts": ["cuDNN"],
            "pad": row(*[pad] * 4), "stride": row(stride, stride), "dilate": row(1, 1),
        }  # fmt: skip
        params = {"filter": kernel}
        if "bias" in roles:
            params["bias"] = roles["bias"].reshape(-1, 1)
        return self.add("Conv", name, [bottom], name, block, **params)

    def norm(self, name: str, bottom: str, epsilon: float = 1e-5) -> str:
        roles = self.arrays[name]
        channels = len(roles["gamma"])
        sigma = np.sqrt(roles["moving_variance"].astype(np.float64) + epsilon).astype(np.float32)
        block = {"numChannels": float(channels), "epsilon": epsilon, "opts": ["NoCuDNN"]}
        return self.add(
            "BatchNorm", name, [bottom], name, block, mult=roles["gamma"].reshape(-1, 1),
            bias=roles["beta"].reshape(-1, 1), moments=np.stack([roles["moving_mean"], sigma], axis=1),
        )  # fmt: skip

    def relu(self, name: str, bottom: str) -> str:
        """In place, as Caffe has it: the importer puts an x behind the variable's name."""
        return self.add("ReLU", name, [bottom], bottom + "x", {"leak": 0.0, "opts": [], "useShortCircuit": True})

    def pool(self, name: str, bottom: str, method: str, size: int, stride: int, pad: tuple[int, ...]) -> str:
        block = {
            "method": method,
            "poolSize": row(size, size),
            "opts": ["cuDNN"],
            "pad": row(*pad),
            "stride": row(stride, stride),
        }
        return self.add("Pooling", name, [bottom], name, block)


def imported(arrays: Arrays, *, dropout: float = 0.0, loss: bool = False, epsilon: float = 1e-5) -> dict[str, Any]:
    """The root fields of a ResNet50 or SE-ResNet50 with ``arrays``, as imported from Caffe and fine-tuned."""
    build = Builder(arrays)
    senet = "conv2_1_1x1_down" in arrays
    top = build.conv("conv1_7x7_s2", "data", pad=3, stride=2)
    top = build.relu("conv1_relu_7x7_s2", build.norm("conv1_7x7_s2_bn", top, epsilon))
    top = build.pool("pool1_3x3_s2", top, "max", 3, 2, (0, 1, 0, 1))
    for stage in (2, 3, 4, 5):
        for number in [each for each in range(1, 7) if f"conv{stage}_{each}_3x3" in arrays]:
            top = _block(build, f"conv{stage}_{number}", top, 2 if stage > 2 and number == 1 else 1, number, senet)
    head = "classifier" if "classifier" in arrays else "feat_extract"
    if head in arrays:
        build.conv(head, build.pool("pool5_7x7_s1", top, "avg", 7, 1, (0, 0, 0, 0)))
    if dropout:
        for name in ("conv5_3_1x1_down", "conv5_3_1x1_up") if senet else ("conv5_3_3x3", "conv5_3_1x1_increase"):
            _insert_dropout(build, name, dropout)
    if loss:
        next(layer for layer in build.layers if layer["name"] == head)["outputs"] = ["prediction"]
        build.add("SoftmaxCELoss", "loss", ["prediction", "label"], "objective", {"opts": []})
        build.add("Loss", "classerror", ["prediction", "hardlabel"], "classerror", {"loss": "classerror"})
    variables = dict.fromkeys(name for layer in build.layers for name in (*layer["inputs"], *layer["outputs"]))
    return {
        "vars": Rows({"name": name, "precious": False} for name in variables),
        "params": build.params,
        "layers": build.layers,
        "meta": {
            "normalization": {
                "imageSize": row(224, 224, 3), "averageImage": np.array(MEAN, np.float32).reshape(1, 1, 3),
                "interpolation": "bilinear", "keepAspect": False,
            },
            "classes": {"name": EMOTIONS, "description": EMOTIONS},
        },
    }  # fmt: skip


def _block(build: Builder, name: str, bottom: str, stride: int, number: int, senet: bool) -> str:
    shortcut = bottom
    if number == 1:  # before the block's own convolutions, where the Caffe definition has it
        shortcut = build.conv(f"{name}_1x1_proj", bottom, stride=stride)
        shortcut = build.norm(f"{name}_1x1_proj_bn", shortcut)
    top = build.norm(f"{name}_1x1_reduce_bn", build.conv(f"{name}_1x1_reduce", bottom, stride=stride))
    top = build.conv(f"{name}_3x3", build.relu(f"{name}_1x1_reduce_relu", top), pad=1)
    top = build.relu(f"{name}_3x3_relu", build.norm(f"{name}_3x3_bn", top))
    top = build.norm(f"{name}_1x1_increase_bn", build.conv(f"{name}_1x1_increase", top))
    if not senet:
        return build.relu(f"{name}_relu", build.add("Sum", name, [shortcut, top], name, {"numInputs": 2.0}))
    gate = build.add(
        "GlobalPooling",
        f"{name}_global_pool",
        [top],
        f"{name}_global_pool",
        {"method": "avg", "pad": row(0, 0, 0, 0), "stride": row(1, 1)},
    )
    gate = build.relu(f"{name}_1x1_down_relu", build.conv(f"{name}_1x1_down", gate))
    gate = build.conv(f"{name}_1x1_up", gate)
    gate = build.add("Sigmoid", f"{name}_prob", [gate], f"{name}_prob", {})
    channels = float(build.arrays[f"{name}_1x1_up"]["bias"].size)
    gate = build.add(
        "Reshape",
        f"{name}_prob_reshape",
        [gate],
        f"{name}_prob_reshape",
        {"shape": [row(1.0), row(1.0), row(channels)]},
    )
    summed = build.add("Axpy", name, [gate, top, shortcut], name, {"pad": row(0, 0, 0, 0), "stride": row(1, 1)})
    return build.relu(f"{name}_relu", summed)


def _insert_dropout(build: Builder, name: str, rate: float) -> None:
    at = next(index for index, layer in enumerate(build.layers) if layer["name"] == name)
    (variable,) = build.layers[at]["outputs"]
    for layer in build.layers:
        layer["inputs"] = [f"{name}_drop" if each == variable else each for each in layer["inputs"]]
    # addLayer puts it at the end of the list: MatConvNet sorts by itself what is to come when
    build.layers.append(
        {"name": f"{name}_drop", "type": "dagnn.DropOut", "inputs": [variable], "outputs": [f"{name}_drop"],
         "params": [], "block": {"rate": rate, "frozen": False}}
    )  # fmt: skip


def row(*values: float) -> np.ndarray:
    return np.array([values], np.float64)


# --- the two formats --------------------------------------------------------------------------------------------------


def save_level5(path: Path, variables: dict[str, Any], *, compress: bool = False) -> Path:
    """With SciPy."""
    prepared = {name: for_scipy(value) for name, value in variables.items()}
    scipy.io.savemat(path, prepared, do_compression=compress, long_field_names=True, oned_as="row")
    return path


def for_scipy(value: Any) -> Any:
    if isinstance(value, Rows):
        if not value:
            return np.empty((1, 0), [("name", object)])
        array = np.empty((1, len(value)), [(key, object) for key in value[0]])
        for index, record in enumerate(value):
            for key, item in record.items():
                array[key][0, index] = for_scipy(item)
        return array
    if isinstance(value, dict):
        return {key: for_scipy(item) for key, item in value.items()}
    if isinstance(value, list):
        cell = np.empty((1, len(value)), object)
        for index, item in enumerate(value):
            cell[0, index] = for_scipy(item)
        return cell
    return value


def save_level73(path: Path, variables: dict[str, Any]) -> Path:
    """With h5py, in the form in which MATLAB's ``save -v7.3`` lays values out."""
    with h5py.File(path, "w", userblock_size=512) as file:
        writer = _Level73(file)
        for name, value in variables.items():
            writer.put(file, name, value)
    with path.open("r+b") as stream:
        text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2018 HDF5 schema 1.00 ."
        stream.write(text.ljust(116) + bytes(8) + b"\0\2IM")
    return path


class _Level73:
    def __init__(self, file: h5py.File) -> None:
        self.refs = file.create_group("#refs#")
        self.count = 0

    def put(self, parent: h5py.Group, name: str, value: Any) -> None:
        if isinstance(value, Rows):
            group = parent.create_group(name)
            self._mark(group, "struct")
            for key in value[0]:
                # a field of a struct array is a dataset of references without a class
                group[key] = self._references([record[key] for record in value])
        elif isinstance(value, dict):
            group = parent.create_group(name)
            self._mark(group, "struct")
            for key, item in value.items():
                self.put(group, key, item)
        elif isinstance(value, Handle):
            self._mark(parent.create_group(name), "function_handle", MATLAB_object_decode=np.int32(1))
        elif isinstance(value, list):
            if not value:
                return self._empty(parent, name, "cell")
            parent[name] = self._references(value)
            self._mark(parent[name], "cell")
        elif isinstance(value, str):
            if not value:
                return self._empty(parent, name, "char")
            parent[name] = np.frombuffer(value.encode("utf-16-le"), np.uint16).reshape(-1, 1)
            self._mark(parent[name], "char", MATLAB_int_decode=np.int32(2))
        elif isinstance(value, bool):
            parent[name] = np.array([[value]], np.uint8)
            self._mark(parent[name], "logical", MATLAB_int_decode=np.int32(1))
        else:
            array = np.atleast_2d(np.asarray(value))
            if not array.size:
                return self._empty(parent, name, "double")
            big = array.nbytes > 10_000  # MATLAB deflates those
            parent.create_dataset(name, data=array.T, **({"compression": 1, "chunks": True} if big else {}))
            self._mark(parent[name], {"float32": "single", "float64": "double"}.get(str(array.dtype), str(array.dtype)))
        return None

    def _references(self, values: list[Any]) -> np.ndarray:
        found = np.empty((len(values), 1), h5py.ref_dtype)  # 1 x N in MATLAB
        for index, value in enumerate(values):
            self.count += 1
            name = f"r{self.count}"  # what is inside the value takes names of its own
            self.put(self.refs, name, value)
            found[index, 0] = self.refs[name].ref
        return found

    def _empty(self, parent: h5py.Group, name: str, class_name: str) -> None:
        parent[name] = np.zeros(2, np.uint64)
        self._mark(parent[name], class_name, MATLAB_empty=np.uint8(1))

    @staticmethod
    def _mark(item: Any, class_name: str, **attributes: Any) -> None:
        item.attrs["MATLAB_class"] = np.bytes_(class_name)
        for key, value in attributes.items():
            item.attrs[key] = value
