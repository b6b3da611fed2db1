"""``ferplus predict --resume``: which tables are continued, and which are refused, with what sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ferplus_keras.cli import main
from ferplus_keras.predict.faces import Face
from tests.ferplus_keras.predict.conftest import drawing, rows


@pytest.fixture(autouse=True)
def _detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every detector sees one face."""

    def finder(*_: object) -> Callable[[Image.Image], list[Face]]:
        return lambda _image: [Face((0, 0, 20, 20))]

    monkeypatch.setattr("ferplus_keras.predict.faces.face_finder", finder)


@pytest.fixture
def refused(quick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What is said when ``given``, begun with some options, is resumed with ``others``; nothing changes on the disk."""

    def run(given: str, options: list[str], others: list[str]) -> str:
        out = tmp_path / "o.csv"
        command = ["predict", str(quick), given, "--csv", str(out)]
        assert main([*command, *options]) == 0
        assert main([*command, *options, "--resume"]) == 0, "the same options"
        before = out.read_bytes()
        capsys.readouterr()
        assert main([*command, *others, "--resume"]) == 2
        assert out.read_bytes() == before and not out.with_name("o.csv.partial").exists()
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("options", "others", "says"),
    [
        ([], ["--faces"], "made without --faces, or by an earlier version, which did not record --faces, and this run "
         "would be with --faces blazeface"),
        (["--faces"], [], "made with --faces blazeface, and this run would be without --faces"),
        (["--faces", "haar"], ["--faces", "blazeface"], "made with --faces haar, and this run would be with --faces "
         "blazeface"),
        (["--faces"], ["--margin", "0.1", "--faces"], "made with --margin 0.0, and this run would be with --margin "
         "0.1"),
    ],
)  # fmt: skip
def test_images_with_other_options_are_refused(
    options: list[str], others: list[str], says: str, refused: Callable[..., str], faces: Path
) -> None:
    assert says in refused(str(faces), options, others)


@pytest.mark.parametrize(
    ("options", "others", "says"),
    [
        (["--step", "2"], [], "made with --step 2, and this run would be with --step 1"),
        ([], ["--smooth", "0"], "made with --smooth 0.5, and this run would be with --smooth 0.0"),
        ([], ["--faces", "none"], "made with --faces blazeface, and this run would be with --faces none"),
    ],
)
def test_a_film_with_other_options_is_refused(
    options: list[str], others: list[str], says: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    pytest.importorskip("cv2")
    from ferplus_keras.predict.film import FilmWriter

    writer = FilmWriter(tmp_path / "film.mp4", 10)
    for number in range(4):
        writer.write(Image.new("RGB", (64, 48), (20 * number,) * 3), [], [], [])
    writer.close()
    assert says in refused(str(tmp_path / "film.mp4"), options, others)


@pytest.mark.parametrize(("before", "after"), [(None, "rgb 0..1"), ("rgb 0..1", "bgr 0..1"), ("bgr 0..1", None)])
def test_another_card_beside_the_network_is_refused(
    before: str | None, after: str | None, quick: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lay(line: str | None) -> None:
        card.unlink(missing_ok=True)
        if line:
            card.write_text(f'input = "{line}"\n')

    card, command = (
        quick.with_name("net.h5.toml"),
        ["predict", str(quick), str(faces), "--csv", str(tmp_path / "o.csv")],
    )
    lay(before)
    assert main(command) == 0 and main([*command, "--resume"]) == 0
    lay(after)
    assert main([*command, "--resume"]) == 2
    assert "the card beside the network (net.h5.toml) is not the one it was made with" in capsys.readouterr().err


@pytest.mark.parametrize("files", [["best.h5"], ["saved_model.pb", "variables/variables.data-00000-of-00001"]])
def test_a_network_in_a_folder_has_a_table_too(
    files: list[str], quick: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training run's folder or a SavedModel; another network in it is another network."""
    folder = tmp_path / "network"
    for each in files:
        (folder / each).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(quick, folder / each)
    command = ["predict", str(folder), str(faces), "--csv", str(tmp_path / "o.csv"), "--resume"]
    assert main(command) == 0 and main(command) == 0
    (folder / files[-1]).write_bytes(b"another network")
    assert main(command) == 2 and "it was made by network@" in capsys.readouterr().err


def test_another_card_beside_the_network_in_a_folder_is_refused(
    quick: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The card that is read is beside the file in the folder."""
    (tmp_path / "run").mkdir()
    shutil.copyfile(quick, tmp_path / "run" / "best.h5")
    command = ["predict", str(tmp_path / "run"), str(faces), "--csv", str(tmp_path / "o.csv"), "--resume"]
    assert main(command) == 0
    (tmp_path / "run" / "best.h5.toml").write_text('input = "bgr 0..1"\n')
    assert main(command) == 2
    assert "the card beside the network" in capsys.readouterr().err


@pytest.fixture
def folders(quick: Path, tmp_path: Path) -> Path:
    """Two folders, in each of which ``faces/0.png`` is another image."""
    for number, name in enumerate(("one", "two")):
        (tmp_path / name / "faces").mkdir(parents=True)
        drawing(number).save(tmp_path / name / "faces" / "0.png")
    return tmp_path


@pytest.mark.parametrize(("other", "given"), [("two", "faces"), (".", "one/faces")])
def test_relative_names_seen_from_another_folder_are_refused(
    other: str, given: str, folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name would stand for another image, or an image would get a second one."""

    def command(given: str) -> list[str]:
        return ["predict", str(folders / "net.h5"), given, "--csv", str(folders / "o.csv")]

    monkeypatch.chdir(folders / "one")
    assert main(command("faces")) == 0
    monkeypatch.chdir(folders / other)
    before = (folders / "o.csv").read_bytes()
    assert main([*command(given), "--resume"]) == 2 and (folders / "o.csv").read_bytes() == before
    said = capsys.readouterr().err
    assert f"its names are relative to {folders / 'one'}" in said and "run the command there" in said
    monkeypatch.chdir(folders / "one")
    assert main([*command("faces"), "--resume"]) == 0 and len(rows(folders / "o.csv")) == 1


def test_a_table_that_moves_with_its_images_is_continued(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders / "one")
    (folders / "one" / "results").mkdir()
    for table in ("o.csv", "results/p %=@\xe9.csv"):
        assert main(["predict", "../net.h5", "faces", "--csv", table]) == 0
    shutil.move(folders / "one", folders / "moved")
    monkeypatch.chdir(folders / "moved")
    drawing(2).save("faces/1.png")
    for table in ("o.csv", "results/p %=@\xe9.csv"):
        assert main(["predict", "../net.h5", "faces", "--csv", table, "--resume"]) == 0
        assert [row["input"] for row in rows(Path(table))] == ["faces/0.png", "faces/1.png"]


def test_absolute_names_are_the_same_from_everywhere(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["predict", str(folders / "net.h5"), str(folders / "one" / "faces"), "--csv", str(folders / "o.csv")]
    for place in ("one", "two"):
        monkeypatch.chdir(folders / place)
        assert main([*command, "--resume"]) == 0
    assert len(rows(folders / "o.csv")) == 1


def test_faces_of_an_earlier_version_that_did_not_say_so_are_refused(
    quick: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.csv"
    command = ["predict", str(quick), str(faces), "--csv", str(out)]
    assert main([*command, "--faces"]) == 0
    out.write_text(out.read_text().replace(" faces=blazeface margin=0.0", ""))
    for options in ([], ["--faces"]):
        assert main([*command, *options, "--resume"]) == 2
    assert (
        "made with --faces, or by an earlier version, which did not record --faces, and this run"
        in capsys.readouterr().err
    )


def test_names_of_an_earlier_version_that_did_not_say_their_folder_are_refused(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folders)
    (folders / "results").mkdir()
    command = ["predict", "net.h5", "one/faces", "--csv", "results/o.csv"]
    assert main(command) == 0
    made = (folders / "results" / "o.csv").read_text()
    assert " from=.." in made
    (folders / "results" / "o.csv").write_text(made.replace(" from=..", ""))
    assert main([*command, "--resume"]) == 2
    assert (
        f"relative to {folders / 'results'}, or to a folder that an earlier version did not" in capsys.readouterr().err
    )


def test_what_is_said_of_the_table_that_was_there(
    quick: Path, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.csv"
    command = ["predict", str(quick), str(faces), "--csv", str(out)]
    assert main(command) == 0 and capsys.readouterr().err.endswith("o.csv\n")
    assert main([*command, "--resume"]) == 0
    assert capsys.readouterr().err.endswith("o.csv; the rows that were there are kept\n")
    assert main(command) == 0 and capsys.readouterr().err.endswith("o.csv; it replaced what was there\n")
    out.with_name("o.csv.partial").write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:3]))
    out.write_text("another table\n")
    assert main([*command, "--resume"]) == 0 and len(rows(out)) == 6
    assert capsys.readouterr().err.endswith("o.csv; it replaced what was there\n")
