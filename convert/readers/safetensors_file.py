"""``.safetensors``: the safetensors library checks the file, the arrays then lie directly on its bytes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from convert.choice import choose
from convert.matching import NamedArrays
from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.budget import Budget
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.provenance import provenance_of

#: safetensors' dtype names -> (PyTorch's name, numpy type of the bytes). Source: the format's documentation.
DTYPES = {
    "F64": ("float64", "<f8"),
    "F32": ("float32", "<f4"),
    "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),
    "I64": ("int64", "<i8"),
    "I32": ("int32", "<i4"),
    "I16": ("int16", "<i2"),
    "I8": ("int8", "i1"),
    "U8": ("uint8", "u1"),
    "BOOL": ("bool", "?"),
}


def read_safetensors(file: MappedFile, key: str | None = None) -> NamedArrays:
    """The tensors of a ``.safetensors`` file by name; of the network under ``key`` where it holds several.

    Raises :class:`BadInputError` on a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    length = int.from_bytes(file.view[:8], "little")
    Budget(file.path, file.size).text(min(length, file.size), "its header")
    try:
        with safe_open(file.path, framework="numpy"):
            pass  # opening validates lengths, offsets and overlaps
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInputError(
            f"{file.path} is a damaged safetensors file ({error}). Copy or download it again."
        ) from None
    try:
        header = json.loads(file.view[8 : 8 + length], object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{file.path} is a damaged safetensors file ({error}). Download it again.") from None
    metadata = header.pop("__metadata__", None) or {}  # the library takes null for none
    arrays: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise BadInputError(
                f"{file.path}: the tensor {name} has the type {entry['dtype']}; save it as float32 and try again."
            )
        dtypes[name], numpy_dtype = DTYPES[entry["dtype"]]
        start = 8 + length + entry["data_offsets"][0]
        try:
            arrays[name] = np.ndarray(tuple(entry["shape"]), numpy_dtype, buffer=file.view, offset=start)
        except (ValueError, OverflowError) as error:  # 65 dimensions, or a size of 2**62 beside a zero
            raise BadInputError(f"{file.path}: the tensor {name} has an impossible shape ({error}).") from None
    provenance = provenance_of(file.path, metadata.get(PROVENANCE_KEY))
    _path, arrays, notes = choose(file.path, {"": arrays}, key)
    return NamedArrays("safetensors", "torch", arrays, {name: dtypes[name] for name in arrays}, notes, provenance)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The format forbids a name to stand twice; the library takes one of the two without a word."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands in its header twice")
    return result
