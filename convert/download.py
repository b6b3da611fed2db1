"""One file from one URL into a partial file beside the target: resumable, limited in size and time.

A download is resumed only if the server gives the same strong ETag as before (RFC 9110, 13.1.5): halves of two versions
would make a file that nobody published.
"""

from __future__ import annotations

import json
import re
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from convert.readers import looks_like_html
from ferplus_keras import __version__
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.json_text import parse_json
from ferplus_keras.files.opening import read_text

#: The largest of the networks is 170 MB; an answer beyond this is no checkpoint.
MAX_BYTES = 2 << 30

CHUNK = 1 << 18
WEB = ("http", "https")

#: A server that sends fewer bytes a second than this, over the time of one timeout, counts as gone.
LEAST_RATE = 1000

#: How often a busy server is asked again, and the longest ``Retry-After`` in seconds that is waited for.
RETRIES, LONGEST_WAIT = 3, 60.0
BUSY = (429, 503)

Progress = Callable[[int, int | None], None]
Result = TypeVar("Result")


class RefusedError(Exception):
    """A URL did not deliver the file; the message is the reason, in a few words."""


class NoAnswerError(RefusedError):
    """No answer, perhaps only for now: what was downloaded so far is kept."""


class BrokenOffError(NoAnswerError):
    """The connection ended before the file did; trying again is better than the next URL."""


@dataclass
class Part:
    """What has been downloaded from a URL so far, and the validator of its version."""

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

    @property
    def complete(self) -> bool:
        return self.total is not None and self.size == self.total

    def recall(self) -> None:
        """Resume from what is there if its version is known; else start over."""
        try:
            # Links and pipes in these places are not ours: never follow them or wait for them.
            ours = all(stat.S_ISREG(each.lstat().st_mode) for each in (self.path, self.notes))
            notes = parse_json(read_text(self.notes)) if ours else {}
            self.validator, self.total = str(notes["validator"]), notes["total"]
            self.resumed = notes["url"] == self.url and bool(self.validator) and self.size > 0
        except (BadInputError, OSError, ValueError, KeyError, TypeError):
            self.resumed = False
        if not self.resumed:
            self.begin("", None)

    def begin(self, validator: str, total: int | None) -> None:
        """Start a file of ``total`` bytes, if that is known, from nothing."""
        self.discard()
        self.validator, self.total, self.resumed = validator, total, False
        if validator:
            self.notes.write_text(json.dumps({"url": self.url, "validator": validator, "total": total}))

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


def load(part: Part, progress: Progress, timeout: float) -> None:
    """Bring ``part`` to its full length.

    ``timeout``, in seconds, is for the answer and for each chunk of it. Raises :class:`RefusedError`; what was
    downloaded of a good file is kept.
    """
    response = _answer(part, timeout)
    if (part.total or 0) > MAX_BYTES:
        raise RefusedError(f"it would send {part.total:,} bytes, more than any of these networks has")
    done = before = part.size
    window = time.monotonic()
    with part.path.open("ab") as stream:
        while chunk := _chunk(response, part, done, timeout):
            if not done and looks_like_html(chunk):
                raise RefusedError("it sent an HTML page and not the file: the link is dead")
            stream.write(chunk)
            done += len(chunk)
            if done > MAX_BYTES:
                raise RefusedError(f"it sent more than {MAX_BYTES:,} bytes, more than any of these networks has")
            progress(done, part.total)
            if (now := time.monotonic()) - window > timeout:
                if done - before < LEAST_RATE * timeout:
                    raise _broken_off(part, done, "became too slow")
                window, before = now, done
    response.close()
    if part.total is not None and done < part.total:
        raise _broken_off(part, done)
    if not done:
        raise RefusedError("it sent an empty file")
    if part.total is not None and done > part.total:
        raise RefusedError(f"it sent more than the {part.total:,} bytes that it announced")
    progress(done, done)


def _answer(part: Part, timeout: float) -> HTTPResponse:
    """The server's answer from where ``part`` ends, or from the start if its version has changed."""
    for attempt in range(RETRIES + 1):
        try:
            response = _within(timeout, _request, part, timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and part.size:  # nothing follows what we have: it is not a part of this file
                part.begin("", None)
                continue
            wait = _seconds(error.headers.get("Retry-After", "")) if error.code in BUSY else None
            if wait is None or wait > LONGEST_WAIT or attempt == RETRIES:
                raise NoAnswerError(f"it answered {error.code} {error.reason}") from None
            time.sleep(wait)
            continue
        except (HTTPException, OSError, ValueError) as error:  # URLError and TimeoutError are OSErrors
            raise NoAnswerError(_reason(error)) from None
        if _settled(part, response):
            return response
        response.close()
        part.begin("", None)
    raise NoAnswerError("it does not restart the file from the beginning")


def _request(part: Part, timeout: float) -> HTTPResponse:
    if urllib.parse.urlsplit(part.url).scheme not in WEB:
        raise ValueError("it is not a web address")
    headers = {"User-Agent": f"ferplus-keras/{__version__}", "Accept-Encoding": "identity"}
    if part.size:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    request = urllib.request.Request(part.url, headers=headers)
    response: HTTPResponse = urllib.request.build_opener(_HttpOnly).open(request, timeout=timeout)
    return response


class _HttpOnly(urllib.request.HTTPRedirectHandler):
    """Redirects to ``file:`` and ``ftp:`` are refused."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        if urllib.parse.urlsplit(newurl).scheme not in WEB:
            raise ValueError(f"it redirects to {newurl[:60]}, which is not a web address")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _settled(part: Part, response: HTTPResponse) -> bool:
    """Take the size from the headers; False if what follows does not continue ``part``."""
    headers = response.headers
    if headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise NoAnswerError(f"it sent the file {headers['Content-Encoding'][:20]}-encoded, which was not requested")
    if headers.get_content_type() == "text/html":  # perhaps a captive portal: no reason to discard a partial download
        raise NoAnswerError("it sent an HTML page and not the file: the link is dead")
    if response.status != 206:
        part.begin(_validator(headers), response.length)
        return True
    span = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", headers.get("Content-Range", ""))
    if span is None or not part.size or int(span[1]) != part.size or part.validator != _validator(headers):
        return False
    full = int(span[2]) + 1 if span[3] == "*" else int(span[3])
    if part.total not in (None, full):
        return False
    part.total = full
    return True


def _validator(headers: Message) -> str:
    """The strong ETag, which identifies one version of a file; weak ones and dates may identify two."""
    tag = headers.get("ETag", "")
    return tag if re.fullmatch(r'"[^"\s]+"', tag) else ""


def _seconds(text: str) -> float | None:
    """The seconds in ``Retry-After``, which gives seconds or a date."""
    if re.fullmatch(r"[0-9]{1,9}", text.strip()):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def _chunk(response: HTTPResponse, part: Part, done: int, timeout: float) -> bytes:
    try:
        return _within(timeout, response.read1, CHUNK)
    except (HTTPException, OSError):
        raise _broken_off(part, done) from None


def _within(seconds: float, call: Callable[..., Result], *arguments: Any) -> Result:
    """``call(*arguments)``, or ``TimeoutError`` after ``seconds``.

    A socket's own timeout restarts with each byte. A call that takes too long is abandoned in its daemon thread.
    """
    done: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(call(*arguments))
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError
    return done[0]


def _broken_off(part: Part, done: int, how: str = "ended") -> NoAnswerError:
    if not done:
        return NoAnswerError(f"the connection {how} before the first byte")
    where = f"the connection {how} after {done:,}{f' of {part.total:,}' if part.total else ''} bytes"
    if not part.validator:
        return BrokenOffError(f"{where}, and the server offers no way to resume: run this again to start over.")
    return BrokenOffError(f"{where}. They are kept: run this again to resume from there.")


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", error)
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner) or type(inner).__name__
