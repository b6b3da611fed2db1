"""The commands that the README and the docs tell people to type, typed with small networks."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, run_ferplus, run_python, typed
from tests.docs.test_docs import PAGES, blocks
from tests.ferplus_files import Small, write_pair
from tests.verify.oracles import painted

pytestmark = pytest.mark.usefixtures("small")


def commands() -> list[str]:
    lines = (
        line.split("#")[0].strip() for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()
    )
    return sorted({line for line in lines if line})


def test_there_are_commands_to_test() -> None:
    assert {line.split()[0] for line in commands()} == {"make", "ferplus"}
    assert len(commands()) > 10


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("make ")])
def test_every_make_target_exists(line: str) -> None:
    run = subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of the docs are typed, in the order in which they stand there."""
    from PIL import Image

    from ferplus_keras.predict.film import FilmWriter
    from verify.images import natural_pixels

    folder = tmp_path_factory.mktemp("work")
    # Stand-ins may not be renamed to names that hide what they are: seeded tensors that claim nothing serve here.
    from tests.seeded import save_state, seeded_state

    save_state(seeded_state("resnet50"), folder / "resnet50_ferplus_dag.pth", legacy=True)
    targets = ("a.h5", "weights/output/resnet50_ferplus-trained.h5", "tuned.keras", "resnet50-ferplus.mat")
    made = run_ferplus("convert", "resnet50_ferplus_dag.pth", *targets, cwd=folder)
    assert made.returncode == 0
    old = run_ferplus("convert", "resnet50_ferplus_dag.pth", "tuned_compat.h5", "--layout", "keras-vggface", cwd=folder)
    assert old.returncode == 0
    data = painted([0, 1, 2, 3], [0, 1, 2, 2])
    write_pair(Small.of(data), folder / "fer2013")
    shutil.copytree(ROOT / "weights" / "trained" / "compact", folder / "weights" / "trained" / "compact")
    (folder / "faces").mkdir()
    for number, pixels in enumerate(natural_pixels(4, seed=7)):
        Image.fromarray(pixels).save(folder / "faces" / f"{number}.png")
    face = np.random.default_rng(0).integers(0, 255, (48, 48), np.uint8)
    Image.fromarray(face).save(folder / "face.png")
    film = FilmWriter(folder / "film.mp4", 10)
    for number in range(4):
        film.write(Image.new("RGB", (96, 64), (number, 99, 99)), [], [], [])
    film.close()
    return folder


@pytest.mark.slow
def test_the_python_of_the_page_on_predict_runs(work: Path) -> None:
    (code,) = blocks(ROOT / "docs" / "predict.md", "python")
    said = run_python(f"import os, sys\nos.chdir(sys.argv[1])\n{code}", work, KERAS_BACKEND="tensorflow")
    assert said.count("'emotion'") == 2


def finetuning() -> list[list[str]]:
    """The words of each ``ferplus finetune`` line, as a shell takes them apart."""
    return [shlex.split(line)[1:] for line in commands() if line.startswith("ferplus finetune ")]


@pytest.mark.parametrize("words", finetuning(), ids=" ".join)
def test_every_finetune_command_is_one(words: list[str]) -> None:
    """Hours of training are not typed here: that the words are understood, and the recipe is one, is."""
    from ferplus_keras.cli import build_parser
    from ferplus_keras.cli.finetuning import _recipe
    from ferplus_keras.finetune.recipe import RECIPES

    options = build_parser().parse_args(words)
    if options.resume is None:
        options.arch = options.arch or "resnet50"
        assert _recipe(options, None).name in RECIPES


@pytest.mark.slow
def test_a_finetune_command_of_the_docs_runs(work: Path) -> None:
    """The first of them in the small, and going on with it."""
    data = painted(list(range(8)) * 3, [0] * 12 + [1] * 6 + [2] * 6)
    write_pair(Small.of(data), work / "faces")
    words = next(words for words in finetuning() if words[-1] == "runs/scratch" and "--resume" not in words)
    words[words.index("--data") + 1] = "faces"
    small = ["--size", "32", "--set", "epochs=1", "--set", "warmup_epochs=0", "--set", "batch=4"]
    assert (run := run_ferplus(*words, *small, cwd=work)).returncode == 0, run.stderr
    assert (work / "runs" / "scratch" / "model-card.md").exists()
    assert (run := run_ferplus("finetune", "--resume", "runs/scratch", cwd=work)).returncode == 0, run.stderr
    made = [path.suffix for path in (work / "runs" / "scratch").glob("best.*")]
    assert sorted(made) == [".h5", ".keras", ".pth", ".safetensors"]
    words = shlex.split(next(line for line in commands() if line.startswith("ferplus release ")))[1:]
    words[words.index("runs/mine")], words[words.index("--data") + 1] = "runs/scratch", "faces"
    assert (run := run_ferplus(*words, cwd=work)).returncode == 0, run.stderr
    assert (work / words[words.index("--out") + 1] / "model.safetensors").exists()


def ferplus_commands() -> list[str]:
    lines = [line for line in commands() if line.startswith("ferplus ") and "[" not in line]
    return [line for line in lines if not line.startswith(("ferplus finetune ", "ferplus release "))]  # tested above


@pytest.mark.slow
@pytest.mark.parametrize("line", ferplus_commands())
def test_every_ferplus_command_runs(line: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    if line.startswith("ferplus verify trained"):  # with the networks that are shipped, which have their own size
        run = run_ferplus(*line.split()[1:], cwd=work, PYTHONPATH=str(ROOT))
    else:
        run = typed(*line.split()[1:])
    if "verify" in line or "export" in line:
        # Seeded numbers without calibration drive activations to where float32 means little; that it runs is the point.
        assert run.returncode in (0, 1) and "Traceback" not in run.stderr
    else:
        assert run.returncode == 0, run.stderr
    if "--report" in line:
        names = {path.name for path in (work / line.split()[-1]).iterdir()}
        check = "accuracy" if "verify accuracy" in line else "parity"
        assert names == {f"{check}.json", "junit.xml", "report.md", "report.html"}
