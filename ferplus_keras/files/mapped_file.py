"""A file's bytes in memory without copying them. Needs nothing but the standard library, so that it can open early."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from threading import Thread

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.opening import open_regular, unreadable


class MappedFile:
    """A file mapped into memory read-only: nothing is copied until it is needed. ``view`` is its bytes.

    Raises :class:`BadInputError` when there is no regular file, or it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open_regular(path) as stream:
            self.size = os.fstat(stream.fileno()).st_size
            try:
                self.view: mmap.mmap | bytes = (
                    mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
                )
            except OSError as error:
                raise BadInputError(unreadable(path, error)) from None
        self._hashing: Thread | None = None
        self._sha256 = ""

    @property
    def name(self) -> str:
        """Its name without the folder, as text: a byte that is no UTF-8 becomes U+FFFD, for no record can hold it."""
        return os.fsencode(self.path.name).decode("utf-8", "replace")

    def begin_sha256(self) -> None:
        """Hash the file in a thread of its own from now on: that leaves the interpreter free for the reading.

        It also brings the file's pages into memory. Nobody waits for a hash that is not asked for, not even the end
        of the process.
        """
        if self._hashing is None:
            self._hashing = Thread(target=self._hash, name=f"SHA-256 of {self.path.name}", daemon=True)
            self._hashing.start()

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the whole file, when it is ready."""
        self.begin_sha256()
        assert self._hashing is not None
        self._hashing.join()
        return self._sha256

    def _hash(self) -> None:
        import hashlib  # OpenSSL takes a while to load, and `--help` needs none

        self._sha256 = hashlib.sha256(self.view).hexdigest()

    def release(self) -> None:
        """Let the pages go that were read so far; they come back from the file when they are read again."""
        release(self.view)


def release(view: mmap.mmap | bytes, start: int = 0, length: int | None = None) -> None:
    """Let the pages of a mapped file go, from ``start``, which begins one of them; does nothing to bytes in memory."""
    if isinstance(view, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        view.madvise(mmap.MADV_DONTNEED, start, len(view) if length is None else length)
