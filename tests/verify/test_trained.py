"""The networks that come with the package: found, opened and held against what is recorded of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferplus_keras import EmotionClassifier
from ferplus_keras.cli import main
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.shipped import Recorded, Shipped, best_shipped, shipped, shipped_at
from ferplus_keras.networks.architecture import architecture, torch_name
from tests.verify.oracles import painted
from verify.predictors import open_predictor
from verify.trained import TOLERANCE, as_toml, measure, repeat, table


def test_every_shipped_network_has_its_figures_and_is_the_file_that_the_manifest_names() -> None:
    for each in shipped().values():
        assert each.accuracy and each.figure.endswith("on FERPlus Test")
        assert shipped_at(each.path) == each
        assert {layer: {role: array.shape for role, array in roles.items()} for layer, roles in each.arrays().items()} \
            == each.table.parameters  # fmt: skip


@pytest.mark.parametrize("network", ["resnet50", "compact"])
def test_pytorch_names_give_the_same_arrays_as_keras_roles(network: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    from ferplus_keras.files.hashing import sha256_of

    path, numbers = tmp_path / "t.safetensors", np.random.default_rng(0)
    want = {layer: {role: numbers.random(shape, np.float32).astype(np.float16) for role, shape in roles.items()}
            for layer, roles in architecture(network).parameters.items()}  # fmt: skip
    stored = {}
    for layer, roles in want.items():
        for role, array in roles.items():
            turned = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            stored[torch_name(layer, role)] = np.ascontiguousarray(turned) if role == "kernel" else array
    save_file(stored, path)
    got = Shipped("t", network, path, sha256_of(path), 48).arrays()
    assert all(np.array_equal(got[layer][role], array) for layer, roles in want.items()
               for role, array in roles.items())  # fmt: skip


def test_a_changed_file_is_not_run(tmp_path: Path) -> None:
    changed = bytearray(best_shipped().path.read_bytes())
    changed[-1] ^= 1
    path = tmp_path / "changed.safetensors"
    path.write_bytes(changed)
    with pytest.raises(BadInputError, match="install the package again"):
        replace(best_shipped(), path=path).arrays()
    with pytest.raises(BadInputError, match="none of the trained networks"):
        EmotionClassifier(path)


def test_without_a_network_the_shipped_one_answers_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    face = tmp_path / "face.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)).save(face)
    classifier = EmotionClassifier()
    assert classifier.network == best_shipped().network and not classifier.standin
    assert main(["predict", str(face), "--json"]) == 0
    said = capsys.readouterr()
    assert best_shipped().title in said.err
    row = json.loads(said.out)
    assert row["emotion"] == classifier.predict(face).emotion
    assert main(["predict", str(tmp_path)]) == 0  # a folder of images is no network either


def test_a_figure_that_is_off_by_more_than_two_images_fails() -> None:
    recorded = Recorded("val", "albanie", True, 90, 100)
    network = replace(best_shipped(), accuracy=(recorded,))
    for off, passed in ((0, True), (TOLERANCE, True), (-TOLERANCE, True), (TOLERANCE + 1, False), (-9, False)):
        now = replace(recorded, correct=recorded.correct + off)
        found = repeat(network, None, measured=lambda *_, now=now: (now,))  # type: ignore[arg-type]
        assert [each.passed for each in found] == [passed]
        assert ("ANOTHER FIGURE" in table(found)) is not passed
    fewer = replace(recorded, n=99)
    assert not repeat(network, None, measured=lambda *_: (fewer,))[0].passed  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="nothing to repeat"):
        repeat(replace(network, accuracy=()), None)  # type: ignore[arg-type]


def test_what_is_measured_can_be_written_into_the_manifest() -> None:
    import tomllib

    found = measure(open_predictor(best_shipped().path), painted([0, 1, 2, 3]), splits=("test",))
    assert {each.protocol for each in found} == {"albanie", "majority", "wtomin"}
    assert tuple(Recorded(**each) for each in tomllib.loads(as_toml(found))["accuracy"]) == found
