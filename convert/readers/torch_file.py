"""PyTorch's two file formats, read without PyTorch and without copying: named arrays over the mapped file.

* The zip format (torch >= 1.6): ``<top>/data.pkl`` describes the tensors, ``<top>/data/<key>`` are the storages,
  stored without compression, so an array can lie directly on the file's bytes.
* The old format (that of Albanie's files): five consecutive pickles (magic number, protocol version, system
  information, the object, the storage keys), then for each key its element count and its bytes.

Every size is checked against the file before an array is made over it. Tensors' dtypes, shapes and strides come from
:mod:`convert.readers.pickle_subset`, which runs no code.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convert.choice import MENTIONED, choose, is_network
from convert.halves import in_halves
from convert.match_report import by
from convert.readers import pickle_subset
from convert.readers.pickle_subset import (
    MalformedPickleError,
    Other,
    StateDict,
    StorageRef,
    TensorRef,
    UnsafePickleError,
    pickles_in,
    shown,
    storage_from_id,
)
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.zips import ZIP_MAGIC, open_zip
from ferplus_keras.wording import counted

#: First pickle of an old-format file. Source: torch/serialization.py.
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

#: How to get a state dict out of a file that holds more than that.
HOW_TO_SAVE = (
    "On a machine where it can be loaded and is trusted, save the state dict alone: "
    "torch.save(model.state_dict(), 'state_dict.pth')."
)

#: The numpy type of the bytes. numpy has no bfloat16: its 16 bits are widened where they are used.
NUMPY_DTYPES = (
    {name: np.dtype(name) for name in pickle_subset.DTYPES if name != "bfloat16"}
    | {"bfloat16": np.dtype("uint16")}
    | {name: np.dtype(f"V{size}") for name, size in pickle_subset.OTHER_STORAGES.values()}
)

#: The message for a pickle of NumPy arrays, whose bytes are inside the pickle, which is bounded.
NUMPY_ARRAYS = (
    "holds NumPy arrays in a pickle, and no tensors. Where it is trusted, save tensors instead: "
    "torch.save({name: torch.from_numpy(array) for name, array in state.items()}, 'state_dict.pth')."
)

#: The first array is announced within this many bytes of a pickle.
SAMPLE = 1 << 16

#: A stride of zero repeats a number, so a small file can describe an array of any size.
MAX_REPEATED_BYTES = 1 << 30


@dataclass
class TorchFile:
    """The contents of a PyTorch file without wrapping: ``tensors`` by name, as views of the file.

    ``dtypes`` has PyTorch's name of each tensor's type; a ``bfloat16`` tensor's array is its raw 16 bits.
    """

    format: str  # "torch-zip" or "torch-legacy"
    tensors: dict[str, np.ndarray]
    dtypes: dict[str, str]
    wrapping: tuple[str, ...] = ()  # keys that led to the state dict, such as ("state_dict",)
    metadata: dict[str, Any] = field(default_factory=dict)  # torch's _metadata
    notes: list[str] = field(default_factory=list)


def is_torch_file(head: bytes) -> bool:
    """Whether a file that starts with ``head`` (16 bytes do) may be one of PyTorch's two formats."""
    return head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and 2 <= head[1] <= 5 if len(head) > 1 else False)


def read_torch_file(file: MappedFile, key: str | None = None) -> TorchFile:
    """The tensors of a ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` file; those under ``key`` if it holds several networks.

    Raises :class:`BadInputError` on anything that is not a state dict (however wrapped) in one of the two formats.
    """
    try:
        reader = _read_zip if file.view[:4] == ZIP_MAGIC else _read_legacy
        return reader(file, key)
    except UnsafePickleError as error:
        raise BadInputError(
            f"{file.path} is not a plain state dict: {error}. A whole pickled model or training state would have to "
            f"run its author's code to be read, so it is refused. {HOW_TO_SAVE}"
        ) from None
    except MalformedPickleError as error:
        raise BadInputError(
            f"{file.path} is damaged or not a PyTorch checkpoint ({error}). Copy or download it again."
        ) from None


# --- the zip format -----------------------------------------------------------------------------------------------


def _read_zip(file: MappedFile, key: str | None) -> TorchFile:
    archive = open_zip(file)
    members = {info.filename: info for info in archive.infolist()}
    if len(members) != len(archive.infolist()):
        raise BadInputError(f"{file.path} is a zip archive with two entries of one name. Save or download it again.")
    pickles = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") for name in members):
        raise BadInputError(
            f"{file.path} is a TorchScript archive (a program), not a state dict. Load it with torch.jit.load where it "
            "is trusted and save its state: torch.save(module.state_dict(), 'state_dict.pth')."
        )
    if len(pickles) != 1:
        listed = shown(", ".join(sorted(members)[:4])) or "nothing"
        raise BadInputError(
            f"{file.path} is a zip archive but not a PyTorch checkpoint: instead of data.pkl it holds "
            f"{listed}. If it is an archive of a checkpoint, unpack it first."
        )
    top = pickles[0].rsplit("/", 1)[0]
    spans = {name: _member_span(file, info) for name, info in members.items()}
    _refuse_overlaps(file, spans)

    def raw(name: str) -> memoryview:
        start, size = spans[name]
        return memoryview(file.view)[start : start + size]

    if spans[pickles[0]][1] > pickle_subset.MAX_PICKLE_BYTES and b"multiarray" in bytes(raw(pickles[0])[:SAMPLE]):
        raise BadInputError(f"{file.path} {NUMPY_ARRAYS}")
    byteorder = bytes(raw(f"{top}/byteorder")[:16]) if f"{top}/byteorder" in members else b"little"
    if byteorder not in (b"little", b"big"):
        raise BadInputError(f"{file.path} has a byte order that is neither little nor big. It is damaged.")
    value = pickle_subset.loads(raw(pickles[0]), storage_from_id)

    def span(storage: StorageRef) -> tuple[int, int]:
        name = f"{top}/data/{storage.key}"
        if name not in spans:
            raise BadInputError(
                f"{file.path}: the storage {shown(name)} is missing from the archive; the file is damaged."
            )
        return spans[name]

    result = _collect(file, "torch-zip", value, key, span, byteorder == b"big")
    result.notes += _check_crcs(file, members, raw)
    return result


def _member_span(file: MappedFile, info: zipfile.ZipInfo) -> tuple[int, int]:
    """Start and length of a member's bytes, checked to be within the file."""
    name = shown(info.filename)
    if info.compress_type != zipfile.ZIP_STORED:
        raise BadInputError(
            f"{file.path}: {name} is compressed, which PyTorch never does (claimed size "
            f"{info.file_size:,} bytes). If the checkpoint was zipped once more, unpack it; else save it again."
        )
    # A misplaced central directory shifts the offsets, even below zero.
    header = bytes(file.view[info.header_offset : info.header_offset + 30]) if info.header_offset >= 0 else b""
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise BadInputError(f"{file.path}: the entry {name} is damaged. Copy or download the file again.")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    if info.file_size != info.compress_size or start + info.file_size > file.size:
        raise BadInputError(
            f"{file.path}: the entry {name} claims {info.file_size:,} bytes but the file does not have them. "
            "It was cut short: copy or download it again."
        )
    return start, info.file_size


def _refuse_overlaps(file: MappedFile, spans: dict[str, tuple[int, int]]) -> None:
    """Refuse entries that share bytes, as in archives that unpack to far more than their size."""
    end = 0
    for start, size in sorted(spans.values()):
        if start < end:
            raise BadInputError(f"{file.path} is a zip archive whose entries overlap: it is damaged or hostile.")
        end = start + size


def _check_crcs(file: MappedFile, members: dict[str, zipfile.ZipInfo], raw: Any) -> list[str]:
    """Check every member's CRC-32. torch does not; a flipped bit in a weight shows only here."""
    names = [name for name, info in members.items() if info.file_size]

    def damaged(some: Sequence[str]) -> list[str]:
        return [name for name in some if zlib.crc32(raw(name)) != members[name].CRC]

    halves = in_halves(damaged, names, lambda name: members[name].file_size)
    wrong = [name for half in halves for name in half]
    if not wrong:
        return []
    if not any(members[name].CRC for name in names):
        # torch.serialization.set_crc32_options(False) writes zeros: nothing to check against.
        return ["the file was saved without checksums (torch's set_crc32_options(False)); its bytes are unverified"]
    raise BadInputError(
        f"{file.path} is damaged: {len(wrong)} of {len(names)} entries do not have the checksum they were saved with, "
        f"the first {shown(wrong[0])}. Copy or download it again."
    )


# --- the old format -----------------------------------------------------------------------------------------------


def _read_legacy(file: MappedFile, key: str | None) -> TorchFile:
    stream = pickles_in(file.view)
    if file.size > pickle_subset.MAX_PICKLE_BYTES and b"multiarray" in bytes(file.view[:SAMPLE]):
        raise BadInputError(f"{file.path} {NUMPY_ARRAYS}")
    first = pickle_subset.load(stream)
    if _holds(first, "NumPy array"):
        raise BadInputError(f"{file.path} {NUMPY_ARRAYS}")
    if first != MAGIC_NUMBER:
        raise BadInputError(
            f"{file.path} is a pickle but not a PyTorch checkpoint: it does not start with torch's magic number. A "
            f"pickle is a program; it was not run. {HOW_TO_SAVE}"
        )
    version = pickle_subset.load(stream)
    if version != PROTOCOL_VERSION:
        stated = version if type(version) is int else f"({type(version).__name__})"  # printing a list may take for ever
        raise BadInputError(f"{file.path} has PyTorch's protocol version {stated}; only {PROTOCOL_VERSION} is known.")
    pickle_subset.load(stream)  # sizes of C types on the writing machine, which do not affect the data
    storages: dict[str, StorageRef] = {}

    def remember(identifier: Any) -> StorageRef:
        storage = storage_from_id(identifier)
        storages.setdefault(storage.key, storage)
        return storage

    value = pickle_subset.load(stream, remember)
    keys = pickle_subset.load(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise MalformedPickleError("the list of storage keys is not a list of names")
    spans = _legacy_spans(file, stream.tell(), keys, storages)

    def span(storage: StorageRef) -> tuple[int, int]:
        if storage.key not in spans:
            raise BadInputError(f"{file.path}: the storage {shown(storage.key)} is missing; the file is damaged.")
        return spans[storage.key]

    return _collect(file, "torch-legacy", value, key, span, big_endian=False)


def _legacy_spans(
    file: MappedFile, position: int, keys: list[str], storages: dict[str, StorageRef]
) -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    for index, key in enumerate(keys):
        header = bytes(file.view[position : position + 8])
        if len(header) < 8:
            raise _cut_short(file, f"storage {index + 1} of {len(keys)} is missing")
        (count,) = struct.unpack("<q", header)
        storage = storages.get(key)
        if storage is None:
            raise BadInputError(f"{file.path}: the storage {shown(key)} is not described; the file is damaged.")
        size = count * (NUMPY_DTYPES[storage.dtype].itemsize if storage.dtype else 1)
        if count < 0 or position + 8 + size > file.size:
            raise _cut_short(file, f"storage {index + 1} of {len(keys)} claims {count:,} elements")
        spans[key] = (position + 8, size)
        position += 8 + size
    if position != file.size:
        raise BadInputError(
            f"{file.path} has {file.size - position:,} unexpected bytes behind its last storage. "
            "It is damaged: copy or download it again."
        )
    return spans


def _cut_short(file: MappedFile, what: str) -> BadInputError:
    return BadInputError(
        f"{file.path} was cut short: {what}, and the file ends after {file.size:,} bytes. Copy or download it again."
    )


# --- from descriptions to arrays ----------------------------------------------------------------------------------

#: Keys under which training scripts keep the state dict, tried in this order.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")


#: State dicts are one or two keys deep.
MAX_WRAPPING = 5


def _collect(file: MappedFile, format: str, value: Any, key: str | None, span: Any, big_endian: bool) -> TorchFile:
    state, metadata, wrapping, notes = _unwrap(file, value, key)
    tensors: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    for name, ref in state.items():
        if isinstance(ref, TensorRef):
            tensors[name] = _array(file, name, ref, span, big_endian)
            dtypes[name] = ref.dtype
        elif isinstance(ref, Other) and ref.is_tensor:
            raise BadInputError(
                f"{file.path} holds a tensor of an unsupported kind: {shown(name)} is a {ref.kind}. Save plain "
                "float32 tensors: {name: tensor.to_dense().float() for each tensor}."
            )
        else:
            kind = ref.kind if isinstance(ref, Other) else type(ref).__name__
            notes.append(f"{shown(name)} is not a tensor ({kind}) and was ignored")
    return TorchFile(format, tensors, dtypes, wrapping, metadata if isinstance(metadata, dict) else {}, notes)


def _unwrap(file: MappedFile, value: Any, key: str | None) -> tuple[dict[str, Any], Any, tuple[str, ...], list[str]]:
    """The chosen tensors in ``value``, their _metadata, the keys that lead to them, and notes."""
    groups = dict(_groups(value, (), set()))
    if not groups:
        if _holds(value, "NumPy array") or any(_holds(item, "NumPy array") for item in _values(value)):
            raise BadInputError(f"{file.path} {NUMPY_ARRAYS}")
        kind = "single tensor" if isinstance(value, TensorRef) else type(value).__name__
        if isinstance(value, dict):
            kind = f"dict with {shown(', '.join(str(key)[:40] for key in list(value)[:6])) or 'nothing'}"
        raise BadInputError(f"{file.path} holds a {kind} and not a state dict. {HOW_TO_SAVE}")
    named = {"/".join(path): {str(name): item for name, item in items.items()} for path, items in groups.items()}
    path, chosen, notes = choose(file.path, named, key)
    notes += [
        f"the file also holds {counted(count, 'tensor')} without names ({shown('/'.join(place))}), which were ignored"
        for place, count in _nameless(value, (), set())
        if count >= MENTIONED
    ]
    wrapping = next(each for each in groups if "/".join(each) == path)
    return chosen, getattr(groups[wrapping], "attributes", {}).get("_metadata"), wrapping, notes


def _groups(
    value: Any, path: tuple[str, ...], seen: set[int], numbered: bool = False
) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Every dict of named tensors, those under the usual keys first.

    An optimizer numbers its dicts: below a number, whether a key or a place in a list, networks alone count. Each dict
    is visited once, because a small pickle may refer to one in thousands of places.
    """
    if not isinstance(value, (dict, list, tuple)) or len(path) > MAX_WRAPPING or id(value) in seen:
        return
    seen.add(id(value))
    if not isinstance(value, dict):
        value = dict(enumerate(value))
    if any(isinstance(item, TensorRef) or (isinstance(item, Other) and item.is_tensor) for item in value.values()) and (
        not numbered or is_network(value)
    ):
        yield path, value
    usual = [name for name in WRAPPERS if name in value]
    for name in (*usual, *(name for name in value if isinstance(name, (str, int)) and name not in WRAPPERS)):
        yield from _groups(value[name], (*path, str(name)), seen, numbered or isinstance(name, int))


def _nameless(value: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every list of tensors in dicts below ``value``, such as torch_ema's averages: where, and how many."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, (list, tuple)):
        yield path, sum(isinstance(item, TensorRef) for item in value)
    elif isinstance(value, dict) and len(path) <= MAX_WRAPPING:
        for name, item in value.items():
            if isinstance(name, str):
                yield from _nameless(item, (*path, name), seen)


def _holds(value: Any, kind: str) -> bool:
    return any(isinstance(item, Other) and item.kind == kind for item in _values(value))


def _values(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else ()


def _array(file: MappedFile, name: str, ref: TensorRef, span: Any, big_endian: bool) -> np.ndarray:
    """A read-only, strided numpy view of the file's bytes, checked to be inside its storage."""
    start, size = span(ref.storage)
    dtype = NUMPY_DTYPES[ref.dtype].newbyteorder(">" if big_endian else "<")
    storage_item = NUMPY_DTYPES[ref.storage.dtype].itemsize if ref.storage.dtype else 1
    first = ref.storage.offset * storage_item + ref.offset * dtype.itemsize
    last = sum((extent - 1) * stride for extent, stride in zip(ref.shape, ref.strides, strict=True))
    end = first if 0 in ref.shape else first + (1 + last) * dtype.itemsize
    available = (ref.storage.offset + ref.storage.count) * storage_item
    described = f"{shown(name)} of {shown(by(ref.shape))}"
    if available > size or (end > available and 0 not in ref.shape):
        raise BadInputError(
            f"{file.path}: the tensor {described} reaches beyond its storage of {size:,} bytes. "
            "The file is damaged: copy or download it again."
        )
    if math.prod(ref.shape) * dtype.itemsize > max(size, MAX_REPEATED_BYTES):
        raise BadInputError(
            f"{file.path}: the tensor {described} repeats a storage of {size:,} bytes more often than any network does."
        )
    try:
        if 0 in ref.shape:
            return np.empty(ref.shape, dtype)
        strides = tuple(stride * dtype.itemsize for stride in ref.strides)
        return np.ndarray(ref.shape, dtype, buffer=file.view, offset=start + first, strides=strides)
    except (ValueError, OverflowError) as error:  # sizes of 2**63 and more, beside a zero or a one
        raise BadInputError(
            f"{file.path}: the tensor {described} has an impossible shape or strides ({error})."
        ) from None


__all__ = ["HOW_TO_SAVE", "StateDict", "TorchFile", "is_torch_file", "read_torch_file"]
