"""Known checkpoints: downloaded, checked, recorded, and installed only if they are the right file.

The bytes go to ``<file>.<URL's checksum>.part``; ``....part.json`` records its URL and version. A file gets its name
once it is complete, a checkpoint, and the one that was seen before. Files placed by hand are checked the same way.
"""

from __future__ import annotations

import errno
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

from convert import seen
from convert.download import BrokenOffError, NoAnswerError, Part, Progress, RefusedError, load
from convert.manifest import Known, weights_folder
from convert.readers import read_named
from convert.seen import Seen
from ferplus_keras.errors import BadInputError, DownloadError, OutputError
from ferplus_keras.files.atomic import flush, flush_folder, writable_target
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.locks import sole_writer
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.provenance import named_standin

BY_HAND = "placed by hand"


@dataclass(frozen=True)
class Fetched:
    """An installed checkpoint. ``status``: "downloaded", "resumed", or "present" if nothing was downloaded."""

    path: Path
    size: int
    sha256: str
    status: str
    url: str


def fetch(
    known: Known,
    folder: Path,
    *,
    record: Path | None = None,
    progress: Progress | None = None,
    timeout: float = 20.0,
) -> Fetched:
    """The checkpoint ``known`` in ``folder``, downloaded from the first URL that has it if it is not there.

    Args:
        known: an entry of the manifest; its URLs are tried in order.
        folder: where ``known.file`` belongs.
        record: where files are recorded when first seen; default ``weights/seen.toml``.
        progress: called with (bytes so far, bytes in all or None), at most ten times a second.
        timeout: seconds after which a server that sends nothing, or almost nothing, counts as gone.

    Raises:
        DownloadError: no URL had it, or it is the wrong file; nothing was installed.
        OutputError: the disk is full or not writable (what was downloaded is kept for resuming), or another process
            is downloading the same file.
        BadInputError: the record is damaged.
    """
    record = record or weights_folder() / "seen.toml"
    target = folder / known.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(target):
            if target.exists():
                return _present(known, target, record)
            return _download(known, target, record, progress or (lambda _done, _total: None), timeout)
    except BrokenPipeError:  # from ``progress``: its reader has gone, and no file is at fault
        raise
    except OSError as error:
        raise OutputError(_cannot_write(target, error)) from error


def _cannot_write(target: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{target} could not be written: the disk is full. What was downloaded so far is kept: free some space, or "
            "choose another folder with FERPLUS_WEIGHTS, and run this again."
        )
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"{target} could not be written: {reason}. Correct that, or choose another folder with FERPLUS_WEIGHTS."


def _present(known: Known, target: Path, record: Path) -> Fetched:
    try:
        read_named(MappedFile(target))
    except BadInputError as error:
        raise DownloadError(f"{error} Then run this again.") from None
    found = _the_known_one(known, target, target, record, BY_HAND)
    return Fetched(target, found.size, found.sha256, "present", BY_HAND)


def _the_known_one(known: Known, path: Path, shown: Path, record: Path, url: str) -> Seen:
    """Size and hash of the file at ``path`` (in messages: ``shown``), checked against the manifest and the record."""
    found = Seen(path.stat().st_size, sha256_of(path))
    published = known.size in (None, found.size) and known.sha256 in (None, found.sha256)
    if named_standin(shown.name) and published:
        return found  # made-up weights; recorded, they would rule out the real file
    # Processes for other checkpoints share the record.
    with sole_writer(record, lock=shown.with_name(".seen.lock"), wait=True):
        seen.check(known, found, shown, record, url=url)
    return found


def _download(known: Known, target: Path, record: Path, progress: Progress, timeout: float) -> Fetched:
    reasons, real = [], writable_target(target)
    for url in known.urls:
        part = Part(real.with_name(f"{target.name}.{zlib.crc32(url.encode()):08x}.part"), url)
        part.recall()
        try:
            if not part.complete:  # complete if a run was stopped before the check
                load(part, progress, timeout)
            found = _install(known, part, target, record)
        except BrokenOffError as error:
            raise DownloadError(f"{known.file} from {url}: {error}") from None
        except RefusedError as error:
            if not isinstance(error, NoAnswerError) or not part.size:
                part.discard()
            reasons.append(f"{url}: {error}")
            continue
        return Fetched(target, found.size, found.sha256, "resumed" if part.resumed else "downloaded", url)
    raise DownloadError(
        f"{known.file} could not be downloaded ({'; '.join(reasons) or 'no URL is known'}). If you have the file or "
        f"find it elsewhere, put it at {target} and run this again. It is cited at {known.cited}"
    )


def _install(known: Known, part: Part, target: Path, record: Path) -> Seen:
    try:
        read_named(MappedFile(part.path))
    except BadInputError as error:
        raise RefusedError(f"it did not send a checkpoint: {str(error).replace(str(part.path), target.name)}") from None
    try:
        found = _the_known_one(known, part.path, target, record, part.url)
    except DownloadError:
        part.discard()
        raise
    flush(part.path)
    real = writable_target(target)
    part.path.replace(real)
    flush_folder(real.parent)
    part.discard()
    return found
