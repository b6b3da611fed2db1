"""Downloads from a real server on this machine that behaves, and misbehaves, as told."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import socket
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import download, seen
from convert import fetch as module
from convert.fetch import fetch
from convert.manifest import Known
from ferplus_keras.errors import BadInputError, DownloadError, OutputError
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.networks.architecture import FERPLUS_HEAD
from tests.seeded import save_state

TAG = '"version-1"'


@dataclass
class Behaviour:
    """What the server does next, and what it has been asked."""

    body: bytes = b""
    etag: str | None = TAG
    cut_after: int | None = None  # end the connection after so many bytes of the body
    drip: bytes = b""  # then, or before any header, send this again and again
    before_headers: bool = False
    status: int | None = None
    times: int = 1_000_000  # how often ``status`` is answered
    headers: dict[str, str] = field(default_factory=dict)
    chunked: bool = False
    ranges: bool = True  # whether they are heeded when the version is another
    if_range: bool = True  # whether it is looked at
    content_range: str | None = None
    location: str | None = None
    hold: threading.Event | None = None  # begin the answer when it is set
    requests: list[dict[str, str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        told = self.behaviour
        told.requests.append(dict(self.headers))
        if told.hold is not None:
            assert told.hold.wait(30)
        with suppress(ConnectionError):  # the client has seen enough
            self.answer(told)

    def answer(self, told: Behaviour) -> None:
        if told.before_headers:
            return self.dripped(told)
        if told.location is not None:
            return self.headed(302, {"Location": told.location})
        if told.status is not None and told.times:
            told.times -= 1
            return self.headed(told.status, told.headers | {"Content-Length": "0"})
        start = self.start(told)
        if start >= len(told.body) > 0:
            return self.headed(416, {})
        headers: dict[str, str | None] = {"ETag": told.etag, "Content-Length": str(len(told.body) - start)}
        if start:
            headers["Content-Range"] = told.content_range or f"bytes {start}-{len(told.body) - 1}/{len(told.body)}"
        if told.chunked:
            self.protocol_version = "HTTP/1.1"
            headers |= {"Content-Length": None, "Transfer-Encoding": "chunked", "Connection": "close"}
        self.headed(206 if start else 200, headers | told.headers)
        sent = told.body[start:] if told.cut_after is None else told.body[start : max(start, told.cut_after)]
        if told.chunked:
            sent = b"%x\r\n%s\r\n%s" % (len(sent), sent, b"0\r\n\r\n" if told.cut_after is None else b"")
        self.wfile.write(sent)
        self.wfile.flush()
        self.dripped(told)

    def dripped(self, told: Behaviour) -> None:
        while told.drip and not told.ended.wait(0.02):
            self.wfile.write(told.drip)
            self.wfile.flush()

    def start(self, told: Behaviour) -> int:
        """Where the answer begins: at the asked byte if the asked version is the one that is here."""
        span = self.headers.get("Range")
        if span is None or not told.ranges or (told.if_range and self.headers.get("If-Range") != told.etag):
            return 0
        return int(span.removeprefix("bytes=").removesuffix("-"))

    def headed(self, status: int, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@dataclass
class Place:
    """A server, a manifest entry that points to it, and the folder to download to."""

    told: Behaviour
    known: Known
    folder: Path
    record: Path

    def fetch(self, **options: Any) -> module.Fetched:
        return fetch(self.known, self.folder, record=self.record, **{"timeout": 5.0, **options})

    @property
    def target(self) -> Path:
        return self.folder / self.known.file

    def broken_off(self, after: int, **options: Any) -> str:
        """Fetch from a connection that ends after so many bytes; what the error says. The server is well again then."""
        self.told.cut_after = after
        message = self.refused(**options)
        self.told.cut_after = None
        return message

    def refused(self, **options: Any) -> str:
        with pytest.raises(DownloadError) as error:
            self.fetch(**options)
        assert not self.target.exists()
        return str(error.value)

    def part(self) -> Path:
        """The one unfinished file."""
        (path,) = self.folder.glob("*.part")
        return path

    def entries(self) -> dict[str, Any]:
        return tomllib.loads(self.record.read_text()) if self.record.exists() else {}

    def visible(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*") if not path.name.startswith("."))


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real, small checkpoint file of 800 kB."""
    import torch

    values = torch.from_numpy(np.random.default_rng(0).standard_normal(200_000, np.float32))
    return save_state({"a": values}, tmp_path_factory.mktemp("body") / "x.pth").read_bytes()


@contextmanager
def serving(told: Behaviour) -> Iterator[str]:
    """The address of a server that behaves as ``told``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Told", (Handler,), {"behaviour": told}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/model.pth"
    told.ended.set()
    if told.hold is not None:
        told.hold.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own servers are not to be looked for elsewhere."""
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def place(body: bytes, tmp_path: Path) -> Iterator[Place]:
    told = Behaviour(body)
    with serving(told) as url:
        known = Known("some_network", "model.pth", "resnet50", FERPLUS_HEAD, (url,), "https://example.org/models")
        yield Place(told, known, tmp_path / "downloads", tmp_path / "seen.toml")


@pytest.fixture
def dead() -> Iterator[str]:
    """A URL that nobody answers: its port is taken, and nobody listens there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/model.pth"


def another() -> bytes:
    """A good checkpoint that is not ``body``."""
    import torch

    stream = io.BytesIO()
    torch.save({"a": torch.ones(3)}, stream)
    return stream.getvalue()


def test_a_download_arrives_and_is_recorded_and_not_loaded_again(place: Place, body: bytes) -> None:
    calls: list[tuple[int, int | None]] = []
    fetched = place.fetch(progress=lambda done, total: calls.append((done, total)))
    assert fetched.status == "downloaded" and fetched.path == place.target and fetched.size == len(body)
    assert place.target.read_bytes() == body and fetched.sha256 == sha256_of(place.target)
    assert place.visible() == ["model.pth"]  # no part is left
    entry = place.entries()["some_network"]
    assert entry["sha256"] == fetched.sha256 and entry["size"] == len(body) and entry["file"] == "model.pth"
    assert entry["url"] == fetched.url == place.known.urls[0] and date.fromisoformat(entry["first_seen"])
    assert calls == sorted(calls) and calls[-1] == (len(body), len(body))
    assert place.fetch().status == "present" and len(place.told.requests) == 1
    assert place.told.requests[0]["Accept-Encoding"] == "identity"


def test_a_file_placed_by_hand_is_checked_and_recorded(place: Place, body: bytes) -> None:
    place.folder.mkdir()
    place.target.write_bytes(body)
    assert place.fetch().status == "present" and not place.told.requests
    assert place.entries()["some_network"]["url"] == "placed by hand"
    place.target.write_text("<!DOCTYPE html>")
    with pytest.raises(DownloadError, match="HTML page"):
        place.fetch()
    assert place.target.exists()  # what a person put there is not ours to delete


@pytest.mark.parametrize("pins", [{}, {"sha256": "0" * 64}], ids=["record", "manifest"])
def test_another_file_placed_by_hand_is_refused_and_stays(place: Place, pins: dict[str, Any]) -> None:
    first = place.fetch()
    place.target.write_bytes(another())
    place.known = replace(place.known, **pins)
    with pytest.raises(DownloadError) as error:
        place.fetch()
    assert pins.get("sha256", first.sha256) in str(error.value) and sha256_of(place.target) in str(error.value)
    assert place.target.read_bytes() == another() and place.entries()["some_network"]["sha256"] == first.sha256


# --- broken off and resumed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_a_broken_download_is_resumed_where_it_stopped(place: Place, body: bytes, chunked: bool) -> None:
    place.told.chunked = chunked
    for cut in (1, 1000, 1000, 500_000):
        message = place.broken_off(cut)
        assert f"after {cut:,} " in message and "run this again to resume" in message
        assert place.part().read_bytes() == body[:cut]
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body and place.visible() == ["model.pth"]
    asked = place.told.requests[-1]
    assert asked["Range"] == "bytes=500000-" and asked["If-Range"] == TAG


def test_an_interrupted_download_is_resumed(place: Place, body: bytes) -> None:
    def interrupt(_done: int, _total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.fetch(progress=interrupt)
    loaded = place.part().stat().st_size
    assert 0 < loaded < len(body) and place.fetch().status == "resumed" and place.target.read_bytes() == body
    assert place.told.requests[-1]["Range"] == f"bytes={loaded}-"


def test_after_a_broken_off_download_the_next_url_is_not_tried(place: Place, body: bytes) -> None:
    spare = Behaviour(body)
    with serving(spare) as url:
        place.known = replace(place.known, urls=(*place.known.urls, url))
        assert "run this again" in place.broken_off(1000)
        assert place.fetch().status == "resumed" and not spare.requests


@pytest.mark.parametrize("etag", [None, 'W/"weak"', "unquoted", '""'])
def test_without_a_strong_validator_nothing_is_resumed(place: Place, body: bytes, etag: str | None) -> None:
    place.told.etag, place.told.headers = etag, {"Last-Modified": "Mon, 01 Jun 2020 00:00:00 GMT"}
    assert "run this again to start over" in place.broken_off(1000)
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body
    assert "Range" not in place.told.requests[-1] and "If-Range" not in place.told.requests[-1]


@pytest.mark.parametrize(
    "change",
    [
        {"etag": '"version-2"'},  # honoured: the whole comes
        {"etag": '"version-2"', "if_range": False},  # not honoured: the rest of another version comes
        {"etag": 'W/"version-1"', "if_range": False},
        {"etag": None, "if_range": False},
        {"ranges": False},
        {"content_range": "bytes 5-9/10"},
        {"content_range": "nonsense"},
        {"content_range": "bytes 1000-1999/2000"},
        {"content_range": f"bytes 1000-{'9' * 5000}/*"},
    ],
    ids=str,
)
def test_halves_of_two_versions_are_never_joined(place: Place, body: bytes, change: dict[str, Any]) -> None:
    """The first half is dropped, and all is loaded anew in the same run."""
    place.told.body = bytes(len(body))
    place.broken_off(1000)
    place.told.body = body
    for name, value in change.items():
        setattr(place.told, name, value)
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body
    assert place.told.requests[1]["Range"] == "bytes=1000-" and place.visible() == ["model.pth"]


@pytest.mark.parametrize("notes", ["", "[]", "{}", '{"url": "http://else", "validator": "x", "total": 9}',
                                   '{"url": "HERE", "validator": "", "total": null}'])  # fmt: skip
def test_a_part_of_unknown_origin_is_not_resumed(place: Place, body: bytes, notes: str) -> None:
    place.broken_off(1000)
    part = place.part()
    part.with_name(f"{part.name}.json").write_text(notes.replace("HERE", place.known.urls[0]))
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body
    assert "Range" not in place.told.requests[-1]


@pytest.mark.parametrize("kind", [os.mkfifo, lambda path: path.symlink_to("../precious")], ids=["pipe", "link"])
@pytest.mark.parametrize("suffix", ["", ".json"])
def test_what_is_no_part_makes_way_for_one(place: Place, body: bytes, kind: Any, suffix: str) -> None:
    place.broken_off(1000)
    part = place.part()
    (place.folder.parent / "precious").write_bytes(part.with_name(part.name + suffix).read_bytes())
    precious = (place.folder.parent / "precious").read_bytes()
    part.with_name(part.name + suffix).unlink()
    kind(part.with_name(part.name + suffix))
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body
    assert (place.folder.parent / "precious").read_bytes() == precious and place.visible() == ["model.pth"]


def test_a_link_is_loaded_through_and_one_to_itself_is_left_alone(place: Place, body: bytes) -> None:
    place.folder.mkdir()
    place.target.symlink_to("../elsewhere.pth")
    assert place.fetch().status == "downloaded" and place.target.is_symlink()
    assert (place.folder.parent / "elsewhere.pth").read_bytes() == body and place.visible() == ["model.pth"]
    place.target.unlink()
    place.target.symlink_to(place.target.name)
    with pytest.raises(OutputError, match=r"model\.pth"):
        place.fetch()


def test_a_complete_part_is_installed_without_asking(
    place: Place, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "_install", stopped)
        with pytest.raises(KeyboardInterrupt):
            place.fetch()
    assert place.fetch().path.read_bytes() == body and len(place.told.requests) == 1


def test_a_range_that_the_server_does_not_have_begins_anew(place: Place, body: bytes) -> None:
    place.told.body = body + bytes(100_000)
    place.broken_off(len(body) + 1000)
    place.told.body = body  # shorter now, though it says it is the same
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body
    assert ["Range" in request for request in place.told.requests] == [False, True, False]


@pytest.mark.parametrize("change", [{"Content-Type": "text/html"}, {"Content-Encoding": "br"}])
def test_a_login_page_in_between_does_not_cost_the_part(place: Place, body: bytes, change: dict[str, str]) -> None:
    place.broken_off(500_000)
    place.told.headers, place.told.ranges = change, False
    assert "it sent" in place.refused()
    place.told.headers, place.told.ranges = {}, True
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body


# --- servers that take their time -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"before_headers": True, "drip": b"x"}, "no answer in time"),
        ({"before_headers": True, "drip": b"HTTP/1.1 100 Continue\r\n\r\n"}, "no answer in time"),
        ({"cut_after": 1000, "drip": b"x"}, "became too slow after 1,0"),
    ],
    ids=str,
)
def test_a_server_that_drips_is_not_waited_for(place: Place, change: dict[str, Any], told: str) -> None:
    for name, value in change.items():
        setattr(place.told, name, value)
    start = time.monotonic()
    assert told in place.refused(timeout=0.5)
    assert time.monotonic() - start < 5


def test_a_server_that_falls_silent_has_broken_off(place: Place, body: bytes) -> None:
    place.told.chunked, place.told.cut_after = True, 1000
    place.told.drip = b"\r"  # within a line that announces the next chunk
    assert "after 1,000 bytes" in place.refused(timeout=0.3)
    place.told.chunked, place.told.cut_after, place.told.drip = False, None, b""
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body


def in_seconds(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("later", [lambda: "7", lambda: in_seconds(7.9), lambda: in_seconds(-99)])
def test_a_busy_server_is_asked_again_when_it_says(
    place: Place, body: bytes, status: int, later: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    place.told.status, place.told.times, place.told.headers = status, 2, {"Retry-After": later()}
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body
    assert len(slept) == 2 and all(seconds in (0, 7) or 5 < seconds < 8 for seconds in slept)


@pytest.mark.parametrize(
    ("status", "headers", "asked"),
    [(503, {"Retry-After": "1"}, download.RETRIES + 1), (503, {"Retry-After": "9999"}, 1), (503, {}, 1),
     (503, {"Retry-After": "soon"}, 1), (503, {"Retry-After": "-1"}, 1), (404, {"Retry-After": "1"}, 1)],
)  # fmt: skip
def test_it_is_not_asked_for_ever(
    place: Place, status: int, headers: dict[str, str], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda _seconds: None)
    place.broken_off(1000)
    place.told.status, place.told.headers = status, headers
    assert str(status) in place.refused() and len(place.told.requests) == 1 + asked
    place.told.status = None
    assert place.fetch().status == "resumed", "what was loaded is kept"


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"status": 404}, "404"),
        ({"body": b"<!DOCTYPE html><html>gone</html>"}, "HTML page"),
        ({"body": b"\n <HTML>", "drip": b"x" * 100, "headers": {"Content-Length": "800000"}}, "HTML page"),
        ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, "HTML page"),
        ({"body": b""}, "it sent an empty file"),
        ({"body": b"plain words, no checkpoint" * 100}, "not a checkpoint"),
        ({"headers": {"Content-Encoding": "gzip"}}, "gzip"),
        ({"headers": {"Content-Length": str((2 << 30) + 1)}}, "more than any"),
        ({"cut_after": 0}, "before the first byte"),
        ({"location": "file:///etc/passwd"}, "file:///etc/passwd"),
        ({"location": "ftp://example.org/x"}, "not a web address"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_no_checkpoint_is_not_installed(place: Place, change: dict[str, Any], told: str) -> None:
    for name, value in change.items():
        setattr(place.told, name, value)
    message = place.refused()
    assert told in message and place.known.urls[0] in message
    assert str(place.target) in message and place.known.cited in message  # where to put it, where it is cited
    assert place.visible() == [] and not place.record.exists() and len(place.told.requests) == 1


def test_a_length_that_nobody_said_is_told_by_the_content(place: Place, body: bytes) -> None:
    place.told.headers = {"Content-Length": None}  # type: ignore[dict-item]
    place.told.cut_after = len(body) // 2
    assert "it did not send a checkpoint: model.pth" in place.refused() and place.visible() == []
    place.told.cut_after = None
    assert place.fetch().size == len(body)


def test_a_stream_without_end_is_cut(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download.MAX_BYTES == 2 * 1024**3
    monkeypatch.setattr(download, "MAX_BYTES", 100_000)
    place.told.headers, place.told.drip = {"Content-Length": None}, bytes(1000)  # type: ignore[dict-item]
    assert "more than 100,000 bytes" in place.refused() and place.visible() == []


def test_a_redirect_within_the_web_is_followed(place: Place, body: bytes) -> None:
    with serving(Behaviour(location=place.known.urls[0])) as moved:
        place.known = replace(place.known, urls=(moved,))
        assert place.fetch().url == moved and place.target.read_bytes() == body


def test_the_next_url_is_tried(place: Place, body: bytes, dead: str) -> None:
    good = place.known.urls[0]
    place.known = replace(place.known, urls=(dead, good))
    assert place.fetch().url == good and place.entries()["some_network"]["url"] == good


def test_another_file_than_the_one_first_seen_is_refused(place: Place) -> None:
    first = place.fetch()
    place.target.unlink()
    place.told.body = another()
    message = place.refused()
    assert first.sha256 in message and hashlib.sha256(another()).hexdigest() in message
    assert "remove the entry [some_network]" in message and str(place.record) in message
    assert place.visible() == [] and place.entries()["some_network"]["sha256"] == first.sha256
    place.record.unlink()  # as the message says
    assert place.fetch().sha256 != first.sha256


@pytest.mark.parametrize("wrong", [{"size": 5}, {"sha256": "0" * 64}])
def test_the_manifest_has_the_last_word(place: Place, body: bytes, wrong: dict[str, Any]) -> None:
    right = place.known
    place.known = replace(right, **wrong)
    assert "the manifest says" in place.refused() and place.visible() == [] and not place.record.exists()
    place.known = replace(right, size=len(body), sha256=hashlib.sha256(body).hexdigest())
    assert place.fetch().status == "downloaded" and "some_network" in place.entries()


def test_a_stand_in_is_not_recorded(place: Place) -> None:
    place.known = replace(place.known, file="model-standin.pth")
    assert place.fetch().status == "downloaded" and place.fetch().status == "present" and not place.record.exists()
    place.known = replace(place.known, sha256="0" * 64)  # the manifest holds for it all the same
    with pytest.raises(DownloadError, match="the manifest says"):
        place.fetch()


@pytest.mark.parametrize("text", ["[broken", "[some_network]\nsize = 'large'\n", "x = 1"])
def test_a_damaged_record_is_named(place: Place, text: str) -> None:
    place.record.write_text(text)
    with pytest.raises(BadInputError, match=r"seen\.toml"):
        place.fetch()
    assert not place.target.exists() and place.record.read_text() == text
    place.record.write_text('[other]\nfile = "o.pth"\nsize = 3\nsha256 = "00"\n')
    assert place.fetch().size == len(place.told.body) and len(place.told.requests) == 1  # what was loaded was kept
    assert place.entries()["other"]["size"] == 3 and "some_network" in place.entries()


# --- at once, and on a full disk ----------------------------------------------------------------------------------


def test_a_record_that_is_no_file_is_not_waited_for(place: Place) -> None:
    os.mkfifo(place.record)
    with pytest.raises(BadInputError, match=r"seen\.toml is a named pipe"):
        place.fetch()


def test_a_second_one_is_told_who_downloads_the_file(place: Place, body: bytes) -> None:
    place.told.hold = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(place.fetch, timeout=30.0)
        while not place.told.requests:  # the first has the lock, for it has sent its request
            time.sleep(0.01)
        with pytest.raises(OutputError, match=f"is being written by process {os.getpid()} "):
            place.fetch()
        place.told.hold.set()
        assert first.result().status == "downloaded"
    assert place.fetch().status == "present" and len(place.told.requests) == 1


def test_two_first_sights_at_once_are_both_recorded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = seen._write

    def slow(*arguments: Any) -> None:
        time.sleep(0.1)
        honest(*arguments)

    monkeypatch.setattr(seen, "_write", slow)
    places = [replace(place, known=replace(place.known, name=name, file=f"{name}.pth")) for name in ("a", "b")]
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(each.fetch) for each in places]:
            assert future.result().status == "downloaded"
    assert place.entries().keys() == {"a", "b"}


def test_a_full_disk_keeps_what_was_loaded(place: Place, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has room for 300,000 bytes: writes end within a piece, as they do on a real one."""
    honest = Path.open

    class FullDisk(io.FileIO):
        def write(self, data: Any) -> int:
            room = 300_000 - self.tell()
            if room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(memoryview(data)[:room])

    def full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if path.name.endswith(".part") and mode == "ab":
            return io.BufferedWriter(FullDisk(path, "a"))
        return honest(path, mode, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(OutputError, match=r"the disk is full.*is kept: free some space.*run this again"):
            place.fetch()
    assert place.part().read_bytes() == body[:300_000]
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body


def test_a_folder_that_cannot_be_made_is_an_output_error(place: Place) -> None:
    place.folder.write_text("a file in the way")
    with pytest.raises(OutputError, match="could not be written"):
        place.fetch()


def test_the_bytes_are_on_the_disk_before_the_file_has_its_name(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, int]] = []
    fsync, rename = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("flushed", os.fstat(descriptor).st_ino))

    def noted_rename(path: Path, target: Path) -> Path:
        events.append(("renamed", path.stat().st_ino))
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_rename)
    place.fetch()
    inode = place.target.stat().st_ino
    assert [kind for kind, of in events if of == inode] == ["flushed", "renamed"]


def test_a_reader_of_the_progress_that_has_gone_is_no_fault_of_the_disk(place: Place) -> None:
    def gone(_done: int, _total: int | None) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        place.fetch(progress=gone)


def test_every_reason_stands_in_one_message_when_nothing_works(
    tmp_path: Path, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = socket.getaddrinfo

    def offline(host: str, *arguments: Any, **options: Any) -> Any:
        if host == "example.org":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return honest(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    reasons = {
        dead: "Connection refused",
        "http://example.org/b": "Name or service not known",
        "nonsense": "it is not a web address",
        "file:///etc/passwd": "it is not a web address",
        "http://[broken/c": "Invalid IPv6 URL",
    }
    known = Known("n", "m.pth", "resnet50", FERPLUS_HEAD, tuple(reasons), "https://example.org/cited")
    with pytest.raises(DownloadError) as error:
        fetch(known, tmp_path, record=tmp_path / "seen.toml")
    message = str(error.value)
    assert "; ".join(f"{url}: {reason}" for url, reason in reasons.items()) in message
    assert f"put it at {tmp_path / 'm.pth'} " in message and known.cited in message
    with pytest.raises(DownloadError, match=r"no URL is known.*m\.pth.*https://example\.org/cited"):
        fetch(replace(known, urls=()), tmp_path, record=tmp_path / "seen.toml")


def test_the_record_is_seen_toml_in_the_weights_folder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERPLUS_WEIGHTS", str(place.folder.parent / "weights"))
    fetch(place.known, place.folder)
    assert "some_network" in tomllib.loads((place.folder.parent / "weights" / "seen.toml").read_text())
