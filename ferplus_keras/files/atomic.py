"""Writing a file so that the old one survives whatever happens: temporary name, flush to disk, rename."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ferplus_keras.errors import OutputError, first_line

#: Bytes that one file and its temporary twin may need; with less left, an unexplained failure is a full disk.
ROOM = 256 << 20

UMASK = os.umask(0)  # it cannot be asked for without being set
os.umask(UMASK)


@contextmanager
def atomic_path(target: str | Path, size: int = 0) -> Iterator[Path]:
    """A path beside ``target`` to write to; becomes ``target`` when the block ends well, and is removed otherwise.

    The temporary name keeps the target's suffixes, because Keras chooses the format by them. ``size`` is about how
    many bytes will be written: without room for them nothing is begun, for HDF5 does not survive a disk that fills
    up under it. Raises :class:`OutputError` on a full disk, a missing permission, or a folder that cannot be made.
    """
    target = Path(target)
    temporary = target.with_name(f".partial-{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise OutputError(f"{target} is a folder; give the name of the file to write.")
        if shutil.disk_usage(target.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield temporary
        # Some libraries make files that nobody else may read; the user's own setting is what counts.
        temporary.chmod(stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~UMASK)
        temporary.replace(target)
    except OSError as error:
        raise OutputError(_sentence(target, error)) from error
    finally:
        if temporary.exists():  # which below a file, where nothing can be, is no error
            temporary.unlink()


@contextmanager
def atomic_folder(target: str | Path, size: int = 0) -> Iterator[Path]:
    """The same for a folder, which the block makes: it becomes ``target``, whose place may be taken by an old one.

    The old folder is moved aside, and only then removed: at no time does a part of the new one stand in its place.
    """
    target = Path(target)
    temporary, old = (target.with_name(f".{kind}-{os.getpid()}-{target.name}") for kind in ("partial", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_dir():
            raise OutputError(f"{target} is a file, and a folder is to be written; give another name.")
        if shutil.disk_usage(target.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield temporary
        if target.exists():
            target.rename(old)
        try:
            temporary.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    except OSError as error:
        raise OutputError(_sentence(target, error)) from error
    finally:
        for folder in (temporary, old):
            if folder.exists():
                shutil.rmtree(folder)


@contextmanager
def as_os_error(*kinds: type[Exception]) -> Iterator[None]:
    """Turn what a library raises when it cannot write into an ``OSError``, with the system's number where it tells."""
    try:
        yield
    except kinds as error:
        text = first_line(error)
        number = re.search(r"(?:errno = |os error |Errno )(\d+)", text)
        code = int(number.group(1)) if number else None
        raise (OSError(code, os.strerror(code)) if code else OSError(text)) from error


def flush(path: Path) -> None:
    """Wait until the file's bytes are on the disk, so that the rename cannot outlive them."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sentence(target: Path, error: OSError) -> str:
    kept = " The file that was there before is unchanged." if target.is_file() else " Nothing was written."
    unsaid = error.errno is None and target.parent.is_dir() and shutil.disk_usage(target.parent).free < ROOM
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error) or unsaid:
        return f"{target} could not be written: the disk is full. Free {ROOM >> 20} MB and run the command again.{kept}"
    reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return f"{target} could not be written: {reason}. Choose another place or mend that one.{kept}"
