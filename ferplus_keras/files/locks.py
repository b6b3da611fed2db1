"""One writer at a time: a lock file beside what is written says whose it is, and is free when that process is gone."""

from __future__ import annotations

import errno
import os
import shlex
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_ident

from ferplus_keras.errors import OutputError

#: Bytes that are read of what a lock file says.
SAID_BYTES = 300

#: Locks of this process, and the thread that holds each: it may ask for its own once more.
_held: dict[str, int] = {}


def lock_of(target: Path) -> Path:
    """The lock file that stands for ``target``."""
    return target.with_name(f".{target.name}.lock")


@contextmanager
def sole_writer(target: Path, *, lock: Path | None = None, wait: bool = False) -> Iterator[bool]:
    """Nobody else writes ``target`` until the block ends.

    The lock file ``lock`` (default: :func:`lock_of`) goes with the block. A killed process leaves it behind, unlocked.
    With ``wait`` the block begins when the other writer is done. Gives whether the lock is new and holds: False where
    this thread has it already, and on a file system that cannot lock.

    Raises :class:`OutputError` when another process or thread writes it, and ``OSError`` when the lock file cannot be
    made.
    """
    lock = lock or lock_of(target)
    key = os.path.abspath(lock)  # noqa: PTH100
    if _held.get(key) == get_ident():
        yield False
        return
    descriptor, holds = _acquire(lock, target, wait)
    _held[key] = get_ident()
    try:
        yield holds
    finally:
        del _held[key]
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _acquire(lock: Path, target: Path, wait: bool) -> tuple[int, bool]:
    """An open descriptor of the lock file, and whether it is locked: not every file system can do that."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        descriptor = os.open(lock, flags, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OutputError(
                    f"{lock} is in the way: it is not a regular file. Remove it and run the command again."
                )
            free = _flock(descriptor, wait)
            if free is False:
                raise OutputError(
                    f"{target} is being written by {_holder(descriptor)}: wait for it to end, or choose another name."
                )
            if _still_there(descriptor, lock):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} {_command()}\n".encode("utf-8", "replace"))
                return descriptor, free is True
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner was done, and has removed it, between the two steps


def _flock(descriptor: int, wait: bool) -> bool | None:
    """Whether the lock was free; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return True


def _still_there(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), lock.lstat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    said = os.pread(descriptor, SAID_BYTES, 0).decode("utf-8", "replace").strip()
    process, _, command = "".join(each if each.isprintable() else "?" for each in said).partition(" ")
    return f"process {process} ({command})" if process.isdigit() and command else "another process"


def _command() -> str:
    """The command line of this process, in the words that were typed."""
    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return shlex.join(["ferplus" if name == "__main__.py" else name, *sys.argv[1:]])[: SAID_BYTES // 2]
