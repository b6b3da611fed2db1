"""``ferplus roundtrip``: every ordered pair of formats and home again, bit for bit; and what goes wrong is seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import verify.roundtrip
from convert.checkpoint import Checkpoint
from convert.targets import FORMATS
from convert.writers import write
from tests.conftest import run_ferplus, standin_of, typed
from tests.seeded import save_state, seeded_checkpoint, seeded_state
from verify.roundtrip import Leg, Way, _Walk, roundtrip

pytestmark = pytest.mark.usefixtures("small")

QUICK = ("safetensors", "onnx")


@pytest.mark.slow
def test_every_pair_of_formats_brings_the_standin_home(session_folder: Path, tmp_path: Path) -> None:
    path = standin_of("resnet50", session_folder)
    run = run_ferplus("roundtrip", path, "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    ways = {(way["first"], way["second"]): way["verdict"] for way in result["ways"]}
    assert set(ways) == {(first, second) for first in FORMATS for second in FORMATS}
    assert result["home"] == "pth"
    assert set(ways.values()) == {"equal"}
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_long_way_round(standin_pth: Path, tmp_path: Path, network: str) -> None:
    """.pth -> .mat -> .h5 -> .onnx -> .safetensors -> .pth, through the command, and every tensor is what it was."""
    import torch

    at, stops = standin_pth, (".mat", ".h5", ".onnx", ".safetensors", ".pth")
    for number, suffix in enumerate(stops):
        target = tmp_path / f"stop{number}-standin{suffix}"
        run = typed("convert", at, target)
        assert run.returncode == 0, run.stderr
        at = target
    before, after = (torch.load(path, weights_only=True) for path in (standin_pth, at))
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32, torch.int64}


def test_a_walk_may_start_from_matconvnet(tmp_path: Path) -> None:
    source = tmp_path / "born.mat"
    write(seeded_checkpoint("resnet50"), source)
    result = roundtrip(source, formats=("h5", "safetensors"), folder=tmp_path)
    assert result.passed and result.home == "mat" and len(result.ways) == 4


def test_what_has_no_place_in_a_format_comes_home_too(tmp_path: Path) -> None:
    """Step counters unlike in every layer, a head as a matrix, signed zeros and denormals."""
    state = seeded_state("resnet50", torch_head="linear", steps=dict.fromkeys(["conv1_7x7_s2_bn"], 7))
    state["conv1_7x7_s2_bn.bias"][:2] = state["conv1_7x7_s2_bn.bias"].new_tensor([-0.0, 1e-42])
    source = save_state(state, tmp_path / "mine.pth")
    result = roundtrip(source, formats=QUICK, folder=tmp_path)
    assert result.passed and len(result.ways) == 4 and result.home == "pth"
    assert all(way.verdict == "equal" for way in result.ways)
    assert list(tmp_path.iterdir()) == [source]
    json.dumps(result.as_dict(), allow_nan=False)


def test_a_format_that_changes_a_number_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader and a writer that err alike: the file reads back as written, and is wrong."""
    honest = verify.roundtrip.read_checkpoint

    def careless(path: Any, **options: Any) -> Checkpoint:
        checkpoint = honest(path)
        if str(path).endswith(".onnx"):
            kernel = np.array(checkpoint.arrays["conv2_1_3x3"]["kernel"])
            checkpoint.arrays["conv2_1_3x3"]["kernel"] = np.nextafter(kernel, np.float32(np.inf))
        return checkpoint

    monkeypatch.setattr(verify.roundtrip, "read_checkpoint", careless)
    source = write(seeded_checkpoint("resnet50"), tmp_path / "mine.safetensors").path
    result = roundtrip(source, formats=QUICK)
    verdicts = {(way.first, way.second): way.verdict for way in result.ways}
    assert not result.passed and verdicts[("safetensors", "safetensors")] == "equal"
    assert verdicts[("onnx", "safetensors")] == verdicts[("safetensors", "onnx")] == "OFF: 1 ulp"
    assert verdicts[("onnx", "onnx")] == "OFF: 2 ulps"
    assert "OFF: 2 ulps" in result.as_text()


@pytest.mark.slow
def test_a_format_that_forgets_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = verify.roundtrip.read_checkpoint

    def forgetful(path: Any, **options: Any) -> Checkpoint:
        checkpoint = honest(path)
        if str(path).endswith(".onnx"):
            checkpoint.provenance = replace(checkpoint.provenance, labels=None)
        return checkpoint

    monkeypatch.setattr(verify.roundtrip, "read_checkpoint", forgetful)
    source = write(seeded_checkpoint("resnet50"), tmp_path / "mine.safetensors").path
    result = roundtrip(source, formats=QUICK)
    assert [way.verdict for way in result.ways if "onnx" in (way.first, way.second)] == ["OFF: lost labels"] * 3


def test_another_bit_is_another_number_and_an_array_too_many_is_told() -> None:
    equal = Leg(0, 0)
    assert Way("a", "b", equal, equal).passed and Way("a", "b", equal, equal).verdict == "equal"
    for off in (Leg(1, 53), Leg(0, 1), Leg(0, 0, ("labels",))):
        assert not Way("a", "b", equal, off).passed and not Way("a", "b", off, equal).passed
        assert Way("a", "b", off, equal).verdict.startswith("OFF: ")


def test_a_zero_that_loses_its_sign_is_seen() -> None:
    origin, other = seeded_checkpoint("resnet50"), seeded_checkpoint("resnet50")
    origin.arrays["conv1_7x7_s2_bn"]["beta"][0], other.arrays["conv1_7x7_s2_bn"]["beta"][0] = -0.0, 0.0
    leg = _Walk(origin, FORMATS["pth"]).leg(other)
    assert (leg.ulps, leg.arrays) == (0, 1) and str(leg) == "0 ulps, other bits"
    other.arrays["conv1_7x7_s2"]["bias"] = np.ones(64, np.float32)
    assert "conv1_7x7_s2/bias" in _Walk(origin, FORMATS["pth"]).leg(other).lost


def test_on_the_command_line(tmp_path: Path) -> None:
    source = write(seeded_checkpoint("senet50"), tmp_path / "mine.safetensors").path
    run = typed("roundtrip", source, "--to", "onnx")
    assert run.returncode == 0, run.stderr
    assert "-> onnx" in run.stdout and "equal" in run.stdout and "1 path back to safetensors" in run.stdout
    (tmp_path / "x.pth").write_bytes(b"nothing")
    run = typed("roundtrip", tmp_path / "x.pth")
    assert run.returncode == 2 and "not a checkpoint" in run.stderr and "Traceback" not in run.stderr
