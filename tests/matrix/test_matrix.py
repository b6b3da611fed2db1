"""`make matrix` in the small: the environments that are here open every file that is written, predict and agree.

`make matrix` itself does it with a network of the published size.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.conftest import ROOT, standin_of
from tests.matrix.running import ENVIRONMENTS, Environment, failures, make_files, run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small")]

#: The tests of parity and of graphs cover the newest Keras on its backends; `make matrix` runs these too.
ELSEWHERE = ("newest Keras 3, JAX", "newest Keras 3, PyTorch")


@pytest.fixture(scope="module")
def folder(networks_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("matrix")
    make_files(standin_of("senet50", networks_folder), made)
    return made


@pytest.mark.parametrize(
    "environment", [each for each in ENVIRONMENTS if each.name not in ELSEWHERE], ids=lambda each: each.name
)
def test_every_file_opens_predicts_and_agrees(environment: Environment, folder: Path) -> None:
    if not environment.is_there:
        pytest.skip(f"{environment.name} is not here: `make matrix` sets it up")
    if "TF_USE_LEGACY_KERAS" in environment.variables and importlib.util.find_spec("tf_keras") is None:
        pytest.skip("tf_keras is not installed")
    result = run(environment, folder)
    assert not failures(result), result["keras"]
    assert len(result["results"]) >= 6


def test_the_versions_are_the_makefiles() -> None:
    makefile = (ROOT / "Makefile").read_text()
    page = (ROOT / "docs" / "swap-in.md").read_text()
    (oldest,) = [line.split(":=")[1].strip() for line in makefile.splitlines() if line.startswith("KERAS_OLDEST")]
    assert f"Keras {oldest}" in page
