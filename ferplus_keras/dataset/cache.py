"""What was read once, kept for as long as the files that it was read from are the same.

An *entry*, ``<digest of the paths>.npz`` in ``datasets`` in the cache folder, holds a data set and the sizes, times and
inode numbers of its files. While those are the same, the entry is used at once; when any is not, the files are read
anew.

An entry is trusted only when every file was last changed well before it was read: a file that is rewritten within the
clock's tick keeps its size and its times. (Git has the same rule, for the same reason.) The time of the inode counts
too; nobody can set that back.

An entry is written under another name and then renamed: a second process, or a kill, leaves nothing half done. It has
checksums; one that is damaged is as good as none. The folder may be shared with others: nothing is removed there but
what has a name that this module gives.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from ferplus_keras.dataset.finding import Found
from ferplus_keras.dataset.places import Entry, joined
from ferplus_keras.dataset.records import Dataset
from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.files.atomic import atomic_path
from ferplus_keras.files.opening import open_regular

#: A folder for the cache, or "off" to do without.
CACHE_VARIABLE = "FERPLUS_CACHE"

#: Part of every key: counts up when a reader changes what it makes of the same bytes.
VERSION = "4"

#: A file changed less than this many seconds before it was read may change again without a trace in its times.
TICK = 2.0

#: Data sets kept; a full one takes 85 MB.
KEPT = 4

#: Entries go in a folder of their own, and have such names; what has another one is somebody else's.
SUBFOLDER = "datasets"
ENTRY_NAME = re.compile(r"[0-9a-f]{32}\.npz")


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
    key = json.dumps([VERSION, _parts(found), [str(file) for file in files]])
    entry = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    before, made = _states(files), time.time()
    if (dataset := _load(entry, before)) is not None:
        return dataset
    dataset = read()
    if not np.array_equal(_states(files), before):
        raise BadInputError(f"{found} changed while it was being read. Run this again when it is complete.")
    # No error here: a full disk, a folder that cannot be written to, another process that writes the same file.
    with suppress(OutputError), atomic_path(entry) as temporary, temporary.open("wb") as stream:
        _save(stream, dataset, before, made)
    _prune(folder)
    return dataset


def cache_folder() -> Path | None:
    """``$FERPLUS_CACHE``, or ``ferplus-keras`` in the user's cache folder; None when the variable says "off"."""
    if (chosen := os.environ.get(CACHE_VARIABLE)) is not None:
        return None if chosen.strip().lower() in ("", "0", "off", "no", "none") else Path(chosen).expanduser()
    folder = user_cache_path("ferplus-keras", appauthor=False)
    return folder if folder.is_absolute() else None  # a user without a home


def _files(found: Found) -> list[Path]:
    """Every file on the disk that the result depends on, once."""
    entries = [Entry(place, joined(folder, name))
               for place, folder in found.folders.values() for name in place.entries(folder)]  # fmt: skip
    entries += [entry for entry in (found.pixels, found.labels) if entry is not None]
    return list(dict.fromkeys(entry.place.file_of(entry.name) for entry in entries))


def _parts(found: Found) -> list[Any]:
    """Which parts of the files are read as what."""
    folders = [[code, name] for code, (_, name) in sorted(found.folders.items())]
    return [folders, found.pixels and found.pixels.name, found.labels and found.labels.name]


def _states(files: list[Path]) -> np.ndarray:
    """Size, the two times in nanoseconds, and inode number of each file: n x 4 integers."""
    return np.array([_state(file) for file in files], np.int64).reshape(-1, 4)


def _state(file: Path) -> list[int]:
    for look in (file.stat, file.lstat):  # a link to nowhere has a state of its own
        with suppress(OSError):
            state = look()
            return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino & (1 << 63) - 1]
    return [-1] * 4


def _save(stream: Any, dataset: Dataset, states: np.ndarray, made: float) -> None:
    facts = {name: getattr(dataset, name) for name in ("names", "labels", "label_rows", "origin", "notes")}
    text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    np.savez(
        stream, states=states, made=made, facts=text, images=dataset.images, votes=dataset.votes, split=dataset.split
    )


def _load(entry: Path, states: np.ndarray) -> Dataset | None:
    """The data set in ``entry``; None when there is none, of other files, or damaged (the archive has checksums)."""
    try:
        with open_regular(entry) as stream, np.load(stream, allow_pickle=False) as arrays:
            newest = states[:, 1:3].max(initial=0) / 1e9
            if not np.array_equal(arrays["states"], states) or newest + TICK >= arrays["made"]:
                return None
            facts = json.loads(arrays["facts"].tobytes())
            dataset = Dataset(
                arrays["images"], arrays["votes"], arrays["split"], tuple(facts["names"]), facts["labels"],
                facts["label_rows"], facts["origin"], tuple(facts["notes"]),
            )  # fmt: skip
        with suppress(OSError):
            os.utime(entry)  # the entries used last are kept
        return dataset
    except (BadInputError, OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None


def _prune(folder: Path) -> None:
    """Keep the entries that were used last."""
    with suppress(OSError):
        entries = [path for path in folder.iterdir() if ENTRY_NAME.fullmatch(path.name)]
        for path in sorted(entries, key=lambda path: path.stat().st_mtime)[:-KEPT]:
            path.unlink(missing_ok=True)
