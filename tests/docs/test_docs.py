"""What the README and the docs tell people to type is typed here."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ferplus_keras.networks.emotions import EMOTIONS
from tests.conftest import ROOT, run_ferplus, run_python
from tests.ferplus_files import Small, write_pair
from tests.verify.oracles import painted

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = (
        line.split("#")[0].strip() for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()
    )
    return sorted({line for line in lines if line})


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a face and the file that `make convert` makes of the trained weights."""
    from PIL import Image

    from convert.conversion import convert
    from ferplus_keras.files.shipped import shipped

    folder = tmp_path_factory.mktemp("desk")
    convert(shipped()["resnet50_ferplus"].path, [folder / "weights" / "output" / "resnet50_ferplus-trained.h5"])
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 48), np.uint8)).save(folder / "face.png")
    return folder


#: The Python of the README, block by block.
README = blocks(ROOT / "README.md", "python")


@pytest.fixture(scope="module")
def said_by_the_readme(desk: Path) -> Callable[[int], str]:
    """What a block prints; each is run once."""

    @cache
    def run(number: int) -> str:
        code = f"import os, sys\nos.chdir(sys.argv[1])\n{README[number]}"
        return run_python(code, desk, KERAS_BACKEND="tensorflow")

    return run


@pytest.mark.slow  # starts Keras for each of the README's examples
@pytest.mark.parametrize("number", range(len(README)))
def test_the_readmes_python_runs(number: int, said_by_the_readme: Callable[[int], str]) -> None:
    said = said_by_the_readme(number)
    if "print(" in README[number]:
        assert any(emotion in said for emotion in EMOTIONS)


@pytest.mark.slow
def test_the_python_of_the_page_on_predict_runs(work: Path) -> None:
    (code,) = blocks(ROOT / "docs" / "predict.md", "python")
    said = run_python(f"import os, sys\nos.chdir(sys.argv[1])\n{code}", work, KERAS_BACKEND="tensorflow")
    assert said.count("'emotion'") == 2


@pytest.mark.slow  # a network of full size in Keras 2
def test_the_five_lines_run_in_keras_2_too(keras2: Path, desk: Path) -> None:
    run_python(f"import os, sys\nos.chdir(sys.argv[1])\n{README[0]}", desk, python=keras2)


def test_the_five_lines_are_five_without_the_import() -> None:
    lines = [line for line in README[0].splitlines() if line.strip()]
    assert len(lines) == 6 and lines[0] == "import keras"


@pytest.mark.slow  # runs two of them
def test_the_two_ways_in_the_readme_agree(said_by_the_readme: Callable[[int], str]) -> None:
    """Plain Keras with the mean by hand, and the package: one image, one answer."""
    emotions = [re.search("|".join(EMOTIONS), said_by_the_readme(number)) for number in (0, 1)]
    assert emotions[0] and emotions[1] and emotions[0].group() == emotions[1].group()


def test_there_are_commands_to_test() -> None:
    assert {line.split()[0] for line in commands()} == {"make", "ferplus"}
    assert len(commands()) > 10


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("make ")])
def test_every_make_target_exists(line: str) -> None:
    run = subprocess.run([*line.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.fixture(scope="module")
def work(desk: Path, session_folder: Path) -> Path:
    """Where the commands of the docs are typed, in the order in which they stand there."""
    from PIL import Image

    from ferplus_keras.predict.film import FilmWriter
    from verify.images import natural_pixels

    folder = desk / "work"
    folder.mkdir()
    # Stand-ins may not be renamed to names that hide what they are: seeded tensors that claim nothing serve here.
    from tests.seeded import save_state, seeded_state

    save_state(seeded_state("resnet50"), folder / "resnet50_ferplus_dag.pth", legacy=True)
    targets = ("a.h5", "weights/output/resnet50_ferplus-trained.h5", "tuned.keras", "resnet50-ferplus.mat")
    made = run_ferplus("convert", "resnet50_ferplus_dag.pth", *targets, cwd=folder)
    assert made.returncode == 0
    old = run_ferplus("convert", "resnet50_ferplus_dag.pth", "tuned_compat.h5", "--layout", "keras-vggface", cwd=folder)
    assert old.returncode == 0
    data = painted([0, 1, 2, 3], [0, 1, 2, 2])
    write_pair(Small(data.images, data.votes, data.split, list(data.names)), folder / "fer2013")
    shutil.copytree(ROOT / "weights" / "trained" / "compact", folder / "weights" / "trained" / "compact")
    (folder / "faces").mkdir()
    for number, pixels in enumerate(natural_pixels(4, seed=7)):
        Image.fromarray(pixels).save(folder / "faces" / f"{number}.png")
    shutil.copy(desk / "face.png", folder)
    film = FilmWriter(folder / "film.mp4", 10)
    for number in range(4):
        film.write(Image.new("RGB", (96, 64), (number, 99, 99)), [], [], [])
    film.close()
    return folder


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
    write_pair(Small(data.images, data.votes, data.split, list(data.names)), work / "faces")
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
def test_every_ferplus_command_runs(line: str, work: Path) -> None:
    run = run_ferplus(*line.split()[1:], cwd=work)
    if "verify" in line or "export" in line:
        # Seeded numbers without calibration drive activations to where float32 means little; that it runs is the point.
        assert run.returncode in (0, 1) and "Traceback" not in run.stderr
    else:
        assert run.returncode == 0, run.stderr
    if "--report" in line:
        names = {path.name for path in (work / line.split()[-1]).iterdir()}
        check = "accuracy" if "verify accuracy" in line else "parity"
        assert names == {f"{check}.json", "junit.xml", "report.md", "report.html"}


def test_every_relative_link_leads_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        for anchor in re.findall(r"\]\(#([^)]+)\)", text):
            headings = {
                re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-")
                for h in re.findall(r"^#+ (.*)$", text, re.M)
            }
            assert anchor in headings, f"{page.name}: #{anchor}"


def test_the_index_has_every_page_and_the_readme_is_short() -> None:
    listed = set(re.findall(r"\]\(([^)]+)\)", (ROOT / "docs" / "index.md").read_text(encoding="utf-8")))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.*")} - {"index.md"} | {"../README.md"}
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_images_are_small_and_shown_somewhere() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for image in (ROOT / "docs" / "images").glob("*.png"):
        assert image.stat().st_size < 150_000, image
        assert f"images/{image.name})" in pages, image


def test_the_documented_exit_codes_are_the_programs() -> None:
    from ferplus_keras.cli import EXIT_CODES

    page = (ROOT / "docs" / "commands.md").read_text()
    for code, meaning in re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE):
        assert f"{code} " in EXIT_CODES and meaning in EXIT_CODES


def test_the_readmes_interpreter_line_is_the_projects() -> None:
    import tomllib

    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert needed == ">=3.11" and "Python 3.11 or newer" in (ROOT / "README.md").read_text()
    assert sys.version_info >= (3, 11)


def test_the_protocols_in_the_docs_are_the_programs() -> None:
    """Every row of the table, number by number and word by word."""
    from ferplus_keras.dataset.protocols import PROTOCOLS

    page = (ROOT / "docs" / "accuracy.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| .* \|$", page, re.M)
    told = {name: (text, *(int(number.replace(",", "")) for number in numbers)) for name, text, *numbers in rows}
    assert told == {each.name: (each.text, *each.kept, each.dropped) for each in PROTOCOLS.values()}
