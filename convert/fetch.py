"""Downloads of known checkpoints: resumed, checked, recorded, and installed only when they are what they should be.

The bytes go to ``<file>.<URL's checksum>.part``; ``....part.json`` remembers of what. A file gets its name when it is
complete, is a checkpoint, and is the one that was seen before. Files placed by hand are held to the same.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from convert import seen
from convert.checkpoint import STANDIN
from convert.manifest import Known, weights_folder
from convert.readers import looks_like_html, read_named
from convert.seen import Seen
from ferplus_keras import __version__
from ferplus_keras.errors import BadInputError, DownloadError, OutputError
from ferplus_keras.files.atomic import flush, flush_folder
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.locks import sole_writer
from ferplus_keras.files.mapped_file import MappedFile

#: The largest of the networks is 170 MB; an answer beyond this is no checkpoint.
MAX_BYTES = 2 << 30

PIECE = 1 << 18
BY_HAND = "placed by hand"
WEB = ("http", "https")

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Fetched:
    """A checkpoint that is there now. ``status``: "downloaded", "resumed", or "present" when nothing was loaded."""

    path: Path
    size: int
    sha256: str
    status: str
    url: str


class _UrlError(Exception):
    """A URL did not yield the file; the message is the reason, in a few words."""


class _NoAnswerError(_UrlError):
    """No file came, perhaps for now only: what an earlier run has loaded is kept."""


class _BrokenOffError(_NoAnswerError):
    """The connection ended within the file; trying again is better than the next URL."""


def fetch(
    known: Known,
    folder: Path,
    *,
    record: Path | None = None,
    progress: Progress | None = None,
    timeout: float = 20.0,
) -> Fetched:
    """The checkpoint ``known`` in ``folder``: as it lies there, or else downloaded from the first URL that has it.

    Args:
        known: an entry of the manifest; its URLs are tried in order.
        folder: where ``known.file`` belongs.
        record: the file of first sights; default ``weights/seen.toml``.
        progress: called with (bytes so far, bytes in all or None), at most ten times a second.
        timeout: seconds without an answer or a byte after which a server counts as gone.

    Raises:
        DownloadError: no URL had it, or it is not what it should be; nothing was installed.
        OutputError: the disk is full or not writable, and what was loaded so far is kept for resuming; or another
            process is loading the same file.
        BadInputError: the record of first sights is damaged.
    """
    record = record or weights_folder() / "seen.toml"
    target = folder / known.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(target):
            if target.exists():
                return _present(known, target, record)
            return _download(known, target, record, progress or (lambda _done, _total: None), timeout)
    except BrokenPipeError:  # from ``progress``: whoever read it has gone, and no file is at fault
        raise
    except OSError as error:
        raise OutputError(_cannot_write(target, error)) from error


def _cannot_write(target: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{target} could not be written: the disk is full. What was loaded so far is kept beside it: make room, or "
            "choose another folder with FERPLUS_WEIGHTS, and run this again."
        )
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"{target} could not be written: {reason}. Mend that, or choose another folder with FERPLUS_WEIGHTS."


def _present(known: Known, target: Path, record: Path) -> Fetched:
    try:
        read_named(MappedFile(target))
    except BadInputError as error:
        raise DownloadError(f"{error} Then run this again.") from None
    found = _the_known_one(known, target, target, record, BY_HAND)
    return Fetched(target, found.size, found.sha256, "present", BY_HAND)


def _the_known_one(known: Known, path: Path, shown: Path, record: Path, url: str) -> Seen:
    """Size and hash of the file at ``path`` (in messages: ``shown``), held against what is known of it."""
    found = Seen(path.stat().st_size, sha256_of(path))
    published = known.size in (None, found.size) and known.sha256 in (None, found.sha256)
    if STANDIN in shown.name.lower() and published:
        return found  # made-up weights; once recorded, they would stand against the real file
    # Another process may be at another checkpoint, and all of them share the record.
    with sole_writer(record, lock=shown.with_name(".seen.lock"), wait=True):
        seen.check(known, found, shown, record, url=url)
    return found


# --- the download -------------------------------------------------------------------------------------------------


@dataclass
class _Part:
    """What has been loaded from a URL so far. The validator (ETag or date) says of which version it is a part."""

    path: Path
    url: str
    validator: str = ""
    total: int | None = None
    resumed: bool = False

    @property
    def notes(self) -> Path:
        return self.path.with_name(self.path.name + ".json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def recall(self) -> None:
        """Go on with what is there if it can be told from a part of another version; else begin anew."""
        try:
            notes = json.loads(self.notes.read_text())
            self.validator, self.total = str(notes["validator"]), notes["total"]
            self.resumed = notes["url"] == self.url and bool(self.validator) and self.size > 0
        except (OSError, ValueError, KeyError, TypeError):
            self.resumed = False
        if not self.resumed:
            self.begin("", None)

    def begin(self, validator: str, total: int | None) -> None:
        """Nothing is loaded yet of a file of ``total`` bytes, as far as that is known."""
        self.discard()
        self.validator, self.total, self.resumed = validator, total, False
        if validator:
            self.notes.write_text(json.dumps({"url": self.url, "validator": validator, "total": total}))

    @property
    def complete(self) -> bool:
        return self.total is not None and self.size == self.total

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


def _download(known: Known, target: Path, record: Path, progress: Progress, timeout: float) -> Fetched:
    reasons = []
    for url in known.urls:
        part = _Part(target.with_name(f"{target.name}.{zlib.crc32(url.encode()):08x}.part"), url)
        part.recall()
        try:
            if not part.complete:  # a run that was stopped between the last byte and the check has it all
                _load(part, progress, timeout)
            found = _install(known, part, target, record)
        except _BrokenOffError as error:
            raise DownloadError(f"{known.file} from {url}: {error}") from None
        except _UrlError as error:
            if not isinstance(error, _NoAnswerError) or not part.size:
                part.discard()
            reasons.append(f"{url}: {error}")
            continue
        return Fetched(target, found.size, found.sha256, "resumed" if part.resumed else "downloaded", url)
    raise DownloadError(
        f"{known.file} could not be downloaded ({'; '.join(reasons) or 'no URL is known'}). If you have the file or "
        f"find it elsewhere, put it at {target} and run this again; it is cited at {known.cited}"
    )


def _install(known: Known, part: _Part, target: Path, record: Path) -> Seen:
    try:
        read_named(MappedFile(part.path))
    except BadInputError as error:
        raise _UrlError(f"it sent no checkpoint: {str(error).replace(str(part.path), target.name)}") from None
    try:
        found = _the_known_one(known, part.path, target, record, part.url)
    except DownloadError:
        part.discard()
        raise
    flush(part.path)
    part.path.replace(target)
    flush_folder(target.parent)
    part.discard()
    return found


def _load(part: _Part, progress: Progress, timeout: float) -> None:
    """Bring ``part`` to its full length. Raises :class:`_UrlError`; what was loaded of a good file stays."""
    response = _answer(part, timeout)
    if response is None:
        return
    with response:
        _begin(part, response)
        total = part.total
        if total is not None and total > MAX_BYTES:
            raise _UrlError(f"it would send {total:,} bytes, more than any of these networks has")
        done, last = part.size, 0.0
        with part.path.open("ab") as stream:
            while piece := _piece(response, part, done):
                if not done and looks_like_html(piece):
                    raise _UrlError("it sent an HTML page and not the file: the link is dead")
                stream.write(piece)
                done += len(piece)
                if done > MAX_BYTES:
                    break
                if time.monotonic() - last > 0.1:
                    last = time.monotonic()
                    progress(done, total)
        if done > MAX_BYTES:
            raise _UrlError(f"it sent more than {MAX_BYTES:,} bytes, more than any of these networks has")
        if total is not None and done < total:
            raise _broken_off(part, done)
        if total is not None and done > total:
            raise _UrlError(f"it sent more than the {total:,} bytes that it announced")
        if not done:
            raise _UrlError("it sent an empty file")
        progress(done, done)


def _answer(part: _Part, timeout: float) -> HTTPResponse | None:
    """The server's answer, or None when it says that ``part`` is all of the file. Raises :class:`_UrlError`."""
    try:
        if urllib.parse.urlsplit(part.url).scheme not in WEB:
            raise _UrlError("it is no web address")
        request = urllib.request.Request(part.url, headers={"User-Agent": f"ferplus-keras/{__version__}"})
        request.add_header("Accept-Encoding", "identity")
        if part.size:
            request.add_header("Range", f"bytes={part.size}-")
            request.add_header("If-Range", part.validator)
        response: HTTPResponse = urllib.request.build_opener(_HttpOnly).open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416 or not part.size:
            raise _NoAnswerError(f"it answered {error.code} {error.reason}") from None
        if error.headers.get("Content-Range") == f"bytes */{part.size}":
            part.total = part.size  # its length was not known when the run that loaded it was stopped
            return None
        part.begin("", None)  # nothing after what we have, which is not all: it never was this file
        return _answer(part, timeout)
    except (urllib.error.URLError, HTTPException, TimeoutError, OSError, ValueError) as error:
        raise _NoAnswerError(_reason(error)) from None
    return response


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Redirects may not leave the web: ``file:`` and ``ftp:`` are somebody else's idea."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme not in WEB:
            raise _UrlError(f"it redirects to {newurl[:60]}, which is not the web")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _begin(part: _Part, response: HTTPResponse) -> None:
    """Settle from the headers whether the bytes go on from what is there, and how many they will be."""
    headers = response.headers
    if headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise _NoAnswerError(f"it sent the file {headers['Content-Encoding']}-encoded, unasked")
    if headers.get_content_type() == "text/html":  # perhaps a hotel's login page: no reason to drop a part
        raise _NoAnswerError("it sent an HTML page and not the file: the link is dead")
    if response.status != 206:
        part.begin(_validator(headers), response.length)
        return
    span = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", headers.get("Content-Range", ""))
    full = None if span is None else int(span.group(2)) + 1 if span.group(3) == "*" else int(span.group(3))
    if span is None or int(span.group(1)) != part.size or part.total not in (None, full):
        raise _UrlError("it went on at another place than asked; what was loaded was dropped: run this again")
    part.total = full


def _validator(headers: Message) -> str:
    """What tells a later run whether the rest is the rest of the same file: its strong ETag, else its date.

    A weak ETag cannot (RFC 9110, 13.1.5): files that differ in bytes may share it. Without either the next run begins
    anew, for halves of two versions would make a file that nobody published.
    """
    tag, day = headers.get("ETag", ""), headers.get("Last-Modified", "")
    return tag if re.fullmatch(r'"[^"\s]*"', tag) else day if day.isprintable() else ""


def _piece(response: HTTPResponse, part: _Part, done: int) -> bytes:
    try:
        return response.read1(PIECE)
    except (HTTPException, TimeoutError, OSError):
        raise _broken_off(part, done) from None


def _broken_off(part: _Part, done: int) -> _NoAnswerError:
    if not done:
        return _NoAnswerError("the connection ended before the first byte")
    where = f"the connection ended after {done:,}{f' of {part.total:,}' if part.total else ''} bytes"
    if not part.validator:
        return _BrokenOffError(f"{where}, and the server offers no way to go on: run this again to start over.")
    return _BrokenOffError(f"{where}. They are kept: run this again to go on from there.")


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner) or type(inner).__name__


__all__ = ["Fetched", "fetch"]
