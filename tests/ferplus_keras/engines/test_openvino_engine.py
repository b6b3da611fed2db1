"""OpenVINO says what ONNX Runtime says: in float32 but for rounding, in bfloat16 to its eight bits."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from PIL import Image

from ferplus_keras.cli import main
from ferplus_keras.engines import open_engine
from ferplus_keras.errors import BadInputError
from tests.ferplus_keras.engines.small_onnx import small_onnx, tensor

openvino = pytest.importorskip("openvino")
BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
with_bf16 = pytest.mark.skipif(not BF16, reason="this processor has no bfloat16")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A convolution whose channels are far apart, so that decisions are clear."""
    kernel = tensor("k", np.random.default_rng(0).normal(size=(3, 3, 3, 3)), "f4")
    return small_onnx(tmp_path / "x.onnx", [helper.make_node("Conv", ["x", "k"], ["y"], pads=[1] * 4)], [kernel])


@pytest.mark.parametrize(
    ("runtime", "near"), [("openvino", 1e-5), pytest.param("openvino-bf16", 2e-2, marks=with_bf16)]
)
def test_the_same_numbers_whatever_the_batch(network: Path, runtime: str, near: float) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), np.uint8)
    plain, other = open_engine(network), open_engine(network, runtime=runtime)
    assert other.by.startswith("OpenVINO") and other.by.endswith("bfloat16") is (runtime == "openvino-bf16")
    right = plain.run(pixels)
    for count in (1, 2, 5, 1):
        np.testing.assert_allclose(other.run(pixels[:count]), right[:count], atol=near * np.abs(right).max())
    kept = other.run(pixels[:1])
    other.run(pixels[1:2])
    np.testing.assert_array_equal(kept, other.run(pixels[:1]), "an answer changes when the next comes")


def test_what_is_not_for_us_to_run_is_refused_for_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "Core", lambda: pytest.fail("it was opened"))
    path = small_onnx(tmp_path / "x.onnx", [helper.make_node("NonZero", ["x"], ["y"])], [])
    with pytest.raises(BadInputError, match="NonZero"):
        open_engine(path, runtime="openvino")


class Old:
    """A processor without bfloat16."""

    def get_property(self, *_names: str) -> list[str]:
        return ["FP32", "INT8"]


def test_what_is_missing_is_said(network: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no runtime tvm: choose onnxruntime, openvino or openvino-bf16"):
        open_engine(network, runtime="tvm")
    with pytest.raises(BadInputError, match=r"a.h5 is not an .onnx file.*`ferplus export a.h5 a.onnx --to onnx`"):
        open_engine(tmp_path / "a.h5", runtime="openvino")
    with monkeypatch.context() as patched:
        patched.setattr(openvino, "Core", Old)
        with pytest.raises(BadInputError, match="no bfloat16 arithmetic"):
            open_engine(network, runtime="openvino-bf16")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BadInputError, match=r"pip install 'ferplus-keras\[openvino\]'"):
        open_engine(network, runtime="openvino")


def test_the_command_takes_it_and_does_not_mix_the_results_of_two(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 48), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    out, faces = tmp_path / "o.csv", [str(tmp_path / f"{number}.png") for number in range(3)]
    rows = {}
    for runtime in ("onnxruntime", "openvino"):
        assert main(["predict", str(network), *faces, "--csv", str(out), "--runtime", runtime]) == 0
        with out.open(newline="") as stream:
            rows[runtime] = list(csv.DictReader(stream))
        assert rows[runtime][0]["model"].endswith(f" {runtime}")
    plain, other = rows.values()
    assert [row["emotion"] for row in other] == [row["emotion"] for row in plain]
    out.rename(f"{out}.partial")
    capsys.readouterr()
    assert main(["predict", str(network), *faces, "--csv", str(out), "--resume"]) == 2
    assert main(["predict", str(network), *faces, "--csv", str(out), "--engine", "ray", "--runtime", "openvino"]) == 2
    assert "--annotate nor --runtime" in capsys.readouterr().err
