"""One data set in every layout: the same comes out, whichever path to it is named."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ferplus_keras.dataset import load_ferplus
from ferplus_keras.dataset.places import Archive
from ferplus_keras.errors import BadInputError
from tests.ferplus_files import png, small, write_files, write_pair, write_zip
from tests.special_files import a_device, a_link_to_itself, a_pipe


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERPLUS_CACHE", "off")
    monkeypatch.delenv("FERPLUS_DATA", raising=False)


PAIR = {"fer2013.csv": small().pixels(), "fer2013new.csv": small().labels()}


@pytest.mark.parametrize("name", ["", "fer2013.csv", "fer2013new.csv"])
def test_kaggles_pair_by_folder_or_by_either_file(tmp_path: Path, name: str) -> None:
    data = small()
    found = load_ferplus(write_pair(data, tmp_path) / name)
    np.testing.assert_array_equal(found.images, data.images)
    np.testing.assert_array_equal(found.votes, data.votes)
    assert found.names[2] == "row 2" and found.names[3] == data.names[3]
    assert (found.labels, found.label_rows, found.official) == ("fer2013new.csv", 12, False)


@pytest.mark.parametrize(
    "files",
    [
        {"icml_face_data.csv": PAIR["fer2013.csv"], "fer2013new.csv": PAIR["fer2013new.csv"]},
        {"challenges/fer2013.csv": PAIR["fer2013.csv"], "FERPlus/fer2013new.csv": PAIR["fer2013new.csv"]},
    ],
)
def test_other_names_and_folders_side_by_side(tmp_path: Path, files: dict[str, bytes]) -> None:
    np.testing.assert_array_equal(load_ferplus(write_files(files, tmp_path)).images, small().images)


def test_the_pair_in_a_zip_and_the_labels_beside_one(tmp_path: Path) -> None:
    write_zip(PAIR, tmp_path / "both.zip")
    (tmp_path / "apart").mkdir()
    write_zip({"fer2013.csv": PAIR["fer2013.csv"]}, tmp_path / "apart" / "archive.zip")
    (tmp_path / "apart" / "fer2013new.csv").write_bytes(PAIR["fer2013new.csv"])
    for path in (tmp_path / "both.zip", tmp_path / "apart", tmp_path / "apart" / "archive.zip"):
        np.testing.assert_array_equal(load_ferplus(path).images, small().images)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("labels", [False, True])
def test_microsofts_folders(tmp_path: Path, zipped: bool, labels: bool) -> None:
    data = small()
    path = write_zip(data.files(), tmp_path / "f.zip") if zipped else write_files(data.files(), tmp_path)
    if labels:
        (tmp_path / "fer2013new.csv").write_bytes(data.labels())
    found = load_ferplus(path)
    by_name = {name: row for row, name in enumerate(data.names) if name}
    rows = [by_name[name] for name in found.names]
    assert sorted(rows) == [row for row in range(12) if row != 2]
    np.testing.assert_array_equal(found.images, data.images[rows])
    np.testing.assert_array_equal(found.votes, data.votes[rows])
    np.testing.assert_array_equal(found.split, data.split[rows])
    assert found.labels == ("fer2013new.csv" if labels else "label.csv")
    assert any("label.csv" in note for note in found.notes) is not labels
    np.testing.assert_array_equal(load_ferplus(tmp_path).images, found.images)  # the folder that holds it


def test_votes_of_the_label_file_go_before_those_of_the_folders(tmp_path: Path) -> None:
    """In Microsoft's own files the two differ."""
    data, other = small(), small()
    other.votes = np.roll(data.votes, 1, axis=1)
    write_files(other.files(), tmp_path)
    (tmp_path / "fer2013new.csv").write_bytes(data.labels())
    found = load_ferplus(tmp_path)
    np.testing.assert_array_equal(found.votes, data.votes[[row for row in range(12) if row != 2]])


def test_one_split_alone(tmp_path: Path) -> None:
    write_files(small().files(), tmp_path)
    (tmp_path / "fer2013new.csv").write_bytes(small().labels())
    for path in (tmp_path / "data" / "FER2013Test", tmp_path / "data" / "FER2013Test" / "label.csv"):
        found = load_ferplus(path)
        assert set(found.split) == {2} and found.labels == "fer2013new.csv"
        assert "no folder for train and val, so exact copies of their images are not known" in found.notes[0]


def test_the_variable_names_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERPLUS_DATA", str(write_pair(small(), tmp_path)))
    assert len(load_ferplus()) == 12
    monkeypatch.delenv("FERPLUS_DATA")
    with pytest.raises(BadInputError, match="--data PATH, or set FERPLUS_DATA"):
        load_ferplus()


def test_what_is_not_there_is_said_with_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "fer2013.csv").write_bytes(PAIR["fer2013.csv"])
    for path, told in (
        (tmp_path / "absent", "nothing at"),
        (tmp_path / "notes.txt", "There is no FERPlus at"),
        (tmp_path / "x.tar.gz", "unpack it"),
        (tmp_path, "no fer2013new.csv beside it"),
    ):
        with pytest.raises(BadInputError) as caught:
            load_ferplus(path)
        assert told in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda files: files.pop("data/FER2013Test/fer0000003.png"), "fer0000003.png"),
        (lambda files: files.update({"data/FER2013Test/fer0000003.png": b"no image"}), "cannot be decoded"),
        (lambda files: files.update({"data/FER2013Test/fer0000003.png": b""}), "cannot be decoded"),
        (lambda files: files.update({"data/FER2013Test/fer0000003.png": png(np.zeros((64, 48), np.uint8))}), "48 x 64"),
        (
            lambda files: files.update(
                {"data/FER2013Test/fer0000003.png": files["data/FER2013Test/fer0000003.png"][:-900]}
            ),
            "cannot be decoded",
        ),
        (lambda files: files.update({"data/FER2013Test/fer0000003.png": bytes(2 << 20)}), "larger than"),
        (lambda files: files.pop("data/FER2013Valid/label.csv"), "no label.csv"),
    ],
)
def test_an_image_that_is_none_is_named(tmp_path: Path, change: object, told: str) -> None:
    files = small().files()
    change(files)  # type: ignore[operator]
    for path in (write_files(files, tmp_path / "folder"), write_zip(files, tmp_path / "archive.zip")):
        with pytest.raises(BadInputError) as caught:
            load_ferplus(path)
        assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_label_file_names_the_line_of_a_missing_image(tmp_path: Path) -> None:
    files = small().files()
    del files["data/FER2013Test/fer0000003.png"]
    write_files(files, tmp_path)
    (tmp_path / "fer2013new.csv").write_bytes(small().labels())
    with pytest.raises(BadInputError, match=r"line 5: the image .fer0000003.png. is not in .*FER2013Test"):
        load_ferplus(tmp_path)


def packed(inner: dict[str, bytes], kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in inner.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for name, content in inner.items():
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"fer2013.tar.gz": packed(PAIR, "tar")}, "fer2013.tar.gz"),
        ({"x/fer2013.tar.gz": packed(PAIR, "tar"), "fer2013new.csv": PAIR["fer2013new.csv"]}, "x/fer2013.tar.gz"),
        ({"challenge.zip": packed({"fer2013.tar.gz": b"\x1f\x8b"}, "zip")}, "challenge.zip: fer2013.tar.gz"),
        ({"data.zip": packed({"fer2013.zip": packed(PAIR, "zip")}, "zip")}, "data.zip: fer2013.zip"),
        ({"fer2013.csv": PAIR["fer2013.csv"], "labels.7z": b"7z"}, "labels.7z"),
    ],
)
def test_an_archive_that_is_not_looked_into_is_named(tmp_path: Path, files: dict[str, bytes], named: str) -> None:
    write_files(files, tmp_path)
    places = [tmp_path, tmp_path / next(iter(files))] if named.startswith(("challenge", "data")) else [tmp_path]
    for path in places:
        with pytest.raises(BadInputError, match="unpack it") as caught:
            load_ferplus(path)
        assert str(tmp_path / named) in str(caught.value)


# --- entries that are no files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [a_link_to_itself, a_device, a_pipe, Path.mkdir])
@pytest.mark.parametrize("name", ["data/FER2013Train/x", "data/FER2013Train/x.png", "x", "data/x.zip", "data/x"])
def test_an_entry_that_plays_no_part_ends_nothing(
    tmp_path: Path, make: Callable[[Path], object], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERPLUS_CACHE", str(tmp_path / "cache"))
    folder = write_files(small().files(), tmp_path / "in")
    make(folder / name)
    for path in (folder, folder / "data", folder / "data" / "FER2013Train"):
        assert len(load_ferplus(path)) > 2


@pytest.mark.parametrize("make", [a_device, a_pipe, a_link_to_itself])
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("cache", [False, True])
def test_a_file_that_is_none_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], object], pair: bool, cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cache:
        monkeypatch.setenv("FERPLUS_CACHE", str(tmp_path / "cache"))
    files = PAIR if pair else small().files()
    names = [*PAIR] if pair else ["data/FER2013Test/fer0000003.png", "data/FER2013Train/label.csv"]
    for number, name in enumerate(names):
        folder = write_files(files, tmp_path / str(number))
        (folder / name).unlink()
        make(folder / name)
        with pytest.raises(BadInputError, match=r"not a regular file|Too many levels"):
            load_ferplus(folder)


@pytest.mark.parametrize("make", [a_device, a_pipe, a_link_to_itself])
def test_an_archive_that_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "fer2013.zip")
    for path in (tmp_path, tmp_path / "fer2013.zip"):
        with pytest.raises(BadInputError, match=r"fer2013\.zip"):
            load_ferplus(path)
    write_zip(PAIR, tmp_path / "other.zip")
    assert len(load_ferplus(tmp_path)) == 12


@pytest.mark.parametrize("path", ["x" * 300, "~nobody-of-this-name/x", "a\0b"])
def test_a_name_that_can_be_none_is_said(path: str) -> None:
    with pytest.raises(BadInputError):
        load_ferplus(path)


# --- archives that mean no good -------------------------------------------------------------------------------------


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = write_zip(small().files(), tmp_path / "twice.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("data/FER2013Test/label.csv", b"")
    with pytest.raises(BadInputError, match="twice"):
        load_ferplus(path)


@pytest.mark.parametrize("member", ["data/FER2013Test/fer0000003.png", "data/FER2013Train/label.csv"])
def test_a_bomb_is_not_set_off(tmp_path: Path, member: str) -> None:
    files = small().files()
    files[member] = bytes(80 << 20)  # 80 kB in the archive
    path = write_zip(files, tmp_path / "bomb.zip")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(BadInputError, match="larger than"):
        load_ferplus(path)


def test_damage_encryption_and_unknown_compression_are_sentences(tmp_path: Path) -> None:
    path = write_zip(small().files(), tmp_path / "whole.zip")
    content = path.read_bytes()
    for number, damaged in enumerate(
        (
            content[: len(content) // 2],
            content.replace(b"\x08\x00", b"\x63\x00"),  # a compression method that does not exist
            content[:200] + bytes(200) + content[400:],
            b"PK\x03\x04" + bytes(500),
        )
    ):
        broken = tmp_path / f"{number}.zip"
        broken.write_bytes(damaged)
        with pytest.raises(BadInputError) as caught:
            load_ferplus(broken)
        assert "\n" not in str(caught.value)


def test_names_that_lead_outside_are_only_names(tmp_path: Path) -> None:
    files = small().files() | {"../../outside.csv": b"x", "/etc/passwd": b"x"}
    (tmp_path / "in").mkdir()
    load_ferplus(write_zip(files, tmp_path / "in" / "a.zip"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "in"]


def test_an_archive_of_too_many_members_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferplus_keras.dataset.places.MAX_ENTRIES", 5)
    with pytest.raises(BadInputError, match="members"):
        Archive(write_zip(small().files(), tmp_path / "many.zip")).entries()
