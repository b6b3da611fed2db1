"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.opening import open_regular, unreadable

#: Bytes read at a time: many, for each piece waits its turn at the interpreter.
PIECE = 6 << 20


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of the regular file at ``path``. Raises :class:`BadInputError`."""
    digest, piece = hashlib.sha256(), bytearray(PIECE)
    with open_regular(path, buffering=0) as stream:
        try:
            while count := stream.readinto(piece):  # type: ignore[attr-defined]
                digest.update(memoryview(piece)[:count])
        except OSError as error:
            raise BadInputError(unreadable(path, error)) from None
    return digest.hexdigest()
