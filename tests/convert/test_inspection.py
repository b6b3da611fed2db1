"""`inspect`: what any file is, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.conversion import convert
from convert.inspection import as_text, inspect
from convert.targets import FORMATS, Format
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.networks.architecture import architecture
from tests.seeded import save_state, seeded_state

pytestmark = pytest.mark.usefixtures("small")


def test_a_checkpoint_is_told_in_full(seeded_pth: Path) -> None:
    result = inspect(seeded_pth)
    assert result["format"] == "torch-zip" and result["network"] == "resnet50" and result["head"] == "8 classes"
    table = architecture("resnet50")
    assert result["tensors"] == sum(map(len, table.parameters.values()))
    assert result["step_counters"] == sum(name.endswith("_bn") for name in table.parameters)
    assert result["parameters"] == table.parameter_count and result["sha256"] == sha256_of(seeded_pth)
    assert result["problems"] == "" and not result["standin"]
    text = as_text(result)
    assert f"{table.parameter_count:,}" in text and "problems    none" in text


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_our_files_tell_what_they_are_and_whence(format: Format, seeded_pth: Path, tmp_path: Path) -> None:
    path = tmp_path / f"x{format.suffix}"
    convert(seeded_pth, [path])
    result = inspect(path)
    assert result["problems"] == "" and result["network"] == "resnet50" and result["head"] == "8 classes"
    assert result["parameters"] == architecture("resnet50").parameter_count
    assert result["output"] == ("probabilities" if format.has_output else "logits")
    assert result["provenance"]["source"]["name"] == seeded_pth.name
    assert result["provenance"]["source"]["sha256"] == sha256_of(seeded_pth)
    text = as_text(result)
    assert "neutral, happiness" in text and "RGB" in text and "ferplus-keras" in text


def test_a_stand_in_is_called_one(standin_pth: Path) -> None:
    assert "STAND-IN" in as_text(inspect(standin_pth))


def test_what_is_wrong_is_told_and_not_raised(tmp_path: Path) -> None:
    state = seeded_state("resnet50")
    del state["conv3_1_3x3.weight"]
    state["extra"] = state["classifier.bias"] * np.nan
    result = inspect(save_state(state, tmp_path / "x.pth"))
    assert "1 missing" in result["problems"] and "1 unexpected" in result["problems"]
    assert "conv3_1_3x3.weight" in as_text(result)


def test_a_foreign_checkpoint_is_listed(tmp_path: Path) -> None:
    import torch

    path = save_state({f"layer1.{i}.conv1.weight": torch.zeros(2, 3) for i in range(20)}, tmp_path / "x.pth")
    result = inspect(path)
    assert result["network"] is None and "torchvision" in result["problems"]
    assert result["listing"]["layer1.0.conv1.weight"] == [2, 3]


def test_it_is_not_recommended_by_itself(tmp_path: Path) -> None:
    import torch

    path = save_state({"a": torch.zeros(2)}, tmp_path / "x.pth")
    assert inspect(path)["problems"].endswith("no conv1_7x7_s2.")
    with pytest.raises(BadInputError, match=r"no conv1_7x7_s2\. `ferplus inspect` lists what it holds\.$"):
        convert(path, [tmp_path / "x.h5"])


def test_no_checkpoint_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(BadInputError, match="HTML page"):
        inspect(tmp_path / "x.pth")
