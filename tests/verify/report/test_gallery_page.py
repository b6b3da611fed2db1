"""The gallery's page: what it says is what was found, it loads nothing, and it fits a telephone."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferplus_keras.cli import main
from ferplus_keras.dataset.protocols import PROTOCOLS
from tests.ferplus_files import Small, write_pair
from tests.seeded import seeded_checkpoint
from tests.verify.oracles import painted
from verify.gallery import Looks
from verify.report.gallery_page import _heat_pixels, gallery_page
from verify.report.page import render_page


def page(*, standin: bool = False, name: str = "net.h5", right: bool = False) -> tuple[str, Looks]:
    data = painted([0, 1, 2, 3, 4, 5, 6, 7] * 3)
    generator = np.random.default_rng(0)
    targets = PROTOCOLS["albanie"].apply(data.votes)
    logits = generator.normal(0, 2, (24, 8)) + (20 * np.eye(8)[targets.labels] if right else 0)
    said = generator.normal(0, 1, (24, 7, 7, 8)).astype(np.float32)
    looks = Looks(np.arange(24), logits, said, targets.labels, targets.distribution)
    provenance = seeded_checkpoint("resnet50").provenance
    network: Any = SimpleNamespace(path=Path(name), sha256="ab" * 32, provenance=provenance, standin=standin, by="K")
    made = gallery_page(
        looks, network, data, PROTOCOLS["albanie"], "test", "ferplus report x", "2026-01-01T00:00:00+00:00"
    )
    return render_page(made), looks


def test_it_says_what_was_found() -> None:
    text, looks = page()
    share = 100 * looks.correct.mean()
    assert f"{share:.1f} % right, face by face" in text and "STAND-IN" not in text
    assert text.count('class="face wrong"') == int((~looks.correct).sum())
    assert text.count('<li class="face') == 24
    for index in range(24):
        assert f"fer{index:07}.png" in text
    wrong = int(np.flatnonzero(~looks.correct)[0])
    assert f"{100 * looks.confidence[wrong]:.1f}\N{NO-BREAK SPACE}%" in text
    assert text.count('<ul class="legend">') == 1 and text.index('<ul class="legend">') < text.index('<li class="face')
    assert text.count('class="heat"') == 24 + int((~looks.correct).sum()), "two heat maps where it is wrong"


def test_a_stand_in_cannot_be_overlooked() -> None:
    text, _ = page(standin=True)
    assert "STAND-IN weights" in text and "<title>STAND-IN: " in text


def test_it_loads_nothing_and_escapes_names() -> None:
    text, _ = page(name="<script>alert(1)</script>.h5")
    assert "<script>alert" not in text and "default-src &#39;none&#39;" in text.replace("'", "&#39;")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert " style=" not in text, "the policy forbids it"


def test_heat_is_clear_where_nothing_speaks_and_hot_where_most_does() -> None:
    heat = np.zeros((7, 7), np.float32)
    heat[1, 5] = 3.0
    pixels = _heat_pixels(heat)
    assert pixels.shape == (56, 56, 4)
    hottest = np.unravel_index(pixels[..., 3].argmax(), (56, 56))
    assert (hottest[0] // 8, hottest[1] // 8) == (1, 5)
    assert pixels[40, 10, 3] == 0
    flat = _heat_pixels(np.zeros((7, 7), np.float32))
    assert (flat[..., 3] == 0).all(), "no heat at all, and no number that is none"


def test_a_page_without_mistakes_is_a_page() -> None:
    text, looks = page(right=True)
    assert looks.correct.all() and "face wrong" not in text and "100.0 % right" in text


@pytest.mark.slow
def test_the_command_makes_the_page(standin_h5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = painted([0, 1, 2, 3, 4], [2, 2, 2, 1, 0])
    write_pair(Small.of(data), tmp_path / "fer2013")
    out = tmp_path / "new" / "faces.html"
    command = ["report", str(standin_h5), "--data", str(tmp_path / "fer2013"), "--out", str(out)]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 3 and told["shown"] == 3 and told["standin"] is True and Path(told["page"]) == out
    text = out.read_text()
    faces = re.findall(r'src="data:image/png;base64,([^"]+)" width="48"', text)
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(faces[0]))))
    assert any(np.array_equal(first, image) for image in data.images)
    assert list(out.parent.iterdir()) == [out]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow  # a browser
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_is_seen(tmp_path: Path, width: int) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH: install the package chromium to run the tests of the report's page")
    (tmp_path / "g.html").write_text(page(standin=True)[0], encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        visit = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []
        complaints: list[str] = []
        visit.on("request", lambda request: asked.append(request.url))
        visit.on("console", lambda message: complaints.append(message.text))
        visit.goto((tmp_path / "g.html").as_uri())
        assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "g.html").as_uri()]
        assert not complaints
        wide, inner = visit.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= inner, "the page scrolls sideways"
        heat, face = (visit.locator(each).first.bounding_box() for each in (".heat", ".stack img"))
        assert heat and face and heat == face and heat["width"] > 60, "the heat lies on the face"
        browser.close()
