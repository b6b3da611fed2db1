"""``weights/seen.toml``: size and SHA-256 of every checkpoint when it was first seen, which later files must match.

Nobody publishes hashes of these files. But we can know whether today's file is the one from last time.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from convert.manifest import Known
from ferplus_keras.errors import BadInputError, DownloadError
from ferplus_keras.files.atomic import write_text
from ferplus_keras.files.opening import read_text

HEADER = (
    "# Written by `ferplus fetch`: what each checkpoint was when it was first seen here. Later ones must be the same.\n"
)


@dataclass(frozen=True)
class Seen:
    """One file's size in bytes and hexadecimal SHA-256."""

    size: int
    sha256: str


def check(known: Known, found: Seen, path: Path, record: Path, *, url: str) -> None:
    """Check ``found`` (the file at ``path``) against the manifest and the record; a new file is recorded.

    Raises:
        DownloadError: the file is not the one in the manifest or the record.
        BadInputError: the record cannot be read.
        OutputError: the record cannot be written.
    """
    for name, have, want in (("bytes", found.size, known.size), ("SHA-256", found.sha256, known.sha256)):
        if want is not None and have != want:
            raise DownloadError(
                f"{path} is not the published {known.file}: its {name} are {have}, and the manifest says {want}. "
                "Get the file elsewhere."
            )
    entries = _read(record)
    earlier = entries.get(known.name)
    if earlier is None:
        seen = {"file": known.file, "size": found.size, "sha256": found.sha256}
        entries[known.name] = seen | {"first_seen": date.today().isoformat(), "url": url}
        _write(record, entries)
    elif (earlier.get("size"), earlier.get("sha256")) != (found.size, found.sha256):
        raise DownloadError(
            f"{path} is not the file that was first seen on {earlier.get('first_seen')}: {found.size:,} bytes with "
            f"SHA-256 {found.sha256}, not {earlier.get('size'):,} bytes with {earlier.get('sha256')}. If the new one "
            f"is right, remove the entry [{known.name}] from {record} and run this again."
        )


def _read(record: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = tomllib.loads(read_text(record)) if record.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{record} is not valid TOML ({error}). Correct it, or delete it to start over.") from None
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("size"), int):
            raise BadInputError(f"{record}: the entry [{name}] is not valid. Correct it, or remove it to start over.")
    return entries


def _write(record: Path, entries: dict[str, dict[str, Any]]) -> None:
    tables = [
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
        for name, entry in entries.items()
    ]
    # JSON's strings and integers are TOML's.
    write_text(record, HEADER + "\n" + "\n".join(tables))
