"""``.safetensors``: the safetensors library checks the file, the arrays then lie directly on its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.budget import Budget
from ferplus_keras.files.json_text import parse_json
from ferplus_keras.files.mapped_file import MappedFile

#: safetensors' dtype names -> (PyTorch's name, numpy type of the bytes). Source: the format's documentation.
DTYPES = {
    "F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<f2"), "BF16": ("bfloat16", "<u2"),
    "I64": ("int64", "<i8"), "I32": ("int32", "<i4"), "I16": ("int16", "<i2"), "I8": ("int8", "i1"),
    "U64": ("uint64", "<u8"), "U32": ("uint32", "<u4"), "U16": ("uint16", "<u2"), "U8": ("uint8", "u1"),
    "BOOL": ("bool", "?"),
}  # fmt: skip


@dataclass(frozen=True)
class Tensors:
    """What stands in a file: arrays on its bytes by name, their types in PyTorch's words, and the header's texts."""

    arrays: dict[str, np.ndarray]
    dtypes: dict[str, str]
    metadata: dict[str, str]


def read_tensors(source: Path | MappedFile) -> Tensors:
    """All of the ``.safetensors`` file ``source``. Raises :class:`BadInputError` on a damaged one."""
    from safetensors import SafetensorError, safe_open

    file = source if isinstance(source, MappedFile) else MappedFile(source)
    length = int.from_bytes(file.view[:8], "little")
    Budget(file.path, file.size).text(min(length, file.size), "its header")
    try:
        with safe_open(file.path, framework="numpy"):
            pass  # opening validates lengths, offsets and overlaps
        header = parse_json(file.view[8 : 8 + length], _without_duplicates)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInputError(
            f"{file.path} is a damaged safetensors file ({error}). Copy or download it again."
        ) from None
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
    return Tensors(arrays, dtypes, metadata)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The format forbids a name to stand twice; the library takes one of the two without a word."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands in its header twice")
    return result
