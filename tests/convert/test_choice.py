"""Several networks in one file: none is taken by chance, and each can be had by its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from convert.choice import SeveralNetworksError
from convert.inspection import as_text, inspect
from convert.readers import read_named
from convert.readers.torch_file import TorchFile, read_torch_file
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from tests.seeded import hollow_state, save_state


def read(path: Path, key: str | None = None) -> TorchFile:
    return read_torch_file(MappedFile(path), key)


@pytest.mark.parametrize(
    "keys", [("model", "model_ema"), ("params", "params_ema"), ("state_dict", "state_dict_ema"), ("ema", "model")]
)
def test_two_networks_are_listed_and_one_is_taken_by_its_key(keys: tuple[str, str], tmp_path: Path) -> None:
    state = {key: hollow_state("resnet50", value) for key, value in zip(keys, (1.0, 2.0), strict=True)}
    path = save_state({"epoch": 9, **state}, tmp_path / "x.pth")
    with pytest.raises(BadInputError) as error:
        read(path)
    for key in keys:
        assert f"{key} (resnet50, 8 classes, 267 tensors)" in str(error.value) and f"--key {key}" in str(error.value)
    for key, value in zip(keys, (1.0, 2.0), strict=True):
        found = read(path, key)
        assert found.wrapping == (key,) and found.tensors["classifier.bias"][0] == value
        (other,) = set(keys) - {key}
        assert any(f"{other} (" in note and "ignored" in note for note in found.notes)
    with pytest.raises(BadInputError, match="no tensors under the key best; it has"):
        read(path, "best")


def test_networks_of_two_kinds_and_depths(tmp_path: Path) -> None:
    state = {"net": {"student": hollow_state("resnet50")}, "other_model": hollow_state("senet50")}
    path = save_state(state, tmp_path / "x.pth")
    with pytest.raises(BadInputError, match=r"net/student \(resnet50, .*other_model \(senet50, 8 classes"):
        read(path)
    assert "conv2_1_1x1_down.weight" in read(path, "other_model").tensors


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(("raw", "key"), [("model.", "model"), ("", ".")])
def test_networks_told_apart_by_how_their_names_begin(raw: str, key: str, tmp_path: Path) -> None:
    both = prefixed(raw, hollow_state("resnet50", 1.0)) | prefixed("ema_model.module.", hollow_state("resnet50", 2.0))
    pth = save_state({"state_dict": both}, tmp_path / "x.pth")
    with pytest.raises(BadInputError, match=r"--key state_dict/ema_model\.module"):
        read(pth)
    assert read(pth, "state_dict/ema_model.module").tensors["ema_model.module.classifier.bias"][0] == 2
    safetensors = tmp_path / "x.safetensors"
    names = ("conv1_7x7_s2.weight", "classifier.bias")
    save_file({f"{p}{n}": np.ones(3, np.float32) for p in (raw, "ema_model.module.") for n in names}, safetensors)
    with pytest.raises(BadInputError, match=f"--key {key}\\b.*" if raw else "--key [.] or --key ema_model.module"):
        read_named(MappedFile(safetensors))
    assert set(read_named(MappedFile(safetensors), key).arrays) == {raw + name for name in names}


def test_one_network_is_taken_without_a_word(tmp_path: Path) -> None:
    state = hollow_state("resnet50")
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    alone = read(save_state({"model": state, "optimizer": optimizer.state_dict()}, tmp_path / "a.pth"))
    assert alone.wrapping == ("model",) and not alone.notes
    twice = read(save_state({"model": state, "best": state}, tmp_path / "b.pth"))  # one network under two names
    assert twice.wrapping == ("model",)
    beside = {f"layer{number}.weight": torch.zeros(1) for number in range(30)}
    found = read(save_state({"discriminator": beside, "weights": state}, tmp_path / "c.pth"))
    assert found.wrapping == ("weights",) and "discriminator (30 tensors)" in found.notes[0]


def test_inspect_lists_them(tmp_path: Path) -> None:
    path = save_state({"model": hollow_state("resnet50"), "ema": hollow_state("senet50")}, tmp_path / "x.pth")
    result = inspect(path)
    assert result["networks"] == {
        "model": "resnet50, 8 classes, 267 tensors", "ema": "senet50, 8 classes, 331 tensors"
    }  # fmt: skip
    assert "--key model: resnet50" in as_text(result) and "--key ema" in result["problems"]
    assert inspect(path, key="ema")["network"] == "senet50"


def test_a_file_of_one_network_has_no_keys(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file" + b" " * 105 + b"\x00\x01IM" + bytes(400))
    with pytest.raises(BadInputError, match="leave out --key"):
        read_named(MappedFile(path), "model")


def test_a_head_beside_its_network_is_taken_with_it(tmp_path: Path) -> None:
    """A student and a teacher, each a backbone and a layer of its own beside it."""
    state: dict[str, Any] = {}
    for name, value in (("student", 1.0), ("teacher", 2.0)):
        bare = {key: each for key, each in hollow_state("resnet50", value).items() if "classifier" not in key}
        state |= prefixed(f"{name}.backbone.", bare)
        state |= {f"{name}.fc.weight": torch.full((7, 2048), value), f"{name}.fc.bias": torch.full((7,), value)}
    path = save_state(state, tmp_path / "x.pth")
    for name, value in (("student", 1.0), ("teacher", 2.0)):
        found = read(path, f"{name}.backbone").tensors
        assert {key for key in found if not key.startswith(f"{name}.backbone.")} == {
            f"{name}.fc.weight",
            f"{name}.fc.bias",
        }
        assert found[f"{name}.fc.bias"][0] == value


@pytest.mark.parametrize("place", [lambda a, b: {"models": [a, b]}, lambda a, b: {"nets": {0: a, 1: b}}])
def test_networks_by_number_are_choices_too(place: Any, tmp_path: Path) -> None:
    one, two = hollow_state("resnet50", 1.0), hollow_state("resnet50", 2.0)
    path = save_state({"state_dict": hollow_state("resnet50", 3.0), **place(one, two)}, tmp_path / "x.pth")
    with pytest.raises(
        BadInputError, match=r"3 networks: state_dict .*(models|nets)/0 .* and (models|nets)/1 "
    ) as told:
        read(path)
    assert isinstance(told.value, SeveralNetworksError)
    key = next(each for each in told.value.choices if each.endswith("/1"))
    assert read(path, key).tensors["classifier.bias"][0] == 2.0


def test_averages_without_names_are_mentioned(tmp_path: Path) -> None:
    """The package torch_ema keeps a list; an optimizer's numbered tensors are no networks."""
    state = hollow_state("resnet50")
    numbered = {place: {"exp_avg": torch.ones(3)} for place in range(30)}
    path = save_state(
        {"state_dict": state, "ema": {"shadow_params": list(state.values())}, "optimizer": {"state": numbered}},
        tmp_path / "x.pth",
    )
    notes = read(path).notes
    assert any(f"{len(state)} tensors without names (ema/shadow_params)" in note for note in notes)
    assert not any("optimizer" in note for note in notes)
