"""keras_vggface 0.6 itself, from the package index, under Keras 2.15: it loads what we write, we read what it saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from convert.conversion import convert
from convert.readers import read_checkpoint
from ferplus_keras.networks.preprocessing import preprocess_input
from tests.conftest import ROOT, run_python
from tests.convert.test_keras_vggface_layout import ulps_apart
from verify.images import natural_pixels
from verify.keras_side import open_model

HERE = Path(__file__).parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def real(keras2: Path, standin_pth: Path, standin_h5: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the old package does with our file, the folder with what it saved, our file, and the images."""
    package = "import importlib.util as u, sys; sys.exit(0 if u.find_spec('keras_vggface') else 'none'); print()"
    try:
        run_python(package, python=keras2)
    except AssertionError:
        pytest.skip("keras_vggface is not in the Keras 2.15 environment: make it anew (rm -r .venv-keras2; make test)")
    folder = tmp_path_factory.mktemp("real")
    path = folder / f"{'senet50' if 'senet50' in standin_pth.name else 'resnet50'}-vggface-standin.h5"
    convert(standin_pth, [path], layout="keras-vggface")
    images = folder / "images.npy"
    np.save(images, natural_pixels(3, seed=5))
    said = run_python(
        (HERE / "real.py").read_text(), path, images, folder, standin_h5, python=keras2,
        PYTHONPATH=f"{ROOT}:{HERE}",
    )  # fmt: skip
    return json.loads(said.splitlines()[-1]), folder, path, np.load(images)


def test_every_layer_is_matched_by_name_and_by_position(real: Any) -> None:
    found, _, _, _ = real
    assert found["layers"] == found["planned"] and found["classes"]
    assert found["epsilons"] == found["planned_epsilons"]
    assert found["loaded"] and found["by_position"] and found["ours"]
    assert found["report"].endswith(f"{len(found['layers'])} layers matched")
    assert "--layout keras-vggface" in found["wrong_kind"]


def test_its_predictions_are_those_of_our_description_and_close_to_the_exact_ones(real: Any, standin_h5: Path) -> None:
    found, folder, path, pixels = real
    theirs = np.load(next(folder.glob("*-real.npy")))
    assert np.isfinite(theirs).all()
    described = open_model(path)[0].predict(preprocess_input(pixels), verbose=0)  # their graph, on Keras 3
    np.testing.assert_allclose(theirs, described, atol=2e-5)
    exact = keras.models.load_model(standin_h5, compile=False).predict(preprocess_input(pixels), verbose=0)
    drift = np.abs(theirs - exact).max()
    assert 1e-4 < drift < 0.5  # inexact, as it says, and no other network
    assert found["fed_rgb"] > 1e-4, "the channel order makes no difference to this network, nor does this test"


@pytest.mark.parametrize("what", ["functional.h5", "nested.hdf5", "weights.h5"])
def test_what_old_scripts_save_comes_back_as_the_network(real: Any, standin_pth: Path, what: str) -> None:
    _, folder, _, _ = real
    (path,) = folder.glob(f"*-{what}")
    source, found = read_checkpoint(standin_pth), read_checkpoint(path)
    assert found.architecture.head == source.architecture.head
    apart = ulps_apart(source.arrays, found.arrays)
    assert apart.pop("gamma") <= 1 and set(apart.values()) == {0}
    assert any("used as the classifier" in note for note in found.provenance.notes)
