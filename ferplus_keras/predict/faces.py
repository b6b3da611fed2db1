"""Faces in an image, framed as FER2013's are: by BlazeFace, or by OpenCV's cascade of 2001 (Viola and Jones).

FER2013's images were cut out with OpenCV's detector (Goodfellow et al. 2013): the cascade's boxes are framed like what
the networks were trained on, but it overlooks turned, covered and small faces. BlazeFace finds those, and its points
say where in the frame the eyes, the nose and the mouth must be: where they are in FER2013, see :data:`FRAME`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.predict.blazeface import SMALLEST, BlazeFace, Found, seen, tilt
from ferplus_keras.predict.decoding import as_input
from ferplus_keras.predict.records import Box

if TYPE_CHECKING:
    from PIL.Image import Image

#: The cascade's file in OpenCV's package.
CASCADE = "haarcascade_frontalface_default.xml"

#: Faces are looked for on no more pixels a side than this.
SEARCH_SIDE = 1280

#: OpenCV's own defaults but for the neighbours: at 3 every tenth box holds no face.
SCALE_STEP, NEIGHBOURS = 1.1, 5

#: Where the eyes, the nose and the mouth are in FER2013's images, as shares of a side: the medians of 590 of Train.
FRAME = np.array([[0.31, 0.392], [0.69, 0.392], [0.5, 0.596], [0.5, 0.777]])

#: Eyes are made level from this tilt on, in radians; below it FER2013's own faces lie, which nobody has turned.
LEVEL_FROM = math.radians(15)


@dataclass(frozen=True)
class Face:
    """A face: its box in pixels of the image, and how it is cut out where that is not simply the box.

    ``frame`` is the middle (x, y) of a square in pixels, its side, and the angle in radians by which it is turned
    clockwise.
    """

    box: Box
    frame: tuple[float, float, float, float] | None = None
    score: float = 1.0  #: how sure the detector is, where it says so
    eyes: tuple[tuple[int, int], tuple[int, int]] | None = None  #: (x, y), the one on the left of the image first

    def pixels(self, image: Image, side: int) -> np.ndarray:
        """The face as a network takes it: side x side x 3 bytes."""
        if self.frame is None:
            return as_input(image, self.box, side)
        x, y, length, angle = self.frame
        return seen(image, (x, y), length, angle, side)


def face_finder(name: str, margin: float = 0.0, smallest: int = SMALLEST) -> Callable[[Image], list[Face]]:
    """What finds the faces in an RGB image, the largest first: ``name`` is "blazeface" or "haar".

    ``margin`` widens the frame on each side by that share of it; ``smallest`` is the side in pixels from which on
    BlazeFace looks. Raises :class:`BadInputError` when the detector is not installed.
    """
    return HaarFinder(margin) if name == "haar" else BlazeFinder(margin, smallest=smallest)


class BlazeFinder:
    """Faces by :class:`BlazeFace`, with level eyes where they are tilted by more than ``level_from`` radians."""

    def __init__(self, margin: float = 0.0, *, level_from: float = LEVEL_FROM, smallest: int = SMALLEST) -> None:
        self.margin, self.level_from = margin, level_from
        self._find = BlazeFace(smallest)

    def __call__(self, image: Image) -> list[Face]:
        small, shrink = _reduced(image)
        return _largest_first([self._framed(each, shrink, image.size) for each in self._find(small)])

    def _framed(self, found: Found, shrink: float, size: tuple[int, int]) -> Face:
        angle = tilt(found.points)
        x, y, side = frame_of(found.points / shrink, angle if abs(angle) > self.level_from else 0.0)
        side *= 1 + 2 * self.margin
        eyes = [(round(float(x)), round(float(y))) for x, y in found.points[:2] / shrink]
        return Face(
            _within((x - side / 2, y - side / 2, x + side / 2, y + side / 2), size),
            (x, y, side, angle if abs(angle) > self.level_from else 0.0),
            found.score,
            (eyes[0], eyes[1]),
        )


def frame_of(points: np.ndarray, angle: float) -> tuple[float, float, float]:
    """Middle (x, y) and side of the square, turned clockwise by ``angle``, in which the points lie as in FRAME."""
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    centre, wanted = points.mean(0), FRAME - FRAME.mean(0)
    level = (points - centre) @ turn.T  # as the turned square has them
    side = float((level * wanted).sum() / (wanted**2).sum())
    x, y = centre + side * (0.5 - FRAME.mean(0)) @ turn
    return float(x), float(y), max(side, 1.0)


class HaarFinder:
    """Faces by OpenCV's cascade."""

    def __init__(self, margin: float = 0.0) -> None:
        self.margin = margin
        self._own = threading.local()  # a cascade is not safe to share between threads
        self._cascade()

    def __call__(self, image: Image) -> list[Face]:
        small, shrink = _reduced(image)
        found = self._cascade().detectMultiScale(
            np.asarray(small.convert("L")), scaleFactor=SCALE_STEP, minNeighbors=NEIGHBOURS,
            minSize=(SMALLEST, SMALLEST),
        )  # fmt: skip
        boxes = {self._widened([int(side) / shrink for side in box], image.size) for box in found}
        return _largest_first([Face(box) for box in boxes])

    def _widened(self, box: list[float], size: tuple[int, int]) -> Box:
        left, top, width, height = box
        across, down = width * self.margin, height * self.margin
        return _within((left - across, top - down, left + width + across, top + height + down), size)

    def _cascade(self) -> Any:
        if not hasattr(self._own, "cascade"):
            self._own.cascade = _load()()
        return self._own.cascade


def _reduced(image: Image) -> tuple[Image, float]:
    """``image`` with no side above SEARCH_SIDE, and by how much it was reduced."""
    shrink = min(1.0, SEARCH_SIDE / max(image.size))
    if shrink == 1:
        return image, shrink
    return image.resize((max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))), shrink


def _within(box: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    return max(0, round(left)), max(0, round(top)), min(size[0], round(right)), min(size[1], round(bottom))


def _largest_first(faces: list[Face]) -> list[Face]:
    def area(box: Box) -> int:
        return (box[2] - box[0]) * (box[3] - box[1])

    return sorted(faces, key=lambda face: (-area(face.box), face.box))


def _load() -> Callable[[], Any]:
    try:
        import cv2
    except ImportError:
        raise BadInputError(
            "--faces needs OpenCV, which is not installed: pip install 'ferplus-keras[faces]'."
        ) from None
    folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
    file = Path(folder or "") / CASCADE
    if folder is None or not file.is_file() or not hasattr(cv2, "CascadeClassifier"):
        raise BadInputError(
            f"OpenCV {cv2.__version__} comes without {CASCADE}: version 5 has none. "
            "pip install 'opencv-python-headless<5'."
        )
    return lambda: cv2.CascadeClassifier(str(file))
