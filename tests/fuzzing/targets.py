"""What is fuzzed: each reader and each front end of a graph, with small good files to begin from.

A target reads bytes from anywhere. It may return, or raise :class:`BadInputError`; anything else is a finding.
"""

from __future__ import annotations

import contextlib
import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from convert.inspection import inspect
from convert.readers.pickle_subset import MalformedPickleError, UnsafePickleError, loads
from ferplus_keras.engines.onnx_policy import check_graph
from ferplus_keras.engines.record import FileFacts
from ferplus_keras.engines.tflite_policy import check_model
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.onnx_graph import read_graph
from ferplus_keras.files.provenance import Provenance, provenance_of
from ferplus_keras.files.tflite_file import read_tflite
from ferplus_keras.graph.form import GraphError
from ferplus_keras.graph.keras_config import keras_graph

Seeds = Callable[[Path], list[bytes]]
Read = Callable[[bytes, Path], None]


@dataclass(frozen=True)
class Target:
    """``seeds`` makes good inputs in a folder; ``read`` takes bytes, and a path to write them to where it must."""

    seeds: Seeds
    read: Read


# --- reading ----------------------------------------------------------------------------------------------------------


def _file(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    inspect(path)


def _pickle(data: bytes, path: Path) -> None:
    """The pickle of an archive whose checksums are right, which bytes changed in the archive itself never are."""
    try:
        loads(data)
    except (UnsafePickleError, MalformedPickleError):
        return
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"x/data.pkl": data, "x/byteorder": b"little", "x/data/0": bytes(64)}.items():
            archive.writestr(name, content)
    inspect(path)


def _config(data: bytes, _path: Path) -> None:
    try:
        keras_graph(json.loads(data), {})
    except GraphError:
        pass
    except (ValueError, RecursionError):  # no JSON; the door says so
        return


def _onnx(data: bytes, path: Path) -> None:
    _file_or_none(data, path)
    check_graph(path, read_graph(MappedFile(path)), (1, 3, 32, 32))


def _tflite(data: bytes, path: Path) -> None:
    _file_or_none(data, path)
    check_model(path, read_tflite(MappedFile(path), "record"))


def _file_or_none(data: bytes, path: Path) -> None:
    with contextlib.suppress(BadInputError):
        _file(data, path)


def _record(data: bytes, path: Path) -> None:
    record = provenance_of(path, data)
    FileFacts.of(path, record)
    with contextlib.suppress(ValueError):
        Provenance.from_dict(record or {})


# --- good files -------------------------------------------------------------------------------------------------------


def _torch(legacy: bool) -> Seeds:
    def made(folder: Path) -> list[bytes]:
        import torch

        from tests.seeded import save_state

        state = {"conv1_7x7_s2.weight": torch.ones(1, 3, 2, 2), "a.running_var": torch.ones(2, dtype=torch.bfloat16)}
        return [save_state(state, folder / "x.pth", legacy=legacy).read_bytes()]

    return made


def _pickles(folder: Path) -> list[bytes]:
    with zipfile.ZipFile(io.BytesIO(*_torch(False)(folder))) as archive:
        return [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]


def _safetensors(_folder: Path) -> list[bytes]:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    text = json.dumps({"__metadata__": {"ferplus_keras": "{}"}, "a": entry}).encode()
    return [struct.pack("<Q", len(text)) + text + bytes(16)]


def _keras(*suffixes: str) -> Seeds:
    def made(folder: Path) -> list[bytes]:
        model, found = _model(), [_weights(folder / "y.h5")]
        for suffix in suffixes:
            model.save(path) if (path := folder / f"x{suffix}").suffixes[0] != ".weights" else model.save_weights(path)
            found.append(path.read_bytes())
        return found

    return made


def _weights(path: Path) -> bytes:
    """A legacy weights file of one layer."""
    import h5py
    import numpy as np

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array([b"conv1_7x7_s2"])
        group = file.create_group("conv1_7x7_s2")
        group.attrs["weight_names"] = np.array([b"conv1_7x7_s2/kernel:0"])
        group["conv1_7x7_s2/kernel:0"] = np.zeros((2, 2, 3, 4), np.float32)
    return path.read_bytes()


def _model():  # type: ignore[no-untyped-def]
    import keras

    image = keras.Input((8, 8, 3))
    padded = keras.layers.ZeroPadding2D(1)(image)
    one = keras.layers.BatchNormalization()(keras.layers.Conv2D(2, 3, 2, use_bias=False)(padded))
    two = keras.layers.MaxPooling2D(3, 2, "same")(keras.layers.Conv2D(2, 1)(image))
    both = keras.layers.Activation("relu")(keras.layers.Add()([one, two]))
    head = keras.layers.Dense(8, "softmax", name="classifier")(keras.layers.GlobalAveragePooling2D()(both))
    return keras.Model(image, head)


def _configs(_folder: Path) -> list[bytes]:
    return [_model().to_json().encode()]


def _matlab(folder: Path, *, packed: bool = False, seventh: bool = False) -> list[bytes]:
    import numpy as np

    from tests.mat_files import save_level5, save_level73

    block = {"size": np.ones((1, 4)), "pad": np.zeros((1, 4)), "stride": np.ones((1, 2)), "hasBias": False}
    layer = {"name": "c", "type": "dagnn.Conv", "inputs": ["data"], "outputs": ["x"], "params": ["w"], "block": block}
    net = {"layers": [layer], "params": [{"name": "w", "value": np.ones((1, 1, 3, 2), np.float32)}], "meta": {"a": "b"}}
    path = folder / "x.mat"
    return [(save_level73(path, net) if seventh else save_level5(path, net, compress=packed)).read_bytes()]


def _onnx_seeds(folder: Path) -> list[bytes]:
    from tests.ferplus_keras.engines.small_onnx import small_onnx
    from tests.ferplus_keras.engines.test_onnx_engine import GOOD

    return [small_onnx(folder / "x.onnx", *made).read_bytes() for made in GOOD.values()]


def _tflite_seeds(_folder: Path) -> list[bytes]:
    from tests.convert.readers.test_exports import small_tflite

    return [small_tflite("{}")]


def _records(_folder: Path) -> list[bytes]:
    from tests.seeded import seeded_checkpoint

    return [seeded_checkpoint("senet50").provenance.to_json().encode()]


TARGETS = {
    "torch": Target(_torch(False), _file),
    "torch-legacy": Target(_torch(True), _file),
    "pickle": Target(_pickles, _pickle),
    "safetensors": Target(_safetensors, _file),
    "keras": Target(_keras(".h5", ".weights.h5", ".keras"), _file),
    "keras-config": Target(_configs, _config),
    "matlab-5": Target(lambda folder: _matlab(folder) + _matlab(folder, packed=True), _file),
    "matlab-7.3": Target(lambda folder: _matlab(folder, seventh=True), _file),
    "onnx": Target(_onnx_seeds, _onnx),
    "tflite": Target(_tflite_seeds, _tflite),
    "record": Target(_records, _record),
}
