"""One door in: a file is opened only when it is a regular one, without waiting for anything.

A named pipe would wait for a writer for ever, a device may never end: they are refused by what they are. Every reader
of a model opens its file here, as a stream or, by :class:`~.mapped_file.MappedFile`, as mapped bytes.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.budget import TEXT_BYTES

KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}

#: How a web address begins, also as a ``Path``, which keeps one slash of two; ``C:/`` is none.
ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")

#: What is said of one where something is to be read.
AN_ADDRESS = "a web address; download it first, and give the file's name"


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` looks like a web address, and no file is called so."""
    return bool(ADDRESS.match(os.fsdecode(path))) and not os.path.lexists(path)


def need_no_address(path: str | os.PathLike[str]) -> None:
    """Raise :class:`BadInputError` when ``path``, which is to be read, is a web address."""
    if is_address(path):
        shown = re.sub(":/+", "://", os.fsdecode(path), count=1)
        raise BadInputError(f"{shown} is {AN_ADDRESS}.")


def open_regular(path: str | Path, *, buffering: int = -1) -> BinaryIO:
    """The regular file at ``path``, or at the end of the links there, open for reading.

    Raises :class:`BadInputError` when there is none, or it cannot be read.
    """
    try:
        # Without O_NONBLOCK the opening itself waits where ``path`` is a named pipe.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        need_no_address(path)
        raise BadInputError(f"There is no file {path}. Check the name.") from None
    except ValueError:  # a null character
        raise BadInputError(f"{str(path)!r} is not a valid file name.") from None
    except OSError as error:
        raise BadInputError(unreadable(path, error)) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb", buffering=buffering)  # type: ignore[return-value]
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise BadInputError(f"{path} is a folder; name a checkpoint file in it.")
    raise BadInputError(f"{path} is {kind_of_entry(mode)}, not a regular file. Copy its content to a file first.")


def is_file(path: str | Path) -> bool:
    """Whether there is a regular file; a name that no file can have is no error here, and no file."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder, asked in the same way."""
    return os.path.isdir(path)  # noqa: PTH112


def read_text(path: str | Path) -> str:
    """The text of the small regular file at ``path``. Raises :class:`BadInputError`; ``ValueError`` when it is none."""
    with open_regular(path) as stream:
        try:
            data = stream.read(TEXT_BYTES + 1)
        except OSError as error:
            raise BadInputError(unreadable(path, error)) from None
    if len(data) > TEXT_BYTES:
        raise BadInputError(f"{path} has more than {TEXT_BYTES:,} bytes, and no record of ours has.")
    return data.decode("utf-8")


def unreadable(path: object, error: OSError) -> str:
    """The sentence for what the system says when ``path`` is opened or read."""
    return f"{path} cannot be read: {error.strerror or error}."


def kind_of_entry(mode: int) -> str:
    """What an entry of a folder is that is neither file nor folder, by its mode."""
    return KINDS.get(stat.S_IFMT(mode), "a special file")
