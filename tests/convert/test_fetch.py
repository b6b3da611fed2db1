"""Downloads from a real server on this machine that behaves, and misbehaves, as told."""

from __future__ import annotations

import errno
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert import fetch as module
from convert.checkpoint import sha256_of
from convert.fetch import fetch
from convert.manifest import Known
from ferplus_keras.architecture import FERPLUS_HEAD
from ferplus_keras.errors import BadInputError, DownloadError, OutputError
from tests.seeded import save_state

TAG = '"version-1"'


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
    hang: threading.Event | None = None
    requests: list[dict[str, str]] = field(default_factory=list)


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
        start = 0
        span = self.headers.get("Range")
        if span and self.headers.get("If-Range") == told.etag:
            start = int(span.removeprefix("bytes=").removesuffix("-"))
            if start >= len(told.body):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if told.etag:
            self.send_header("ETag", told.etag)
        if start:
            usual = f"bytes {start}-{len(told.body) - 1}/{len(told.body)}"
            self.send_header("Content-Range", told.content_range or usual)
        if told.length and "Content-Length" not in told.headers:
            self.send_header("Content-Length", str(len(told.body) - start))
        for name, value in told.headers.items():
            self.send_header(name, value)
        self.end_headers()
        sent = told.body[start:]
        self.wfile.write(sent if told.cut_after is None else sent[: max(0, told.cut_after - start)])

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
        return fetch(self.known, self.folder, record=self.record, timeout=5.0, **options)

    @property
    def target(self) -> Path:
        return self.folder / self.known.file

    def visible(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("*") if not path.name.startswith("."))


@pytest.fixture(scope="module", params=[False, True], ids=["zip", "legacy"])
def body(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real, small checkpoint file of 800 kB."""
    import torch

    values = torch.from_numpy(np.random.default_rng(0).standard_normal(200_000, np.float32))
    return save_state({"a": values}, tmp_path_factory.mktemp("body") / "x.pth", legacy=request.param).read_bytes()


@pytest.fixture
def place(body: bytes, tmp_path: Path) -> Iterator[Place]:
    told = Behaviour(body)
    handler = type("Told", (Handler,), {"behaviour": told})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/model.pth"
    known = Known("some_network", "model.pth", "resnet50", FERPLUS_HEAD, (url,), "https://example.org/models")
    yield Place(told, known, tmp_path / "downloads", tmp_path / "seen.toml")
    if told.hang is not None:
        told.hang.set()
    server.shutdown()
    server.server_close()


def test_a_download_arrives_and_is_recorded(place: Place, body: bytes) -> None:
    calls: list[tuple[int, int | None]] = []
    fetched = place.fetch(progress=lambda done, total: calls.append((done, total)))
    assert fetched.status == "downloaded" and fetched.path == place.target and fetched.size == len(body)
    assert place.target.read_bytes() == body and fetched.sha256 == sha256_of(place.target)
    assert place.visible() == ["model.pth"]  # no part is left
    entry = tomllib.loads(place.record.read_text())["some_network"]
    assert entry["sha256"] == fetched.sha256 and entry["size"] == len(body) and entry["url"] == place.known.urls[0]
    assert calls[-1] == (len(body), len(body)) and all(total == len(body) for _, total in calls)


def test_what_is_there_is_not_downloaded_again(place: Place) -> None:
    place.fetch()
    again = place.fetch()
    assert again.status == "present" and len(place.told.requests) == 1


def test_a_file_placed_by_hand_is_checked_and_recorded(place: Place, body: bytes) -> None:
    place.folder.mkdir()
    place.target.write_bytes(body)
    assert place.fetch().status == "present" and not place.told.requests
    assert tomllib.loads(place.record.read_text())["some_network"]["url"] == "placed by hand"
    place.target.write_text("<!DOCTYPE html>")
    with pytest.raises(DownloadError, match="HTML page"):
        place.fetch()
    assert place.target.exists()  # what a person put there is not ours to delete


@pytest.mark.parametrize("cut", [1, 1000, 500_000])
def test_a_broken_download_goes_on_where_it_stopped(place: Place, body: bytes, cut: int) -> None:
    place.told.cut_after = cut
    with pytest.raises(DownloadError, match=f"after {cut:,} of {len(body):,} bytes.*run this again"):
        place.fetch()
    assert not place.target.exists()
    place.told.cut_after = None
    assert place.fetch().status == "resumed"
    assert place.target.read_bytes() == body and place.visible() == ["model.pth"]
    asked = place.told.requests[-1]
    assert asked["Range"] == f"bytes={cut}-" and asked["If-Range"] == TAG


def test_a_part_of_another_version_is_not_continued(place: Place, body: bytes) -> None:
    place.told.body, place.told.cut_after = b"old" * 100_000, 1000
    with pytest.raises(DownloadError):
        place.fetch()
    place.told.body, place.told.cut_after, place.told.etag = body, None, '"version-2"'
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_continued(place: Place, body: bytes, etag: str | None) -> None:
    place.told.etag, place.told.cut_after = etag, 1000
    with pytest.raises(DownloadError):
        place.fetch()
    place.told.cut_after = None
    assert place.fetch().status == "downloaded" and place.target.read_bytes() == body
    assert "Range" not in place.told.requests[-1]


def test_a_date_serves_as_validator(place: Place, body: bytes) -> None:
    place.told.etag, place.told.cut_after = None, 1000
    place.told.headers = {"Last-Modified": "Mon, 01 Jun 2020 00:00:00 GMT"}
    with pytest.raises(DownloadError):
        place.fetch()
    place.told.cut_after = None
    place.fetch()
    assert place.told.requests[-1]["If-Range"] == "Mon, 01 Jun 2020 00:00:00 GMT"
    assert place.target.read_bytes() == body  # this server ignores dates and sends all of it


@pytest.mark.parametrize("wrong", ["bytes 5-10/800000", "nonsense", "bytes 1000-1999/2000"])
def test_a_wrong_content_range_is_not_believed(place: Place, body: bytes, wrong: str) -> None:
    place.told.cut_after = 1000
    with pytest.raises(DownloadError):
        place.fetch()
    place.told.cut_after, place.told.content_range = None, wrong
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
    asked = len(place.told.requests)
    assert place.fetch().path.read_bytes() == body and len(place.told.requests) == asked


def test_a_range_that_the_server_does_not_have_begins_anew(place: Place, body: bytes) -> None:
    place.told.cut_after = 700_000
    with pytest.raises(DownloadError):
        place.fetch()
    place.told.body, place.told.cut_after = body[:600_000], None  # shorter now, though it says it is the same
    with pytest.raises(DownloadError):
        place.fetch()
    place.told.body = body
    assert place.fetch().path.read_bytes() == body


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"status": 404}, "404"),
        ({"status": 500}, "500"),
        ({"body": b"<!DOCTYPE html><html>gone</html>"}, "HTML page"),
        ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, "HTML page"),
        ({"body": b""}, "empty"),
        ({"body": b"plain words, no checkpoint" * 100}, "no checkpoint"),
        ({"headers": {"Content-Encoding": "gzip"}}, "gzip"),
        ({"headers": {"Content-Length": str(3 << 30)}}, "more than any"),
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
    assert place.visible() == [] and not place.record.exists()


def test_a_stream_without_end_is_cut(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100_000)
    place.told.length = False
    with pytest.raises(DownloadError, match="more than 100,000 bytes"):
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
        fetch(place.known, place.folder, record=place.record, timeout=0.3)


def test_the_next_url_is_tried_and_a_refused_one_keeps_its_part(place: Place, body: bytes, tmp_path: Path) -> None:
    good = place.known.urls[0]
    dead = good.replace("127.0.0.1", "127.0.0.1:9/x?", 1)
    place.known = Known("n", "model.pth", "resnet50", FERPLUS_HEAD, (dead, good), "c")
    assert place.fetch().url == good and place.target.read_bytes() == body


def test_a_part_survives_a_server_that_is_gone_for_now(place: Place, body: bytes) -> None:
    place.told.cut_after = 1000
    with pytest.raises(DownloadError):
        place.fetch()
    place.told.status = 503
    with pytest.raises(DownloadError, match="503"):
        place.fetch()
    place.told.status = place.told.cut_after = None
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body


def test_another_file_than_the_one_first_seen_is_refused(place: Place, body: bytes) -> None:
    first = place.fetch()
    place.target.unlink()
    changed = bytearray(body)
    if body[:2] == b"PK":
        import io

        import torch

        stream = io.BytesIO()
        torch.save({"a": torch.ones(3)}, stream)
        changed = bytearray(stream.getvalue())
    else:
        changed[-10] ^= 1
    place.told.body = bytes(changed)
    with pytest.raises(DownloadError) as error:
        place.fetch()
    assert first.sha256 in str(error.value) and "[some_network]" in str(error.value)
    assert not place.target.exists() and place.visible() == []
    place.record.unlink()  # as the message says
    assert place.fetch().sha256 != first.sha256


@pytest.mark.parametrize("wrong", [{"size": 5}, {"sha256": "0" * 64}])
def test_the_manifest_has_the_last_word(place: Place, wrong: dict[str, Any]) -> None:
    place.known = Known("n", "model.pth", "resnet50", FERPLUS_HEAD, place.known.urls, "c", **wrong)
    with pytest.raises(DownloadError, match="the manifest says"):
        place.fetch()
    assert place.visible() == [] and not place.record.exists()


def test_the_record_keeps_other_entries(place: Place) -> None:
    place.record.write_text('[other]\nfile = "o.pth"\nsize = 3\nsha256 = "00"\n')
    place.fetch()
    entries = tomllib.loads(place.record.read_text())
    assert entries["other"]["size"] == 3 and "some_network" in entries


@pytest.mark.parametrize("text", ["[broken", "[some_network]\nsize = 'large'\n", "x = 1"])
def test_a_damaged_record_is_named(place: Place, text: str) -> None:
    place.record.write_text(text)
    with pytest.raises(BadInputError, match=r"seen\.toml"):
        place.fetch()


def test_two_at_once_download_once(place: Place, body: bytes) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(place.fetch) for _ in range(4)]]
    assert sorted(each.status for each in results) == ["downloaded", "present", "present", "present"]
    assert len(place.told.requests) == 1 and place.target.read_bytes() == body


def test_a_full_disk_keeps_what_was_loaded(place: Place, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = module._piece
    pieces: list[int] = []

    def full(*arguments: Any) -> bytes:
        piece = honest(*arguments)
        pieces.append(len(piece))
        if sum(pieces) > 300_000:
            raise _DiskFullError
        return piece

    class _DiskFullError(OSError):
        errno = errno.ENOSPC

    monkeypatch.setattr(module, "_piece", full)
    with pytest.raises(OutputError, match=r"No space left.*goes on where it stopped"):
        place.fetch()
    monkeypatch.undo()
    assert place.fetch().status == "resumed" and place.target.read_bytes() == body


def test_a_folder_that_cannot_be_made_is_an_output_error(place: Place) -> None:
    place.folder.parent.mkdir(exist_ok=True)
    place.folder.write_text("a file in the way")
    with pytest.raises(OutputError):
        place.fetch()


def test_every_reason_stands_in_one_message_when_nothing_works(tmp_path: Path) -> None:
    urls = ("http://127.0.0.1:9/a", "http://no-such-host.invalid/b", "nonsense")
    known = Known("n", "m.pth", "resnet50", FERPLUS_HEAD, urls, "https://example.org/cited")
    with pytest.raises(DownloadError) as error:
        fetch(known, tmp_path, record=tmp_path / "seen.toml")
    message = str(error.value)
    assert all(url in message for url in urls) and "refused" in message.lower() and str(tmp_path / "m.pth") in message
