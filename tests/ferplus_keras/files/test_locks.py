"""One writer at a time, told from another by a lock that goes with its process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ferplus_keras.errors import OutputError
from ferplus_keras.files.atomic import atomic_path
from ferplus_keras.files.locks import lock_of, sole_writer
from tests.conftest import ROOT

WRITER = (
    "import sys\nfrom ferplus_keras.files.atomic import atomic_path\n"
    "with atomic_path(sys.argv[1]) as temporary:\n"
    "    temporary.write_bytes(b'half'); print('in', flush=True); sys.stdin.read()"
)


@contextmanager
def writing(target: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is in the midst of writing ``target``."""
    other = subprocess.Popen(
        [sys.executable, "-c", WRITER, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == b"in\n"
        yield other
    finally:
        other.kill()
        other.wait()


def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    target = tmp_path / "x.h5"
    with writing(target) as other:
        told = rf"being written by process {other.pid} \(-c .*x\.h5\)"
        with pytest.raises(OutputError, match=told), atomic_path(target):
            raise AssertionError("the block must not run")
        assert (tmp_path / ".partial-x.h5").read_bytes() == b"half"
        other.communicate()
    assert target.read_bytes() == b"half" and list(tmp_path.iterdir()) == [target]


def test_what_a_killed_process_left_is_cleared_and_a_living_ones_is_not(tmp_path: Path) -> None:
    with writing(tmp_path / "killed.h5"), writing(tmp_path / "killed.pth"):
        pass
    with writing(tmp_path / "living.h5"):
        with atomic_path(tmp_path / "new.h5") as temporary:
            temporary.write_bytes(b"new")
        assert sorted(each.name for each in tmp_path.iterdir()) == [
            ".living.h5.lock", ".partial-living.h5", "new.h5",
        ]  # fmt: skip


def test_the_same_thread_may_ask_again_and_another_may_not(tmp_path: Path) -> None:
    target = tmp_path / "x.h5"
    refused: list[BaseException] = []

    def other() -> None:
        try:
            with sole_writer(target):
                pass
        except OutputError as error:
            refused.append(error)

    with sole_writer(target) as new, sole_writer(target) as again:
        assert new and not again and lock_of(target).exists()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1 and f"process {os.getpid()}" in str(refused[0]) and not list(tmp_path.iterdir())
    other()
    assert len(refused) == 1


def test_who_waits_comes_in_when_the_first_is_done(tmp_path: Path) -> None:
    target = tmp_path / "x.h5"
    order: list[str] = []

    def second() -> None:
        with sole_writer(target, wait=True):
            order.append("second")

    with sole_writer(target):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"] and not list(tmp_path.iterdir())


def test_what_a_lock_file_says_is_shown_as_text(tmp_path: Path) -> None:
    import fcntl

    lock = lock_of(tmp_path / "x.h5")
    lock.write_bytes(b"12 \x1b]0;title\x07\xff\n")
    with lock.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(OutputError) as error, sole_writer(tmp_path / "x.h5"):
            pass
    assert str(error.value).isprintable()


def test_a_lock_file_that_is_none_is_refused(tmp_path: Path) -> None:
    os.mkfifo(lock_of(tmp_path / "x.h5"))
    with pytest.raises(OutputError, match="in the way"), atomic_path(tmp_path / "x.h5"):
        pass
    (tmp_path / "other").write_text("kept")
    lock_of(tmp_path / "y.h5").symlink_to("other")
    with pytest.raises(OutputError), atomic_path(tmp_path / "y.h5"):
        pass
    assert (tmp_path / "other").read_text() == "kept"
