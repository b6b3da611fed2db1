"""One door out: a file is written under another name, flushed to the disk, and renamed; one process at a time.

The unfinished file is ``.partial-NAME`` beside the target, guarded by the target's lock (:mod:`~.locks`): so what
a killed process left is known to be nobody's, and the next one that writes in the folder removes it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ferplus_keras.errors import OutputError, first_line
from ferplus_keras.files.locks import lock_of, sole_writer
from ferplus_keras.files.opening import is_address, kind_of_entry

#: Bytes that one file and its temporary twin may need; with less left, an unexplained failure is a full disk.
ROOM = 256 << 20

#: What the names of unfinished files, and of folders that are about to be replaced, begin with.
PARTIAL, OLD = ".partial-", ".old-"

UMASK = os.umask(0)  # it cannot be asked for without being set
os.umask(UMASK)

#: Folders in which this process has looked for left-overs.
_swept: set[Path] = set()


def writable_target(target: str | Path, *, folder: bool = False) -> Path:
    """The file that writing to ``target`` makes or replaces: where ``target`` is a link, the one that it leads to.

    Raises :class:`OutputError` when what stands there is no regular file (with ``folder``: no
    folder), or when no file can be there.
    """
    target = Path(target)
    refuse_address(target)
    with _said(target):
        try:
            mode = target.stat().st_mode
        except FileNotFoundError:  # or a link to what is not there yet
            mode = None
        except ValueError:  # a null character
            raise OutputError(f"{str(target)!r} is not a valid file name. Give another one.") from None
        if mode is not None and stat.S_ISDIR(mode) != folder:
            raise OutputError(
                f"{target} is a file, but a folder is to be written; give another name." if folder
                else f"{target} is a folder; give the name of the file to write."
            )  # fmt: skip
        if mode is not None and not folder and not stat.S_ISREG(mode):
            raise OutputError(f"{target} is {kind_of_entry(mode)}, not a regular file; it was left alone. "
                              "Give another name.")  # fmt: skip
        return Path(os.path.realpath(target)) if target.is_symlink() else target


@contextmanager
def claimed(*targets: Path) -> Iterator[None]:
    """Nobody else writes ``targets`` until the block ends: for work whose results are written at its end.

    Raises :class:`OutputError` where :func:`atomic_path` would, before any of the work is done.
    """
    with ExitStack() as claims:
        for target in targets:
            real = writable_target(target)
            if real.parent.is_dir():  # in a folder that is still to be made nobody writes
                with _said(target):
                    claims.enter_context(sole_writer(real))
        yield


def refuse_address(target: Path) -> None:
    """Raise :class:`OutputError` when ``target`` is a web address, which would be a folder called ``https:``."""
    if is_address(target):
        raise OutputError(f"{target} looks like a web address. Results are written to files: name one.")


@contextmanager
def atomic_path(target: str | Path, size: int = 0) -> Iterator[Path]:
    """A path beside ``target`` to write to; becomes ``target`` when the block ends well, and is removed otherwise.

    The temporary name keeps the target's suffixes, because Keras chooses the format by them. ``size`` is about how
    many bytes will be written: without room for them nothing is written, for HDF5 does not survive a disk that fills
    up under it. Raises :class:`OutputError` where :func:`writable_target` does, when another process writes the same
    file, on a full disk, or without permission.
    """
    real = writable_target(target)
    with _said(Path(target)), _aside(real, size) as temporary:
        yield temporary
        # Some libraries make files that nobody else may read; the user's own setting is what counts.
        temporary.chmod(stat.S_IMODE(real.stat().st_mode) if real.exists() else 0o666 & ~UMASK)
        flush(temporary)
        temporary.replace(real)
        flush_folder(real.parent)


@contextmanager
def atomic_folder(target: str | Path, size: int = 0) -> Iterator[Path]:
    """The same for a folder, which the block makes: it becomes ``target``, whose place may be taken by an old one.

    The old folder is moved aside, and only then removed: at no time does a part of the new one stand in its place.
    """
    real = writable_target(target, folder=True)
    old = real.with_name(OLD + real.name)
    with _said(Path(target)), _aside(real, size) as temporary:
        if old.exists() and not real.exists():  # a process was killed between the two renames
            old.rename(real)
        _remove(old)
        yield temporary
        if real.exists():
            real.rename(old)
        try:
            temporary.rename(real)
        except OSError:
            if old.exists():
                old.rename(real)
            raise
        _remove(old)


def write_bytes(target: Path, data: bytes) -> None:
    """Write ``data`` to ``target``, whole or not at all. Raises :class:`OutputError` as :func:`atomic_path` does."""
    with atomic_path(target, len(data)) as temporary:
        temporary.write_bytes(data)


def write_text(target: Path, text: str) -> Path:
    """The same for ``text`` in UTF-8. Gives ``target``.

    Half a character, as paths have it that are no UTF-8, becomes an escape: in JSON the one that means it.
    """
    write_bytes(target, text.encode("utf-8", "backslashreplace"))
    return target


@contextmanager
def _aside(real: Path, size: int) -> Iterator[Path]:
    """The unfinished twin of ``real``, which nobody else writes; whatever is left of it is removed."""
    temporary = real.with_name(PARTIAL + real.name)
    real.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(real):
        _remove(temporary)
        _sweep(real.parent)
        if shutil.disk_usage(real.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            yield temporary
        finally:
            _remove(temporary)


def _sweep(folder: Path) -> None:
    """Remove the unfinished files of processes that are gone."""
    folder = folder.absolute()
    if folder in _swept:
        return
    _swept.add(folder)
    with suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208
            target = folder / name.removeprefix(PARTIAL)
            if name.startswith(PARTIAL) and lock_of(target).exists():
                with suppress(OutputError), sole_writer(target) as nobodys:
                    if nobodys:
                        _remove(folder / name)


def _remove(path: Path) -> None:
    """Remove the file, link or folder at ``path``, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


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


def flush_folder(folder: Path) -> None:
    """Wait until the rename itself is on the disk, where the system can be asked for that."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _said(target: Path) -> Iterator[None]:
    """What the system says of ``target``, as an :class:`OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(unwritable(target, error)) from error


def unwritable(target: Path, error: OSError) -> str:
    """The sentence for an ``OSError`` that came of writing ``target``."""
    kept = " The file that was there before is unchanged." if os.path.isfile(target) else " Nothing was written."  # noqa: PTH113
    unsaid = error.errno is None and target.parent.is_dir() and shutil.disk_usage(target.parent).free < ROOM
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error) or unsaid:
        return f"{target} could not be written: the disk is full. Free {ROOM >> 20} MB and run the command again.{kept}"
    if error.errno == errno.ENAMETOOLONG:
        return f"{target.name[:40]}... could not be written: its name is too long. Choose a shorter one."
    reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return f"{target} could not be written: {reason}. Choose another place or mend that one.{kept}"
