"""What code for the packages fer and deepface calls, with these networks and BlazeFace inside.

    from ferplus_keras.compat import FER                  # was: from fer import FER
    FER().detect_emotions(image)                          # [{"box": [x, y, w, h], "emotions": {"angry": 0.02, ...}}]

    from ferplus_keras.compat import DeepFace             # was: from deepface import DeepFace
    DeepFace.analyze("a.jpg", actions=["emotion"])        # [{"emotion": {...}, "dominant_emotion": "happy", ...}]

Arrays are BGR, as OpenCV reads them and as both packages want them. Both know seven emotions: without ``contempt=True``
the network's eighth is left out and the other seven are scaled to sum to 1. Arguments are theirs, in their order; ours
come by name only. Faces come with the largest first.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.emotions import emotion_of
from ferplus_keras.predict.classifier import EmotionClassifier
from ferplus_keras.predict.faces import BlazeFinder, Face, HaarFinder
from ferplus_keras.predict.given import as_numpy, name_of, opened
from ferplus_keras.predict.records import Prediction

if TYPE_CHECKING:
    from PIL.Image import Image

#: The emotions that both packages know, in their order, and what ours are called there.
SEVEN = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
THEIR_NAMES = {"anger": "angry", "happiness": "happy", "sadness": "sad"}

#: deepface's detectors that stand for one of ours; its others are all younger, and BlazeFace stands for them.
OPENCV, SKIP = "opencv", "skip"

#: FER+'s classes that are no emotions. What a network gives to them is left out, as contempt is.
NO_EMOTION = ("unknown", "nf", "not-a-face", "no face")


class NoFaceError(BadInputError, ValueError):
    """There is no face in an image. A ``ValueError``, as in deepface."""


class FER:
    """fer's detector: ``detect_emotions``, ``top_emotion`` and ``find_faces``.

    ``min_face_size`` is the least side of a face in pixels. The other arguments of fer tune the detector and the crop
    that it has; they are taken, and change nothing. ``model`` is a network's file, by default the trained network that
    comes with the package. Raises :class:`BadInputError` for a cascade or a server of one's own.
    """

    def __init__(
        self, cascade_file: str | None = None, mtcnn: bool = False, tfserving: bool = False, scale_factor: float = 1.1,
        min_face_size: int = 50, min_neighbors: int = 5, offsets: tuple[int, int] = (10, 10), *,
        model: str | Path | None = None, contempt: bool = False,
    ) -> None:  # fmt: skip
        if cascade_file is not None or tfserving:
            raise BadInputError(
                "FER finds faces with BlazeFace and runs the network here: leave out "
                f"{'tfserving' if tfserving else 'cascade_file'}."
            )
        self.min_face_size, self.contempt = min_face_size, contempt
        self._classifier, self._find = classifier_of(model), BlazeFinder()

    def find_faces(self, img: Any, bgr: bool = True) -> list[tuple[int, int, int, int]]:
        """The faces' boxes: left, top, width, height. With ``bgr=False`` the image is grey."""
        return [_corner_and_size(face) for face in self._faces(image_of(img))]

    def detect_emotions(self, img: Any, face_rectangles: Iterable[Sequence[int]] | None = None) -> list[dict[str, Any]]:
        """Each face's ``box`` [left, top, width, height] and ``emotions``, a probability of two digits for each.

        Args:
            img: a path, an image in BGR or grey, an image file's bytes, or these as a data URL in base64.
            face_rectangles: (left, top, width, height) of faces that are known; they are not looked for then.
        """
        return [
            {"box": list(box), "emotions": {name: round(value, 2) for name, value in answer.items()}}
            for box, answer in self._seen(image_of(img), face_rectangles)
        ]

    def top_emotion(self, img: Any) -> tuple[str | None, float | None]:
        """The largest face's first emotion and its probability; (None, None) where there is no face."""
        for _, emotions in self._seen(image_of(img)):
            best = max(emotions, key=emotions.__getitem__)  # before they are rounded to the same number
            return best, round(emotions[best], 2)
        return None, None

    def _seen(
        self, image: Image, rectangles: Iterable[Sequence[int]] | None = None
    ) -> list[tuple[tuple[int, int, int, int], dict[str, float]]]:
        """Each face's box and emotions."""
        if rectangles is None:
            faces = self._faces(image)
            boxes = [_corner_and_size(face) for face in faces]
        else:
            boxes = [_four(each) for each in rectangles]
            faces = [_square(box, image.size) for box in boxes]
        return list(zip(boxes, asked(self._classifier, image, faces, self.contempt), strict=True))

    def _faces(self, image: Image) -> list[Face]:
        return [face for face in self._find(image) if min(_corner_and_size(face)[2:]) >= self.min_face_size]


def analyze(
    img_path: Any, actions: str | Sequence[str] = ("emotion",), enforce_detection: bool = True,
    detector_backend: str = "blazeface", align: bool = True, expand_percentage: int = 0, silent: bool = False,
    anti_spoofing: bool = False, *, model: str | Path | None = None, contempt: bool = False,
) -> list[Any]:  # fmt: skip
    """deepface's ``analyze``, for emotions: a dictionary for each face in the image.

    Args:
        img_path: a path, an image in BGR or grey, an image file's bytes, or these as a data URL in base64; or a list or
            an array of several.
        actions: "emotion"; deepface's other actions are no work of these networks.
        enforce_detection: whether no face is an error; otherwise the whole image is taken for one, of confidence 0.
        detector_backend: "opencv" is the Haar cascade, which has no confidence (1.0 is returned) and no eyes, "skip"
            takes the whole image; anything else is BlazeFace.
        align: whether tilted faces are turned upright (not with "opencv").
        expand_percentage: by how much of its sides a face is cut out wider.
        model: a network's file, by default the trained network that comes with the package.
        contempt: whether it is returned as the eighth emotion.

    Returns:
        For one image a list, for several a list of lists, of ``region`` (``x``, ``y``, ``w``, ``h`` in pixels, and the
        person's ``left_eye`` and ``right_eye`` as (x, y) or None), ``face_confidence`` (0..1), ``emotion`` (percentages
        by name) and ``dominant_emotion``.

    Raises:
        NoFaceError: a ``ValueError``: there is no face.
        BadInputError: the image cannot be read, or another action is wanted.
    """
    actions = (actions,) if isinstance(actions, str) else tuple(actions)
    if actions != ("emotion",) or anti_spoofing:
        wanted = "anti_spoofing" if actions == ("emotion",) else ", ".join(actions) or "none"
        raise BadInputError(f"These networks recognise emotions only, not {wanted}: call it with 'emotion' alone.")
    find = _finder(detector_backend, align, expand_percentage)
    several = isinstance(img_path, (list, tuple)) or getattr(img_path, "ndim", 0) == 4
    results = []
    for number, given in enumerate(img_path if several else [img_path], 1):
        image = image_of(given, number)
        faces = find(image)
        if not faces and enforce_detection and detector_backend != SKIP:
            raise NoFaceError(
                f"No face was found in {name_of(given, number)}: give another image, or enforce_detection=False to "
                "use the whole image as a face."
            )
        faces = faces or [Face((0, 0, *image.size), score=0.0)]
        answers = asked(classifier_of(model), image, faces, contempt)
        results.append([_told(face, answer) for face, answer in zip(faces, answers, strict=True)])
    return results if several else results[0]


class DeepFace:
    """``from ferplus_keras.compat import DeepFace`` for ``from deepface import DeepFace``."""

    analyze = staticmethod(analyze)


@lru_cache(maxsize=2)
def _loaded(path: Path | None, _state: tuple[int, int]) -> EmotionClassifier:
    classifier = EmotionClassifier(path)
    labels = [label for label in classifier.labels if label.strip().lower() not in NO_EMOTION]
    meant = [emotion_of(label) for label in labels]
    if None in meant or len(set(meant)) < len(meant):
        strange = labels[meant.index(None)][:40] if None in meant else ""
        problem = f"{strange} is no emotion that FER and DeepFace know" if strange else "two are the same emotion"
        raise BadInputError(
            f"{classifier.path} has the classes {', '.join(classifier.labels)[:200]}, of which {problem}: they return "
            f"{', '.join(SEVEN)}. Name its classes in a card (docs/field.md), or use EmotionClassifier."
        )
    return classifier


def classifier_of(model: str | Path | None) -> EmotionClassifier:
    """The network, loaded once, and again when its file has changed. Raises :class:`BadInputError` when its classes
    are not emotions.
    """
    if model is None:
        return _loaded(None, (0, 0))
    path = Path(model).absolute()
    try:
        state = path.stat()
    except OSError:  # the classifier says what is wrong
        return EmotionClassifier(path)
    return _loaded(path, (state.st_size, state.st_mtime_ns))


def image_of(given: Any, number: int = 1) -> Image:
    """What callers of the two packages give, as an RGB image. Raises :class:`BadInputError`."""
    what = given if not isinstance(given, str) or len(given) < 200 else f"{given[:40]}..."
    try:
        if isinstance(given, str) and given.startswith("data:image/"):
            return opened(base64.b64decode(given.partition(",")[2].encode("ascii", "replace"), validate=True))
        if getattr(given, "ndim", 0) == 3:
            pixels = as_numpy(given)
            given = pixels[..., [2, 1, 0]] if pixels.shape[-1] in (3, 4) else pixels
        return opened(given)
    except binascii.Error:
        raise BadInputError(f"{name_of(what, number)}: a data URL that is not base64.") from None
    except BadInputError as error:
        raise BadInputError(f"{name_of(what, number)}: {error}.") from None


def asked(classifier: EmotionClassifier, image: Image, faces: list[Face], contempt: bool) -> list[dict[str, float]]:
    """Each face's emotions by the packages' names, together 1."""
    if not faces:
        return []
    pixels = np.stack([face.pixels(image, classifier.side) for face in faces])
    return [_named(each, contempt) for each in classifier.predict_pixels(pixels)]


def _named(prediction: Prediction, contempt: bool) -> dict[str, float]:
    ours = {emotion_of(label) or label: value for label, value in prediction.probabilities.items()}
    theirs = {THEIR_NAMES.get(name, name): value for name, value in ours.items()}
    found = {name: theirs.get(name, 0.0) for name in (*SEVEN, *(["contempt"] if contempt else []))}
    whole = sum(found.values()) or 1.0
    return {name: value / whole for name, value in found.items()}


def _finder(backend: str, align: bool, expand: float) -> Callable[[Image], list[Face]]:
    margin = expand / 200  # of a side, on each of its ends
    if backend == SKIP:
        return lambda image: []
    if backend == OPENCV:
        return HaarFinder(margin)
    return BlazeFinder(margin) if align else BlazeFinder(margin, level_from=math.inf)


def _told(face: Face, emotions: dict[str, float]) -> dict[str, Any]:
    x, y, width, height = _corner_and_size(face)
    right, left = face.eyes or (None, None)  # the eye on the left of an image is the person's right one
    return {
        "region": {"x": x, "y": y, "w": width, "h": height, "left_eye": left, "right_eye": right},
        "face_confidence": round(face.score, 2),
        "emotion": {name: 100 * value for name, value in emotions.items()},
        "dominant_emotion": max(emotions, key=emotions.__getitem__),
    }


def _corner_and_size(face: Face) -> tuple[int, int, int, int]:
    left, top, right, bottom = face.box
    return left, top, right - left, bottom - top


def _four(rectangle: Sequence[int]) -> tuple[int, int, int, int]:
    try:
        left, top, width, height = (int(each) for each in rectangle)
    except (TypeError, ValueError, OverflowError):
        raise BadInputError("A face's rectangle is four whole numbers: left, top, width, height.") from None
    return left, top, width, height


def _square(rectangle: tuple[int, int, int, int], size: tuple[int, int]) -> Face:
    """A known face, its shorter side made as long as the other as fer does; the image's edge goes on beyond it."""
    left, top, width, height = rectangle
    if width < 1 or height < 1 or left >= size[0] or top >= size[1] or left + width <= 0 or top + height <= 0:
        raise BadInputError(
            f"A face's rectangle {rectangle} (left, top, width, height) is not in the image of {size[0]} x {size[1]}."
        )
    side = max(width, height)
    return Face((left, top, left + width, top + height), (left + width / 2, top + height / 2, side, 0.0))
