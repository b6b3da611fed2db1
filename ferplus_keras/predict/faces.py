"""Faces found by what ships with OpenCV: Viola and Jones's cascade of 2001, trained on upright faces from the front.

It is quick and old. It overlooks turned, covered and small faces, and takes other things for faces. What speaks for it
here: it needs no further file, and FER2013's own images were cut out with OpenCV's face detector (Goodfellow et al.
2013), so its boxes are framed like what the networks were trained on. For better boxes, find the faces with a detector
of your own and give the crops.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.predict.records import Box

if TYPE_CHECKING:
    from PIL.Image import Image

#: The cascade's file in OpenCV's package.
CASCADE = "haarcascade_frontalface_default.xml"

#: Faces are looked for on no more pixels a side than this; a face is then still twice as large as the smallest found.
SEARCH_SIDE = 1280

#: OpenCV's own defaults but for the neighbours: at 3 every tenth box holds no face.
SCALE_STEP, NEIGHBOURS, SMALLEST = 1.1, 5, 24


class FaceFinder:
    """Boxes (left, top, right, bottom) of the faces in an RGB image, the largest first.

    ``margin`` widens each box on each side by that share of it, as far as the image goes. Raises
    :class:`BadInputError` when OpenCV or its cascade is not installed.
    """

    def __init__(self, margin: float = 0.0) -> None:
        self.margin = margin
        self._own = threading.local()  # a cascade is not safe to share between threads
        self._cascade()

    def __call__(self, image: Image) -> list[Box]:
        shrink = min(1.0, SEARCH_SIDE / max(image.size))
        small = image.convert("L")
        if shrink < 1:
            small = small.resize((max(1, round(small.width * shrink)), max(1, round(small.height * shrink))))
        found = self._cascade().detectMultiScale(
            np.asarray(small), scaleFactor=SCALE_STEP, minNeighbors=NEIGHBOURS, minSize=(SMALLEST, SMALLEST)
        )
        boxes = [self._widened([int(side) / shrink for side in box], image.size) for box in found]
        return sorted(set(boxes), key=lambda box: (-(box[2] - box[0]) * (box[3] - box[1]), box))

    def _widened(self, box: list[float], size: tuple[int, int]) -> Box:
        left, top, width, height = box
        across, down = width * self.margin, height * self.margin
        return (
            max(0, round(left - across)), max(0, round(top - down)),
            min(size[0], round(left + width + across)), min(size[1], round(top + height + down)),
        )  # fmt: skip

    def _cascade(self) -> Any:
        if not hasattr(self._own, "cascade"):
            self._own.cascade = _load()()
        return self._own.cascade


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
