"""``ferplus predict`` as it is typed: what comes out where, what is skipped, and what a kill leaves."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferplus_keras.cli import main
from ferplus_keras.cli.shared import EXIT_CODES, SKIPPED
from ferplus_keras.predict import classifier
from ferplus_keras.predict.faces import Face
from ferplus_keras.predict.records import Prediction
from ferplus_keras.predict.seen import Seen
from tests.conftest import ROOT, run_ferplus
from tests.ferplus_keras.predict.conftest import drawing, rows
from tests.ferplus_keras.predict.test_decoding import header_bomb


def test_the_exit_code_is_in_the_table() -> None:
    assert f"\n  {SKIPPED}    done, except" in EXIT_CODES


def test_table_json_and_csv_say_the_same(
    quick: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(quick), str(faces)]) == 0
    table = capsys.readouterr()
    assert main(["predict", str(quick), str(faces), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(["predict", str(quick), str(faces), "--csv", str(tmp_path / "out.csv")]) == 0
    said = capsys.readouterr()
    found = rows(tmp_path / "out.csv")
    assert [line["input"] for line in lines] == [row["input"] for row in found]
    for line, row in zip(lines, found, strict=True):
        assert line["emotion"] == row["emotion"] and f"{line['emotion']} " in table.out
        assert line["confidence"] == pytest.approx(float(row["confidence"]), rel=1e-6)
        assert line["probabilities"]["happiness"] == pytest.approx(float(row["happiness"]), rel=1e-6)
        assert row["model"].startswith("net.h5@") and line["model"] == "net.h5"
    assert table.out.count(".png") == 6 and not said.out and "6 images in" in said.err
    assert list(tmp_path.glob("*.partial")) == []


def test_what_is_wrong_is_named_skipped_and_counted(
    quick: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (faces / "0.png").read_bytes()
    (faces / "cut.png").write_bytes(whole[: len(whole) // 2])
    (faces / "bomb.png").write_bytes(header_bomb(50_000, 50_000))
    (faces / "text.jpg").write_text("no image")
    os.mkfifo(faces / "pipe.png")
    out = tmp_path / "out.csv"
    names = [str(faces), str(tmp_path / "missing.png"), str(tmp_path / "*.gif")]
    assert main(["predict", str(quick), *names, "--csv", str(out), "--batch", "2"]) == SKIPPED
    said = capsys.readouterr().err
    wrong = {Path(row["input"]).name: row["error"] for row in rows(out) if row["error"]}
    assert wrong.keys() == {"cut.png", "bomb.png", "text.jpg", "pipe.png", "missing.png", "*.gif"}
    for name, error in wrong.items():
        assert f"{name}: {error}" in said
    assert len(rows(out)) == 12 and "6 skipped" in said and "Traceback" not in said


@pytest.mark.parametrize(
    "name", ["zwei Wörter.png", "表情.png", "a,b\"c'.png", "new\nline.png", "\x1b[31mred.png", "=1+1.png", "-.png"]
)
def test_names_of_every_kind(quick: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    drawing(0).save(folder / "x.png")
    (folder / "x.png").rename(folder / name)
    assert main(["predict", str(quick), str(folder), "--csv", str(tmp_path / "o.csv")]) == 0
    assert [row["input"] for row in rows(tmp_path / "o.csv")] == [str(folder / name)]
    assert main(["predict", str(quick), str(folder), "--annotate", str(tmp_path / "seen")]) == 0
    assert len(list((tmp_path / "seen").iterdir())) == 1
    told = capsys.readouterr()
    assert "\x1b" not in told.out and len(told.out.splitlines()) == 2, "a name cannot move the cursor"


def test_a_name_that_is_no_unicode(quick: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.png"
    drawing(0).save(tmp_path / "x.png")
    Path(tmp_path / "x.png").rename(os.fsdecode(name))
    assert main(["predict", str(quick), os.fsdecode(name), "--csv", str(tmp_path / "o.csv")]) == 0
    assert name in (tmp_path / "o.csv").read_bytes()
    assert main(["predict", str(quick), os.fsdecode(name), "--json"]) == 0
    assert main(["predict", str(quick), os.fsdecode(name)]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--resume"], "--csv"),
        (["--parquet", "o.parquet"], "--csv"),
        (["--margin", "0.2"], "--faces"),
        (["--null"], "standard input"),
        (["--engine", "ray"], "--csv"),
        (["--workers", "2"], "--engine ray"),
        (["--engine", "ray", "--csv", "o.csv", "--faces"], "neither --faces"),
    ],
)
def test_options_that_do_not_go_together(
    quick: Path, faces: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(quick), str(faces), *arguments]) == 2
    assert says in capsys.readouterr().err


def test_an_empty_list(
    quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(["predict", str(quick), "-", "--csv", str(tmp_path / "o.csv")]) == 2
    assert "the list is empty" in capsys.readouterr().err
    assert not list(tmp_path.glob("o.csv*"))


def test_names_on_standard_input(quick: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = b"\0".join(os.fsencode(faces / f"{number}.png") for number in (2, 0, 2)) + b"\0"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed)))
    assert main(["predict", str(quick), "-", "--null", "--csv", str(tmp_path / "o.csv")]) == 0
    assert [Path(row["input"]).name for row in rows(tmp_path / "o.csv")] == ["2.png", "0.png"]


def test_resume_counts_what_was_skipped_before(
    quick: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (faces / "bad.png").write_bytes(b"no")
    out = tmp_path / "o.csv"
    assert main(["predict", str(quick), str(faces), "--csv", str(out)]) == SKIPPED
    first = out.read_bytes()
    drawing(9).save(faces / "new.png")
    assert main(["predict", str(quick), str(faces), "--csv", str(out), "--resume"]) == SKIPPED
    assert out.read_bytes().startswith(first) and len(rows(out)) == 8
    assert "1 image in" in (said := capsys.readouterr().err) and "7 done before, 1 of them skipped" in said


def test_annotated_images_stand_where_the_originals_do(quick: Path, faces: Path, tmp_path: Path) -> None:
    drawing(7, (900, 500)).save(faces / "wide.jpg")
    target = tmp_path / "seen"
    assert main(["predict", str(quick), str(faces), "--annotate", str(target)]) == 0
    found = {str(path.relative_to(target)) for path in target.rglob("*.png")}
    assert found == {"0.png.png", "1.png.png", "2.png.png", "3.png.png", "wide.jpg.png", "more/4.png.png",
                     "more/5.png.png"}  # fmt: skip
    with Image.open(target / "wide.jpg.png") as sheet:
        assert sheet.width > 720
        colors = {color for _, color in sheet.convert("RGB").getcolors(1 << 24) or []}
    assert {(31, 95, 168), (232, 233, 228), (255, 255, 255)} <= colors, "bars, their tracks, and paper"
    assert main(["predict", str(quick), str(faces / "0.png"), str(faces / "more" / "4.png"), "--annotate",
                 str(tmp_path / "two")]) == 0  # fmt: skip
    assert len(list((tmp_path / "two").iterdir())) == 2


# --- with a real network ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(standin: dict[str, Path], tmp_path: Path) -> None:
    """SIGKILL in the middle, twice; then --resume: every image once, and the numbers of an unbroken run."""
    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(60):
        drawing(number).save(folder / f"{number:02}.png")
    (folder / "30.png").write_bytes(b"damaged")
    command = ["predict", str(standin["onnx"]), str(folder), "--batch", "4"]
    assert run_ferplus(*command, "--csv", tmp_path / "whole.csv").returncode == SKIPPED
    out, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial"
    before = 0
    for _ in range(2):
        arguments = [*command, "--csv", str(out), *(["--resume"] if before else [])]
        process = subprocess.Popen(
            [sys.executable, "-m", "ferplus_keras", *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if partial.exists() and partial.read_bytes().count(b"\n") > before + 8:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
        before = partial.read_bytes().count(b"\n") - 1
        assert 0 < before < 60
    last = run_ferplus(*command, "--csv", out, "--resume")
    assert last.returncode == SKIPPED and f"{before} done before" in last.stderr
    found, expected = rows(out), rows(tmp_path / "whole.csv")
    assert [row["input"] for row in found] == [row["input"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        if not one["error"]:
            assert float(one["happiness"]) == pytest.approx(float(other["happiness"]), abs=1e-5)


def test_formulas_are_text_and_are_known_again(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    names = ["+1.png", "-1.png", "=1+1.png", "@SUM(1).png", "'quoted.png", "plain.png", "\t=1.png"]
    for number, name in enumerate(names):
        drawing(number).save(folder / name)
    monkeypatch.chdir(folder)
    command = ["predict", str(quick), "*.png", "--csv", "o.csv"]
    assert main(command) == 0
    cells = [row["input"] for row in rows(folder / "o.csv")]
    assert sorted(cells) == sorted("plain.png" if name == "plain.png" else f"'{name}" for name in names)
    assert main([*command, "--resume"]) == 0 and "7 done before" in capsys.readouterr().err


def test_the_table_has_as_many_emotions_as_are_asked_for(
    quick: Path, faces: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for top in (1, 2, 8):
        assert main(["predict", str(quick), str(faces / "0.png"), "--top", str(top)]) == 0
        assert capsys.readouterr().out.splitlines()[1].count("%") == top


# --- faces ------------------------------------------------------------------------------------------------------


def test_each_face_has_its_row_and_its_box(
    quick: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = {0: [(0, 0, 20, 20), (20, 20, 48, 48)], 1: []}

    def finder(name: str, margin: float) -> Callable[[Image.Image], list[Face]]:
        assert (name, margin) == ("blazeface", 0.25)
        return find

    def find(image: Image.Image) -> list[Face]:
        same = (number for number in range(6) if np.array_equal(np.asarray(image), np.asarray(drawing(number))))
        return [Face(box) for box in boxes.get(next(same), [(1, 2, 3, 4)])]

    monkeypatch.setattr("ferplus_keras.predict.faces.face_finder", finder)
    out = tmp_path / "o.csv"
    command = ["predict", "--faces", str(quick), str(faces), "--margin", "0.25", "--csv", str(out)]
    assert main([*command, "--annotate", str(tmp_path / "seen")]) == 0, "an image without a face is no damage"
    found = [(Path(row["input"]).stem, row["face"], row["faces"], row["left"], row["bottom"]) for row in rows(out)]
    assert found[:4] == [("0", "1", "2", "0", "20"), ("0", "2", "2", "20", "48"), ("1", "0", "0", "", ""),
                         ("2", "1", "1", "1", "4")]  # fmt: skip
    assert "6 faces; 1 image without a face" in capsys.readouterr().err
    assert len(list((tmp_path / "seen").rglob("*.png"))) == 6, "the one without a face too"


def test_without_a_detector_it_says_what_to_install(
    quick: Path, faces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    for choice in ([], ["haar"]):
        assert main(["predict", str(quick), str(faces), "--faces", *choice]) == 2
        assert "ferplus-keras[faces]" in capsys.readouterr().err


def test_parquet_holds_what_csv_holds(quick: Path, faces: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (faces / "bad, and\nbroken.png").write_bytes(b"no")
    out, target = tmp_path / "o.csv", tmp_path / "o.parquet"
    command = ["predict", str(quick), str(faces), "--csv", str(out), "--parquet", str(target)]
    assert main(command) == SKIPPED
    found, expected = parquet.read_table(target).to_pylist(), rows(out)
    assert len(found) == 7 and [row["input"] for row in found] == [row["input"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["faces"] == int(other["faces"]) and (one["error"] or "") == other["error"] and one["left"] is None
        if not other["error"]:
            assert one["happiness"] == pytest.approx(float(other["happiness"]), rel=1e-6)


def test_a_run_that_breaks_off_says_where_its_results_are(
    quick: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = classifier.EmotionClassifier  # as `quick` has it

    def interrupted(self: Any, pixels: np.ndarray) -> list[Prediction]:
        if self.batches:
            raise KeyboardInterrupt
        return predict_pixels(self, pixels)

    predict_pixels = network.predict_pixels
    monkeypatch.setattr(network, "predict_pixels", interrupted)
    command = ["predict", str(quick), str(faces), "--csv", str(tmp_path / "o.csv"), "--batch", "2"]
    assert main(command) == 130
    assert "o.csv.partial; --resume" in capsys.readouterr().err and len(rows(tmp_path / "o.csv.partial")) == 2
    monkeypatch.setattr(network, "predict_pixels", predict_pixels)
    assert main(command) == 2 and "add --resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert len(rows(tmp_path / "o.csv")) == 6 and not (tmp_path / "o.csv.partial").exists()


def test_ray_writes_through_the_same_file(
    quick: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command around Ray, without Ray: what it is given, and that what is done is not given again."""
    from ferplus_keras.predict.rays import Worker, find_pieces

    asked: list[str] = []

    def predict_with_ray(model: str, inputs: list[str], *, workers: int, batch: int, done: Seen) -> object:
        assert (model, workers, batch) == (str(quick), 3, 32)
        for piece in find_pieces(inputs, done):
            asked.extend(piece.names)
            yield Worker(model, batch).answer(piece)

    monkeypatch.setattr("ferplus_keras.cli.predicting.need", lambda *_: None)
    monkeypatch.setattr("ferplus_keras.predict.rays.predict_with_ray", predict_with_ray)
    out = tmp_path / "o.csv"
    command = ["predict", str(quick), str(faces), "--engine", "ray", "--workers", "3", "--csv", str(out)]
    assert main(command) == 0 and len(asked) == len(rows(out)) == 6
    drawing(8).save(faces / "new.png")
    assert main([*command, "--resume"]) == 0 and asked[6:] == [str(faces / "new.png")] and len(rows(out)) == 7


def test_progress_has_a_total_and_the_time_left_and_leaves_the_first_batch_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ferplus_keras.cli import outcome

    for number in range(5):
        (tmp_path / f"{number}.png").touch()
    clock = iter([100.0, 102.0, 103.0, 104.0])
    monkeypatch.setattr(outcome.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(outcome.threading.Thread, "start", lambda thread: thread.run())
    total = outcome.Total()
    total.count([str(tmp_path)], 1)
    assert [total.progress(1), total.progress(3)] == ["1 of 4 images", "3 of 4 images, 1.0 images/s, 1.0 s left"]
    alone = outcome.Total()
    alone.images = 1
    assert [alone.progress(1), outcome.Total().progress(1)] == ["1 of 1 image", "1 image"]
