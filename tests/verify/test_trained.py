"""The networks that come with the package: found, opened and held against what is recorded of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ferplus_keras
from convert.readers import read_checkpoint
from convert.writers import write
from ferplus_keras import EmotionClassifier, packages
from ferplus_keras.cli import main
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.shipped import Recorded, Shipped, default_shipped, shipped, shipped_at
from ferplus_keras.networks.architecture import architecture, torch_name
from tests.seeded import seeded_checkpoint
from tests.verify.oracles import painted
from verify.accuracy import Predictions
from verify.predictors import open_predictor
from verify.shipping import _halve, _halving, ship
from verify.trained import TOLERANCE, as_toml, measure, repeat, table

#: The smallest network, for tests that run one or change its file.
COMPACT = shipped()["compact"]


def test_every_shipped_network_has_its_figures_and_is_the_file_that_the_manifest_names() -> None:
    for each in shipped().values():
        assert each.accuracy and each.figure.endswith("on FERPlus Test")
        assert shipped_at(each.path) == each
        assert {layer: {role: array.shape for role, array in roles.items()} for layer, roles in each.arrays().items()} \
            == each.table.parameters  # fmt: skip


def made_up(network: str, path: Path) -> tuple[Shipped, dict[str, dict[str, np.ndarray]]]:
    """A trained network with random weights in ``path``, under PyTorch's names, and its arrays."""
    from safetensors.numpy import save_file

    numbers = np.random.default_rng(0)
    want = {layer: {role: numbers.random(shape, np.float32).astype(np.float16) for role, shape in roles.items()}
            for layer, roles in architecture(network).parameters.items()}  # fmt: skip
    stored = {}
    for layer, roles in want.items():
        for role, array in roles.items():
            turned = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            stored[torch_name(layer, role)] = np.ascontiguousarray(turned) if role == "kernel" else array
    save_file(stored, path)
    side = 48 if network == "compact" else 224
    return Shipped(f"{network}_ferplus", network, path, sha256_of(path), side), want


def test_pytorch_names_give_the_same_arrays_as_keras_roles(tmp_path: Path) -> None:
    trained, want = made_up("compact", tmp_path / "t.safetensors")
    got = trained.arrays()
    assert all(np.array_equal(got[layer][role], array) for layer, roles in want.items()
               for role, array in roles.items())  # fmt: skip


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("network", ["resnet50", "senet50"])
def test_a_large_network_in_float16_is_read_by_convert_and_by_name_alike(network: str, tmp_path: Path) -> None:
    """Step counters stay whole numbers, a variance beyond float16 is exact, and what is read is float32 again."""
    given = seeded_checkpoint(network, steps=70_000)
    given.arrays["conv1_7x7_s2_bn"]["moving_variance"][0] = 1e6
    write(given, tmp_path / "best.safetensors")
    _halve(tmp_path / "best.safetensors", tmp_path / "model.safetensors")
    found = read_checkpoint(tmp_path / "model.safetensors")
    named = Shipped(f"{network}_ferplus", network, tmp_path / "model.safetensors",
                    sha256_of(tmp_path / "model.safetensors"), 224).arrays()  # fmt: skip
    assert found.provenance.num_batches_tracked == 70_000
    for layer, roles in given.arrays.items():
        for role, array in roles.items():
            wanted = array.astype(np.float16).astype(np.float32) if role == "kernel" else array
            np.testing.assert_array_equal(found.arrays[layer][role], wanted, err_msg=f"{layer} {role}")
            np.testing.assert_array_equal(named[layer][role], wanted, err_msg=f"{layer} {role}")
            assert found.arrays[layer][role].dtype == named[layer][role].dtype == np.float32


def test_the_large_ones_that_are_not_shipped_yet_are_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from ferplus_keras.applications import models

    monkeypatch.setattr(models, "shipped", lambda: {"compact": COMPACT})
    with pytest.raises(BadInputError, match="No trained resnet50 comes with this version; there is the compact"):
        ferplus_keras.ResNet50(weights="ferplus")


@pytest.mark.slow  # the full size: a file of fifty megabytes, and two models
def test_the_name_ferplus_loads_the_trained_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ferplus_keras.applications import models
    from ferplus_keras.compat import vggface

    trained, want = made_up("resnet50", tmp_path / "model.safetensors")
    monkeypatch.setenv("FERPLUS_WEIGHTS", str(tmp_path))
    for module in (models, vggface):
        monkeypatch.setattr(module, "shipped", lambda: {trained.name: trained})
    monkeypatch.setattr(vggface, "shipped_at", lambda _path: trained)
    for weights in (ferplus_keras.ResNet50(weights="ferplus"), ferplus_keras.ResNet50(False, "ferplus")):
        for layer in ("conv1_7x7_s2", "conv5_3_1x1_increase_bn"):
            for got, array in zip(weights.get_layer(layer).get_weights(), want[layer].values(), strict=True):
                np.testing.assert_array_equal(got, array)
    theirs = vggface.VGGFace(model="resnet50", weights="ferplus")
    kernel = vggface.get_layer(theirs, "conv1/7x7_s2").get_weights()[0]
    np.testing.assert_array_equal(kernel, want["conv1_7x7_s2"]["kernel"][:, :, ::-1])  # it takes BGR


def test_a_changed_file_is_not_run(tmp_path: Path) -> None:
    changed = bytearray(COMPACT.path.read_bytes())
    changed[-1] ^= 1
    path = tmp_path / "changed.safetensors"
    path.write_bytes(changed)
    with pytest.raises(BadInputError, match="install the package again"):
        replace(COMPACT, path=path).arrays()
    with pytest.raises(BadInputError, match="not one of the trained networks"):
        EmotionClassifier(path)


def test_without_a_network_the_shipped_one_answers_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    face = tmp_path / "face.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)).save(face)
    classifier = EmotionClassifier()
    assert classifier.network == default_shipped().network and not classifier.standin
    assert main(["predict", str(face), "--json"]) == 0
    said = capsys.readouterr()
    assert default_shipped().title in said.err
    row = json.loads(said.out)
    assert row["emotion"] == classifier.predict(face).emotion
    assert main(["predict", str(tmp_path)]) == 0  # a folder of images is no network either


def test_a_figure_that_is_off_by_more_than_two_images_fails() -> None:
    recorded = Recorded("val", "albanie", True, 90, 100)
    network = replace(COMPACT, accuracy=(recorded,))
    for off, passed in ((0, True), (TOLERANCE, True), (-TOLERANCE, True), (TOLERANCE + 1, False), (-9, False)):
        now = replace(recorded, correct=recorded.correct + off)
        found = repeat(network, None, measured=lambda *_, now=now: (now,))  # type: ignore[arg-type]
        assert [each.passed for each in found] == [passed]
        assert ("ANOTHER FIGURE" in table(found)) is not passed
    fewer = replace(recorded, n=99)
    assert not repeat(network, None, measured=lambda *_: (fewer,))[0].passed  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="nothing to measure again"):
        repeat(replace(network, accuracy=()), None)  # type: ignore[arg-type]


def test_what_is_measured_can_be_written_into_the_manifest() -> None:
    import tomllib

    found = measure(open_predictor(COMPACT.path), painted([0, 1, 2, 3]), splits=("test",))
    assert {each.protocol for each in found} == {"albanie", "majority", "wtomin"}
    assert tuple(Recorded(**each) for each in tomllib.loads(as_toml(found))["accuracy"]) == found


def test_a_finished_run_becomes_a_network_that_the_manifest_can_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    import tomllib

    run, out = tmp_path / "run", tmp_path / "trained" / "again"
    shutil.copytree(COMPACT.path.parent, run)
    (run / "state").mkdir()
    (run / "model.safetensors").rename(run / "state" / "best-0071.safetensors")
    images = painted([0, 1, 2, 3] * 2, [1] * 4 + [2] * 4)
    with pytest.raises(BadInputError, match="run is not finished"):
        ship(run, out, images)
    (run / "release.json").write_text('{"files": []}')
    (run / "accuracy").mkdir()
    (run / "accuracy" / "report.html").write_text("shows faces")
    (run / "accuracy" / "accuracy.json").write_text(
        '{"by": "ferplus x /home/me/a.h5 --data /data", "see": "http://a.org/b"}'
    )
    made = ship(run, out, images)
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors", "README.md", "recipe.toml", "run.json", "history.csv", "curves.svg", "accuracy.json"
    }  # fmt: skip
    assert json.loads((out / "accuracy.json").read_text()) == {
        "by": "ferplus x a.h5 --data /data", "see": "http://a.org/b"
    }  # fmt: skip
    assert (out / "curves.svg").read_bytes() == (run / "curves.svg").read_bytes()
    assert made.original == made.shipped.accuracy  # it was float16 before
    assert [(each.split, each.images, each.decisions, each.probability) for each in made.halving] == [
        ("val", 4, 0, 0.0), ("test", 4, 0, 0.0)
    ]  # fmt: skip
    assert (out / "README.md").read_text().startswith("---\nlibrary_name: keras\n")
    (tmp_path / "manifest.toml").write_text(made.manifest)
    assert tomllib.loads(made.manifest)["trained"]["again"]["sha256"] == made.shipped.sha256
    monkeypatch.setattr("ferplus_keras.files.shipped.shipped_folder", lambda: tmp_path)
    assert shipped() == {"again": made.shipped}


def test_what_float16_changed_is_counted_and_said() -> None:
    whole = Predictions(np.array([[0.6, 0.4], [0.5001, 0.4999], [0.2, 0.8]]), 0.0, 0.0)
    half = replace(whole, probabilities=np.array([[0.6, 0.4], [0.4999, 0.5001], [0.21, 0.79]]))
    assert str(_halving("test", half, whole)) == (
        "On the 3 images of Test that a protocol counts, float16 changes 1 decision, "
        "and no probability by more than 0.01."
    )


def test_a_folder_without_a_run_is_no_release(tmp_path: Path, ferplus_data: Path) -> None:
    assert main(["release", str(tmp_path), "--out", str(tmp_path / "out"), "--data", str(ferplus_data)]) == 2
    assert not (tmp_path / "out").exists()


def test_what_runs_the_networks_is_named_before_the_data_are_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(packages, "installed", lambda name: name != "onnxruntime")
    assert main(["verify", "trained", "--data", str(tmp_path)]) == 2
    assert "needs onnxruntime, which is not installed here" in capsys.readouterr().err
