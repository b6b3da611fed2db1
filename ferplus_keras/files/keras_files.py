"""Reading the arrays of any Keras weight file by name, with h5py alone: no Keras, and nothing in the file is run.

Four kinds of file, told apart by what they hold and not by how they are called:

* ``h5-model``: a whole model in HDF5, from Keras 1 to 3 (arrays under ``model_weights``);
* ``h5-weights``: a legacy weights file (``layer_names`` at the root);
* ``weights.h5``: Keras 3's own weights (arrays under ``layers/<class>_<n>/vars/<i>``);
* ``keras``: Keras 3's zip of ``config.json`` and ``model.weights.h5``.

HDF5 can point outside itself (external links, external and virtual datasets) and can declare arrays that are not
there; all of it is refused before anything is read.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from ferplus_keras import HDF5_MAGIC, PROVENANCE_KEY, PROVENANCE_MEMBER
from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.networks.keras_vggface import layer_of_weight

#: The roles, in the order of ``vars/<i>``, of the layer classes that these networks use.
ROLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}

#: Where the layers' arrays stand in Keras 3's layout; beside them a trained model has its optimizer's and metrics'.
LAYERS_ROOTS = ("layers/", "_layer_checkpoint_dependencies/")

#: How Keras 3 stores bfloat16, which h5py does not know: two opaque bytes a number.
BFLOAT16 = np.dtype("V2")

#: No array of these networks is larger than 2.4 million (8631 x 2048: 17.7 million) numbers, and a whole model with
#: its optimizer's state is about half a GiB. What claims more is a bomb: it is the file alone that vouches for it.
MAX_ARRAY_BYTES = 1 << 28
MAX_TOTAL_BYTES = 1 << 30
#: A piece may be larger than its array where that can grow; those that h5py chooses have 1 MiB at most.
MAX_PIECE_BYTES = 1 << 20
MAX_DEFLATION = 1032  #: zlib's best; an array that is larger by more than that has no data for most of it
MAX_CONFIG_BYTES = 64 << 20
MAX_LINKS = 100_000

#: What h5py, zipfile and the decompressors raise when they meet damage.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
ZIP_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError,
)  # fmt: skip


class StoredArray:
    """An array in an open HDF5 file: shape and type known, the numbers read when asked for."""

    def __init__(self, dataset: h5py.h5d.DatasetID) -> None:
        self.dataset = dataset
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype = dataset.dtype
        self.bfloat16 = self.dtype == BFLOAT16
        if self.bfloat16:
            self.dtype = np.dtype(np.float32)

    @property
    def offset(self) -> int | None:
        """Where its plain, contiguous bytes begin in the HDF5 file; None when it is chunked, filtered or empty.

        None also when HDF5 keeps the numbers in a form that numpy has not (bfloat16, say) and converts them.
        """
        if self.bfloat16 or self.dataset.get_type() != h5py.h5t.py_create(self.dtype, logical=True):
            return None
        offset: int | None = self.dataset.get_offset()
        return offset

    def read(self) -> np.ndarray:
        """The numbers; bfloat16 widened to float32, which holds them exactly."""
        array: np.ndarray = np.asarray(h5py.Dataset(self.dataset)[()])
        return (array.view("<u2").astype(np.uint32) << 16).view(np.float32) if self.bfloat16 else array


@dataclass
class KerasFile:
    """An open Keras file. ``layers`` maps layer name -> role -> array, in the file's order."""

    kind: str
    layers: dict[str, dict[str, StoredArray]]
    config: dict[str, Any] | None = None
    keras_version: str | None = None
    provenance: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    listed: tuple[str, ...] = ()  #: all layers that a file of weights names, those without arrays too

    @property
    def config_layers(self) -> list[tuple[str, str, dict[str, Any]]]:
        """(name, class name, config) of each layer of the model's graph; empty for a file of weights alone."""
        return _config_layers(self.config)


@contextmanager
def open_keras_file(path: str | Path) -> Iterator[KerasFile]:
    """Open the Keras file at ``path``; its datasets can be read until the block ends.

    Raises :class:`BadInputError` when the file is none of the four kinds, is damaged, or points outside itself.
    """
    path = Path(path)
    try:
        opened_stream = path.open("rb")
    except FileNotFoundError:
        raise BadInputError(f"There is no file {path}. Check the name.") from None
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.") from None
    with opened_stream as stream:
        head = stream.read(8)
        if head[:4] == b"PK\x03\x04":
            with _open_zip(path, stream) as opened:
                yield opened
        elif head == HDF5_MAGIC:
            with _open_hdf5(path, stream) as h5:
                yield _read_hdf5(path, h5)
        else:
            raise BadInputError(
                f"{path} is not a Keras file: it starts with {head!r}, neither HDF5 nor a zip archive. "
                f"Give a .h5, .weights.h5 or .keras file; `ferplus convert {path} new.h5` makes one of a checkpoint."
            )


@contextmanager
def _open_hdf5(path: Path, stream: IO[bytes]) -> Iterator[h5py.File]:
    try:
        # A path lets HDF5 read by itself, without a Python call for each block; a zip member has no path.
        h5 = h5py.File(path if getattr(stream, "name", None) == str(path) else stream, "r")
    except DAMAGE as error:
        raise BadInputError(
            f"{path} is a damaged HDF5 file ({first_line(error)}). It was probably cut short: copy or "
            "download it again."
        ) from None
    with h5:
        try:
            yield h5
        except DAMAGE as error:
            raise BadInputError(
                f"{path} is a damaged HDF5 file ({first_line(error)}). Copy or download it again."
            ) from error


@contextmanager
def _open_zip(path: Path, stream: IO[bytes]) -> Iterator[KerasFile]:
    try:
        archive = zipfile.ZipFile(stream)
    except ZIP_DAMAGE as error:
        raise BadInputError(
            f"{path} is a damaged zip archive ({error}). It was probably cut short: copy or download it again."
        ) from None
    with archive:
        names = set(archive.namelist())
        if not {"config.json", "model.weights.h5"} <= names:
            raise BadInputError(
                f"{path} is a zip archive but no .keras file: config.json and model.weights.h5 are not both in it. "
                f"A PyTorch checkpoint is also a zip archive: `ferplus convert {path} new.h5` makes a Keras file of it."
            )
        for member in archive.infolist():
            # Keras stores without compression. A compressed array of that size would have to be inflated in memory
            # by a size that only the file itself vouches for.
            if member.compress_type != zipfile.ZIP_STORED and member.filename == "model.weights.h5":
                raise BadInputError(f"{path}: model.weights.h5 is compressed, which Keras never does. Save it again.")
            if member.flag_bits & 1:
                raise BadInputError(f"{path}: {member.filename} is encrypted. Unpack it and save the model again.")
        try:
            config = _json_member(archive, path, "config.json")
            metadata = _json_member(archive, path, "metadata.json") if "metadata.json" in names else {}
            provenance = _json_member(archive, path, PROVENANCE_MEMBER) if PROVENANCE_MEMBER in names else None
            # One copy in memory, its checksum verified by the way; a zip member itself cannot seek backwards fast.
            with io.BytesIO(archive.read("model.weights.h5")) as inner, _open_hdf5(path, inner) as h5:
                classes = [(name, class_name) for name, class_name, _ in _config_layers(config)]
                layers = _read_vars(path, h5, counted_names(classes))
                version = metadata.get("keras_version")
                yield KerasFile("keras", layers, config, version, provenance)
        except ZIP_DAMAGE as error:
            raise BadInputError(f"{path} is damaged ({first_line(error)}). Copy or download it again.") from None


def _read_hdf5(path: Path, h5: h5py.File) -> KerasFile:
    for name in h5.id:  # below, names are opened
        if h5.id.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            _refuse_link(path, name.decode("utf-8", "replace"))
    provenance = None
    if PROVENANCE_KEY in h5.attrs:
        provenance = _json(path, _text(h5.attrs[PROVENANCE_KEY]), "the provenance attribute")
    if "layer_names" in h5.attrs or "layer_names0" in h5.attrs:
        version = _text(h5.attrs.get("keras_version"))
        listed = tuple(_name_list(h5.id, "layer_names"))
        return KerasFile("h5-weights", _read_legacy(path, h5), None, version, provenance, listed=listed)
    if "model_weights" in h5:
        config = None
        if "model_config" in h5.attrs:
            config = _json(path, _text(h5.attrs["model_config"]), "model_config")
        weights = h5["model_weights"]
        version = _text(h5.attrs.get("keras_version") or weights.attrs.get("keras_version"))
        return KerasFile("h5-model", _read_legacy(path, weights), config, version, provenance)
    if "layers" in h5 or "_layer_checkpoint_dependencies" in h5:
        listed = tuple(h5["layers"]) if isinstance(h5.get("layers"), h5py.Group) else ()
        return KerasFile("weights.h5", _read_vars(path, h5, {}), None, None, provenance, listed=listed)
    raise BadInputError(
        f"{path} is an HDF5 file but no Keras file: it has neither model_weights, layer_names nor layers, "
        f"but {', '.join(sorted(h5)[:5]) or 'nothing'}."
    )


def _read_legacy(path: Path, group: h5py.Group) -> dict[str, dict[str, StoredArray]]:
    stored = _index(path, group)
    layers: dict[str, dict[str, StoredArray]] = {}
    for layer in _name_list(group.id, "layer_names"):
        try:
            names = _name_list(h5py.h5g.open(group.id, layer.encode()), "weight_names")
        except KeyError:
            raise BadInputError(
                f"{path}: the layer {layer!r} is announced but not there. The file is damaged."
            ) from None
        for name in names:
            if f"{layer}/{name}" not in stored:
                raise BadInputError(f"{path}: the array {layer}/{name} is announced but not there; it is damaged.")
        if len(set(names)) < len(names):
            raise BadInputError(f"{path}: layer {layer!r} has two weights of one name in {names}.")
        roles = [name.rsplit("/", 1)[-1].split(":")[0] for name in names]
        owners = [layer] * len(names)
        if len(set(roles)) < len(names):  # a model in the model: its layers' own names stand before the roles
            owners = [layer_of_weight(name.rpartition("/")[0]) or layer for name in names]
        for owner, role, name in zip(owners, roles, names):  # noqa: B905  (of one length; Python 3.9 has no strict)
            if role in layers.get(owner, {}):  # two layers of one name: neither is taken for the other
                owner, role = layer, name
            layers.setdefault(owner, {})[role] = stored[f"{layer}/{name}"]
    return layers


def _name_list(group: h5py.h5g.GroupID, attribute: str) -> list[str]:
    """A list of names from an attribute, or from its chunks ``attribute0``, ``attribute1``... (split at 64 KiB)."""
    if h5py.h5a.exists(group, attribute.encode()):
        return _names(group, attribute)
    names: list[str] = []
    chunk = 0
    while h5py.h5a.exists(group, f"{attribute}{chunk}".encode()):
        names += _names(group, f"{attribute}{chunk}")
        chunk += 1
    return names


def _names(group: h5py.h5g.GroupID, attribute: str) -> list[str]:
    stored = h5py.h5a.open(group, attribute.encode())
    if stored.dtype.kind != "S":  # strings of any length, as Keras 3 writes them
        return [_text(name) for name in h5py.Group(group).attrs[attribute]]
    values = np.empty(stored.shape, stored.dtype)
    if values.size:
        stored.read(values)
    return [_text(name) for name in values.reshape(-1)]


def _read_vars(path: Path, h5: h5py.File, names: dict[str, str]) -> dict[str, dict[str, StoredArray]]:
    """Arrays of Keras 3's layout. The layer's name is in the file (Keras >= 3.6), or follows from ``names``."""
    by_group: dict[str, dict[int, StoredArray]] = {}
    for where, array in _index(path, h5).items():
        group, _, key = where.rpartition("/")
        if group.endswith("/vars") and key.isdigit() and group.startswith(LAYERS_ROOTS):
            by_group.setdefault(group, {})[int(key)] = array
    layers: dict[str, dict[str, StoredArray]] = {}
    for group, numbered in by_group.items():
        counted = group.split("/")[-2]
        roles = ROLES.get(re.sub(r"_\d+$", "", counted), ())
        name = _text(h5[group].attrs.get("name")) or names.get(counted, counted)
        if name in layers:  # in two models within the model: neither is taken for the other
            name = group
        layers[name] = {
            roles[number] if number < len(roles) else str(number): numbered[number] for number in sorted(numbered)
        }
    return layers


def counted_names(classes: Iterable[tuple[str, str]]) -> dict[str, str]:
    """``conv2d_3`` -> layer name, for (name, class) pairs in model order: how Keras 3 addresses layers in a file."""
    counts: dict[str, int] = {}
    result: dict[str, str] = {}
    for name, class_name in classes:
        snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", class_name).lower()  # Conv2D: conv2d, MaxPooling2D: max_pooling2d
        number = counts.get(snake, 0)
        counts[snake] = number + 1
        result[snake if number == 0 else f"{snake}_{number}"] = name
    return result


def _config_layers(config: dict[str, Any] | None) -> list[tuple[str, str, dict[str, Any]]]:
    inner = (config or {}).get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else inner  # Keras 1's Sequential: the list itself
    if not isinstance(layers, list):
        return []
    result = []
    for layer in layers:
        if isinstance(layer, dict) and isinstance(layer.get("config"), dict):
            name = layer.get("name") or layer["config"].get("name")
            result.append((str(name), str(layer.get("class_name")), layer["config"]))
    return result


def _index(path: Path, root: h5py.Group) -> dict[str, StoredArray]:
    """Every array under ``root`` by its path from there. Follows no link; refuses all but plain data."""
    links: list[tuple[bytes, int]] = []

    def note(name: bytes, info: Any) -> bool | None:
        links.append((name, info.type))
        return True if len(links) > MAX_LINKS else None  # True ends the visit

    root.id.links.visit(note, info=True)  # in one call, and without opening what a link points to
    if len(links) > MAX_LINKS:
        raise BadInputError(f"{path}: it has far too many entries. The file is not a model.")
    inner = {name.rpartition(b"/")[0] for name, _ in links}
    found: dict[str, StoredArray] = {}
    total = 0
    for name, kind in links:
        where = name.decode("utf-8", "replace")
        if kind != h5py.h5l.TYPE_HARD:
            _refuse_link(path, where)
        if name in inner:
            continue
        item = h5py.h5o.open(root.id, name)
        if isinstance(item, h5py.h5g.GroupID):
            if len(item):  # not visited through this name, so it was through another
                raise BadInputError(f"{path}: its groups form a loop at {where}. The file is not a model.")
        elif isinstance(item, h5py.h5d.DatasetID):
            stored = StoredArray(item)
            _refuse_foreign(path, where, stored)
            if stored.dtype.kind in "SO":  # strings: Keras's own bookkeeping, never read as weights
                continue
            found[where] = stored
            total += math.prod(stored.shape) * stored.dtype.itemsize
            if total > MAX_TOTAL_BYTES:
                raise BadInputError(f"{path}: its arrays claim more than 1 GiB. It is not one of these networks.")
    return found


def _refuse_link(path: Path, where: str) -> None:
    raise BadInputError(
        f"{path}: {where} is a link and not data; a weights file has none. "
        "Do not load it; get the file from its author again."
    )


def _refuse_foreign(path: Path, where: str, stored: StoredArray) -> None:
    dataset = stored.dataset
    # With an offset its bytes lie in this file, in one piece; and asking takes time.
    creation = dataset.get_create_plist() if dataset.get_offset() is None else None
    if creation is not None and (creation.get_external_count() or creation.get_layout() == h5py.h5d.VIRTUAL):
        raise BadInputError(f"{path}: the array {where} lies in another file; a weights file carries its own data.")
    dtype, shape = stored.dtype, stored.shape
    if dtype.kind in "SO":
        return
    if shape is None or dtype.kind not in "fiub":
        raise BadInputError(f"{path}: {where} holds {dtype} and no numbers.")
    size = math.prod(shape) * dtype.itemsize
    if (
        creation is not None and creation.get_layout() == h5py.h5d.CHUNKED
    ):  # to read any of it, a whole piece is unpacked
        piece = math.prod(creation.get_chunk()) * dtype.itemsize
        if piece > max(size, MAX_PIECE_BYTES):
            raise BadInputError(
                f"{path}: the array {where} has {size:,} bytes in pieces of {piece:,} each. The file is damaged."
            )
    if size > MAX_ARRAY_BYTES:
        raise BadInputError(
            f"{path}: the array {where} claims the shape {shape}, more than 256 MiB. It is not one of these networks."
        )
    if size > MAX_DEFLATION * dataset.get_storage_size():
        raise BadInputError(f"{path}: the array {where} has the shape {shape} and no data for it. The file is damaged.")


def _json_member(archive: zipfile.ZipFile, path: Path, name: str) -> dict[str, Any]:
    info = archive.getinfo(name)
    if info.file_size > MAX_CONFIG_BYTES:
        raise BadInputError(f"{path}: {name} would be {info.file_size:,} bytes of JSON: refused.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # bzip2 and LZMA inflate without bound
        raise BadInputError(f"{path}: {name} is compressed in a way that Keras never uses. Save the model again.")
    with archive.open(info) as member:  # not archive.read, which inflates up to 2 GiB whatever size is claimed
        return _json(path, member.read(info.file_size).decode("utf-8", "replace"), name)


def _json(path: Path, text: str | None, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "")
    except (ValueError, RecursionError):
        raise BadInputError(f"{path}: {what} is not valid JSON. The file is damaged.") from None
    if not isinstance(value, dict):
        raise BadInputError(f"{path}: {what} is JSON but no object. The file is damaged.")
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
