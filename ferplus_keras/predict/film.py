"""Films and cameras: frames by OpenCV, faces followed from frame to frame, emotions smoothed over time.

In memory are a batch of frames and the faces of the last second, however long the film is.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.opening import open_regular
from ferplus_keras.predict.blazeface import shared
from ferplus_keras.predict.records import Box, Prediction, unformulated
from ferplus_keras.wording import printable

if TYPE_CHECKING:
    from PIL.Image import Image

#: What files of films begin with, from a byte on. Playlists, which name other files, do not; they are refused.
BEGINNINGS = ((4, b"ftyp"), (4, b"moov"), (4, b"mdat"), (0, b"\x1aE\xdf\xa3"), (0, b"RIFF"), (0, b"OggS"),
              (0, b"\x00\x00\x01\xba"), (0, b"\x00\x00\x01\xb3"), (0, b"G"), (0, b"FLV"))  # fmt: skip

#: Pixels of a frame at most: some frames are in memory at a time, and each takes eight bytes a pixel.
MAX_FRAME = 7680 * 4320

#: A film that is not cut short has this share of the frames that it tells.
WHOLE = 0.9

#: Boxes of one face in two frames overlap by this share at least (intersection over union).
FOLLOWED = 0.3

#: What is followed where no faces are looked for: each frame's box, whatever its size, is the same.
WHOLE_FRAME: Box = (0, 0, 1, 1)

#: Seconds for which a face that is not seen is remembered.
REMEMBERED = 1.0


@dataclass(frozen=True)
class Frame:
    """One frame: its number from 0 on, its time in seconds, its width and height, and its pixels, upright, in RGB,
    until they are not needed any more.
    """

    number: int
    seconds: float
    size: tuple[int, int]
    image: Image | None


class Film:
    """The frames of a film's file, or of the camera with a number; ``frames_per_second`` where the file tells.

    Raises :class:`BadInputError` when it is not a film, or OpenCV cannot read it.
    """

    def __init__(self, source: str | Path | int) -> None:
        self.name = f"camera {source}" if isinstance(source, int) else os.fspath(source)
        if not isinstance(source, int):
            _check_beginning(source)
        try:
            import cv2
        except ImportError:
            raise BadInputError(
                "Films need OpenCV, which is not installed: pip install 'ferplus-keras[faces]'."
            ) from None
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: it would print what it finds in the file
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        with nullcontext(source) if isinstance(source, int) else _in_utf8(source) as name:
            self._capture = cv2.VideoCapture(name)
        if not self._capture.isOpened():
            raise BadInputError(
                f"{self.name} cannot be opened. Is it connected, and free?" if isinstance(source, int) else
                f"{self.name} is not a film that OpenCV can read; convert it to MP4 (H.264) first."
            )  # fmt: skip
        self.live = isinstance(source, int)
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.frames_per_second = rate if 0.1 <= rate <= 1000 else 25.0
        self.count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        width, height = (int(self._capture.get(each)) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_FRAME:
            raise BadInputError(f"{self.name} has frames of {width} x {height}, more than the {MAX_FRAME:,} pixels "
                                "that are decoded (8K): make them smaller first.")  # fmt: skip
        #: The last frame, number and seconds, of a film that ends long before the end that it tells.
        self.cut: tuple[int, float] | None = None

    def frames(self, step: int = 1, start: int = 0) -> Iterator[Frame]:
        """Every ``step``-th frame, from the first at or behind ``start`` on; the others are not made pixels of."""
        import cv2
        from PIL import Image

        number, seconds, opened = 0, 0.0, time.monotonic()
        while self._capture.grab():
            if number % step == 0 and number >= start:
                there, pixels = self._capture.retrieve()
                if there:
                    position = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000 or number / self.frames_per_second
                    seconds = max(seconds, time.monotonic() - opened if self.live else position)
                    rgb = np.ascontiguousarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
                    image = Image.fromarray(rgb)
                    yield Frame(number, round(seconds, 3), image.size, image)
            number += 1
        if not number:
            raise BadInputError(f"{self.name} has no frame that can be read.")
        # By number and by time, for either may be a guess of a sound film's.
        ends = number < WHOLE * self.count and seconds + step / self.frames_per_second < WHOLE * self.length
        if ends and number > start and not self.live:
            self.cut = (number - 1, round(seconds, 3))

    @property
    def length(self) -> float:
        """Seconds that the film tells to have."""
        return self.count / self.frames_per_second

    def close(self) -> None:
        self._capture.release()


@contextmanager
def _in_utf8(path: str | Path) -> Iterator[str]:
    """A name of the file for OpenCV, which crashes at one that is no UTF-8: then a link to it, while it is opened."""
    name = os.path.abspath(path)  # noqa: PTH100
    if os.fsencode(name).decode("utf-8", "replace") == name:
        yield name
        return
    with tempfile.TemporaryDirectory() as aside:
        link = Path(aside) / f"film{Path(name).suffix if Path(name).suffix.isascii() else ''}"
        link.symlink_to(name)
        yield str(link)


def _check_beginning(path: str | Path) -> None:
    with open_regular(path) as stream:
        start = stream.read(16)
    if not any(start[place : place + len(sign)] == sign for place, sign in BEGINNINGS):
        raise BadInputError(
            f"{path} is not a film (MP4, MOV, MKV, WebM, AVI, MPEG, Ogg or FLV): it does not begin as one."
        )


@dataclass
class Track:
    """One face over time: its number, its last box, the time of it, and what is thought of it by then."""

    number: int
    box: Box
    seconds: float
    probabilities: np.ndarray


@dataclass
class Tracker:
    """Faces followed by the overlap of their boxes, each with a number of its own, from 1 on.

    What is said of a face is the mean of what the network said of it, older answers counting less: by a factor e every
    ``smooth`` seconds. With 0 each frame stands alone.
    """

    labels: Sequence[str]
    smooth: float = 0.5
    tracks: list[Track] = field(default_factory=list)
    numbers: int = 0

    def follow(
        self, seconds: float, boxes: Sequence[Box], predictions: Sequence[Prediction]
    ) -> list[tuple[int, Prediction]]:
        """The number of each face of a frame, and what is thought of it now."""
        self.tracks = [each for each in self.tracks if seconds - each.seconds <= REMEMBERED]
        pairs = sorted(
            ((shared(track.box, box)[1], place, index) for place, track in enumerate(self.tracks)
             for index, box in enumerate(boxes)), key=lambda pair: -pair[0],
        )  # fmt: skip
        found: dict[int, Track] = {}
        taken: set[int] = set()
        for share, place, index in pairs:
            if share >= FOLLOWED and index not in found and place not in taken:
                found[index] = self.tracks[place]
                taken.add(place)
        return [self._seen(seconds, box, prediction, found.get(index))
                for index, (box, prediction) in enumerate(zip(boxes, predictions, strict=True))]  # fmt: skip

    def _seen(self, seconds: float, box: Box, prediction: Prediction, track: Track | None) -> tuple[int, Prediction]:
        now = np.array([prediction.probabilities[label] for label in self.labels])
        if track is None:
            self.numbers += 1
            track = Track(self.numbers, box, seconds, now)
            self.tracks.append(track)
        else:
            old = exp(-(seconds - track.seconds) / self.smooth) if self.smooth else 0.0
            track.box, track.seconds, track.probabilities = box, seconds, old * track.probabilities + (1 - old) * now
        return track.number, Prediction.of(self.labels, track.probabilities)

    def recall(self, rows: Iterable[dict[str, str]], film: str) -> int:
        """Take up what the rows of a run's file say of ``film``, and give the number of the next frame to look at.

        Other films' rows are passed over: each film begins at its first frame, with track 1.
        """
        last, place = -1, os.path.abspath(film)  # noqa: PTH100
        for row in rows:
            try:
                name = unformulated(row["input"]).rpartition("#")[0]
                if name != film and os.path.abspath(name) != place:  # noqa: PTH100
                    continue
                last = int(row["frame"])
                if row["face"] == "0":
                    continue
                number, seconds = int(row["track"]), float(row["seconds"])
                left, top, right, bottom = (row[side] for side in ("left", "top", "right", "bottom"))
                box = (int(left), int(top), int(right), int(bottom)) if left else WHOLE_FRAME
                seen = np.array([float(row[printable(label)]) for label in self.labels])
            except (ValueError, KeyError):
                raise BadInputError(
                    "The file of results has a row that does not belong to a frame of a film: it is damaged. "
                    "Leave --resume out."
                ) from None
            kept = [each for each in self.tracks if each.number != number and seconds - each.seconds <= REMEMBERED]
            self.tracks = [*kept, Track(number, box, seconds, seen)]
            self.numbers = max(self.numbers, number)
        return last + 1


class FilmWriter:
    """An MP4 of frames of one size, with boxes and what was said of them."""

    def __init__(self, path: Path, frames_per_second: float) -> None:
        self.path, self.pace = path, frames_per_second
        self._writer: Any = None
        self._written = 0

    def write(
        self, image: Image, boxes: Sequence[Sequence[float]], texts: Sequence[str], numbers: Sequence[int]
    ) -> None:
        import cv2

        from ferplus_keras.predict.annotate import labelled

        sheet = np.asarray(labelled(image, boxes, texts, numbers))
        if self._writer is None:
            size = (sheet.shape[1], sheet.shape[0])
            with _in_utf8(self.path) as name:
                self._writer = cv2.VideoWriter(name, cv2.VideoWriter_fourcc(*"mp4v"), self.pace, size)  # type: ignore[attr-defined]
            if not self._writer.isOpened():
                raise BadInputError("OpenCV cannot write MP4 here: leave --annotate out.")
        self._written += 1
        self._writer.write(cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file. Raises ``OSError`` where not all of it was written, which OpenCV does not tell."""
        if self._writer is None:
            return
        self._writer.release()
        try:
            film = Film(self.path)
            whole = sum(1 for _ in iter(film._capture.grab, False)) == self._written
            film.close()
        except BadInputError:
            whole = False
        if not whole:
            raise OSError("not all of the film was written")
