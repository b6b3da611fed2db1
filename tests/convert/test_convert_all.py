"""`make convert` over older results: verified first, then renamed; file and report belong together at any moment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from convert import pipeline
from convert.checkpoint import Provenance, Source
from convert.pipeline import TOOL, Made, convert_all, table
from convert.writers import Written
from ferplus_keras import packages
from ferplus_keras.cli import main
from ferplus_keras.errors import CheckFailedError, OutputError
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.shipped import Recorded, Shipped

MANIFEST = """[resnet50_ferplus]
file = "resnet50_ferplus_dag.pth"
default = true
network = "resnet50"
head = "classifier"
units = 8
urls = []
cited = "https://www.robots.ox.ac.uk/~albanie/pytorch-models.html"
"""


class World:
    """A folder of weights, in which converting copies the source and the check says what ``passed`` is."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.output, self.reports, self.passed = folder / "output", folder / "reports", True
        self.converted = self.checked = 0
        self.error: Exception | None = None
        self.source = folder / "downloads" / "resnet50_ferplus_dag-standin.pth"
        self.source.parent.mkdir()
        self.source.write_text("numbers")
        (folder / "manifest.toml").write_text(MANIFEST)
        self.target = self.output / "resnet50_ferplus-standin.h5"
        patch.setenv("FERPLUS_WEIGHTS", str(folder))
        for name, stub in (
            ("convert", self.convert),
            ("parity_in_own_process", self.check),
            ("own_provenance", self.told),
            ("shipped", dict),  # no network that was trained here
        ):
            patch.setattr(pipeline, name, stub)

    def convert(self, source: Path, targets: Sequence[Path]) -> Any:
        self.converted += 1
        for target in targets:
            target.write_text(f"made of {source.read_text()}")
        written = [Written(each, each.suffix[1:], each.stat().st_size, sha256_of(each)) for each in targets]
        return type("Conversion", (), {"written": written})

    def check(self, model: Path, source: Path, backend: str = "", options: Sequence[str] = ()) -> dict[str, Any]:
        self.checked += 1
        if self.error:
            raise self.error
        named = dict(zip(options[::2], options[1::2], strict=True))
        assert named["--shown-as"] == str(self.output / model.name)
        told = {"sha256": sha256_of(model)}, {"sha256": sha256_of(source)}
        result = {"passed": self.passed, "model": told[0], "source": told[1], "tool": TOOL, "runs": []}
        folder = Path(named["--report"])
        folder.mkdir(parents=True)
        (folder / "parity.json").write_text(json.dumps(result))
        return result

    def told(self, path: Path) -> Provenance | None:
        if not path.exists() or not path.read_text().startswith("made of"):
            return None
        source = Source(self.source.name, 7, sha256_of(self.source), "torch-zip")
        return Provenance(source, source, "resnet50", "classifier", 8, standin=True)

    def run(self, *formats: str) -> list[Made]:
        return convert_all(formats=formats or ("h5",), offline=True, reports=self.reports, say=lambda _: None)

    def reported(self) -> str:
        text = (self.reports / "resnet50_ferplus-standin-h5" / "parity.json").read_text()
        return str(json.loads(text)["model"]["sha256"])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def test_a_file_takes_its_name_when_it_has_passed(world: World) -> None:
    (made,) = world.run()
    assert made.written.path == world.target and world.reported() == sha256_of(world.target) == made.written.sha256
    assert made.report == world.reports / "resnet50_ferplus-standin-h5" / "report.html"
    assert [path.name for path in world.output.iterdir()] == [world.target.name]


@pytest.mark.parametrize("fault", ["different", "not checked", "report not writable"])
def test_an_older_file_and_its_report_stay_when_the_new_one_does_not_pass(world: World, fault: str) -> None:
    world.run()
    old = world.reported()
    world.source.write_text("other numbers")
    if fault == "different":
        world.passed = False
        (made,) = world.run()
        assert pipeline.failed([made]) and made.report is not None and "refused" in str(made.report)
    else:
        world.error = CheckFailedError("no torch") if fault == "not checked" else OutputError("no room")
        with pytest.raises(type(world.error)):
            world.run()
    assert world.reported() == old == sha256_of(world.target)
    assert [path.name for path in world.output.iterdir()] == [world.target.name]


def test_what_is_up_to_date_is_not_done_again(world: World) -> None:
    world.run()
    (again,) = world.run()
    assert (world.converted, world.checked) == (1, 1) and again.parity["passed"] and again.standin
    world.source.write_text("other numbers")  # another source,
    world.run()
    assert world.converted == 2 and world.reported() == sha256_of(world.target)
    world.target.write_text("made of something else")  # another file under that name,
    world.run()
    (world.reports / "resnet50_ferplus-standin-h5" / "parity.json").unlink()  # or no report
    world.run()
    assert (world.converted, world.checked) == (4, 4)
    world.run("safetensors")
    world.run("safetensors")
    assert (world.converted, world.checked) == (5, 4)


def test_what_a_killed_run_left_is_cleared(world: World) -> None:
    left = world.output / pipeline.STAGING.format(2**22 + 1)  # no process has such a number
    left.mkdir(parents=True)
    world.run()
    assert not left.exists()


def test_a_network_that_was_trained_here_comes_before_a_stand_in_and_after_the_published(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "model.safetensors"
    source.write_text("trained")
    figure = Recorded("test", "albanie", True, 865, 1000)
    trained = Shipped("resnet50_ferplus", "resnet50", source, sha256_of(source), 224, (figure,))
    monkeypatch.setattr(pipeline, "shipped", lambda: {trained.name: trained})
    (made,) = world.run()
    assert made.written.path.name == "resnet50_ferplus-trained.h5" and not made.standin
    assert "trained here: 86.5 % on FERPlus Test" in table([made])
    published = world.source.with_name("resnet50_ferplus_dag.pth")
    published.write_text("published")
    monkeypatch.setattr("convert.fetch.fetch", lambda *_, **__: SimpleNamespace(path=published))
    (made,) = world.run()
    assert made.written.path.name == "resnet50_ferplus.h5" and "published" in table([made])


def test_what_the_check_needs_is_named_before_anything_is_converted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("FERPLUS_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(packages, "installed", lambda name: name not in ("torch", "jinja2"))
    assert main(["convert-all", "--offline"]) == 2
    assert "needs torch and jinja2, which are not installed here: pip install 'ferplus-keras[verify]'" in (
        capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())
