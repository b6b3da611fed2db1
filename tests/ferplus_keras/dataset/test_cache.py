"""The cache: instant where nothing changed, never out of date, safe against other processes and kills."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferplus_keras.dataset import cache, load_ferplus
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.locks import lock_of
from tests.conftest import ROOT
from tests.ferplus_files import small, write_files, write_pair, write_zip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FERPLUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "datasets"


@pytest.fixture(autouse=True)
def _short_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests wait it out."""
    monkeypatch.setattr(cache, "TICK", 0.05)


def loaded(path: Path) -> tuple[np.ndarray, bool]:
    """The images at ``path``, and whether they were read (and not taken from the cache)."""
    lines: list[str] = []
    return load_ferplus(path, progress=lines.append).images, bool(lines)


def test_the_second_time_nothing_is_read(folder: Path, tmp_path: Path) -> None:
    data = write_pair(small(), tmp_path / "data")
    time.sleep(0.1)
    first, read = loaded(data)
    assert read
    again, read = loaded(data)
    assert not read
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("layout", ["pair", "folders", "zip"])
def test_another_content_is_another_result(folder: Path, tmp_path: Path, layout: str) -> None:
    def write(seed: int) -> Path:
        data = small(seed=seed)
        if layout == "pair":
            return write_pair(data, tmp_path / "data")
        if layout == "zip":
            return write_zip(data.files(), tmp_path / "data.zip")
        return write_files(data.files(), tmp_path / "data")

    first, _ = loaded(write(1))
    second, read = loaded(write(2))
    assert read and (first != second).any()


def test_a_change_that_keeps_size_and_time_is_seen(folder: Path, tmp_path: Path) -> None:
    """As `touch -r` leaves it. The inode's own time cannot be set back."""
    data = write_pair(small(), tmp_path / "data")
    time.sleep(0.1)
    loaded(data)
    path = data / "fer2013.csv"
    before, content = path.stat(), path.read_bytes()
    start = content.index(b"\n0,") + 3
    other = b"7" if content[start : start + 1] != b"7" else b"3"
    path.write_bytes(content[:start] + other + content[start + 1 :])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    _, read = loaded(data)
    assert read


def test_a_file_just_written_is_not_believed_by_its_times(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the clock's tick a file can change and keep its times."""
    monkeypatch.setattr(cache, "TICK", 60.0)
    data = write_pair(small(), tmp_path / "data")
    assert loaded(data)[1] and loaded(data)[1]


def test_new_labels_for_old_images_are_seen(folder: Path, tmp_path: Path) -> None:
    data = write_pair(small(), tmp_path / "data")
    loaded(data)
    other = small()
    other.votes = np.roll(other.votes, 1, axis=1)
    (data / "fer2013new.csv").write_bytes(other.labels())
    np.testing.assert_array_equal(load_ferplus(data).votes, other.votes)
    shown = repr(load_ferplus(data))
    assert shown.startswith("<Dataset: 12 images (train ") and str(data) in shown and "[[" not in shown


@pytest.mark.parametrize("damage", [b"", b"not a zip", None, os.mkfifo])
def test_a_damaged_entry_is_as_good_as_none(folder: Path, tmp_path: Path, damage: Any) -> None:
    data = write_pair(small(), tmp_path / "data")
    time.sleep(0.1)
    first, _ = loaded(data)
    for path in folder.iterdir():
        content = path.read_bytes()
        flipped = content[:900] + bytes([content[900] ^ 1]) + content[901:] if len(content) > 901 else b"{}"
        path.unlink()
        damage(path) if callable(damage) else path.write_bytes(flipped if damage is None else damage)
    again, read = loaded(data)
    assert read
    np.testing.assert_array_equal(first, again)
    assert not loaded(data)[1] or damage is os.mkfifo  # and it was mended


def test_files_that_change_while_they_are_read_are_refused(folder: Path, tmp_path: Path) -> None:
    data = write_pair(small(), tmp_path / "data")

    def change(_line: str) -> None:
        with (data / "fer2013.csv").open("ab") as stream:
            stream.write(b"\n")

    with pytest.raises(BadInputError, match="changed while"):
        load_ferplus(data, progress=change)
    assert not list(folder.glob("*.npz"))


def test_the_cache_can_be_off_and_need_not_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_pair(small(), tmp_path / "data")
    monkeypatch.setenv("FERPLUS_CACHE", "off")
    assert cache.cache_folder() is None and loaded(data)[1] and loaded(data)[1]
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder would be")
    monkeypatch.setenv("FERPLUS_CACHE", str(blocked))
    assert loaded(data)[1] and loaded(data)[1]
    monkeypatch.delenv("FERPLUS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert cache.cache_folder() == tmp_path / "xdg" / "ferplus-keras"


def test_old_entries_and_what_killed_processes_left_go(folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    abandoned = folder / ".partial-x.npz"
    for path in (abandoned, lock_of(folder / "x.npz")):
        path.write_bytes(b"x")
    for seed in range(cache.KEPT + 3):
        loaded(write_pair(small(seed=seed), tmp_path / str(seed)))
    assert len(list(folder.glob("*.npz"))) == cache.KEPT
    assert not abandoned.exists()


def test_nothing_of_anybody_else_is_removed(folder: Path, tmp_path: Path) -> None:
    """The folder that FERPLUS_CACHE names may hold a user's own work."""
    theirs = [
        above / name
        for above in (folder.parent, folder)
        for name in ("features.npz", "a.json", ".partial-thesis", ".partial-my own", "f" * 31 + ".npz")
    ]
    folder.mkdir(parents=True)
    for path in theirs:
        path.write_bytes(b"x")
        os.utime(path, (1, 1))
    for seed in range(cache.KEPT + 2):
        loaded(write_pair(small(seed=seed), tmp_path / str(seed)))
    assert all(path.exists() for path in theirs)


def test_an_image_moved_to_another_folder_is_seen(folder: Path, tmp_path: Path) -> None:
    """The same names with the same bytes in the same order: only the folder of one image is another."""
    data = small()
    data.split = np.sort(data.split)
    files = {name: content for name, content in data.files().items() if name.endswith(".png")}
    root = write_files({**files, "data/fer2013new.csv": data.labels()}, tmp_path)
    load_ferplus(root / "data")
    last = sorted((root / "data" / "FER2013Train").iterdir())[-1]
    last.rename(root / "data" / "FER2013Valid" / last.name)
    with pytest.raises(BadInputError, match=f"{last.name}.* is not in .*FER2013Train"):
        load_ferplus(root / "data")


def test_the_origin_is_where_the_data_lie_now(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        data = write_pair(small(), tmp_path / name)
        time.sleep(0.1)
        for _ in range(2):
            assert str(data) in load_ferplus(data).origin


def test_processes_at_the_same_time_all_have_the_right_result(folder: Path, tmp_path: Path) -> None:
    data = write_pair(small(), tmp_path / "data")
    code = (
        "import sys; from ferplus_keras.dataset import load_ferplus\n"
        "print(int(load_ferplus(sys.argv[1]).images.astype(int).sum()))"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(data)], env={**os.environ, "PYTHONPATH": str(ROOT)},
                         stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]  # fmt: skip
    answers = {run.communicate()[0].strip() for run in runs}
    assert answers == {str(int(small().images.astype(int).sum()))}
    assert not list(folder.glob(".partial-*"))
