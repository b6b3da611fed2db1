"""Downloads from a real server on this machine that behaves, and misbehaves, as told."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import socket
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from convert import fetch as module
from convert import seen
from convert.fetch import fetch
from convert.manifest import Known
from ferplus_keras.errors import BadInputError, DownloadError, OutputError
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.networks.architecture import FERPLUS_HEAD
from tests.conftest import run_python
from tests.seeded import save_state

TAG = '"version-1"'
DAY = "Mon, 01 Jun 2020 00:00:00 GMT"


@dataclass
class Behaviour:
    """What the server does next, and what it has been asked."""

    body: bytes = b""
    etag: str | None = TAG
    cut_after: int | None = None  # end the connection after so many bytes of the body
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    length: bool = True
    content_range: str | None = None
    location: str | None = None
    hang: threading.Event | None = None  # say nothing until it is set, and then hang up
    stall: threading.Event | None = None  # send what ``cut_after`` allows and leave the connection open until it is set
    hold: threading.Event | None = None  # begin the answer when it is set
    chunked: bool = False
    ignore_range: bool = False
    requests: list[dict[str, str]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # bytes of the body, by answer


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        told = self.behaviour
        told.requests.append(dict(self.headers))
        if told.hang is not None:
            told.hang.wait(10)
            return
        if told.location is not None:
            self.send_response(302)
            self.send_header("Location", told.location)
            self.end_headers()
            return
        if told.status is not None:
            self.send_error(told.status)
            return
        if told.hold is not None:
            assert told.hold.wait(30)
        start = self.start()
        if start >= len(told.body) > 0:
            self.send_response(416)
            self.send_header("Content-Range", told.content_range or f"bytes */{len(told.body)}")
            self.end_headers()
            return
        self.send_headers(start)
        sent = told.body[start:] if told.cut_after is None else told.body[start : max(start, told.cut_after)]
        told.sent.append(len(sent))
        try:
            if told.chunked:
                end = b"0\r\n\r\n" if told.cut_after is None else b""
                self.wfile.write(b"%x\r\n%s\r\n%s" % (len(sent), sent, end))
            else:
                self.wfile.write(sent)
        except ConnectionError:
            return  # the client has seen enough
        if told.stall is not None:
            told.stall.wait(10)

    def start(self) -> int:
        """Where the answer begins: at the asked byte if the asked version is the one that is here."""
        told, span = self.behaviour, self.headers.get("Range")
        here = [version for version in (told.etag, told.headers.get("Last-Modified")) if version]
        if span is None or told.ignore_range or self.headers.get("If-Range") not in here:
            return 0
        return int(span.removeprefix("bytes=").removesuffix("-"))

    def send_headers(self, start: int) -> None:
        told = self.behaviour
        if told.chunked:
            self.protocol_version = "HTTP/1.1"
            self.close_connection = True
        self.send_response(206 if start else 200)
        headers: dict[str, str | None] = {"ETag": told.etag}
        if start:
            usual = f"bytes {start}-{len(told.body) - 1}/{len(told.body)}"
            headers["Content-Range"] = told.content_range or usual
        if told.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif told.length:
            headers["Content-Length"] = str(len(told.body) - start)
        for name, value in (headers | told.headers).items():
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
        with pytest.raises(DownloadError) as error:
            self.fetch(**options)
        self.told.cut_after = None
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


@pytest.fixture(scope="module", params=[False, True], ids=["zip", "legacy"])
def body(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real, small checkpoint file of 800 kB."""
    import torch

    values = torch.from_numpy(np.random.default_rng(0).standard_normal(200_000, np.float32))
    return save_state({"a": values}, tmp_path_factory.mktemp("body") / "x.pth", legacy=request.param).read_bytes()


@contextmanager
def serving(told: Behaviour) -> Iterator[str]:
    """The address of a server that behaves as ``told``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Told", (Handler,), {"behaviour": told}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/model.pth"
    for waiting in (told.hang, told.stall, told.hold):
        if waiting is not None:
            waiting.set()
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


def another(body: bytes) -> bytes:
    """A good checkpoint of the same format that is not ``body``; torch's old format is other bytes each time."""
    import torch

    stream = io.BytesIO()
    torch.save({"a": torch.ones(3)}, stream, _use_new_zipfile_serialization=body[:2] == b"PK")
    return stream.getvalue()


def test_a_download_arrives_and_is_recorded(place: Place, body: bytes) -> None:
    calls: list[tuple[int, int | None]] = []
    fetched = place.fetch(progress=lambda done, total: calls.append((done, total)))
    assert fetched.status == "downloaded" and fetched.path == place.target and fetched.size == len(body)
    assert place.target.read_bytes() == body and fetched.sha256 == sha256_of(place.target)
    assert place.visible() == ["model.pth"]  # no part is left
    entry = place.entries()["some_network"]
    assert entry["sha256"] == fetched.sha256 and entry["size"] == len(body) and entry["file"] == "model.pth"
    assert entry["url"] == fetched.url == place.known.urls[0] and date.fromisoformat(entry["first_seen"])
    assert calls[-1] == (len(body), len(body)) and all(total == len(body) for _, total in calls)


def test_what_is_there_is_not_downloaded_again(place: Place) -> None:
    place.fetch()
    again = place.fetch()
    assert again.status == "present" and len(place.told.requests) == 1
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
def test_another_file_placed_by_hand_is_refused_and_stays(place: Place, body: bytes, pins: dict[str, Any]) -> None:
    first = place.fetch()
    second = another(body)
    place.target.write_bytes(second)
    place.known = replace(place.known, **pins)
    with pytest.raises(DownloadError) as error:
        place.fetch()
    expected = pins.get("sha256", first.sha256)
    assert expected in str(error.value) and sha256_of(place.target) in str(error.value)
    assert place.target.read_bytes() == second and len(place.told.requests) == 1
    assert place.entries()["some_network"]["sha256"] == first.sha256


# --- broken off and resumed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 1000, 500_000])
def test_a_broken_download_goes_on_where_it_stopped(place: Place, body: bytes, cut: int) -> None:
    message = place.broken_off(cut)
    assert f"after {cut:,} of {len(body):,} bytes" in message and "run this again to go on" in message
    assert place.part().read_bytes() == body[:cut]
    calls: list[int] = []
    assert place.fetch(progress=lambda done, _total: calls.append(done)).status == "resumed"
    assert place.target.read_bytes() == body and place.visible() == ["model.pth"]
    asked = place.told.requests[-1]
    assert asked["Range"] == f"bytes={cut}-" and asked["If-Range"] == TAG
    assert place.told.sent == [cut, len(body) - cut]  # not one byte twice
    assert min(calls) > cut and calls[-1] == len(body)


def test_a_download_may_break_off_more_than_once(place: Place, body: bytes) -> None:
    for cut in (1000, 1000, 300_000, 700_000):
        assert f"after {cut:,} of" in place.broken_off(cut)
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body
    assert sum(place.told.sent) == len(body)


def test_an_interrupted_download_goes_on_where_it_stopped(place: Place, body: bytes) -> None:
    def interrupt(done: int, _total: int | None) -> None:
        loaded.append(done)
        raise KeyboardInterrupt

    loaded: list[int] = []
    place.told.stall, place.told.cut_after = threading.Event(), 400_000
    with pytest.raises(KeyboardInterrupt):
        place.fetch(progress=interrupt)
    place.told.stall.set()
    place.told.stall = place.told.cut_after = None
    assert place.part().read_bytes() == body[: loaded[0]] and not place.target.exists()
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body
    assert place.told.requests[-1]["Range"] == f"bytes={loaded[0]}-"


def test_a_server_that_falls_silent_has_broken_off(place: Place, body: bytes) -> None:
    place.told.stall = threading.Event()
    assert "after 1,000 of" in place.broken_off(1000, timeout=0.3)
    place.told.stall.set()
    place.told.stall = None
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body


def test_a_chunked_download_is_resumed_too(place: Place, body: bytes) -> None:
    place.told.chunked = True
    assert "after 1,000 bytes" in place.broken_off(1000)  # nobody said of how many
    assert f"after 2,000 of {len(body):,} bytes" in place.broken_off(2000)  # the second answer, a part, does
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body


def test_after_a_broken_off_download_the_next_url_is_not_tried(place: Place, body: bytes) -> None:
    spare = Behaviour(body)
    with serving(spare) as url:
        place.known = replace(place.known, urls=(*place.known.urls, url))
        assert "run this again" in place.broken_off(1000)
        assert place.fetch().status == "resumed" and place.target.read_bytes() == body
    assert not spare.requests


def test_a_part_of_another_version_is_not_continued(place: Place, body: bytes) -> None:
    place.told.body = b"old" * 100_000
    place.broken_off(1000)
    place.told.body, place.told.etag = body, '"version-2"'
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body
    assert "Range" in place.told.requests[-1]  # it was asked for, and answered with the whole


def test_a_server_without_ranges_sends_all_of_it(place: Place, body: bytes) -> None:
    place.broken_off(1000)
    place.told.ignore_range = True
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body
    assert place.told.sent == [1000, len(body)]


@pytest.mark.parametrize("etag", [None, 'W/"weak"', "unquoted"])
def test_without_a_strong_validator_nothing_is_continued(place: Place, body: bytes, etag: str | None) -> None:
    place.told.etag = etag
    assert "run this again to start over" in place.broken_off(1000)
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body
    assert "Range" not in place.told.requests[-1] and "If-Range" not in place.told.requests[-1]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_a_date_serves_as_validator(place: Place, body: bytes, etag: str | None) -> None:
    place.told.etag, place.told.headers = etag, {"Last-Modified": DAY}
    place.broken_off(1000)
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body
    assert place.told.requests[-1]["If-Range"] == DAY and place.told.requests[-1]["Range"] == "bytes=1000-"


@pytest.mark.parametrize(
    "notes",
    [
        "",
        "[]",
        "{}",
        '{"url": "http://example.org/else", "validator": "x", "total": 9}',
        '{"url": "HERE", "validator": "", "total": null}',
    ],
)
def test_a_part_of_unknown_origin_is_not_continued(place: Place, body: bytes, notes: str) -> None:
    place.broken_off(1000)
    part = place.part()
    part.with_name(f"{part.name}.json").write_text(notes.replace("HERE", place.known.urls[0]))
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body
    assert "Range" not in place.told.requests[-1]


@pytest.mark.parametrize(
    "wrong", ["bytes 5-{last}/{size}", "nonsense", "bytes 1000-1999/2000", f"bytes 1000-{'9' * 5000}/*"]
)
def test_a_wrong_content_range_is_not_believed(place: Place, body: bytes, wrong: str) -> None:
    place.broken_off(1000)
    place.told.content_range = wrong.format(last=len(body) - 1, size=len(body))
    with pytest.raises(DownloadError, match="another place"):
        place.fetch()
    place.told.content_range = None
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body


def test_a_complete_part_is_installed_without_asking(
    place: Place, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_install", stopped)
    with pytest.raises(KeyboardInterrupt):
        place.fetch()
    monkeypatch.undo()
    assert place.fetch().path.read_bytes() == body and len(place.told.requests) == 1


def test_a_complete_part_of_unknown_length_is_installed_when_the_server_says_so(
    place: Place, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    place.told.length = False
    monkeypatch.setattr(module, "_install", stopped)
    with pytest.raises(KeyboardInterrupt):
        place.fetch()
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "*")
    assert place.part().read_bytes() == body
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body
    assert [request.get("Range") for request in place.told.requests] == [None, f"bytes={len(body)}-"]
    assert place.told.sent == [len(body)]


@pytest.mark.parametrize("said", [None, "bytes */5", "bytes */*", "nonsense"])
def test_a_range_that_the_server_does_not_have_begins_anew(place: Place, body: bytes, said: str | None) -> None:
    place.told.body = body + bytes(100_000)
    place.broken_off(len(body) + 1000)
    place.told.body, place.told.content_range = body, said  # shorter now, though it says it is the same
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body
    assert ["Range" in request for request in place.told.requests] == [False, True, False]


def test_a_rest_that_is_too_long_is_dropped(place: Place, body: bytes) -> None:
    place.broken_off(1000)
    place.told.length, place.told.body = False, body + b"more"
    place.told.content_range = f"bytes 1000-{len(body) - 1}/{len(body)}"
    with pytest.raises(DownloadError, match=f"more than the {len(body):,} bytes"):
        place.fetch()
    assert place.visible() == []


# --- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"status": 404}, "404"),
        ({"status": 500}, "500"),
        ({"body": b"<!DOCTYPE html><html>gone</html>"}, "HTML page"),
        ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, "HTML page"),
        ({"body": b""}, "it sent an empty file"),
        ({"body": b"plain words, no checkpoint" * 100}, "no checkpoint"),
        ({"headers": {"Content-Encoding": "gzip"}}, "gzip"),
        ({"headers": {"Content-Length": str((2 << 30) + 1)}}, "more than any"),
        ({"cut_after": 0}, "before the first byte"),
        ({"location": "file:///etc/passwd"}, "file:///etc/passwd"),
        ({"location": "ftp://example.org/x"}, "not the web"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_no_checkpoint_is_not_installed(place: Place, change: dict[str, Any], told: str) -> None:
    for name, value in change.items():
        setattr(place.told, name, value)
    with pytest.raises(DownloadError) as error:
        place.fetch()
    message = str(error.value)
    assert told in message and place.known.urls[0] in message
    assert str(place.target) in message and place.known.cited in message  # where to put it, where it is cited
    assert place.visible() == [] and not place.record.exists() and len(place.told.requests) == 1


def test_a_damaged_checkpoint_is_not_installed(place: Place, body: bytes) -> None:
    place.told.length, place.told.cut_after = False, len(body) // 2  # nothing but the content tells that it ended early
    with pytest.raises(DownloadError, match=r"it sent no checkpoint: model\.pth"):
        place.fetch()
    assert place.visible() == [] and not place.record.exists()


@pytest.mark.parametrize("change", [{"Content-Type": "text/html"}, {"Content-Encoding": "br"}])
def test_a_login_page_in_between_does_not_cost_the_part(place: Place, body: bytes, change: dict[str, str]) -> None:
    place.broken_off(500_000)
    place.told.headers, place.told.ignore_range = change, True
    with pytest.raises(DownloadError, match="it sent"):
        place.fetch()
    place.told.headers, place.told.ignore_range = {}, False
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body


def test_a_redirect_within_the_web_is_followed(place: Place, body: bytes) -> None:
    with serving(Behaviour(location=place.known.urls[0])) as moved:
        place.known = replace(place.known, urls=(moved,))
        assert place.fetch().url == moved and place.target.read_bytes() == body


def test_a_stream_without_end_is_cut(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.MAX_BYTES == 2 * 1024**3
    monkeypatch.setattr(module, "MAX_BYTES", 100_000)
    place.told.length, place.told.cut_after, place.told.stall = False, 300_000, threading.Event()
    with pytest.raises(DownloadError, match="more than 100,000 bytes"):  # at once: the server has not finished
        place.fetch()
    assert place.visible() == []


def test_a_web_page_is_refused_at_its_first_bytes(place: Place) -> None:
    place.told.body, place.told.stall = b"\n <HTML><body>gone", threading.Event()
    place.told.headers = {"Content-Length": "800000"}
    with pytest.raises(DownloadError, match="HTML page"):
        place.fetch()
    assert place.visible() == []


def test_a_download_without_a_length_is_complete_when_it_is_a_checkpoint(place: Place, body: bytes) -> None:
    place.told.length = False
    calls: list[tuple[int, int | None]] = []
    place.fetch(progress=lambda done, total: calls.append((done, total)))
    assert place.target.read_bytes() == body and calls[-1] == (len(body), len(body))


def test_a_silent_server_counts_as_gone(place: Place) -> None:
    place.told.hang = threading.Event()
    with pytest.raises(DownloadError, match="no answer in time"):
        place.fetch(timeout=0.3)


def test_the_next_url_is_tried(place: Place, body: bytes, dead: str) -> None:
    good = place.known.urls[0]
    place.known = replace(place.known, urls=(dead, good))
    assert place.fetch().url == good and place.target.read_bytes() == body
    assert place.entries()["some_network"]["url"] == good


def test_a_part_survives_a_server_that_is_gone_for_now(place: Place, body: bytes) -> None:
    place.broken_off(1000)
    place.told.status = 503
    with pytest.raises(DownloadError, match="503"):
        place.fetch()
    place.told.status = None
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body


def test_another_file_than_the_one_first_seen_is_refused(place: Place, body: bytes) -> None:
    first = place.fetch()
    place.target.unlink()
    place.told.body = second = another(body)
    with pytest.raises(DownloadError) as error:
        place.fetch()
    message = str(error.value)
    assert first.sha256 in message and hashlib.sha256(second).hexdigest() in message
    assert "remove the entry [some_network]" in message and str(place.record) in message
    assert not place.target.exists() and place.visible() == []
    assert place.entries()["some_network"]["sha256"] == first.sha256
    place.record.unlink()  # as the message says
    assert place.fetch().sha256 != first.sha256


@pytest.mark.parametrize("wrong", [{"size": 5}, {"sha256": "0" * 64}])
def test_the_manifest_has_the_last_word(place: Place, wrong: dict[str, Any]) -> None:
    place.known = replace(place.known, **wrong)
    with pytest.raises(DownloadError, match="the manifest says"):
        place.fetch()
    assert place.visible() == [] and not place.record.exists()


def test_what_the_manifest_says_is_accepted(place: Place, body: bytes) -> None:
    place.known = replace(place.known, size=len(body), sha256=hashlib.sha256(body).hexdigest())
    assert place.fetch().status == "downloaded" and "some_network" in place.entries()


def test_a_stand_in_is_not_recorded(place: Place, body: bytes) -> None:
    place.known = replace(place.known, file="model-standin.pth")
    assert place.fetch().status == "downloaded" and place.fetch().status == "present"
    assert place.target.read_bytes() == body and not place.record.exists()
    place.known = replace(place.known, sha256="0" * 64)  # the manifest holds for it all the same
    with pytest.raises(DownloadError, match="the manifest says"):
        place.fetch()


def test_the_record_keeps_other_entries(place: Place) -> None:
    place.record.write_text('[other]\nfile = "o.pth"\nsize = 3\nsha256 = "00"\n')
    place.fetch()
    assert place.entries()["other"]["size"] == 3 and "some_network" in place.entries()


def test_two_first_sights_at_once_are_both_recorded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits within the record's check, until the other has come as far as it can."""
    meeting = threading.Barrier(2)
    honest = seen._write

    def slow(*arguments: Any) -> None:
        with suppress(threading.BrokenBarrierError):
            meeting.wait(0.3)  # both can be here at once only if neither waits for the other
        honest(*arguments)

    monkeypatch.setattr(seen, "_write", slow)
    places = [replace(place, known=replace(place.known, name=name, file=f"{name}.pth")) for name in ("a", "b")]
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(each.fetch) for each in places]:
            assert future.result().status == "downloaded"
    assert place.entries().keys() == {"a", "b"}


@pytest.mark.parametrize("text", ["[broken", "[some_network]\nsize = 'large'\n", "x = 1"])
def test_a_damaged_record_is_named(place: Place, text: str) -> None:
    place.record.write_text(text)
    with pytest.raises(BadInputError, match=r"seen\.toml"):
        place.fetch()
    assert not place.target.exists() and place.record.read_text() == text
    place.record.unlink()
    assert place.fetch().size == len(place.told.body) and len(place.told.requests) == 1  # what was loaded was kept


# --- at once, and on a full disk ----------------------------------------------------------------------------------


def test_a_second_one_is_told_who_downloads_the_file(place: Place, body: bytes) -> None:
    code = """
import sys
from pathlib import Path
from convert.fetch import fetch
from convert.manifest import Known
from ferplus_keras.errors import OutputError
from ferplus_keras.networks.architecture import FERPLUS_HEAD

known = Known("some_network", "model.pth", "resnet50", FERPLUS_HEAD, (sys.argv[1],), "c")
try:
    fetch(known, Path(sys.argv[2]), record=Path(sys.argv[3]))
except OutputError as error:
    print(error)
"""
    asked = threading.Event()
    place.told.hold = threading.Event()
    place.told.requests = Telling(asked)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(place.fetch, timeout=30.0)
        assert asked.wait(10)  # the first has the lock, for it has sent its request
        told = f"{place.target} is being written by process {os.getpid()} "
        with pytest.raises(OutputError, match=re.escape(told)):
            place.fetch()
        assert told in run_python(code, place.known.urls[0], place.folder, place.record)
        assert not first.done()
        place.told.hold.set()
        assert first.result().status == "downloaded"
    assert place.fetch().status == "present"
    assert len(place.told.requests) == 1 and place.target.read_bytes() == body


class Telling(list[dict[str, str]]):
    """A list that says when something comes in."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def append(self, item: dict[str, str]) -> None:
        super().append(item)
        self.event.set()


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

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match=r"the disk is full.*is kept beside it.*run this again"):
        place.fetch()
    monkeypatch.setattr(Path, "open", honest)
    assert place.part().read_bytes() == body[:300_000]
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body
    assert place.told.requests[-1]["Range"] == "bytes=300000-"


def test_a_missing_permission_is_an_output_error(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Path.open

    def locked(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if path.name.endswith(".part"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return honest(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", locked)
    with pytest.raises(OutputError, match=f"{place.target} could not be written: Permission denied"):
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


def test_progress_is_told_ten_times_a_second_and_at_the_end(
    place: Place, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two pieces 0.03 s go by on this clock."""
    now = [100.0]

    def clock() -> float:
        now[0] += 0.03
        return now[0]

    calls: list[tuple[float, int, int | None]] = []
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    monkeypatch.setattr(module, "PIECE", 4096)
    place.fetch(progress=lambda done, total: calls.append((now[0], done, total)))
    moments = [moment for moment, _, _ in calls[:-1]]
    assert len(moments) > 10 and all(later - earlier > 0.09 for earlier, later in pairwise(moments))
    done = [each for _, each, _ in calls]
    assert done == sorted(done) and calls[-1][1:] == (len(body), len(body))


def test_a_reader_of_the_progress_that_has_gone_is_no_fault_of_the_disk(place: Place) -> None:
    def gone(_done: int, _total: int | None) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        place.fetch(progress=gone)


def test_a_folder_that_cannot_be_made_is_an_output_error(place: Place) -> None:
    place.folder.parent.mkdir(exist_ok=True)
    place.folder.write_text("a file in the way")
    with pytest.raises(OutputError):
        place.fetch()


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
        "nonsense": "it is no web address",
        "file:///etc/passwd": "it is no web address",
        "http://[broken/c": "Invalid IPv6 URL",
    }
    known = Known("n", "m.pth", "resnet50", FERPLUS_HEAD, tuple(reasons), "https://example.org/cited")
    with pytest.raises(DownloadError) as error:
        fetch(known, tmp_path, record=tmp_path / "seen.toml")
    message = str(error.value)
    assert "; ".join(f"{url}: {reason}" for url, reason in reasons.items()) in message
    assert f"put it at {tmp_path / 'm.pth'} " in message and known.cited in message


def test_an_entry_without_a_url_says_where_to_put_the_file(tmp_path: Path) -> None:
    known = Known("n", "m.pth", "resnet50", FERPLUS_HEAD, (), "https://example.org/cited")
    with pytest.raises(DownloadError, match=r"no URL is known.*m\.pth.*https://example\.org/cited"):
        fetch(known, tmp_path, record=tmp_path / "seen.toml")


def test_the_record_is_seen_toml_in_the_weights_folder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERPLUS_WEIGHTS", str(place.folder.parent / "weights"))
    fetch(place.known, place.folder)
    assert "some_network" in tomllib.loads((place.folder.parent / "weights" / "seen.toml").read_text())
