"""The fold held against the network as it was, and faults that it must not let pass."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from convert.checkpoint import Checkpoint
from convert.conversion import convert
from convert.folding import folded_arrays
from convert.readers import read_checkpoint
from tests.conftest import SECOND_SLOW
from verify import folding_check
from verify.folding_check import FoldingComparison, check_folding
from verify.images import natural_inputs
from verify.metrics import Difference
from verify.parity import ParityOptions, check_parity

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return natural_inputs(1, seed=4)


@pytest.mark.parametrize("network", SECOND_SLOW, indirect=True)
def test_folding_is_the_same_function_to_rounding(standin_pth: Path, images: np.ndarray) -> None:
    found = check_folding(read_checkpoint(standin_pth), images)
    assert found.passed and found.exact.relative < 1e-12 and 0 < found.rounded.relative < 5e-6


@pytest.mark.parametrize("fault", ["sign", *(pytest.param(each, marks=pytest.mark.slow) for each in ("scale", "mean"))])
def test_a_wrong_fold_is_caught(
    fault: str, seeded_pth: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One layer in the middle: the bias with the wrong sign, a channel scaled twice, the mean forgotten."""
    layer = "conv3_2_3x3"

    def faulty(checkpoint: Checkpoint) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        norm = checkpoint.arrays[f"{layer}_bn"]
        for name, roles in folded_arrays(checkpoint):
            if name == layer and fault == "sign":
                roles = roles | {"bias": -roles["bias"]}
            if name == layer and fault == "scale":
                roles["kernel"][..., 0] *= 1 + 1e-6
            if name == layer and fault == "mean":
                roles = roles | {"bias": norm["beta"].astype(np.float64)}
            yield name, roles

    monkeypatch.setattr(folding_check, "folded_arrays", faulty)
    found = check_folding(read_checkpoint(seeded_pth), images)
    assert not found.passed and found.exact.relative > 1e-12


def test_the_summary_has_plain_figures() -> None:
    near, far = (Difference("conv1", 0.0, relative, 0.0, 1.0) for relative in (3e-15, 4.56e-7))
    said = FoldingComparison(near, far, (2, 2)).summary
    assert "conv1, the furthest layer, is off by less than a billionth of its" in said
    assert "off by 0.000046 % of the largest, 2 of 2" in said


@pytest.mark.slow
def test_parity_of_a_folded_file_and_of_one_with_a_wrong_sign(standin_pth: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good-standin.h5", tmp_path / "bad-standin.h5"
    convert(standin_pth, [good], folded=True)
    found = check_parity(good, standin_pth, ParityOptions(images=1))
    assert found.passed and found.tensors.folding and found.tensors.folding.passed
    assert {run.dtype for run in found.runs} == {"float64", "float32"}
    shutil.copy(good, bad)
    with h5py.File(bad, "r+") as file:
        bias = file["model_weights/conv4_2_3x3/conv4_2_3x3/bias:0"]
        bias[...] = -bias[...]
    wrong = check_parity(bad, standin_pth, ParityOptions(images=1, dtypes=("float64",)))
    assert not wrong.passed and not wrong.tensors.passed
    assert wrong.diagnosis and wrong.diagnosis.layer == "conv4_2_3x3"
