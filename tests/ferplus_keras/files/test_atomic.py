"""Whatever happens while a file is written, the old one survives and nothing half-made is left behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ferplus_keras.errors import OutputError
from ferplus_keras.files.atomic import atomic_folder, atomic_path, write_text
from tests.conftest import ROOT, hears_interrupts, run_ferplus
from tests.special_files import a_link_to_itself, a_pipe, a_socket


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".partial")]


def test_a_finished_file_takes_the_name(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "x.h5"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.name.endswith(".h5") and not target.exists()
        temporary.write_bytes(b"new")
    assert target.read_bytes() == b"new" and not leftovers(target.parent)


def test_the_users_own_permissions_hold(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_path(tmp_path / "x") as temporary:
        temporary.touch(0o600)  # as safetensors does
    assert (tmp_path / "x").stat().st_mode == plain.stat().st_mode
    (tmp_path / "x").chmod(0o640)
    with atomic_path(tmp_path / "x") as temporary:
        temporary.touch()
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_an_error_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "x.h5"
    target.write_bytes(b"old")
    with pytest.raises((type(error), OutputError)), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert target.read_bytes() == b"old" and not leftovers(tmp_path)


def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path) -> None:
    target = tmp_path / "x.h5"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"disk is full.*still|disk is full.*unchanged"), atomic_path(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert target.read_bytes() == b"old"


def test_nothing_is_begun_without_room(tmp_path: Path) -> None:
    target = tmp_path / "x.h5"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match="disk is full"), atomic_path(target, size=1 << 62):
        raise AssertionError("the block must not run")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_a_text_with_halves_of_characters_is_written_so_that_json_gives_them_back(tmp_path: Path) -> None:
    """As paths have them whose bytes are no UTF-8."""
    said = {"data": "/somewhere/\udcff", "name": "Zoë"}
    write_text(tmp_path / "x.json", json.dumps(said, ensure_ascii=False))
    assert "Zoë" in (tmp_path / "x.json").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == said


def test_a_folder_in_the_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"), atomic_path(tmp_path):
        raise AssertionError("the block must not run")


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to(os.devnull)


@pytest.mark.parametrize("kind", [a_pipe, a_link_to_a_device, a_link_to_itself, a_socket])
def test_what_is_no_regular_file_is_left_alone(kind: Callable[[Path], None], tmp_path: Path) -> None:
    target = tmp_path / "x.h5"
    kind(target)
    before = target.lstat()
    with pytest.raises(OutputError, match=r"not a regular file|symbolic links"), atomic_path(target):
        raise AssertionError("the block must not run")
    assert os.path.samestat(target.lstat(), before) and list(tmp_path.iterdir()) == [target]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(f"disk/{name}.h5")
    (tmp_path / "disk" / "old.h5").write_bytes(b"old")
    for name in ("old", "new"):
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_bytes(b"written")
        assert (tmp_path / name).is_symlink() and (tmp_path / "disk" / f"{name}.h5").read_bytes() == b"written"
    assert len(list((tmp_path / "disk").iterdir())) == 2


def test_a_link_in_the_place_of_the_unfinished_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".partial-x.h5").symlink_to("precious")
    with atomic_path(tmp_path / "x.h5") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "precious").read_text() == "kept" and not (tmp_path / "x.h5").is_symlink()


@pytest.mark.parametrize("name", ["n" * 250, "n" * 300, "\0"])
def test_a_name_that_no_file_can_have_is_said_to_be_one(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"name is too long|is not a valid file name"), atomic_path(tmp_path / name):
        raise AssertionError("the block must not run")


def test_a_folder_replaces_a_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for content in ("first", "second"):
        with atomic_folder(target) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
    assert [each.name for each in target.iterdir()] == ["second"] and list(tmp_path.iterdir()) == [target]
    target.rename(tmp_path / ".old-model")  # a process was killed between its two renames
    with pytest.raises(ValueError, match="stop"), atomic_folder(target):
        raise ValueError("stop")
    assert [each.name for each in target.iterdir()] == ["second"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"), atomic_folder(tmp_path / "file"):
        pass


def limited(kilobytes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a shell that may write files of so many KiB only: a real disk-full, from the kernel."""
    line = f"trap '' XFSZ; ulimit -f {kilobytes}; exec \"$@\""
    return subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, "-m", "ferplus_keras", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("suffix", [".h5", *(
    pytest.param(suffix, marks=pytest.mark.slow) for suffix in (".weights.h5", ".keras", ".pth", ".safetensors")
)])  # fmt: skip
def test_a_file_that_cannot_be_finished_leaves_the_old_one(seeded_pth: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"x{suffix}"
    target.write_bytes(b"old")
    run = limited(40_000, "convert", seeded_pth, target)
    assert run.returncode == 3, run.stderr
    assert "Traceback" not in run.stderr and "error: " in run.stderr and "unchanged" in run.stderr
    assert target.read_bytes() == b"old" and not leftovers(tmp_path)


def test_the_same_limit_is_no_obstacle_when_it_is_large_enough(seeded_pth: Path, tmp_path: Path) -> None:
    assert limited(200_000, "convert", seeded_pth, tmp_path / "x.h5").returncode == 0


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        (signal.SIGKILL, -9),
    ],
)
def test_a_stopped_process_leaves_the_old_file(seeded_pth: Path, tmp_path: Path, stop: int, code: int) -> None:
    target = tmp_path / "x.h5"
    target.write_bytes(b"old")
    for _ in range(20):  # the window is short: until the signal falls into it
        process = subprocess.Popen(
            [sys.executable, "-m", "ferplus_keras", "convert", str(seeded_pth), str(target)],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                preexec_fn=hears_interrupts,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not leftovers(tmp_path) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(stop)
        _, errors = process.communicate()
        if process.returncode == code:
            break
        assert process.returncode == 0, errors  # it was faster than the signal
        target.write_bytes(b"old")
    assert process.returncode == code
    assert target.read_bytes() == b"old" and b"Traceback" not in errors
    if stop != signal.SIGKILL:  # nobody can tidy up after that one
        assert not leftovers(tmp_path)
    assert run_ferplus("convert", seeded_pth, target).returncode == 0 and target.stat().st_size > 90e6
