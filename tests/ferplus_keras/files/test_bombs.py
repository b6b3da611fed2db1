"""Small files that unfold to far more than a network is: refused by a sentence, and by a child that stays small."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from convert.readers import read_named
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.budget import FREE_BYTES, TEXT_BYTES, Budget
from ferplus_keras.files.hdf5 import arrays_below
from ferplus_keras.files.hdf5_text import Attributes
from ferplus_keras.files.keras_files import open_keras_file
from ferplus_keras.files.mapped_file import MappedFile
from tests.conftest import run_python

LAYER = "conv1_7x7_s2"
NOISE = os.urandom(2000)
DECLARED = 250_000  #: numbers in a piece, whatever is stored in it


def deflated(content: bytes, times: int = 1) -> bytes:
    stream = zlib.compressobj(9)
    return b"".join(stream.compress(content) for _ in range(times)) + stream.flush()


def zeros(megabytes: int) -> bytes:
    return deflated(bytes(1 << 20), megabytes)


def layer_file(path: Path, layers: list[str], names: list[str]) -> h5py.File:
    """An open .h5 with Keras 2's list of layers, and in the first of them ``names`` announced."""
    file = h5py.File(path, "w")
    root = file.create_group("model_weights")
    root.attrs["layer_names"] = [layer.encode() for layer in layers]
    root.create_group(layers[0]).attrs["weight_names"] = [name.encode() for name in names]
    return file


def one_piece(path: Path, data: bytes, mask: int = 0, **filters: Any) -> None:
    """An array of one piece, stored as ``data``."""
    with layer_file(path, [LAYER], ["kernel:0"]) as file:
        group = file["model_weights"][LAYER]
        stored = group.create_dataset("kernel:0", (DECLARED,), "f4", chunks=(DECLARED,), **filters)
        stored.id.write_direct_chunk((0,), data, mask)


def stacked(path: Path) -> None:
    """Packed twice: what the outer packing yields has the right size, and is a bomb itself."""
    inner = zeros(400).ljust(4 * DECLARED, b"\0")
    with layer_file(path, [LAYER], ["kernel:0"]) as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((DECLARED,))
        creation.set_deflate(9)
        creation.set_deflate(9)
        space = h5py.h5s.create_simple((DECLARED,))
        group = file["model_weights"][LAYER].id
        stored = h5py.h5d.create(group, b"kernel:0", h5py.h5t.IEEE_F32LE, space, creation)
        stored.write_direct_chunk((0,), deflated(inner))


def hard_links(path: Path) -> None:
    names = [f"x{number}" for number in range(240)]
    with layer_file(path, [LAYER], names) as file:
        group = file["model_weights"][LAYER]
        group[names[0]] = group.create_dataset("kernel:0", data=np.zeros((1000, 1000), "f4"), compression="gzip")
        for name in names[1:]:
            group[name] = group["kernel:0"]


def shared_bytes(path: Path) -> None:
    """The same without compression: each array is a view, but written elsewhere they would fill the disk."""
    names = [f"x{number}" for number in range(240)]
    with layer_file(path, [LAYER], names) as file:
        group = file["model_weights"][LAYER]
        group[names[0]] = np.zeros((100, 1000), "f4")
        for name in names[1:]:
            group[name] = group[names[0]]


def nested_groups(path: Path) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("layers")
        for _ in range(15_000):
            group = group.create_group("a")


def layer_names(path: Path) -> None:
    names = [f"k{number}:0" for number in range(300)]
    with layer_file(path, [LAYER] * 1500, names) as file:
        for name in names:
            file["model_weights"][LAYER][name] = np.zeros(1, "f4")


def long_config(path: Path) -> None:
    with layer_file(path, [LAYER], []) as file:
        file.attrs["model_config"] = "[" + "{}," * 10_000_000 + "{}]"


def shared_text(path: Path, long: bytes = b"x" * 1_000_000, count: int = 3000) -> None:
    """Names without a fixed length, all of them references to one text."""
    with layer_file(path, [LAYER], []) as file:
        file["model_weights"].attrs["layer_names"] = [*(b"%d" % number for number in range(count - 1)), long]
    content = bytearray(path.read_bytes())
    last = content.index(struct.pack("<I", len(long)))  # how a reference begins; its place in the heap follows
    content[last - 16 * (count - 1) : last] = content[last : last + 16] * (count - 1)
    path.write_bytes(content)


def long_reference(path: Path, libver: str = "earliest", many: int = 0) -> None:
    """A reference that speaks of four gigabytes, to a text of three bytes; among ``many`` other attributes."""
    with h5py.File(path, "w", libver=libver) as file:
        group = file.create_group("model_weights")
        for number in range(many):
            group.attrs[f"other{number}"] = b"abcd"
        group.attrs["layer_names"] = [b"abc"] * 9
    content = path.read_bytes()
    reference = content.index(struct.pack("<I", 3), content.index(b"layer_names"))
    path.write_bytes(content[:reference] + b"\xff" * 4 + content[reference + 4 :])


def many_types(path: Path) -> None:
    """Numbers that look like the types of texts, each of which would be looked at."""
    with layer_file(path, [LAYER], []) as file:
        file.attrs["keras_version"] = "3"
        file["model_weights"][LAYER]["k:0"] = np.frombuffer(b"\0\x10\0\0\0\0\0\0" * 3_000_000, "f4")


def long_text(path: Path) -> None:
    """One text that takes four bytes a character, for the sake of the first."""
    with layer_file(path, [LAYER], []) as file:
        file.attrs["keras_version"] = "\N{GRINNING FACE}" + "a" * 80_000_000
        file.attrs["layer_names"] = [b"x"]


def many_numbers(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file.create_group("model_weights").attrs["layer_names"] = np.zeros(20_000_000)


def element(kind: int, *data: bytes) -> bytes:
    """A tagged element of a MATLAB 5 file."""
    size = sum(map(len, data))
    return b"".join([struct.pack("<II", kind, size), *data, bytes(-size % 8)])


def variable(kind: int, columns: int, data: bytes) -> bytes:
    return element(14, element(6, struct.pack("<II", kind, 0)), element(5, struct.pack("<ii", 1, columns)),
                   element(1, b"x"), data)  # fmt: skip


def level5(*variables: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(b"".join([b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM", *variables]))


def packed_variables(path: Path) -> None:
    """Two variables of zeros, each of them within what a file may unfold to."""
    packed = deflated(variable(7, 15 << 20, element(7, bytes(60 << 20))))
    level5(*[struct.pack("<II", 15, len(packed)) + packed] * 2)(path)


def long_characters(path: Path) -> None:
    text = "\N{GRINNING FACE}".encode() + b"a" * 80_000_000
    level5(variable(4, 80_000_001, element(16, text)))(path)


def onnx(piece: bytes, count: int, before: bytes = b"") -> Callable[[Path], None]:
    """A version of the format, then a graph of so many equal pieces, all of them in the field ``before``."""

    def field(tag: bytes, size: int) -> bytes:
        length = b""
        while size > 127:
            size, length = size >> 7, length + bytes([size & 127 | 128])
        return tag + length + bytes([size])

    inner = field(before, len(piece) * count) if before else b""
    head = b"\x08\x08" + field(b"\x3a", len(inner) + len(piece) * count) + inner
    return lambda path: path.write_bytes(head + piece * count)


def matlab(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        stored = file.create_dataset("x", (DECLARED,), "f8", chunks=(DECLARED,), compression="gzip")
        stored.id.write_direct_chunk((0,), zeros(400))
        stored.attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")


def archive(path: Path, **members: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in members.items():
            file.writestr(f"{name}.json", text)
        file.writestr(zipfile.ZipInfo("model.weights.h5"), b"")


def zip_directory(path: Path) -> None:
    """The directory (64 bits) of a million names, and nothing else."""
    first = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"x"
    fixed = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0)
    directory = b"".join(fixed + struct.pack("<I", number) for number in range(300_000))
    body = first + directory
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 300_000, 300_000, len(directory), len(first))
    end += struct.pack("<4sIQI", b"PK\6\7", 0, len(body), 1)
    end += struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(body + end)


def emoji(path: Path) -> None:
    """A pickle that is one string: each of its characters takes four bytes, for the sake of the first."""
    text = "\N{GRINNING FACE}".encode() + b"a" * 80_000_000
    head = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {}))
    path.write_bytes(head + b"\x80\x02X" + struct.pack("<I", len(text)) + text + b".")


def many_dicts(path: Path) -> None:
    head = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {}))
    path.write_bytes(head + b"\x80\x02(" + b"}" * 7_000_000 + b"l.")


def safetensors_header(path: Path) -> None:
    entry = '"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = ("{" + ",".join(entry % number for number in range(200_000)) + "}").encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def objects(count: int) -> str:
    return '{"x":[' + "{}," * count + "{}]}"


OBJECTS = objects(10_000_000)
BOMBS: dict[str, dict[str, tuple[Callable[[Path], None], str]]] = {
    "HDF5": {
        "inflates": (lambda path: one_piece(path, zeros(400), compression="gzip"), "unpacks to more"),
        "inflates to less": (lambda path: one_piece(path, deflated(NOISE), compression="gzip"), "unpacks to fewer"),
        "no stream": (lambda path: one_piece(path, b"x" * 999, compression="gzip"), "unpacks to fewer"),
        "with a checksum": (
            lambda path: one_piece(path, zeros(400) + b"sum.", compression="gzip", fletcher32=True), "unpacks to more",
        ),
        "unpacked by nothing": (
            lambda path: one_piece(path, bytes(9999), 1, compression="gzip"), "unpacks to fewer",
        ),
        "lzf": (
            lambda path: one_piece(path, b"\0A" + b"\xe0\xff\0" * 300_000, compression="lzf"), "unpacks to more",
        ),
        "stacked": (stacked, "packed in a way"),
        "scale-offset": (lambda path: one_piece(path, bytes(999), scaleoffset=2), "packed in a way"),
        "hard links": (hard_links, "unfold to"),
        "shared bytes": (shared_bytes, "share their bytes"),
        "nested groups": (nested_groups, "nested more than"),
        "layer names": (layer_names, "1,500 times"),
        "config": (long_config, "a text such as"),
        "shared text": (shared_text, "the attribute layer_names has"),
        "long text": (long_text, "a text such as"),
        "many types": (many_types, "far too many texts"),
        "long reference": (long_reference, "the attribute layer_names has"),
        "numbers for names": (many_numbers, "is not text"),
    },
    "MATLAB 5": {"inflates": (packed_variables, "would unfold to"), "text": (long_characters, "a text has")},
    "ONNX": {
        "nodes": (onnx(b"\x0a\x00", 8_000_000), "far too many nodes"),
        "tensors": (onnx(b"\x2a\x00", 8_000_000), "in it twice"),
        "sizes": (onnx(b"\x08\x01", 8_000_000, b"\x2a"), "more than 8 dimensions"),
        "attributes": (onnx(b"\x2a\x00", 8_000_000, b"\x0a"), "far too many entries"),
    },
    "MATLAB 7.3": {"inflates": (matlab, "unpacks to more")},
    "zip": {
        "directory": (zip_directory, "directory has more"),
        "config": (lambda path: archive(path, config=OBJECTS), "config.json has"),
        "provenance": (lambda path: archive(path, config="{}", ferplus_keras=OBJECTS), "ferplus_keras.json has"),
        "both": (
            lambda path: archive(path, config=objects(300_000), ferplus_keras=objects(500_000)),
            "ferplus_keras.json has",
        ),
    },
    "pickle": {"emoji": (emoji, "longer than"), "dicts": (many_dicts, "instructions")},
    "safetensors": {"header": (safetensors_header, "header has")},
}  # fmt: skip

INSPECT = r"""
import pathlib, re, sys, time
from convert.inspection import inspect
from ferplus_keras.errors import BadInputError
for path in sys.argv[1:]:
    begin = time.process_time()
    try:
        inspect(path)
        print("accepted", path)
    except BadInputError as error:
        print(error)
    took = time.process_time() - begin
    assert took < 5, f"{path} took {took:.1f} s"
# Not getrusage: a child begins with its parent's peak.
print(1024 * int(re.search(r"VmHWM:\s+(\d+)", pathlib.Path("/proc/self/status").read_text())[1]))
"""


@pytest.mark.slow  # a process for each container
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is asked of Linux")
@pytest.mark.parametrize("container", BOMBS)
def test_it_is_refused_in_seconds_and_in_little_memory(container: str, tmp_path: Path) -> None:
    paths = {}
    for number, (name, (make, _)) in enumerate(BOMBS[container].items()):
        paths[name] = tmp_path / f"{number}.bin"
        make(paths[name])
    *said, peak = run_python(INSPECT, *paths.values()).splitlines()
    for name, line in zip(paths, said, strict=True):
        assert BOMBS[container][name][1] in line, f"{name}: {line}"
    assert int(peak) <= 2 * max(path.stat().st_size for path in paths.values()) + 200e6


def test_packed_in_any_way_that_h5py_offers_it_is_read(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    numbers = {
        f"{packed}-{shuffle}-{checksum}-{kind}": (draw.integers(0, 99, (70, 90)).astype("f4") if kind == "whole"
                                                  else draw.random((70, 90), "f4"))
        for packed in ("gzip", "lzf", "none") for shuffle in (True, False) for checksum in (True, False)
        for kind in ("whole", "noise")
    }  # fmt: skip
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, array in numbers.items():
            packed, shuffle, checksum, _ = name.split("-")
            file.create_dataset(name, data=array, chunks=(32, 64), compression=None if packed == "none" else packed,
                                shuffle=shuffle == "True", fletcher32=checksum == "True")  # fmt: skip
    content = (tmp_path / "x.h5").read_bytes()
    with h5py.File(tmp_path / "x.h5") as file:
        found = arrays_below(tmp_path / "x.h5", file, content, Budget("x.h5", len(content)))
        for name, array in numbers.items():
            np.testing.assert_array_equal(found[name].read(), array, err_msg=name)


@pytest.mark.parametrize("oldest", ["earliest", "v110", "latest"])
@pytest.mark.parametrize("encoding", ["S16", "ascii", "utf-8"])
@pytest.mark.parametrize("sizes", [(8, 8), (4, 4), (4, 8), (8, 4)], ids=str)
def test_a_keras_file_in_any_form_of_hdf5_is_read(
    oldest: str, encoding: str, sizes: tuple[int, int], tmp_path: Path
) -> None:
    """Of any version of h5py, with names of a fixed length or of any, and with offsets of four bytes too."""
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_sizes(*sizes)
    h5py.h5f.create(bytes(tmp_path / "x.h5"), fcpl=creation).close()
    names = [f"conv{number}" for number in range(260)]  # more than any of the networks has
    form = encoding if encoding == "S16" else h5py.string_dtype(encoding)
    with h5py.File(tmp_path / "x.h5", "r+", libver=(oldest, "latest")) as file:
        file.attrs["model_config"] = json.dumps({"a": "x" * 300_000})  # the largest heap, so a name might be as long
        group = file.create_group("model_weights")
        for number in range(20):  # with as many, new files keep all of them in a heap of their own
            group.attrs[f"other{number}"] = "x"
        group.attrs.create("layer_names", np.array(names, "S"), dtype=form)
        for name in names:
            group.create_group(name).attrs.create("weight_names", np.array([f"{name}/kernel:0"], "S"), dtype=form)
            group[name][f"{name}/kernel:0"] = np.full(2, 3, "f4")
    with open_keras_file(tmp_path / "x.h5") as found:
        assert list(found.layers) == names
        assert found.layers["conv259"]["kernel"].read().tolist() == [3, 3]


@pytest.mark.parametrize("many", [0, 20])
def test_a_reference_is_not_believed_in_new_files_either(many: int, tmp_path: Path) -> None:
    """HDF5 finds a sum that is wrong where attributes lie together, but only once it has made room for them."""
    long_reference(tmp_path / "x.h5", "latest", many)
    content = (tmp_path / "x.h5").read_bytes()
    with h5py.File(tmp_path / "x.h5") as file:
        attributes = Attributes(file, content, Budget("x.h5", len(content)))
        assert max(attributes._lengths("layer_names")) > 1 << 32


def test_attributes_in_a_packed_heap_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        for number in range(20):
            file.attrs[f"text{number}"] = "x"
    content = (tmp_path / "x.h5").read_bytes().replace(b"FRHP\0\x08\0\0", b"FRHP\0\x08\0\x09")
    with h5py.File(tmp_path / "x.h5") as file, pytest.raises(BadInputError, match="in a way that Keras"):
        Attributes(file, content, Budget("x.h5", len(content))).texts(file, "text0")


def test_all_of_a_network_may_be_packed_and_no_more() -> None:
    budget = Budget("x.h5", 1000)
    budget.take(FREE_BYTES, "one")
    budget.take(1000, "another")
    with pytest.raises(BadInputError, match="unfold to"):
        budget.take(1, "a third")
    budget.text(TEXT_BYTES, "a text")
    with pytest.raises(BadInputError, match="no network's"):
        budget.text(1, "another")


def test_a_record_that_is_no_text_is_refused(tmp_path: Path) -> None:
    for number, record in enumerate(
        [b'"\xff"', json.dumps({"a": ["\ud800"]}), json.dumps([1]), "{", 7, f'{{"a": {10**400}}}', '{"a":' * 9999]
    ):
        with layer_file(tmp_path / f"{number}.h5", [LAYER], []) as file:
            file.attrs["ferplus_keras"] = record
        with pytest.raises(BadInputError, match="ferplus_keras"), open_keras_file(tmp_path / f"{number}.h5"):
            pass


def test_an_empty_archive_and_one_cut_short_are_refused(tmp_path: Path) -> None:
    archive(tmp_path / "x.keras", config="{}")
    whole = (tmp_path / "x.keras").read_bytes()
    for cut in (4, 30, len(whole) - 1):
        (tmp_path / "cut.keras").write_bytes(whole[:cut])
        with pytest.raises(BadInputError):
            read_named(MappedFile(tmp_path / "cut.keras"))
