"""``ferplus verify accuracy`` as it is typed: figures, gates, exit codes, reports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ferplus_keras.cli import accuracy, main
from ferplus_keras.dataset.protocols import PROTOCOLS
from tests.conftest import ROOT, run_ferplus
from tests.ferplus_files import Small, write_pair
from tests.verify.oracles import painted, seer, swapped


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kaggle's pair, of images as bright as their class."""
    monkeypatch.setenv("FERPLUS_CACHE", "off")
    dataset = painted([*range(8)] * 4, [0, 1, 2, 2] * 8)
    small = Small.of(dataset)
    return write_pair(small, tmp_path / "fer")


@pytest.fixture(autouse=True)
def _seers(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`right.h5` is always right; `wrong.h5` takes sadness for anger."""
    monkeypatch.chdir(tmp_path_factory.mktemp("networks"))
    for name in ("right.h5", "wrong.h5"):
        Path(name).touch()
    networks = {
        "right.h5": seer(path=Path("right.h5")),
        "wrong.h5": seer(swapped("sadness", "anger"), path=Path("wrong.h5")),
    }
    monkeypatch.setattr("verify.predictors.open_predictor", lambda path, *_: networks[str(path)])
    monkeypatch.setattr("verify.predictors.recognised", lambda _path: None)


def test_the_names_on_the_command_line_are_the_protocols() -> None:
    assert tuple(PROTOCOLS) == accuracy.PROTOCOL_NAMES


def test_a_measurement(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "accuracy", "right.h5", "--data", str(data)]) == 0
    shown = capsys.readouterr()
    assert "test, albanie: 100.00 %  16 of 16" in shown.out and "protocol albanie" in shown.out
    assert "16 of 16 images" in shown.err and "images/s" in shown.err
    assert re.fullmatch(r"16 images, in [\d.]+ s altogether", shown.out.splitlines()[-1])


def test_what_a_strangers_network_takes_is_kept_beside_it(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data", str(data), "--input", "rgb 0..1", "--classes", "angry, sad"]
    assert main(["verify", "accuracy", "right.h5", *given]) == 0
    assert "saved in right.h5.toml" in capsys.readouterr().err
    assert Path("right.h5.toml").read_text() == 'input = "rgb 0..1"\nclasses = ["angry", "sad"]\n'
    assert main(["verify", "accuracy", "right.h5", *given[:2], "--input", "purple"]) == 2


def test_the_variable_is_the_default(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FERPLUS_DATA", str(data))
    assert main(["verify", "accuracy", "right.h5", "--split", "both", "--json"]) == 0
    command = json.loads(capsys.readouterr().out)["command"]
    assert f"--data {data}" in command  # who repeats it may not have the variable


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["right.h5", "--expect", "100"], 0, ""),
        (["wrong.h5", "--expect", "100"], 1, "75.00 % on test, 100 % expected"),
        (["wrong.h5", "--expect", "100", "--tolerance", "30"], 0, ""),
        (["right.h5", "--expect", "published"], 2, "35,887 rows"),
        (["right.h5", "--expect", "much"], 2, "a percentage such as 87.6"),
        (["right.h5", "--split", "both", "--expect", "90"], 2, "choose a --split"),
        (["right.h5", "--versus", "right.h5"], 0, ""),
        (["right.h5", "--versus", "wrong.h5"], 1, "the same decision on 12 of 16 test images"),
        (["right.h5", "--data", "/nowhere/at/all"], 2, "There is nothing at"),
    ],
)
def test_exit_codes(data: Path, arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["verify", "accuracy", "--data", str(data), *arguments]
    assert main(given) == code
    assert told in capsys.readouterr().err


def test_json_is_strict_and_alone_on_standard_output(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["verify", "accuracy", "wrong.h5", "--data", str(data), "--expect", "100", "--json"])
    shown = capsys.readouterr()
    result = json.loads(shown.out, parse_constant=pytest.fail)
    assert code == 1 and not result["passed"] and shown.err == ""
    assert result["splits"][0]["accuracy"] == 0.75 and result["protocol"]["name"] == "albanie"
    assert f"--data {data}" in result["command"] and "--expect 100" in result["command"]


def test_the_command_in_the_result_repeats_it(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["verify", "accuracy", "wrong.h5", "--data", str(data), "--split", "val", "--limit", "3", "--resize",
             "tensorflow", "--protocol", "majority", "--compare-resize", "--json"]  # fmt: skip
    assert main(given) == 0
    first = json.loads(capsys.readouterr().out)
    assert main([*first["command"].split()[1:], "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["splits"][0]["confusion"] == first["splits"][0]["confusion"] and again["command"] == first["command"]
    assert first["splits"][0]["n"] == 3 and not first["splits"][0]["complete"] and first["notes"]


def test_a_report_of_four_files(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "report"
    assert main(["verify", "accuracy", "right.h5", "--data", str(data), "--report", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "accuracy.json", "junit.xml", "report.html", "report.md",
    ]  # fmt: skip
    assert str(folder / "report.html") in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_said_before_the_work(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report").write_text("a file")
    code = main(["verify", "accuracy", "right.h5", "--data", str(data), "--report", str(tmp_path / "report")])
    assert code == 3 and "images" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--tolerance", "-1"], ["--limit", "0"], ["--split", "train"], ["--resize", "area"]]
)
def test_a_wrong_command_line_is_code_2(option: list[str]) -> None:
    assert main(["verify", "accuracy", "right.h5", *option]) == 2


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_evaluates_every_model_and_fails_if_one_does(tmp_path: Path) -> None:
    """With a `ferplus` that fails as a.h5 would: b.h5 has its turn all the same."""
    program = tmp_path / "bin" / "ferplus"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$3" >> "$ASKED"\n[ "$3" != a.h5 ]\n')
    program.chmod(0o755)
    (tmp_path / ".convert").touch()

    def make(models: str) -> tuple[int, list[str]]:
        asked = tmp_path / "asked"
        asked.unlink(missing_ok=True)
        run = subprocess.run(
            ["make", "-o", str(tmp_path / ".convert"), "accuracy", f"VENV={tmp_path}", f"MODEL={models}"],
            cwd=ROOT, env=os.environ | {"ASKED": str(asked)}, capture_output=True, check=False,
        )  # fmt: skip
        return run.returncode, asked.read_text().split()

    code, asked = make("a.h5 b.h5")
    assert code != 0 and asked == ["a.h5", "b.h5"]
    assert make("b.h5 c.h5") == (0, ["b.h5", "c.h5"])


@pytest.mark.slow  # a network of full size in a process of its own
def test_a_network_on_the_disk_as_a_user_has_it(data: Path, seeded_pth: Path, tmp_path: Path) -> None:
    """The whole way in a process of its own, from files alone."""
    run = run_ferplus("verify", "accuracy", seeded_pth, "--limit", 2, "--json", FERPLUS_DATA=str(data))
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["model"]["network"] == "resnet50" and result["splits"][0]["n"] == 2
    assert np.sum(result["splits"][0]["confusion"]) == 2
    missing = run_ferplus("verify", "accuracy", tmp_path / "absent.h5", "--data", data)
    assert missing.returncode == 2 and "There is no file" in missing.stderr and "Traceback" not in missing.stderr
