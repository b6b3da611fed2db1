"""Folders and zip archives alike: what lies in them, and its bytes within bounds. Nothing is ever extracted."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.opening import open_regular, unreadable

#: More entries than that no copy of FERPlus has (35,713); a directory of millions is not walked to its end.
MAX_ENTRIES = 400_000

#: What reading a member of a damaged archive may raise.
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, ValueError)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: nobody may ever open it
        return False


@dataclass(frozen=True)
class Folder:
    """A directory. Names inside it are relative, with ``/``."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def entries(self, inside: str = "") -> dict[str, bool]:
        """Name -> whether it is a directory, of what lies directly in the directory ``inside``; sorted."""
        found: dict[str, bool] = {}
        try:
            with os.scandir(self.path / inside) as entries:
                for entry in entries:
                    if len(found) == MAX_ENTRIES:
                        raise BadInputError(f"{self.path / inside} has more than {MAX_ENTRIES:,} entries.")
                    found[entry.name] = _is_directory(entry)
        except OSError as error:
            raise BadInputError(f"{self.path / inside} cannot be read: {error.strerror}.") from None
        return dict(sorted(found.items()))

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """The file ``name`` as a stream. Raises :class:`BadInputError` when it cannot be read."""
        try:
            with open_regular(self.path / name, buffering=0) as stream:
                yield stream
        except OSError as error:
            raise BadInputError(unreadable(self.path / name, error)) from None

    def show(self, name: str) -> str:
        return str(self.path / name)

    def file_of(self, name: str) -> Path:
        """The file on the disk that holds ``name``."""
        return self.path / name


@dataclass(frozen=True)
class Archive:
    """A zip archive, read member by member. A member's declared size is a bound: more is never decompressed."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(open_regular(self.path))
        except BadInputError:
            raise
        except _ZIP_ERRORS as error:
            raise BadInputError(f"{self.path} is not a zip archive that can be read: {error}.") from None

    @cached_property
    def _tree(self) -> dict[str, dict[str, bool]]:
        """Directory -> name -> whether that is a directory."""
        infos = self._zip.infolist()
        if len(infos) > MAX_ENTRIES:
            raise BadInputError(f"{self.path} has {len(infos):,} members; no copy of FERPlus has more than 36,000.")
        tree: dict[str, dict[str, bool]] = {"": {}}
        seen: set[str] = set()
        for info in infos:
            name = info.filename.strip("/")
            if name in seen:
                raise BadInputError(f'{self.path} contains "{name[:200]}" twice. Pack it again.')
            seen.add(name)
            *folders, last = name.split("/")
            above = ""
            for folder in folders[:8]:
                tree.setdefault(above, {})[folder] = True
                above = f"{above}/{folder}" if above else folder
            if len(folders) <= 8:
                tree.setdefault(above, {}).setdefault(last, info.is_dir())
        return tree

    def entries(self, inside: str = "") -> dict[str, bool]:
        """Name -> whether it is a directory, of what lies directly in the directory ``inside``; sorted."""
        return dict(sorted(self._tree.get(inside, {}).items()))

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """The member ``name`` as a stream. Raises :class:`BadInputError` when it is encrypted or damaged."""
        try:
            with self._zip.open(name) as stream:
                yield cast(BinaryIO, stream)
        except KeyError:
            raise BadInputError(f"{self.show(name)} is not there.") from None
        except BadInputError:
            raise
        except _ZIP_ERRORS as error:
            raise BadInputError(f"{self.show(name)} cannot be read: {error}.") from None
        except Exception as error:  # zlib.error, lzma.LZMAError: the decompressors have errors of their own
            if type(error).__module__ not in ("zlib", "lzma", "_lzma", "bz2", "_bz2"):
                raise
            raise BadInputError(f"{self.show(name)} cannot be read: {error}.") from None

    def show(self, name: str) -> str:
        return f"{self.path}: {name}"

    def file_of(self, name: str) -> Path:
        return self.path


Place = Folder | Archive


@dataclass(frozen=True)
class Entry:
    """A file in a place."""

    place: Place
    name: str

    def __str__(self) -> str:
        return self.place.show(self.name)

    def read(self, limit: int) -> bytes:
        """The file's bytes. Raises :class:`BadInputError` when there are more than ``limit``."""
        with self.place.open(self.name) as stream:
            pieces, left = [], limit + 1
            while left > 0 and (piece := stream.read(left)):
                pieces.append(piece)
                left -= len(piece)
        if left <= 0:
            raise BadInputError(f"{self} is larger than {limit:,} bytes, so it is not a FERPlus file.")
        return b"".join(pieces)


def joined(*parts: str) -> str:
    """A name inside a place, of its parts; empty ones are left out."""
    return "/".join(part for part in parts if part)
