"""What was read once, kept: keyed by content, so that it cannot be out of date.

Two kinds of files lie in ``datasets`` in the cache folder. An *entry*, ``<digest>.npz``, holds a data set under the
SHA-256 of the bytes it was read from. A *ticket*, ``<digest of the paths>.json``, remembers for the files at certain
paths their sizes, times and inode numbers, and which entry they are. While those are the same, the entry is used at
once; when any is not, the files are hashed again, and either the entry is still theirs or they are read anew.

A ticket is trusted only when every file was last changed well before the ticket was made: a file that is rewritten
within the clock's tick keeps its size and its times. (Git has the same rule, for the same reason.) The time of the
inode counts too; nobody can set that back.

Every file is written under another name and then renamed: a second process, or a kill, leaves nothing half done.
An entry has checksums; one that is damaged is as good as none. The folder may be shared with others: nothing is removed
there but what has a name that this module gives.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras.dataset.finding import Found
from ferplus_keras.dataset.places import Folder, joined, open_regular
from ferplus_keras.dataset.records import SPLITS, Dataset
from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.files.atomic import atomic_path

#: A folder for the cache, or "off" to do without.
CACHE_VARIABLE = "FERPLUS_CACHE"

#: Part of every key: counts up when a reader changes what it makes of the same bytes.
VERSION = "3"

#: A file changed less than this many seconds before the ticket may change again without a trace in its times.
TICK = 2.0

#: Data sets kept; a full one takes 85 MB.
KEPT = 4

#: Tickets kept. They are small: 100 bytes a file, which makes 4 MB for Microsoft's folders.
KEPT_TICKETS = 16

#: Files go in a folder of their own, and have these names; what has another one is somebody else's.
SUBFOLDER = "datasets"
ENTRY_NAME, TICKET_NAME = re.compile(r"[0-9a-f]{64}\.npz"), re.compile(r"[0-9a-f]{32}\.json")

#: Path -> what it is: its split and name there. The same for the same content, wherever that lies.
Files = dict[Path, str]
Signature = list[list[Any]]


def cached(found: Found, read: Callable[[], Dataset]) -> Dataset:
    """The data set that ``found`` is: from the cache, or from ``read()`` and then kept.

    Raises :class:`BadInputError` when the files change while they are read. A cache that cannot be written is done
    without.
    """
    folder = cache_folder()
    if folder is None:
        return read()
    folder = folder / SUBFOLDER
    files = _files(found)
    before = _signature(files)
    ticket = folder / f"{_text_digest(json.dumps([VERSION, _shape(found), [str(file) for file in files]]))}.json"
    if (digest := _redeemed(ticket, before)) and (dataset := _load(folder / f"{digest}.npz")):
        return replace(dataset, origin=str(found))
    made = time.time()
    digest = _content_digest(found, files)
    entry = folder / f"{digest}.npz"
    dataset = _load(entry)
    if dataset is None:
        dataset = read()
        if _signature(files) != before:
            raise BadInputError(f"{found} changed while it was being read. Run this again when it is complete.")
        _store(entry, lambda stream: _save(stream, dataset))
    record = {"digest": digest, "made": made, "files": before}
    _store(ticket, lambda stream: stream.write(json.dumps(record).encode()))
    _prune(folder)
    return replace(dataset, origin=str(found))  # the same content may have lain elsewhere when it was stored


def cache_folder() -> Path | None:
    """``$FERPLUS_CACHE``, or ``ferplus-keras`` in the user's cache folder; None when the variable says "off"."""
    if (chosen := os.environ.get(CACHE_VARIABLE)) is not None:
        return None if chosen.strip().lower() in ("", "0", "off", "no", "none") else Path(chosen).expanduser()
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "ferplus-keras" / "Cache"
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "ferplus-keras"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "ferplus-keras"


# --- keys -------------------------------------------------------------------------------------------------------


def _files(found: Found) -> Files:
    """Every file on the disk that the result depends on."""
    files: Files = {}
    for code, (place, folder) in found.folders.items():
        for name in place.entries(folder):
            for path in place.files_for_signature([joined(folder, name)]):
                # An archive is one file for all of its members, whose names are part of its content.
                files.setdefault(path, f"{SPLITS[code]}/{name}" if isinstance(place, Folder) else "archive")
    for role, entry in (("pixels", found.pixels), ("labels", found.labels)):
        if entry is not None:
            for path in entry.place.files_for_signature([entry.name]):
                files.setdefault(path, role)
    return files


def _shape(found: Found) -> list[Any]:
    """Which parts of the files are read as what."""
    folders = [[code, name] for code, (_, name) in sorted(found.folders.items())]
    return [folders, found.pixels and found.pixels.name, found.labels and found.labels.name]


def _signature(files: Files) -> Signature:
    return [_state(file) for file in files]


def _state(file: Path) -> list[Any]:
    for look in (file.stat, file.lstat):  # a link to nowhere has a state of its own
        with suppress(OSError):
            state = look()
            return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    return []


def _redeemed(ticket: Path, signature: Signature) -> str | None:
    """The digest that ``ticket`` stands for, when it is for just these files and old enough to be believed."""
    try:
        record = json.loads(ticket.read_bytes())
        newest = max(max(mtime, ctime) for _, mtime, ctime, _ in signature) / 1e9
        if record["files"] == signature and newest + TICK < record["made"]:
            return str(record["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _content_digest(found: Found, files: Files) -> str:
    whole = hashlib.sha256(json.dumps([VERSION, _shape(found)]).encode())
    piece = bytearray(1 << 20)
    for file, what in files.items():
        own = hashlib.sha256()
        try:
            with open_regular(file) as stream:
                while count := stream.readinto(piece):  # type: ignore[attr-defined]
                    own.update(memoryview(piece)[:count])
        except (OSError, BadInputError):  # a folder, a pipe, a link to nowhere: its reader refuses it, if there is one
            own.update(b"not a file")
        whole.update(os.fsencode(what) + b"\0" + own.digest())
    return whole.hexdigest()


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# --- entries ----------------------------------------------------------------------------------------------------


def _save(stream: Any, dataset: Dataset) -> None:
    facts = {name: getattr(dataset, name) for name in ("names", "labels", "label_rows", "origin", "notes")}
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(stream, images=dataset.images, votes=dataset.votes, split=dataset.split, facts=text)


def _load(entry: Path) -> Dataset | None:
    """The data set in ``entry``; None when there is none, or it is damaged (the archive has checksums)."""
    try:
        with np.load(entry, allow_pickle=False) as arrays:
            facts = json.loads(arrays["facts"].tobytes())
            dataset = Dataset(
                arrays["images"], arrays["votes"], arrays["split"], tuple(facts["names"]), facts["labels"],
                facts["label_rows"], facts["origin"], tuple(facts["notes"]),
            )  # fmt: skip
        with suppress(OSError):
            os.utime(entry)  # the entries used last are kept
        return dataset
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def _store(target: Path, write: Callable[[Any], Any]) -> None:
    """Write ``target`` whole or not at all. No error here: a full disk, a folder that cannot be written to, another
    process that writes the same file.
    """
    with suppress(OutputError), atomic_path(target) as temporary, temporary.open("wb") as stream:
        write(stream)


def _prune(folder: Path) -> None:
    """Keep the entries and tickets that were used last."""
    with suppress(OSError):
        named = {path: path.name for path in folder.iterdir()}
        entries = [path for path, name in named.items() if ENTRY_NAME.fullmatch(name)]
        tickets = [path for path, name in named.items() if TICKET_NAME.fullmatch(name)]
        for path in (*_newest_first(entries)[KEPT:], *_newest_first(tickets)[KEPT_TICKETS:]):
            path.unlink(missing_ok=True)


def _newest_first(paths: list[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)


__all__ = ["CACHE_VARIABLE", "cache_folder", "cached"]
