"""MATLAB's two formats as values: against SciPy, against Octave, and against files that want to do harm."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from convert.readers.matlab import read_variables
from convert.readers.matlab.values import Budget, Opaque, Struct
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from tests.mat_files import Handle, Rows, for_scipy, row, save_level5, save_level73

QUIET = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def read(path: Path) -> dict[str, Any]:
    return read_variables(MappedFile(path))[1]


def same(value: Any, ours: Any) -> bool:
    """Whether ``ours`` is what was written as ``value`` (the forms of tests.mat_files)."""
    if isinstance(value, Rows):
        return isinstance(ours, Struct) and all(map(same, value, ours.records())) and ours.count == len(value)
    if isinstance(value, dict):
        record = ours.records()[0] if isinstance(ours, Struct) and ours.count == 1 else ours
        return (
            isinstance(record, dict) and record.keys() == value.keys() and all(same(value[k], record[k]) for k in value)
        )
    if isinstance(value, list):
        return isinstance(ours, list) and len(ours) == len(value) and all(map(same, value, ours))
    if isinstance(value, str):
        return bool(value == ours) or (not value and isinstance(ours, str | list) and not ours)
    wanted = np.atleast_2d(np.asarray(value, np.uint8 if isinstance(value, bool) else None))
    if not wanted.size:
        return isinstance(ours, np.ndarray) and not ours.size
    return isinstance(ours, np.ndarray) and ours.dtype == wanted.dtype and np.array_equal(ours, wanted)


SAMPLE = {
    "net": {
        "layers": Rows([
            {"name": "conv1", "inputs": ["data"], "params": ["a", "b"], "block": {"pad": row(3, 3, 3, 3)}},
            {"name": "relu", "inputs": ["x1"], "params": [], "block": {"leak": 0.0, "opts": []}},
        ]),
        "one": Rows([{"name": "only", "value": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}]),
        "text": "Grüße", "empty": "", "flag": True, "numbers": row(1, 2, 300, -4, 0.5, 1e300),
    },
    "single": np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5),
    "int": np.array([[1, -2], [3, 4]], np.int64),
}  # fmt: skip


@pytest.mark.parametrize("compress", [False, True])
def test_level5_values_are_those_that_scipy_wrote(compress: bool, tmp_path: Path) -> None:
    ours = read(save_level5(tmp_path / "x.mat", SAMPLE, compress=compress))
    assert ours.keys() == SAMPLE.keys()
    for name, value in SAMPLE.items():
        assert same(value, ours[name]), name


def test_level73_values_are_those_that_were_laid_out_as_matlab_does(tmp_path: Path) -> None:
    sample = {**SAMPLE, "big": np.random.default_rng(0).normal(size=(50, 60, 2)).astype(np.float32)}
    ours = read(save_level73(tmp_path / "x.mat", sample))
    for name, value in sample.items():
        assert same(value, ours[name]), name


numbers = st.sampled_from([np.float32, np.float64, np.int8, np.uint16, np.int32]).flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=4),
                                   elements={"allow_nan": False} if np.dtype(dtype).kind == "f" else None)
)  # fmt: skip
names = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
values = st.recursive(
    numbers | st.text("abcxyz äß/_", min_size=1, max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, min_size=1, max_size=4),
    max_leaves=12,
)


@QUIET
@given(variables=st.dictionaries(names, values, min_size=1, max_size=3), compress=st.booleans())
def test_any_value_comes_back_from_level5(variables: dict[str, Any], compress: bool, tmp_path_factory: Any) -> None:
    path = save_level5(tmp_path_factory.getbasetemp() / "any5.mat", variables, compress=compress)
    ours = read(path)
    assert ours.keys() == variables.keys() and all(same(variables[name], ours[name]) for name in variables)


@pytest.mark.slow
@QUIET
@given(variables=st.dictionaries(names, values, min_size=1, max_size=3))
def test_any_value_comes_back_from_level73(variables: dict[str, Any], tmp_path_factory: Any) -> None:
    path = save_level73(tmp_path_factory.getbasetemp() / "any73.mat", variables)
    ours = read(path)
    assert ours.keys() == variables.keys() and all(same(variables[name], ours[name]) for name in variables)


def test_large_arrays_of_a_plain_file_are_not_copied(tmp_path: Path) -> None:
    big = {"big": np.ones((300, 400), np.float32)}
    for save in (save_level5, save_level73):
        file = MappedFile(save(tmp_path / "x.mat", big))
        if save is save_level73:  # the writer deflates; MATLAB's -nocompression does not
            with h5py.File(file.path, "a") as h5:
                del h5["big"]
                h5["big"] = big["big"].T
                h5["big"].attrs["MATLAB_class"] = np.bytes_("single")
            file = MappedFile(file.path)
        array = read_variables(file)[1]["big"]
        assert np.array_equal(array, big["big"]) and not array.flags.writeable
        base = array
        while isinstance(base, np.ndarray) and base.base is not None:
            base = base.base
        assert not isinstance(base, np.ndarray), "a copy has an array at its root, a view the file's bytes"


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    flags = element(6, struct.pack(">II", 7, 0))
    matrix = (
        flags
        + element(5, struct.pack(">ii", 2, 3))
        + element(1, b"x")
        + element(7, np.arange(6, dtype=">f4").tobytes())
    )
    (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\1\0MI" + element(14, matrix))
    assert np.array_equal(read(tmp_path / "x.mat")["x"], np.arange(6, dtype=np.float32).reshape(3, 2).T)


OCTAVE = shutil.which("octave-cli") or shutil.which("octave")
needs_octave = pytest.mark.skipif(OCTAVE is None, reason="GNU Octave is not installed (Debian: apt install octave)")


def octave(code: str, folder: Path) -> str:
    """What GNU Octave prints for ``code``, run in ``folder``."""
    run = subprocess.run(
        [str(OCTAVE), "--no-gui", "--no-init-file", "--quiet", "--eval", code],
        cwd=folder, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


@needs_octave
@pytest.mark.parametrize("version", ["-v6", "-v7"])
def test_files_that_octave_writes_are_read(version: str, tmp_path: Path) -> None:
    octave(
        "net.layers = struct('name', {'conv1', 'relu'}, 'inputs', {{'data'}, {'x1'}}, 'params', {{'a', 'b'}, {}});"
        "net.params = struct('name', {'a'}, 'value', {reshape(single(1:24), [1 1 4 6])});"
        "net.text = ['abcde'; 'fg   ']; net.flag = true; net.empty = []; net.none = struct();"
        # Not ['ab'; 'cd']: of a char matrix of four characters Octave 7 states a size that is four bytes too large.
        f"save('{version}', 'x.mat', 'net');",
        tmp_path,
    )
    net = read(tmp_path / "x.mat")["net"].records()[0]
    layers = net["layers"].records()
    assert [layer["name"] for layer in layers] == ["conv1", "relu"] and layers[0]["params"] == ["a", "b"]
    assert layers[1]["params"] == [] and net["text"] == ["abcde", "fg"] and net["flag"].item() == 1
    value = net["params"].records()[0]["value"]
    assert value.dtype == np.float32 and np.array_equal(value, np.arange(1, 25).reshape((1, 1, 4, 6), order="F"))
    assert net["none"].records() == [{}] and not net["empty"].size


def test_function_handles_and_objects_are_told_and_not_fatal(tmp_path: Path) -> None:
    ours = read(save_level73(tmp_path / "x.mat", {"net": {"f": Handle(), "x": row(1, 2)}}))
    record = ours["net"].records()[0]
    assert record["f"] == Opaque("function handle") and np.array_equal(record["x"], row(1, 2))
    # In MATLAB 5 files: class 16 around a matrix that MATLAB alone understands; class 17 names its class.
    handle = tag(6, struct.pack("<II", 16, 0)) + tag(5, struct.pack("<ii", 1, 1)) + tag(1, b"f") + tag(14, b"")
    thing = tag(6, struct.pack("<II", 17, 0)) + tag(1, b"net") + tag(1, b"MCOS") + tag(1, b"dagnn.DagNN") + tag(14, b"")
    (tmp_path / "y.mat").write_bytes(PLAIN + tag(14, handle) + tag(14, thing))
    assert read(tmp_path / "y.mat") == {"f": Opaque("function handle"), "net": Opaque("object of class dagnn.DagNN")}


# --- damage, and files that want to do harm -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("samples")
    return {
        "plain": save_level5(folder / "a.mat", SAMPLE).read_bytes(),
        "compressed": save_level5(folder / "b.mat", SAMPLE, compress=True).read_bytes(),
        "7.3": save_level73(folder / "c.mat", SAMPLE).read_bytes(),
    }


KINDS = ("plain", "compressed", "7.3")


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_end_in_a_sentence(kind: str, samples: dict[str, bytes], tmp_path: Path) -> None:
    whole = samples[kind]
    for length in sorted({7, 60, 127, 130, 140, len(whole) // 3, len(whole) // 2, len(whole) - 1} - {len(whole)}):
        (tmp_path / "x.mat").write_bytes(whole[:length])
        try:
            ours = read(tmp_path / "x.mat")
        except BadInputError as error:
            assert "x.mat" in str(error) and "again" in str(error)
        else:  # the last bytes may be padding; then nothing is lost
            assert length == len(whole) - 1 and ours.keys() == SAMPLE.keys()


def deflated(size_claimed: int, content: bytes) -> bytes:
    data = zlib.compress(struct.pack("<II", 14, size_claimed) + content, 9)
    return b"MATLAB 5.0".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(data)) + data


def tag(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def cells(count: int, inner: bytes) -> bytes:
    return tag(6, struct.pack("<II", 1, 0)) + tag(5, struct.pack("<ii", 1, count)) + tag(1, b"x") + inner


def nested(depth: int) -> bytes:
    content = tag(14, b"")
    for _ in range(depth):
        content = tag(14, cells(1, content))
    return content


PLAIN = b"MATLAB 5.0".ljust(124) + b"\0\1IM"
MATRIX = tag(6, struct.pack("<II", 7, 0))
CHAR, STRUCT = (tag(6, struct.pack("<II", kind, 0)) for kind in (4, 2))
HOSTILE = {
    "a bomb of zeros": deflated(400 << 20, bytes(400 << 20)),
    "four gigabytes claimed": deflated((1 << 32) - 8, bytes(1000)),
    "a matrix without its data": PLAIN + tag(14, MATRIX + tag(5, struct.pack("<ii", 1 << 30, 1 << 30)) + tag(1, b"x")),
    "negative size": PLAIN + tag(14, MATRIX + tag(5, struct.pack("<ii", -4, 4)) + tag(1, b"x") + tag(7, bytes(64))),
    "a billion cells": PLAIN + tag(14, cells(1 << 30, b"")),
    "many empty cells": PLAIN + tag(14, cells(300_000, tag(14, b"") * 300_000)),
    "nested without end": PLAIN + nested(5000),
    "more than was claimed": deflated(8, bytes(5000)),
    "less than was claimed": deflated(5000, bytes(8)),
    "rows without end": PLAIN
    + tag(14, CHAR + tag(5, struct.pack("<ii", 1 << 21, 1)) + tag(1, b"x") + tag(16, b"a" * (1 << 21))),
    "fields without end": PLAIN
    + tag(
        14,
        STRUCT
        + tag(5, struct.pack("<ii", 1, 0))
        + tag(1, b"x")
        + tag(5, struct.pack("<i", 1))
        + tag(1, b"a" * (1 << 21)),
    ),
    "no variable": PLAIN + tag(9, bytes(8)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_level5_files_are_refused_cheaply(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(HOSTILE[kind])
    assert refused_within(tmp_path / "x.mat", megabytes=150)


def refused_within(path: Path, megabytes: int) -> bool:
    """Whether the file is refused by a process that may use so much more memory than the bare interpreter."""
    code = (
        "import resource, sys, h5py, numpy\n"
        "from ferplus_keras.files.mapped_file import MappedFile\n"
        "from convert.readers.matlab import read_variables, level73\n"
        "from ferplus_keras.errors import BadInputError\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        f"limit = size + ({megabytes} << 20) + {path.stat().st_size}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try:\n    read_variables(MappedFile(sys.argv[1]))\n"
        "except BadInputError as error:\n    print(error); sys.exit(7)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 7, f"{run.returncode}\n{run.stdout}\n{run.stderr}"
    return "x.mat" in run.stdout


def hostile73(path: Path, kind: str) -> None:
    save_level73(path, {"net": {"x": row(1, 2)}})
    with h5py.File(path, "a") as h5:
        group = h5["net"]
        if kind == "a loop of cells":
            h5["#refs#"].create_dataset("loop", (1, 1), h5py.ref_dtype)
            h5["#refs#/loop"][0, 0] = h5["#refs#/loop"].ref
            h5["#refs#/loop"].attrs["MATLAB_class"] = np.bytes_("cell")
            group["loop"] = h5["#refs#/loop"]
        elif kind == "a loop of structs":
            group["self"] = group
        elif kind == "laughs":  # every cell refers ten times to the next: 10 ** 9 values of ten cells
            h5["#refs#/c0"] = row(1)
            h5["#refs#/c0"].attrs["MATLAB_class"] = np.bytes_("double")
            for level in range(1, 10):
                cell = h5["#refs#"].create_dataset(f"c{level}", (10, 1), h5py.ref_dtype)
                cell[:, 0] = [h5[f"#refs#/c{level - 1}"].ref] * 10
                cell.attrs["MATLAB_class"] = np.bytes_("cell")
            group["laughs"] = h5["#refs#/c9"]
        elif kind == "a bomb":
            group.create_dataset("bomb", (1 << 14, 1 << 14), np.float32, compression=9, fillvalue=1)
            group["bomb"].attrs["MATLAB_class"] = np.bytes_("single")
        elif kind == "a deflated bomb":
            data = group.create_dataset("bomb", (100, 1 << 20), np.float32, compression=9, chunks=(1, 1 << 20))
            for number in range(100):
                data[number] = 0
            data.attrs["MATLAB_class"] = np.bytes_("single")
        elif kind == "a bomb in one chunk":
            data = group.create_dataset("bomb", (4,), np.float32, compression=9, chunks=(1 << 26,), maxshape=(None,))
            data.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 28)))
            data.attrs["MATLAB_class"] = np.bytes_("single")
        elif kind == "rows without end":
            group["text"] = np.full((1, 1 << 20), 65, np.uint16)
            group["text"].attrs["MATLAB_class"] = np.bytes_("char")
        elif kind == "members without end":
            for number in range(30_000):
                group.create_group(f"m{number}")
        elif kind == "a bomb of references":
            group.create_dataset("bomb", (1 << 28, 1), h5py.ref_dtype)
            group["bomb"].attrs["MATLAB_class"] = np.bytes_("cell")
        elif kind == "a null reference":
            group.create_dataset("null", (1, 1), h5py.ref_dtype)
            group["null"].attrs["MATLAB_class"] = np.bytes_("cell")
        elif kind == "an external link":
            group["out"] = h5py.ExternalLink("/etc/passwd", "/")
        elif kind == "an external dataset":
            group.create_dataset("out", (100,), np.uint8, external=[("/etc/passwd", 0, 100)])
            group["out"].attrs["MATLAB_class"] = np.bytes_("uint8")


@pytest.mark.slow  # a process for each kind
@pytest.mark.parametrize(
    "kind",
    ["a loop of cells", "a loop of structs", "laughs", "a bomb", "a deflated bomb", "a bomb in one chunk",
     "rows without end", "members without end", "a bomb of references", "a null reference",
     "an external link", "an external dataset"],
)  # fmt: skip
def test_hostile_level73_files_are_refused_cheaply(kind: str, tmp_path: Path) -> None:
    hostile73(tmp_path / "x.mat", kind)
    assert refused_within(tmp_path / "x.mat", megabytes=200)


def test_the_limits_are_above_the_largest_network() -> None:
    from ferplus_keras.networks.architecture import architecture, classifier

    numbers = architecture("senet50", classifier(8631)).parameter_count
    some = np.random.default_rng(0).normal(size=100_000).astype(np.float32).astype(np.float64)  # stored as double
    stored = numbers * len(zlib.compress(some.tobytes())) // some.size
    Budget("x.mat", stored).take(8 * numbers, "all of it")


def test_the_writer_of_these_tests_is_read_by_scipy_too(tmp_path: Path) -> None:
    path = save_level5(tmp_path / "x.mat", SAMPLE)
    net = scipy.io.loadmat(path, simplify_cells=True)["net"]
    assert net["layers"][0]["name"] == "conv1" and list(net["layers"][0]["params"]) == ["a", "b"]
    assert for_scipy(["a"]).shape == (1, 1)


def test_an_empty_matrix_of_more_than_can_be_addressed_is_damaged(tmp_path: Path) -> None:
    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    def written(*shape: int) -> Path:
        array = element(6, struct.pack("<II", 6, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
        array += element(1, b"x") + element(9, b"")
        path = tmp_path / "x.mat"
        path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + element(14, array))
        return path

    with pytest.raises(BadInputError, match="an empty matrix"):
        read(written(0, *[2**31 - 1] * 3))
    assert read(written(0, 2**31 - 1))["x"].shape == (0, 2**31 - 1)


def test_a_character_that_is_a_scalar_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("x", data=np.uint16(65)).attrs["MATLAB_class"] = np.bytes_("char")
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    assert read(path)["x"] == "A"
