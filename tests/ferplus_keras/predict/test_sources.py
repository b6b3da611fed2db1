"""Inputs become a lazy row of images, each once, and nothing that is wrong with one hides the others."""

from __future__ import annotations

import io
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from ferplus_keras.errors import BadInputError
from ferplus_keras.predict import sources
from ferplus_keras.predict.seen import Seen
from ferplus_keras.predict.sources import Source, find_sources, look_ahead
from tests.ferplus_keras.predict.conftest import drawing


def names(*inputs: object, listed: bytes | None = None, null: bool = False) -> list[str]:
    stream = None if listed is None else io.BytesIO(listed)
    return [source.name for source in find_sources([str(each) for each in inputs], listed=stream, null=null)]


def test_a_folder_is_searched_to_the_bottom_in_order(faces: Path) -> None:
    (faces / ".hidden.png").write_bytes(b"")
    (faces / "more" / "._4.png").write_bytes(b"")
    found = list(find_sources([str(faces)]))
    assert [source.inside for source in found] == ["0.png", "1.png", "2.png", "3.png", "more/4.png", "more/5.png"]
    assert not any(source.problem for source in found)


def test_a_link_back_up_is_no_way_in(faces: Path) -> None:
    (faces / "more" / "up").symlink_to(faces, target_is_directory=True)
    assert len(names(faces)) == 6


def test_one_bad_entry_hides_no_other(faces: Path) -> None:
    (faces / "0a.png").symlink_to("0a.png")
    (faces / "0b.png").symlink_to("/dev/zero")
    os.mkfifo(faces / "0c.png")
    os.mkfifo(faces / "0d.parquet")
    (faces / "0e").symlink_to("0e")
    found = {Path(source.name).name: source for source in find_sources([str(faces)])}
    assert " ".join(found) == "0.png 0a.png 0b.png 0c.png 0d.parquet 1.png 2.png 3.png 4.png 5.png"
    for name, source in found.items():
        if name[0] == "0" and name != "0.png":
            with pytest.raises(BadInputError, match=r"not a file|too many levels"):
                source.read()


def test_a_look_ahead_takes_nothing_away_and_finds_what_there_is(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_text("no image")
    nothing = look_ahead(find_sources([str(tmp_path / "empty"), "https://x.org/a.png", "none*.png", "missing.png"]))
    assert not nothing.readable and not nothing.broken and len(nothing.problems) == 4
    assert "web address" in nothing.problems[1].problem
    broken = look_ahead(find_sources([str(tmp_path / "broken.png"), "missing.png"]))
    assert not broken.readable and broken.broken
    some = look_ahead(find_sources([str(tmp_path / "broken.png"), str(faces)]))
    assert some.readable and len(list(some.all)) == 7
    assert not look_ahead([]).readable
    assert look_ahead(Source("missing.png") for _ in range(sources.LOOKED_AT)).readable, "there may be one later"


def test_each_image_comes_once_however_often_it_is_named(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(faces.parent)
    listed = f"faces/1.png\n{faces}/2.png\n".encode()
    (faces / "copy.png").write_bytes((faces / "0.png").read_bytes())  # two files of the same content are two files
    assert len(names("faces", "faces/0.png", "./faces/1.png", faces / "2.png", "faces/*.png", "-", listed=listed)) == 7


def test_patterns(faces: Path) -> None:
    assert [Path(name).name for name in names(f"{faces}/*.png")] == ["0.png", "1.png", "2.png", "3.png"]
    assert len(names(f"{faces}/**/*.png")) == 6
    (missed,) = find_sources([f"{faces}/*.jpg"])
    assert "pattern" in missed.problem


def test_a_name_with_a_patterns_letters_is_that_file(tmp_path: Path) -> None:
    drawing(0).save(tmp_path / "a[1].png")
    drawing(1).save(tmp_path / "a1.png")
    assert names(tmp_path / "a[1].png") == [str(tmp_path / "a[1].png")]


def test_lists_of_names(tmp_path: Path) -> None:
    assert names("-", listed=b"a.png\r\nb c.png\n\n\xff.png") == ["a.png", "b c.png", os.fsdecode(b"\xff.png")]
    assert names("-", listed=b"a\nb.png\0c.png\0", null=True) == ["a\nb.png", "c.png"]
    assert names("-", listed=b"") == []
    long = b"x" * 60_000
    assert names("-", listed=b"\n".join([long, b"a.png", long + b"y"])) == [long.decode(), "a.png", long.decode() + "y"]
    assert names("-", listed="\ufeffa.png\nb.png".encode()) == ["a.png", "b.png"]
    with pytest.raises(BadInputError, match="in UTF-16"):
        names("-", listed="a.png\nb.png\n".encode("utf-16"))
    with pytest.raises(BadInputError, match="not a list"):
        names("-", listed=b"x" * 300_000)


def test_what_is_not_there_is_an_image_with_a_problem(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = list(find_sources([str(tmp_path / "empty"), str(tmp_path / "no.png"), "a\0b.png"]))
    assert [bool(source.problem) for source in found] == [True, False, True], "the file is missed when it is opened"
    for source in found:
        with pytest.raises(BadInputError):
            source.read()


def test_a_folder_that_cannot_be_read_is_named_and_hides_no_other(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("more"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = list(find_sources([str(faces)]))
    assert len(found) == 5 and found[-1].problem == "a folder that cannot be read: permission denied"


def test_a_large_folder_is_not_read_to_its_end_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SORTED_ENTRIES", 10)
    for number in range(95):
        (tmp_path / f"{number:02}.png").touch()
    read = 0
    real = os.scandir

    class Counting:
        def __init__(self, path: str) -> None:
            self.entries = real(path)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_error: object) -> None:
            self.entries.close()

        def __iter__(self) -> Counting:
            return self

        def __next__(self) -> os.DirEntry[str]:
            nonlocal read
            read += 1
            return next(self.entries)

    monkeypatch.setattr(os, "scandir", Counting)
    coming = find_sources([str(tmp_path)])
    list(islice(coming, 5))
    assert read == 10
    assert len({source.name for source in coming}) == 90


# --- Seen -------------------------------------------------------------------------------------------------------


def test_seen_keeps_apart_and_together() -> None:
    seen = Seen()
    count = 60_000
    assert all(seen.add(f"folder/{number}.png") for number in range(count))
    assert len(seen) == count
    assert not any(seen.add(f"./folder/../folder/{number}.png") for number in range(0, count, 501))
    assert "folder/59999.png" in seen and "folder/60000.png" not in seen
    assert seen._sorted.nbytes <= 8 * count and len(seen._recent) < 20_000


# --- Parquet ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
def test_rows_of_parquet_are_images(tmp_path: Path, wrapped: bool) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = []
    for number in range(7):
        stream = io.BytesIO()
        drawing(number).save(stream, "PNG")
        rows.append({"bytes": stream.getvalue(), "path": None} if wrapped else stream.getvalue())
    rows[4] = None
    path = tmp_path / "p.parquet"
    parquet.write_table(pyarrow.table({"label": list(range(7)), "image": rows}), path, row_group_size=3)
    found = list(find_sources([str(path)]))
    assert [source.name for source in found] == [f"{path}#{row}" for row in range(7)]
    assert [bool(source.problem) for source in found] == [row == 4 for row in range(7)]
    np.testing.assert_array_equal(np.asarray(found[6].read()), np.asarray(drawing(6)))
    assert names(tmp_path) == [source.name for source in found]


def test_parquet_that_is_none_is_a_problem(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    (tmp_path / "a.parquet").write_bytes(b"PAR1 and then nothing")
    parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "b.parquet")
    problems = [source.problem for source in find_sources([str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")])]
    assert "not a Parquet file" in problems[0] and "columns are x" in problems[1]


def test_rows_of_parquet_that_would_unpack_to_far_more_are_named_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(sources, "UNPACKED_BYTES", 1 << 20)
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"image": [bytes(1 << 20) for _ in range(3)]}), path, use_dictionary=False)
    assert path.stat().st_size < 1 << 19
    found = list(find_sources([str(path)]))
    assert [source.name for source in found] == [f"{path}#{row}" for row in range(3)]
    assert all("which no images do" in source.problem and source.data is None for source in found)
    ahead = look_ahead(iter(found))
    assert not ahead.readable and ahead.broken
