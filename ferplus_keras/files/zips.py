"""Zip archives, opened without believing how many entries they claim. PyTorch's checkpoints are archives too."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.budget import DIRECTORY_BYTES
from ferplus_keras.files.mapped_file import MappedFile

#: How every zip archive begins that is not empty.
ZIP_MAGIC = b"PK\x03\x04"


def open_zip(file: MappedFile) -> zipfile.ZipFile:
    """The archive ``file``, its directory read.

    Raises :class:`BadInputError` when it is damaged, or names far more than a network has.
    """
    content = _Content(file)
    try:
        archive = zipfile.ZipFile(content)  # type: ignore[arg-type]  # a reader is all it needs
    except _TooLongError:
        raise BadInputError(
            f"{file.path} is a zip archive whose directory has more than {DIRECTORY_BYTES:,} bytes. No network of this "
            "family is like that; get the file elsewhere."
        ) from None
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError, OSError) as error:
        raise BadInputError(
            f"{file.path} is a damaged zip archive ({first_line(error)}); it was probably cut short. Copy or download "
            "it again."
        ) from None
    content.limit = None
    return archive


def is_keras_zip(source: Path | MappedFile) -> bool:
    """Whether ``source`` is an archive with Keras's weights in it."""
    return "model.weights.h5" in names_in(source if isinstance(source, MappedFile) else MappedFile(source))


def names_in(file: MappedFile) -> list[str]:
    """The members of an archive; none where ``file`` is none, or a damaged one, which its reader says."""
    if file.view[:4] != ZIP_MAGIC:
        return []
    try:
        with open_zip(file) as archive:
            return archive.namelist()
    except BadInputError:
        return []


class _TooLongError(Exception):
    pass


class _Content:
    """A file's mapped bytes, for the zipfile module: which reads an archive's whole directory at once, however long."""

    def __init__(self, file: MappedFile) -> None:
        self.view, self.place = memoryview(file.view), 0
        self.limit: int | None = DIRECTORY_BYTES

    def read(self, size: int | None = -1) -> bytes:
        rest = max(0, len(self.view) - self.place)
        count = rest if size is None or size < 0 else min(size, rest)
        if self.limit is not None and count > self.limit:
            raise _TooLongError
        self.place += count
        return bytes(self.view[self.place - count : self.place])

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        place = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: len(self.view)}[whence] + offset
        if place < 0:
            raise OSError("a place before the file begins")
        self.place = place
        return place

    def tell(self) -> int:
        return self.place

    def seekable(self) -> bool:
        return True
