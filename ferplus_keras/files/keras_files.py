"""Reading the arrays of any Keras weight file by name, with h5py alone: no Keras, and nothing in the file is run.

Four kinds of file, told apart by what they hold and not by how they are called:

* ``h5-model``: a whole model in HDF5, from Keras 1 to 3 (arrays under ``model_weights``);
* ``h5-weights``: a legacy weights file (``layer_names`` at the root);
* ``weights.h5``: Keras 3's own weights (arrays under ``layers/<class>_<n>/vars/<i>``);
* ``keras``: Keras 3's zip of ``config.json`` and ``model.weights.h5``.

What such a file may hold, and how much, is looked at by :mod:`ferplus_keras.files.hdf5` before it is read.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from ferplus_keras import HDF5_MAGIC, PROVENANCE_KEY, PROVENANCE_MEMBER
from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.budget import MAX_NAMES, Budget
from ferplus_keras.files.hdf5 import StoredArray, arrays_below, open_hdf5, refuse_link
from ferplus_keras.files.hdf5_text import Attributes
from ferplus_keras.files.json_text import parse_json
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.provenance import provenance_of
from ferplus_keras.files.zips import open_zip
from ferplus_keras.networks.keras_vggface import layer_of_weight

#: The roles, in the order of ``vars/<i>``, of the layer classes that these networks use.
ROLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}

#: Where the layers' arrays stand in Keras 3's layout; beside them a trained model has its optimizer's and metrics'.
LAYERS_ROOTS = ("layers/", "_layer_checkpoint_dependencies/")

#: What zipfile and the decompressors raise when they meet damage.
ZIP_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError,
)  # fmt: skip


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
def open_keras_file(source: str | Path | MappedFile) -> Iterator[KerasFile]:
    """Open the Keras file ``source``; its datasets can be read until the block ends.

    Raises :class:`BadInputError` when the file is none of the four kinds, is damaged, or points outside itself.
    """
    file = source if isinstance(source, MappedFile) else MappedFile(source)
    path, head, budget = file.path, bytes(file.view[:8]), Budget(file.path, file.size)
    if head[:4] == b"PK\x03\x04":
        with _open_zip(file, budget) as opened:
            yield opened
    elif head == HDF5_MAGIC:
        with open_hdf5(path) as h5:
            yield _read_hdf5(_Contents(path, h5, file.view, budget))
    else:
        start = f"begins with {head.hex(' ')}" if head else "is empty"
        raise BadInputError(
            f"{path} is not a Keras file: it {start}, neither HDF5 nor a zip archive. "
            f"Give a .h5, .weights.h5 or .keras file; `ferplus convert {path} new.h5` makes one from a checkpoint."
        )


@dataclass
class _Contents:
    """An open HDF5 file, its bytes (``view``), and what it may still cost."""

    path: Path
    h5: h5py.File
    view: Any
    budget: Budget

    def __post_init__(self) -> None:
        self.attributes = Attributes(self.h5, self.view, self.budget)

    def text(self, item: Any, name: str) -> str:
        """The text in an attribute of the group ``item``; "" where there is none."""
        return self.attributes.text(item, name) or ""


@contextmanager
def _open_zip(file: MappedFile, budget: Budget) -> Iterator[KerasFile]:
    path = file.path
    with open_zip(file) as archive:
        names = set(archive.namelist())
        if not {"config.json", "model.weights.h5"} <= names:
            raise BadInputError(
                f"{path} is a zip archive but not a .keras file: config.json and model.weights.h5 are not both in it. "
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
            config = _json_member(archive, budget, "config.json")
            metadata = _json_member(archive, budget, "metadata.json") if "metadata.json" in names else {}
            record = _text_member(archive, budget, PROVENANCE_MEMBER) if PROVENANCE_MEMBER in names else None
            # One copy in memory, its checksum verified by the way; a zip member itself cannot seek backwards fast.
            inner = archive.read("model.weights.h5")
            with open_hdf5(path, inner) as h5:
                classes = [(name, class_name) for name, class_name, _ in _config_layers(config)]
                layers = _read_vars(_Contents(path, h5, inner, budget), counted_names(classes))
                version = metadata.get("keras_version")
                yield KerasFile("keras", layers, config, version, provenance_of(path, record))
        except ZIP_DAMAGE as error:
            raise BadInputError(f"{path} is damaged ({first_line(error)}). Copy or download it again.") from None


def _read_hdf5(file: _Contents) -> KerasFile:
    path, h5 = file.path, file.h5
    if h5.id.get_num_objs() > MAX_NAMES:
        raise BadInputError(f"{path}: it has far too many entries. The file is not a model.")
    for name in h5.id:  # below, names are opened
        if h5.id.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            refuse_link(path, name.decode("utf-8", "replace"))
    provenance = provenance_of(path, file.text(h5, PROVENANCE_KEY))
    if "layer_names" in h5.attrs or "layer_names0" in h5.attrs:
        version = file.text(h5, "keras_version")
        listed = tuple(_name_list(file, h5, "layer_names"))
        return KerasFile("h5-weights", _read_legacy(file, h5), None, version, provenance, listed=listed)
    if isinstance(weights := h5.get("model_weights"), h5py.Group):
        config = None
        if "model_config" in h5.attrs:
            config = _json(file.budget, file.text(h5, "model_config"), "model_config")
        version = file.text(h5, "keras_version") or file.text(weights, "keras_version")
        return KerasFile("h5-model", _read_legacy(file, weights), config, version, provenance)
    if "layers" in h5 or "_layer_checkpoint_dependencies" in h5:
        layers = _read_vars(file, {})
        listed = tuple(h5["layers"]) if isinstance(h5.get("layers"), h5py.Group) else ()
        return KerasFile("weights.h5", layers, None, None, provenance, listed=listed)
    raise BadInputError(
        f"{path} is an HDF5 file but not a Keras file: it has no groups model_weights, layer_names or layers, "
        f"but {', '.join(sorted(h5)[:5]) or 'nothing'}."
    )


def _read_legacy(file: _Contents, group: h5py.Group) -> dict[str, dict[str, StoredArray]]:
    path = file.path
    stored = arrays_below(path, group, file.view, file.budget)
    layers: dict[str, dict[str, StoredArray]] = {}
    for layer in _name_list(file, group, "layer_names"):
        try:
            names = _name_list(file, h5py.Group(h5py.h5g.open(group.id, layer.encode())), "weight_names")
        except KeyError:
            raise BadInputError(
                f"{path}: the layer {layer!r} is announced but not there. The file is damaged."
            ) from None
        for name in names:
            if f"{layer}/{name}" not in stored:
                raise BadInputError(f"{path}: the array {layer}/{name} is announced but not there; it is damaged.")
        roles = [name.rsplit("/", 1)[-1].split(":")[0] for name in names]
        owners = [layer] * len(names)
        if len(set(roles)) < len(names):  # a model in the model: its layers' own names stand before the roles
            owners = [layer_of_weight(name.rpartition("/")[0]) or layer for name in names]
        for owner, role, name in zip(owners, roles, names):  # noqa: B905  (of one length; Python 3.9 has no strict)
            if role in layers.get(owner, {}):  # two layers of one name: neither is taken for the other
                owner, role = layer, name
            layers.setdefault(owner, {})[role] = stored[f"{layer}/{name}"]
    return layers


def _name_list(file: _Contents, group: h5py.Group, attribute: str) -> list[str]:
    """A list of names from an attribute, or from its chunks ``attribute0``, ``attribute1``... (split at 64 KiB).

    Raises :class:`BadInputError` when a name stands there twice.
    """
    names = file.attributes.texts(group, attribute)
    if names is None:
        names, chunk = [], 0
        while (found := file.attributes.texts(group, f"{attribute}{chunk}")) is not None:
            names += found
            chunk += 1
    if len(set(names)) < len(names):
        twice, times = Counter(names).most_common(1)[0]
        raise BadInputError(f"{file.path}: {twice!r} stands {times:,} times in its {attribute}. The file is damaged.")
    return names


def _read_vars(file: _Contents, names: dict[str, str]) -> dict[str, dict[str, StoredArray]]:
    """Arrays of Keras 3's layout. The layer's name is in the file (Keras >= 3.6), or follows from ``names``."""
    by_group: dict[str, dict[int, StoredArray]] = {}
    for where, array in arrays_below(file.path, file.h5, file.view, file.budget).items():
        group, _, key = where.rpartition("/")
        if group.endswith("/vars") and key.isdecimal() and group.startswith(LAYERS_ROOTS):
            by_group.setdefault(group, {})[int(key)] = array
    layers: dict[str, dict[str, StoredArray]] = {}
    for group, numbered in by_group.items():
        counted = group.split("/")[-2]
        roles = ROLES.get(re.sub(r"_\d+$", "", counted), ())
        name = file.text(file.h5[group], "name") or names.get(counted, counted)
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


def _json_member(archive: zipfile.ZipFile, budget: Budget, name: str) -> dict[str, Any]:
    return _json(budget, _text_member(archive, budget, name), name)


def _text_member(archive: zipfile.ZipFile, budget: Budget, name: str) -> bytes:
    info = archive.getinfo(name)
    budget.text(info.file_size, name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # bzip2 and LZMA inflate without bound
        raise BadInputError(f"{budget.path}: {name} is compressed as Keras never does it. Save the model again.")
    with archive.open(info) as member:  # not archive.read, which inflates up to 2 GiB whatever size is claimed
        return member.read(info.file_size)


def _json(budget: Budget, text: bytes | str, what: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError:
        raise BadInputError(f"{budget.path}: {what} is not valid JSON. The file is damaged.") from None
    if not isinstance(value, dict):
        raise BadInputError(f"{budget.path}: {what} is JSON but not an object. The file is damaged.")
    return value
