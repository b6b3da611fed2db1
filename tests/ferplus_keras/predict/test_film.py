"""Films: frames in order, faces followed, answers smoothed, a run taken up where it was cut."""

from __future__ import annotations

import csv
import json
import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferplus_keras.cli import main
from ferplus_keras.cli.filming import FRAMES as FRAMES_AT_A_TIME
from ferplus_keras.errors import BadInputError
from ferplus_keras.predict.faces import Face
from ferplus_keras.predict.film import Film, FilmWriter, Frame, Tracker
from ferplus_keras.predict.records import Prediction
from tests.ferplus_keras.predict.conftest import rows

pytest.importorskip("cv2")

FRAMES, PACE = 12, 10.0


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Twelve frames at ten a second, each brighter than the one before."""
    path = tmp_path / "film.mp4"
    writer = FilmWriter(path, PACE)
    for number in range(FRAMES):
        writer.write(Image.new("RGB", (64, 48), (20 * number,) * 3), [], [], [])
    writer.close()
    return path


@pytest.fixture(autouse=True)
def _detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that sees a face walk to the right, and another until the fifth frame."""

    def finder(name: str, _margin: float, _smallest: int) -> Callable[[Image.Image], list[Face]]:
        assert name == "blazeface"

        def find(image: Image.Image) -> list[Face]:
            number = round(float(np.asarray(image).mean()) / 20)
            return [Face((number, 0, number + 20, 20)), Face((40, 20, 60, 40))][: 2 if number < 5 else 1]

        return find

    monkeypatch.setattr("ferplus_keras.predict.faces.face_finder", finder)


@pytest.mark.parametrize(("step", "start", "numbers"), [(1, 0, range(12)), (5, 0, (0, 5, 10)), (5, 3, (5, 10))])
def test_frames_come_in_order_with_their_time(film: Path, step: int, start: int, numbers: list[int]) -> None:
    seen = list(Film(film).frames(step, start))
    assert [each.number for each in seen] == list(numbers)
    assert [each.seconds for each in seen] == pytest.approx([number / PACE for number in numbers], abs=0.02)
    assert [float(np.asarray(each.image).mean()) / 20 for each in seen] == pytest.approx(list(numbers), abs=0.4)


def test_a_film_becomes_rows_of_followed_faces(quick: Path, film: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    command = ["predict", str(quick), str(film), "--csv", str(out), "--smooth", "0"]
    assert main([*command, "--annotate", str(tmp_path / "seen")]) == 0
    found = rows(out)
    assert [(row["frame"], row["track"]) for row in found if row["track"] == "2"] == [(str(n), "2") for n in range(5)]
    assert [row["frame"] for row in found if row["track"] == "1"] == [str(number) for number in range(FRAMES)]
    assert found[0]["input"] == f"{film}#0" and float(found[-1]["seconds"]) == pytest.approx(1.1, abs=0.02)
    assert len(list(Film(tmp_path / "seen" / "film.mp4").frames())) == FRAMES


def test_a_cut_run_goes_on_with_the_same_faces(quick: Path, film: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    command = ["predict", str(quick), str(film), "--csv", str(out), "--step", "2"]
    assert main(command) == 0
    whole = rows(out)
    lines = out.read_bytes().splitlines(keepends=True)
    out.with_name("o.csv.partial").write_bytes(b"".join(lines[:6]) + lines[6][:10])
    out.unlink()
    assert main([*command, "--resume"]) == 0
    again = rows(out)
    assert [list(row.values())[:10] for row in again] == [list(row.values())[:10] for row in whole]
    assert [float(row["confidence"]) for row in again] == pytest.approx([float(row["confidence"]) for row in whole])


def test_a_second_film_in_a_table_begins_at_its_first_frame(quick: Path, film: Path, tmp_path: Path) -> None:
    """And goes on after a kill as if it had a table of its own."""
    out, other = tmp_path / "o.csv", tmp_path / "=other.mp4"
    shutil.copyfile(film, other)
    for each in (film, other):
        assert main(["predict", str(quick), str(each), "--csv", str(out), "--resume"]) == 0
    assert main(["predict", str(quick), str(other), "--csv", str(tmp_path / "alone.csv")]) == 0
    assert rows(out)[-len(rows(tmp_path / "alone.csv")) :] == rows(tmp_path / "alone.csv")
    whole = out.read_bytes()
    lines = whole.splitlines(keepends=True)
    out.with_name("o.csv.partial").write_bytes(b"".join(lines[: len(lines) * 3 // 4]))
    assert main(["predict", str(quick), str(other), "--csv", str(out), "--resume"]) == 0
    assert [list(row.values())[:10] for row in rows(out)] == [
        list(row.values())[:10] for row in csv.DictReader(whole.decode().splitlines())
    ]


def test_few_frames_are_in_memory_where_none_has_a_face(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, most, seen = tmp_path / "long.mp4", 0, list[weakref.ref[Image.Image]]()
    writer = FilmWriter(path, PACE)
    for _ in range(100):
        writer.write(Image.new("RGB", (64, 48)), [], [], [])
    writer.close()

    def frames(self: Film, *asked: int) -> Iterator[Frame]:
        nonlocal most
        for frame in decoded(self, *asked):
            assert frame.image is not None
            seen.append(weakref.ref(frame.image))
            most = max(most, sum(each() is not None for each in seen))
            yield frame

    decoded = Film.frames
    monkeypatch.setattr(Film, "frames", frames)
    monkeypatch.setattr("ferplus_keras.predict.faces.face_finder", lambda *_: lambda _image: [])
    threads = 2
    command = ["predict", str(quick), str(path), "--csv", str(tmp_path / "o.csv"), "--threads", str(threads)]
    assert main([*command, "--annotate", str(tmp_path / "seen")]) == 0
    assert len(rows(tmp_path / "o.csv")) == len(seen) == 100
    assert most <= FRAMES_AT_A_TIME + 2 * threads + 2


def test_a_cut_run_without_faces_goes_on_with_the_same_numbers(quick: Path, film: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    command = ["predict", str(quick), str(film), "--faces", "none", "--csv", str(out)]
    assert main(command) == 0
    whole = rows(out)
    lines = out.read_bytes().splitlines(keepends=True)
    out.with_name("o.csv.partial").write_bytes(b"".join(lines[:6]))
    out.unlink()
    assert main([*command, "--resume"]) == 0
    again = rows(out)
    assert [(row["frame"], row["track"]) for row in again] == [(str(number), "1") for number in range(FRAMES)]
    assert [float(row["happiness"]) for row in again] == pytest.approx([float(row["happiness"]) for row in whole])


@pytest.mark.parametrize(("column", "value"), [("frame", "\u00b2"), ("left", "9" * 5000), ("track", "x"), ("yes", "")])
def test_a_row_that_is_none_is_told(column: str, value: str) -> None:
    row = {"input": "a.mp4#0", "face": "1", "frame": "0", "seconds": "0", "track": "1", "left": "0", "top": "0",
           "right": "1", "bottom": "1", "yes": "1", "no": "0"}  # fmt: skip
    assert Tracker(("yes", "no")).recall([row], "a.mp4") == 1
    with pytest.raises(BadInputError, match="it is damaged"):
        Tracker(("yes", "no")).recall([row | {column: value}], "a.mp4")


def test_a_name_that_is_no_utf8_is_opened_and_written(quick: Path, film: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    try:
        film.rename(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    command = ["predict", str(quick), str(tmp_path / name), "--csv", str(tmp_path / "o.csv")]
    assert main([*command, "--annotate", str(tmp_path / "seen")]) == 0
    assert Film(tmp_path / "seen" / name).count == FRAMES


def test_a_film_that_ends_early_is_told(quick: Path, film: Path, tmp_path: Path) -> None:
    data = bytearray(film.read_bytes())
    middle = data.index(b"mdat") + (data.index(b"moov") - data.index(b"mdat")) // 3
    data[middle : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - middle)
    film.write_bytes(data)
    command = ["predict", str(quick), str(film), "--faces", "none", "--csv", str(tmp_path / "o.csv")]
    assert main(command) == 5
    found = rows(tmp_path / "o.csv")
    assert 1 < len(found) < FRAMES and "its header promises 12 frames" in found[-1]["error"]
    assert main([*command, "--resume"]) == 5 and rows(tmp_path / "o.csv") == found


def test_a_film_that_could_not_be_written_is_not_kept(
    quick: Path, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release = FilmWriter.close

    def full(writer: FilmWriter) -> None:
        writer._writer.release()
        writer.path.write_bytes(writer.path.read_bytes()[:-100])
        release(writer)

    monkeypatch.setattr(FilmWriter, "close", full)
    assert main(["predict", str(quick), str(film), "--annotate", str(tmp_path / "seen")]) == 3
    assert "not all of the film was written" in capsys.readouterr().err and not list((tmp_path / "seen").glob("*.mp4"))


@pytest.mark.parametrize(
    "options", [["--csv", "film.mp4"], ["--annotate", "."], ["--csv", "net.h5"], ["--csv", "other.png"]]
)
def test_what_is_read_is_not_written_over(
    quick: Path, film: Path, options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = film.read_bytes(), quick.read_bytes()
    assert main(["predict", "net.h5", "film.mp4", *options]) == 2
    assert (film.read_bytes(), quick.read_bytes()) == before


def test_frames_beyond_the_bound_are_refused(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferplus_keras.predict.film.MAX_FRAME", 64 * 48 - 1)
    with pytest.raises(BadInputError, match="frames of 64 x 48, more than"):
        Film(film)


def test_json_has_frames_and_tracks(quick: Path, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(quick), str(film), "--step", "6", "--json"]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["frame"], row["track"]) for row in told] == [(0, 1), (0, 2), (6, 1)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["film.mp4", "b.png"], "comes alone"),
        (["film.mp4", "--resume", "--csv", "o.csv", "--annotate", "seen"], "leave --annotate"),
        (["a.png", "--step", "2"], "about films"),
        (["film.mp4", ""], "comes alone"),
        (["", "a.png"], "a variable that is not set"),
        (["film.mp4", "--parquet", "o.parquet", "--csv", "o.csv"], "--parquet"),
    ],
)
def test_what_films_do_not_have_is_told(
    quick: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(quick), *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\n", b""])
def test_a_playlist_is_no_film(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.mp4").write_bytes(content)
    with pytest.raises(BadInputError, match="does not begin as one"):
        Film(tmp_path / "list.mp4")


def test_a_damaged_film_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42 and no more of it")
    with pytest.raises(BadInputError, match="not a film that OpenCV can read"):
        Film(tmp_path / "cut.mp4")


def test_emotions_are_smoothed_and_forgotten_faces_are_new() -> None:
    def seen(yes: float) -> list[Prediction]:
        return [Prediction({"yes": yes, "no": 1 - yes})]

    tracker, box = Tracker(("yes", "no"), smooth=0.5), [(0, 0, 10, 10)]
    assert tracker.follow(0.0, box, seen(1.0))[0][1].confidence == 1
    number, later = tracker.follow(0.5, box, seen(0.0))[0]
    assert number == 1 and later.probabilities["yes"] == pytest.approx(np.exp(-1))
    assert tracker.follow(0.6, [(50, 0, 60, 10)], seen(1.0))[0][0] == 2, "elsewhere it is another face"
    assert tracker.follow(3.0, box, seen(0.0))[0][0] == 3, "after a second it is another face"
    assert len(tracker.tracks) == 1
