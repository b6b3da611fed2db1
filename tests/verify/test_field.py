"""The table of docs/field.md again, where the files of others and the data are (FER_FILES, FERPLUS_DATA)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ferplus_keras.dataset import Dataset
from ferplus_keras.engines.card import Card
from ferplus_keras.networks.emotions import EMOTIONS
from tests.conftest import ROOT
from verify.comparing import compare
from verify.predictors import open_predictor

SEVEN = "angry,disgust,fear,happy,sad,surprise,neutral"


def theirs(name: str, folder: Path) -> Path:
    """The file ``name``, without the card that may stand beside it."""
    path = Path(os.environ.get("FER_FILES", "")) / name
    if "FER_FILES" not in os.environ or not path.is_file():
        pytest.skip(f"FER_FILES names no folder with {name}")
    return Path(shutil.copyfile(path, folder / name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "input", "classes", "right"),
    [
        ("ferplus_model_pd_best.tflite", "gray 48x48 0..1", EMOTIONS,
         {"albanie": (2847, 3294), "majority": (2764, 3153), "wtomin": (2844, 3275)}),
        ("emotion_model.hdf5", "gray 64x64 -1..1", SEVEN, {"albanie": (2157, 3294)}),
    ],
)  # fmt: skip
def test_other_peoples_networks_have_their_figures(
    name: str, input: str, classes: str | tuple[str, ...], right: dict[str, tuple[int, int]], ferplus: Dataset,
    tmp_path: Path,
) -> None:  # fmt: skip
    """fer-model publishes 0.8766 under Microsoft's majority. A processor's rounding may move a decision or two."""
    predictor = open_predictor(theirs(name, tmp_path), Card.of(input, classes))
    found = compare([predictor], ferplus)["networks"][0]["protocols"]
    for protocol, (correct, n) in right.items():
        assert found[protocol]["all"]["n"] == n
        assert found[protocol]["all"]["correct"] == pytest.approx(correct, abs=2)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["compact", "resnet50_ferplus", "senet50_ferplus"])
def test_the_folder_of_a_network_trained_here_is_a_network(folder: str, ferplus: Dataset) -> None:
    predictor = open_predictor(ROOT / "weights" / "trained" / folder)
    found = compare([predictor], ferplus, split="val", limit=16)["networks"][0]["protocols"]["albanie"]["all"]
    assert found["n"] == 16 and found["correct"] >= 10  # 85 to 87 % on all of Valid: `ferplus verify trained`
