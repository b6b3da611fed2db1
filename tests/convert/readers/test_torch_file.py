"""Both PyTorch formats, held against ``torch.load(weights_only=True)`` on the same files, and against hostile ones."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.readers import pickle_subset, read_checkpoint, read_named
from convert.readers.torch_file import TorchFile, read_torch_file
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from tests.conftest import run_python
from tests.seeded import save_state, seeded_state

LEGACY = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
DTYPES = ["float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"]


def read(path: Path) -> TorchFile:
    return read_torch_file(MappedFile(path))


def as_numbers(tensor: torch.Tensor) -> np.ndarray:
    """The tensor as our reader gives it: bfloat16 as its bits."""
    tensor = tensor.detach()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def agrees(path: Path, *, weights_only: bool = True) -> TorchFile:
    """What torch itself loads from ``path`` and what we read are the same names, shapes, types and bits."""
    theirs = torch.load(path, weights_only=weights_only, map_location="cpu")
    ours = read(path)
    assert list(ours.tensors) == list(theirs)
    for name, tensor in theirs.items():
        array = ours.tensors[name]
        assert ours.dtypes[name] == str(tensor.dtype).removeprefix("torch.")
        assert array.shape == tuple(tensor.shape), name
        native = array.astype(array.dtype.newbyteorder("="))  # of a big-endian file we give big-endian views
        assert np.ascontiguousarray(native).tobytes() == np.ascontiguousarray(as_numbers(tensor)).tobytes(), name
    return ours


# --- what torch reads, we read --------------------------------------------------------------------------------------


@LEGACY
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type(dtype: str, legacy: bool, tmp_path: Path) -> None:
    numbers = torch.arange(-6, 6).reshape(3, 4).to(getattr(torch, dtype))
    agrees(save_state({"a": numbers, "b": numbers[1]}, tmp_path / "x.pth", legacy=legacy))


@LEGACY
def test_every_form(legacy: bool, tmp_path: Path) -> None:
    base = torch.arange(60.0).reshape(3, 4, 5)
    shared = torch.arange(10.0)
    state = {
        "plain": base,
        "transposed": base.permute(2, 0, 1),
        "slice": base[1:, ::2, 1:4],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "expanded": torch.ones(1, 4).expand(3, 4),
        "shared": shared,
        "shared, shifted": shared[3:7],
        "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "nämé": torch.zeros(1),
    }
    agrees(save_state(state, tmp_path / "x.pth", legacy=legacy))


@LEGACY
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(protocol: int, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(
        OrderedDict(a=torch.ones(3), b=torch.zeros(2, 2)), path, pickle_protocol=protocol,
        _use_new_zipfile_serialization=not legacy,
    )  # fmt: skip
    agrees(path, weights_only=protocol < 4)  # torch's own restricted reader knows protocols 2 and 3 only


@LEGACY
def test_a_modules_state_dict_with_its_metadata(legacy: bool, tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    found = agrees(save_state(module.state_dict(), tmp_path / "x.pth", legacy=legacy))
    assert "" in found.metadata  # torch's own version record


@LEGACY
def test_the_whole_network(legacy: bool, tmp_path: Path) -> None:
    agrees(save_state(seeded_state("senet50"), tmp_path / "x.pth", legacy=legacy))


@LEGACY
@pytest.mark.parametrize("keys", [("state_dict",), ("model",), ("net", "state_dict"), ("model_state_dict",)])
def test_the_usual_wrappers(keys: tuple[str, ...], legacy: bool, tmp_path: Path) -> None:
    state: Any = {"a.weight": torch.ones(2, 2), "a.bias": torch.zeros(2)}
    for key in reversed(keys):
        state = {"epoch": 3, "best": 0.5, "name": "x", key: state, "args": {"lr": 0.1, "steps": [1, 2]}}
    found = read(save_state(state, tmp_path / "x.pth", legacy=legacy))
    assert list(found.tensors) == ["a.weight", "a.bias"] and found.wrapping == keys


def test_a_training_state_with_an_optimizer(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"state_dict": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}
    assert list(read(save_state(state, tmp_path / "x.pth")).tensors) == ["weight", "bias"]


def beside() -> dict[str, Any]:
    """What torch.load(weights_only=True) reads, and what training scripts save of NumPy's, beside a state dict."""
    steps = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1), [10, 20])
    return {
        "scheduler": steps.state_dict(),
        "device": torch.device("cuda", 1),
        "classes": {"a", "b"},
        "frozen": frozenset(("c",)),
        "size": torch.Size([3, 4]),
        "dtype": torch.complex64,
        "layout": torch.sparse_coo_tensor(torch.ones(1, 1).long(), torch.ones(1), (3,)),
        "spectrum": torch.ones(2, dtype=torch.complex64),
        "float8": torch.ones(2).to(torch.float8_e4m3fn),
        "meta": torch.ones(2, device="meta"),
        "bytes": bytearray(b"abc"),
        "complex": 1j,
        "loss": np.float64(0.5),
        "curve": np.arange(5.0),
        "names": np.array(["a", "b"]),
        "random": np.random.RandomState(0).get_state(),
    }


@LEGACY
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_what_stands_beside_a_state_dict_is_passed_over(protocol: int, legacy: bool, tmp_path: Path) -> None:
    marked = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    marked.note = "head"  # type: ignore[attr-defined]
    path = tmp_path / "x.pth"
    torch.save(
        {"state_dict": {"a.weight": marked, "a.bias": torch.ones(2)}, **beside()}, path, pickle_protocol=protocol,
        _use_new_zipfile_serialization=not legacy,
    )  # fmt: skip
    found = read(path)
    assert found.wrapping == ("state_dict",) and list(found.tensors) == ["a.weight", "a.bias"]
    np.testing.assert_array_equal(found.tensors["a.weight"], marked.detach().numpy())


@pytest.mark.parametrize("form", ["state_dict", "in_checkpoint", "plain_pickle", "large"])
def test_numpy_arrays_are_called_what_they_are(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"a.weight": np.ones((3, 4), np.float32), "a.bias": np.zeros(3, np.float32)}
    path = tmp_path / "x.pth"
    if form == "plain_pickle":
        path.write_bytes(pickle.dumps(arrays))
    else:
        save_state({"epoch": 3, "state_dict": arrays} if form == "in_checkpoint" else arrays, path)
    if form == "large":
        monkeypatch.setattr(pickle_subset, "MAX_PICKLE_BYTES", 100)
    with pytest.raises(BadInputError, match=r"holds NumPy arrays .* torch\.from_numpy"):
        read(path)


def test_big_endian_archives(tmp_path: Path) -> None:
    """What torch writes on a big-endian machine, made here by turning the bytes of a little-endian file around."""
    state = {"a": torch.arange(6.0), "b": torch.arange(5), "c": torch.arange(4).to(torch.bfloat16)}
    sizes = {"0": 4, "1": 8, "2": 2}
    path = save_state(state, tmp_path / "x.pth")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "big.pth", "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("byteorder"):
                data = b"big"
            elif "/data/" in name:
                width = sizes[name.rsplit("/", 1)[1]]
                data = np.frombuffer(data, f"V{width}").view(f"u{width}").byteswap().tobytes()
            target.writestr(name, data)
    agrees(tmp_path / "big.pth")


def test_torch_is_not_imported(seeded_pth: Path) -> None:
    code = "import sys\nfrom convert.readers import read_checkpoint\nread_checkpoint(sys.argv[1])\n"
    run_python(code + "assert 'torch' not in sys.modules", seeded_pth)


# --- what is no state dict -------------------------------------------------------------------------------------------


@LEGACY
def test_a_pickled_module_is_refused_with_the_way_out(legacy: bool, tmp_path: Path) -> None:
    path = save_state(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)), tmp_path / "x.pth", legacy=legacy)
    with pytest.raises(BadInputError, match=r"torch\.save\(model\.state_dict\(\)"):
        read(path)


class Payload:
    """A pickle that makes a file when it is run."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


@LEGACY
def test_code_is_not_run(legacy: bool, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = save_state({"a": torch.ones(1), "b": Payload(canary)}, tmp_path / "x.pth", legacy=legacy)
    with pytest.raises(BadInputError, match="mkdir"):
        read(path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Payload(canary)))  # it would have been
    assert canary.exists()


def archive(path: Path, data_pkl: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """A zip in torch's manner around a pickle of one's own."""
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("x/data.pkl", data_pkl)
        target.writestr("x/byteorder", b"little")
        for key, data in (storages or {}).items():
            target.writestr(f"x/data/{key}", data)
    return path


HOSTILE = {
    "eval": b"cbuiltins\neval\n(V1\ntR.",
    "system by name": b"cposix\nsystem\n(Vtrue\ntR.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "inst": b"(Vtrue\niposix\nsystem\n.",
    "obj": b"(cposix\nsystem\nVtrue\no.",
    "extension": b"\x80\x02\x82\x01.",
    "torch.load itself": b"\x80\x02ctorch\nload\n(X\x01\x00\x00\x00xtR.",
    "getattr on a permitted class": b"\x80\x02ccollections\nOrderedDict.__init__\n.",
    "dotted stack global": b"\x80\x04\x8c\x0bcollections\x8c\x15OrderedDict.fromkeys\x93)R.",
    "build on a class": b"\x80\x02ccollections\nOrderedDict\n}b.",
    "a module in a module": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
    "billion laughs": b"\x80\x02]q\x00" + b"".join(b"(" + b"h\x00" * 10 + b"lq\x00" for _ in range(40)) + b".",
    "a text of 2**60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
    "a whole number of 2**31 bytes": b"\x80\x02\x8b" + struct.pack("<I", 0x7FFFFFFF) + b"x.",
    "nothing on the stack": b"\x80\x02.",
    "no end": b"\x80\x02]",
    "unknown instruction": b"\x80\x02\xff.",
    "deep nesting": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "persistent id of a text": b"\x80\x02X\x01\x00\x00\x00xQ.",
    "a memo entry that is not there": b"\x80\x02h\x07.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_end_in_a_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as error:
        read(archive(tmp_path / "x.pth", HOSTILE[name]))
    assert len(str(error.value)) < 900 and "\n" not in str(error.value)
    (tmp_path / "legacy.pth").write_bytes(HOSTILE[name])
    with pytest.raises(BadInputError):
        read_named(MappedFile(tmp_path / "legacy.pth"))


def tensor_pickle(count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """The pickle of {"a": tensor} that torch would write for such a tensor, whether or not it can exist."""

    class Storage:
        pass

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, shape, strides, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, "0", "cpu", count)
            return None

    stream = io.BytesIO()
    Pickler(stream, 2).dump({"a": Tensor()})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("count", "offset", "shape", "strides"),
    [
        (1000, 0, (1000,), (1,)),  # more than the archive holds
        (4, 0, (5,), (1,)),
        (4, 2, (3,), (1,)),
        (4, 0, (2, 2), (3, 1)),
        (4, 0, (2,), (1 << 61,)),
        (4, 0, (1 << 40, 1 << 40), (0, 0)),
        (4, -1, (2,), (1,)),
        (4, 0, (-2,), (1,)),
        (4, 0, (2,), (-1,)),
        (4, 0, (2, 2), (1,)),
        (1 << 62, 0, (4,), (1,)),
    ],
)
def test_tensors_that_leave_their_storage_are_refused(
    count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], tmp_path: Path
) -> None:
    path = archive(tmp_path / "x.pth", tensor_pickle(count, offset, shape, strides), {"0": bytes(16)})
    with pytest.raises(BadInputError):
        read(path)


def test_the_tool_of_these_tests_makes_good_tensors_too(tmp_path: Path) -> None:
    numbers = np.arange(4, dtype=np.float32)
    path = archive(tmp_path / "x.pth", tensor_pickle(4, 1, (3,), (1,)), {"0": numbers.tobytes()})
    np.testing.assert_array_equal(read(path).tensors["a"], numbers[1:])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("x/data.pkl", tensor_pickle(1 << 28, 0, (1 << 28,), (1,)))
        with target.open("x/data/0", "w") as stream:
            for _ in range(64):
                stream.write(bytes(1 << 24))  # 1 GiB of zeros in one MiB
    code = """
import sys
from convert.readers import read_checkpoint
from ferplus_keras.errors import BadInputError
try:
    read_checkpoint(sys.argv[1])
except BadInputError as error:
    print(error)
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    sentence, peak = run_python(code, path).strip().splitlines()
    assert "compressed" in sentence and int(peak) < 150_000  # kB; the interpreter with numpy takes half of it


def test_a_torchscript_archive_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as target:
        for name in ("x/data.pkl", "x/constants.pkl", "x/code/__torch__.py"):
            target.writestr(name, b"\x80\x02}.")
    with pytest.raises(BadInputError, match="TorchScript"):
        read(tmp_path / "x.pth")


@pytest.mark.parametrize("kind", ["sparse", "complex", "quantized", "negated"])
def test_other_kinds_of_tensor_are_named(kind: str, tmp_path: Path) -> None:
    tensor = {
        "sparse": torch.eye(3).to_sparse(),
        "complex": torch.zeros(2, dtype=torch.complex64),
        "negated": torch._neg_view(torch.ones(2)),  # type: ignore[attr-defined]
        "quantized": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
    }[kind]
    with pytest.raises(BadInputError, match=r"unsupported kind"):
        read(save_state({"a": tensor}, tmp_path / "x.pth"))


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["zip", "legacy"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    state = OrderedDict((f"layer{n}.weight", torch.randn(7, 5)) for n in range(4))
    return save_state(state, tmp_path_factory.mktemp("small") / "x.pth", legacy=request.param).read_bytes()


@settings(max_examples=150)
@given(data=st.data())
def test_a_file_cut_short_is_refused(small: bytes, data: st.DataObject, tmp_path_factory: Any) -> None:
    cut = data.draw(st.integers(0, len(small) - 1))
    path = tmp_path_factory.getbasetemp() / "cut.pth"
    path.write_bytes(small[:cut])
    with pytest.raises(BadInputError):
        read_named(MappedFile(path))


def test_a_flipped_bit_in_a_weight_of_a_zip_is_seen(seeded_pth: Path, tmp_path: Path) -> None:
    damaged = bytearray(seeded_pth.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "x.pth").write_bytes(damaged)
    with pytest.raises(BadInputError, match="checksum"):
        read_checkpoint(tmp_path / "x.pth")
