"""What the README and the docs tell people to type is typed here."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ferplus_keras.networks.emotions import EMOTIONS
from tests.conftest import ROOT, run_python

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


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
