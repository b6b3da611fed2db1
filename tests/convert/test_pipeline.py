"""`make convert` and `make verify` as one road: find or make the checkpoints, convert, check, say what was done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest

from tests.conftest import ROOT, run_ferplus

pytestmark = pytest.mark.slow  # both networks, converted and proven


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest's networks, one under a name for which nothing was trained here: it needs a stand-in."""
    folder = tmp_path_factory.mktemp("weights")
    manifest = (ROOT / "weights" / "manifest.toml").read_text()
    (folder / "manifest.toml").write_text(manifest.replace("[senet50_ferplus]", "[senet50_untrained]"))
    return folder


@pytest.fixture(scope="module")
def converted(weights: Path) -> str:
    """What `ferplus convert-all --offline` prints when nothing has been downloaded."""
    run = run_ferplus("convert-all", "--offline", FERPLUS_WEIGHTS=str(weights))
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_without_checkpoints_what_was_trained_here_is_used_or_else_a_stand_in(converted: str, weights: Path) -> None:
    outputs = sorted(path.name for path in (weights / "output").iterdir())
    assert outputs == ["resnet50_ferplus-trained.h5", "senet50_untrained-standin.h5"]
    assert [path.name for path in (weights / "downloads").iterdir()] == ["senet50_ferplus_dag-standin.pth"]
    assert "STAND-INS: 1 of 2 files" in converted and "made-up weights" in converted
    assert str(weights / "downloads" / "senet50_ferplus_dag.pth") in converted  # where a real one is to be put


def test_the_table_has_size_hash_and_parity(converted: str, weights: Path) -> None:
    from ferplus_keras.files.hashing import sha256_of

    for path in (weights / "output").iterdir():
        row = next(line for line in converted.splitlines() if line.startswith(str(path)))
        _, size, unit, sha256, float64, float32, *verdict = row.split()
        assert float(size) == pytest.approx(path.stat().st_size / 1e6, abs=0.06) and unit == "MB"
        assert sha256_of(path).startswith(sha256)
        assert 0 < float(float64) <= 1e-12 and 1e-12 < float(float32) <= 5e-5
        assert verdict[:2] == ["same", "function"]
        assert verdict[2:4] == (["STAND-IN"] if "standin" in path.name else ["trained", "here:"])
    assert "keras.models.load_model(" in converted


def test_each_file_has_its_report(converted: str, weights: Path) -> None:
    for path in (weights / "output").iterdir():
        page = weights / "reports" / path.name.replace(".", "-") / "report.html"
        assert f"Report: {page}" in converted
        assert "The same function" in page.read_text() and path.name in page.read_text()


@pytest.mark.parametrize(("name", "layers"), [("resnet50_ferplus-trained", 174), ("senet50_untrained-standin", 270)])
def test_each_network_is_the_same_function_at_its_published_size(
    name: str, layers: int, converted: str, weights: Path
) -> None:
    told = json.loads((weights / "reports" / f"{name}-h5" / "parity.json").read_text())
    runs = [run for run in told["runs"] if run["reference"] == "torch"]
    assert told["passed"] and [run["dtype"] for run in runs] == ["float64", "float32"]
    for run, tolerance in zip(runs, (1e-12, 5e-5), strict=True):
        assert run["logits"]["relative"] <= run["tolerance"] == tolerance and run["decisions"]["agreement"] == 1.0
        assert len(run["layers"]) == layers
        assert all(layer["relative"] <= layer["bound"] for layer in run["layers"])
        assert 0 < run["layers"][-1]["bound"] < 10 * tolerance


def test_a_real_file_at_the_named_place_is_used_instead(converted: str, weights: Path, seeded_pth: Path) -> None:
    place = weights / "downloads" / "resnet50_ferplus_dag.pth"
    shutil.copy(seeded_pth, place)
    try:
        run = run_ferplus("convert-all", "--offline", "--to", "safetensors", "--json", FERPLUS_WEIGHTS=str(weights))
        made = json.loads(run.stdout)
        assert [each["standin"] for each in made] == [False, True]
        assert made[0]["written"]["path"] == str(weights / "output" / "resnet50_ferplus.safetensors")
    finally:
        place.unlink()


def test_a_wrong_file_at_the_named_place_is_an_error_and_no_reason_to_make_one_up(weights: Path) -> None:
    place = weights / "downloads" / "resnet50_ferplus_dag.pth"
    place.parent.mkdir(exist_ok=True)
    place.write_text("<html>gone</html>")
    try:
        run = run_ferplus("convert-all", "--offline", FERPLUS_WEIGHTS=str(weights))
        assert run.returncode in (2, 4) and "HTML" in run.stderr and "Traceback" not in run.stderr
        assert place.exists()
    finally:
        place.unlink()


# --- `make verify`, with small networks ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checked(weights: Path, tmp_path_factory: pytest.TempPathFactory, small: None) -> Path:
    """The folder of two networks for which nothing was trained here, converted: both are stand-ins."""
    folder = tmp_path_factory.mktemp("checked")
    manifest = (weights / "manifest.toml").read_text()
    (folder / "manifest.toml").write_text(manifest.replace("[resnet50_ferplus]", "[resnet50_untrained]"))
    run = run_ferplus("convert-all", "--offline", FERPLUS_WEIGHTS=str(folder))
    assert run.returncode == 0, run.stderr
    return folder


def test_verify_turns_red_when_a_file_was_changed(checked: Path) -> None:
    path = checked / "output" / "resnet50_untrained-standin.h5"
    with h5py.File(path, "r+") as file:
        file["model_weights/conv4_1_3x3/conv4_1_3x3/kernel:0"][0, 0, 0, 0] += 1.0
    run = run_ferplus("verify", "all", FERPLUS_WEIGHTS=str(checked))
    assert run.returncode == 1, run.stderr
    assert "DIFFERENT" in run.stdout and "do not use it" in run.stderr
    row = next(line for line in run.stdout.splitlines() if "senet50_untrained-standin.h5 " in line and "MB" in line)
    assert "same function" in row
    page = checked / "reports" / "resnet50_untrained-standin-h5" / "report.html"
    assert "Not the same function" in page.read_text() and f"Report: {page}" in run.stdout


def test_verify_refuses_a_file_whose_source_is_gone_before_it_checks_the_others(checked: Path) -> None:
    (checked / "downloads" / "senet50_ferplus_dag-standin.pth").unlink()  # so this is the last test
    run = run_ferplus("verify", "all", FERPLUS_WEIGHTS=str(checked))
    assert run.returncode == 2 and "Run `make convert` again" in run.stderr
    assert "resnet50_untrained" not in run.stderr + run.stdout
