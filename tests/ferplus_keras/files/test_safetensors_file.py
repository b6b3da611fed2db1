"""safetensors files: what the library reads, and refusals of what it must not."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from convert.readers import read_named
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "uint8", "bool"])
def test_every_type_as_the_library_reads_it(dtype: str, tmp_path: Path) -> None:
    state = {"a": torch.arange(6).reshape(2, 3).to(getattr(torch, dtype)), "b": torch.ones(1).to(getattr(torch, dtype))}
    save_file(state, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = read_named(MappedFile(tmp_path / "x.safetensors"))
    for name, tensor in load_file(tmp_path / "x.safetensors").items():
        numbers = (tensor.view(torch.int16) if dtype == "bfloat16" else tensor).numpy()
        assert found.dtypes[name] == dtype and found.arrays[name].tobytes() == numbers.tobytes()
        assert found.arrays[name].shape == tuple(tensor.shape)


def raw(header: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


GOOD = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
BAD = {
    "cut short": raw(GOOD)[:-1],
    "length lies": raw(GOOD, length=1 << 40),
    "no JSON": raw(b"{nonsense"),
    "offsets beyond the file": raw({"a": {"dtype": "F32", "shape": [400], "data_offsets": [0, 1600]}}),
    "shape and offsets disagree": raw({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}),
    "overlap": raw({"a": GOOD["a"], "b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
    "a name twice": raw(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
                        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'),
    "negative": raw({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}),
    "a number of 400 digits": raw({"a": {"dtype": "F32", "shape": [10**400], "data_offsets": [0, 16]}}),
    "unknown type": raw({"a": {"dtype": "F33", "shape": [4], "data_offsets": [0, 16]}}),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_damage_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(BAD[kind])
    with pytest.raises(BadInputError):
        read_named(MappedFile(tmp_path / "x.safetensors"))


def test_the_tool_of_these_tests_makes_good_files_too(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(raw(GOOD, np.arange(4, dtype=np.float32).tobytes()))
    assert read_named(MappedFile(tmp_path / "x.safetensors")).arrays["a"].tolist() == [0, 1, 2, 3]
