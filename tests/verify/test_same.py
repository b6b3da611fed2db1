"""``ferplus verify same``: one network in two files, or two networks; told by numbers first and by function second."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert.readers import read_checkpoint
from convert.writers import write
from ferplus_keras.networks.architecture import FERPLUS_HEAD, BatchNorm, architecture, classifier
from ferplus_keras.networks.emotions import EMOTIONS
from tests.conftest import standin_of, typed
from tests.seeded import seeded_checkpoint
from verify.same import check_same, deciding

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def standin(networks_folder: Path) -> Path:
    return standin_of("resnet50", networks_folder)


def changed(path: Path, target: Path, layer: str, role: str, values: object) -> Path:
    """The checkpoint at ``path`` with one array put through ``values``."""
    checkpoint = read_checkpoint(path)
    array = values(np.array(checkpoint.arrays[layer][role]))  # type: ignore[operator]
    checkpoint.arrays[layer][role] = array.astype(np.float32)
    return write(checkpoint, target).path


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_equal_numbers_are_the_same_network_and_nothing_is_run(suffix: str, standin: Path, tmp_path: Path) -> None:
    other = write(read_checkpoint(standin), tmp_path / f"x-standin{suffix}").path
    run = typed("verify", "same", standin, other, "--json")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["passed"] and result["tensors"]["different"] == 0 and result["layers"] == []
    assert result["notes"] == [f"{path.name} is a STAND-IN with made-up weights" for path in (standin, other)]


def test_a_rounding_is_the_same_network(standin: Path, tmp_path: Path) -> None:
    other = changed(standin, tmp_path / "x-standin.pth", "conv4_2_3x3_bn", "moving_variance",
                    lambda array: np.nextafter(array, np.float32(np.inf)))  # fmt: skip
    result = check_same(standin, other, images=1)
    assert result.passed and result.tensors and result.tensors.figures()["largest_ulps"] == 1
    assert "up to rounding" in result.summary and result.first_departure is None
    json.dumps(result.as_dict(), allow_nan=False)


def test_one_of_several_networks_is_chosen_by_its_key(standin: Path, tmp_path: Path) -> None:
    import torch

    state = torch.load(standin, weights_only=True)
    both = tmp_path / "both-standin.pth"
    torch.save({"model": state, "model_ema": {name: array + 1 for name, array in state.items()}}, both)
    assert typed("verify", "same", both, standin).returncode == 2
    assert typed("verify", "same", both, standin, "--key", "model").returncode == 0
    assert typed("roundtrip", both, "--key", "model", "--to", "safetensors").returncode == 0


def test_classes_in_another_order_are_mentioned(standin: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(standin)
    order = EMOTIONS[::-1]
    other = replace(checkpoint, provenance=replace(checkpoint.provenance, labels=order))
    path = write(other, tmp_path / "x-standin.safetensors").path
    result = check_same(standin, path)
    assert result.passed and "name the classes otherwise: neutral, happiness" in result.notes[0]
    assert not any("classes" in note for note in check_same(standin, standin).notes)


def test_another_function_is_named_by_its_first_layer(standin: Path, tmp_path: Path) -> None:
    other = changed(standin, tmp_path / "x-standin.pth", "conv3_2_1x1_reduce_bn", "gamma", lambda array: array[::-1])
    run = typed("verify", "same", standin, other, "--n", 1)
    assert run.returncode == 1 and "first differ at conv3_2_1x1_reduce_bn" in run.stdout
    assert "are not the same network" in run.stderr and "Traceback" not in run.stderr


def test_numbers_behind_a_channel_that_is_silent_on_the_images_count(standin: Path, tmp_path: Path) -> None:
    silent = changed(standin, tmp_path / "silent-standin.pth", "conv5_2_1x1_reduce_bn", "beta",
                     lambda beta: np.where(np.arange(beta.size) == 0, -1e4, beta))  # fmt: skip
    other = changed(silent, tmp_path / "other-standin.pth", "conv5_2_3x3", "kernel",
                    lambda kernel: kernel * np.where(np.arange(kernel.shape[2]) == 0, 3, 1)[:, None])  # fmt: skip
    result = check_same(silent, other, images=1)
    assert result.first_departure is None and not result.passed
    assert "conv5_2_3x3 with conv5_2_3x3_bn is another map" in result.summary


def test_a_channel_scaled_and_scaled_back_is_the_same_function(standin: Path, tmp_path: Path) -> None:
    """As folding does: other numbers in the convolution and its normalisation, the same output behind them."""
    checkpoint = read_checkpoint(standin)
    layer = checkpoint.arrays["conv2_2_3x3"]
    norm = checkpoint.arrays["conv2_2_3x3_bn"]
    layer["kernel"] = np.array(layer["kernel"]) * np.float32(4)  # powers of two: exact but for epsilon
    norm["moving_mean"] = np.array(norm["moving_mean"]) * np.float32(4)
    variance = np.array(norm["moving_variance"], np.float64)
    norm["moving_variance"] = ((variance + 1e-5) * 16 - 1e-5).astype(np.float32)
    result = check_same(standin, write(checkpoint, tmp_path / "x-standin.pth").path, images=1)
    assert result.passed and result.moved and result.moved.layer == "conv2_2_3x3"
    assert "divide the work differently" in result.summary


@pytest.mark.parametrize(("network", "units"), [("senet50", 8), ("resnet50", 7)])
def test_other_networks_and_heads_are_said_so(network: str, units: int, standin: Path, tmp_path: Path) -> None:
    path = write(seeded_checkpoint(network, classifier(units)), tmp_path / "x.safetensors").path
    run = typed("verify", "same", standin, path)
    assert run.returncode == 1 and "different networks" in run.stdout
    assert f"{network}, {units} classes" in run.stdout and "Traceback" not in run.stderr


def test_a_file_that_cannot_be_read_is_exit_code_2(standin: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"nothing")
    run = typed("verify", "same", standin, tmp_path / "x.pth")
    assert run.returncode == 2 and "not a checkpoint" in run.stderr


def test_the_layers_that_decide_are_all_but_what_is_normalised() -> None:
    table = architecture("senet50", FERPLUS_HEAD)
    left_out = {layer.name for layer in table.layers[1:]} - deciding(table)
    normalised = sum(isinstance(layer, BatchNorm) for layer in table.layers)
    assert len(left_out) == normalised and "conv1_7x7_s2" in left_out and "conv2_1_1x1_down" not in left_out
    assert table.output in deciding(table)
