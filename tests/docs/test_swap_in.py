"""The recipes of docs/swap-in.md, each run as it stands there: on Keras 3, and where it says so in the old package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.conversion import convert
from convert.readers import read_checkpoint
from ferplus_keras.networks.architecture import NETWORKS, architecture
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.keras_vggface import keras3_name, their_name
from tests.conftest import ROOT, run_ferplus, run_python, standin_of
from tests.docs.test_docs import blocks, desk  # noqa: F401  (the fixture)

PAGE = ROOT / "docs" / "swap-in.md"
RECIPES = blocks(PAGE, "python")

#: What each block prints, in order: a word that must be there.
SAYS = (
    "", "(None, 28, 28, 512) (None, 2048)", "", "layers were trained", "(1, 2048)", "107 layers matched",
    "dominant_emotion", "[[",
)  # fmt: skip

#: All blocks in one process, each in a namespace of its own: Keras is imported once.
ALL = """
import contextlib, io, json, os, sys
os.chdir(sys.argv[1])
said = []
for code in json.load(open("recipes.json")):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "recipe", "exec"), {})
    said.append(out.getvalue())
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(desk: Path, networks_folder: Path) -> Any:  # noqa: F811
    made = desk / "weights" / "output"
    convert(standin_of("senet50", networks_folder), [made / "senet50_ferplus-standin.h5"])
    for name, options in (("vggface_resnet50", {"layout": "keras-vggface"}), ("pixels", {"pixels": True})):
        convert(made / "resnet50_ferplus-trained.h5", [desk / f"{name}.h5"], **options)
    (desk / "recipes.json").write_text(json.dumps(RECIPES))
    out = run_python(ALL, desk, FERPLUS_WEIGHTS=str(desk / "weights"), KERAS_BACKEND="tensorflow")
    return json.loads(out.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_the_recipe_runs(number: int, said: list[str]) -> None:
    assert SAYS[number] in said[number]
    if "decode_predictions" in RECIPES[number]:
        assert any(emotion in said[number] for emotion in EMOTIONS)


@pytest.mark.slow
def test_what_was_tuned_goes_back_to_pytorch(said: list[str], desk: Path) -> None:  # noqa: F811
    run = run_ferplus("convert", "tuned_compat.h5", "tuned_compat.pth", cwd=desk)
    assert run.returncode == 0, run.stderr
    tuned = read_checkpoint(desk / "tuned_compat.pth")
    base = read_checkpoint(desk / "weights" / "output" / "resnet50_ferplus-trained.h5")
    assert tuned.architecture.head.units == 7
    for layer in ("conv1_7x7_s2", "conv4_6_3x3"):  # frozen: RGB, and bit for bit what it was
        np.testing.assert_array_equal(tuned.arrays[layer]["kernel"], base.arrays[layer]["kernel"])
    assert not np.array_equal(
        tuned.arrays["conv5_3_1x1_increase"]["kernel"], base.arrays["conv5_3_1x1_increase"]["kernel"]
    )


@pytest.mark.slow
def test_the_old_packages_recipe_runs_in_the_old_package(keras2: Path, said: list[str], desk: Path) -> None:  # noqa: F811
    (code,) = blocks(PAGE, "python keras_vggface")
    shims = ROOT / "tests" / "compat"
    setup = "import importlib.util, os, sys\nos.chdir(sys.argv[1])\n"
    found = run_python(setup + "print(importlib.util.find_spec('keras_vggface') is not None)", desk, python=keras2)
    if found.split() != ["True"]:
        pytest.skip("keras_vggface is not in the Keras 2.15 environment: make it anew (rm -r .venv-keras2; make test)")
    run_python(f"{setup}import keras_vggface_shims\n{code}", desk, python=keras2, PYTHONPATH=f"{ROOT}:{shims}")


def test_the_alias_table_is_the_programs() -> None:
    rows = [line.split("|") for line in PAGE.read_text().splitlines() if line.startswith("| `conv")]
    assert len(rows) >= 4
    for _, theirs, three, ours, _ in rows:
        layer = ours.strip(" `")
        assert layer in architecture(NETWORKS[0]).parameters
        assert (theirs.strip(" `"), three.strip(" `")) == (their_name(layer), keras3_name(layer))


def test_every_recipe_has_its_expectation() -> None:
    assert len(SAYS) == len(RECIPES)
