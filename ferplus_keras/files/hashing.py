"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

#: Bytes read at a time: many, for each piece waits its turn at the interpreter.
PIECE = 6 << 20


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of the file at ``path``."""
    digest, piece = hashlib.sha256(), bytearray(PIECE)
    with Path(path).open("rb", buffering=0) as stream:
        while count := stream.readinto(piece):
            digest.update(memoryview(piece)[:count])
    return digest.hexdigest()
