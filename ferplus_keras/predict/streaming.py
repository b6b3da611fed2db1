"""Images in, answers out: threads decode the next images while the network is busy with these.

What is in memory at a time is bounded: a batch for the network, and as much again waiting for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.predict.decoding import as_input
from ferplus_keras.predict.records import Answer, Box, Prediction

if TYPE_CHECKING:
    from PIL.Image import Image

    from ferplus_keras.predict.classifier import EmotionClassifier
    from ferplus_keras.predict.faces import Face

Find = Callable[["Image"], "list[Face]"]
Item = TypeVar("Item")

#: Images are shown no larger than this, so what waits to be drawn on is reduced to it.
SHOWN_SIDE = 720


@dataclass(frozen=True)
class Prepared(Generic[Item]):
    """An image made ready: each face as the network takes it, 224 x 224 x 3 bytes; or what is wrong."""

    item: Item
    faces: tuple[np.ndarray, ...] = ()
    boxes: tuple[Box, ...] | None = None
    shown: Image | None = None  #: the image, reduced, where it will be drawn on
    scale: float = 1.0  #: of ``shown``
    error: str = ""


@dataclass(frozen=True)
class Preparation(Generic[Item]):
    """What the threads do with an image. ``read`` opens an item, ``find``, if given, looks for faces."""

    read: Callable[[Item], Image]
    find: Find | None = None
    show: bool = False
    side: int = INPUT_SIZE  #: of the images that the network takes

    def __call__(self, item: Item) -> Prepared[Item]:
        try:
            image = self.read(item)
        except BadInputError as error:
            return Prepared(item, error=str(error))
        found = self.find(image) if self.find else None
        boxes = None if found is None else tuple(face.box for face in found)
        faces = (as_input(image, None, self.side),) if found is None else tuple(
            face.pixels(image, self.side) for face in found
        )  # fmt: skip
        shown, scale = None, 1.0
        if self.show:
            scale = min(1.0, SHOWN_SIDE / max(image.size))
            shown = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        return Prepared(item, faces, boxes, shown, scale)


def stream(
    items: Iterable[Item], prepare: Callable[[Item], Prepared[Item]], classifier: EmotionClassifier, *,
    batch: int, threads: int,
) -> Iterator[list[tuple[Prepared[Item], tuple[Prediction, ...]]]]:  # fmt: skip
    """Answers in the order of ``items``, a batch at a time; no more of these are asked for than keep all busy."""
    coming = iter(items)
    waiting: deque[Future[Prepared[Item]]] = deque()
    with ThreadPoolExecutor(threads, "decode") as pool:

        def fill() -> None:
            while len(waiting) < batch + threads:
                for item in coming:
                    waiting.append(pool.submit(prepare, item))
                    break
                else:
                    return

        try:
            fill()
            while waiting:
                ready: list[Prepared[Item]] = []
                faces = 0
                while waiting and faces < batch and len(ready) < 4 * batch:  # damaged ones are reported at once
                    ready.append(waiting.popleft().result())
                    faces += len(ready[-1].faces)
                    fill()  # so that the threads have something to do while the network has
                yield _predicted(ready, classifier, batch)
        finally:
            for each in waiting:
                each.cancel()


def _predicted(
    ready: list[Prepared[Item]], classifier: EmotionClassifier, batch: int
) -> list[tuple[Prepared[Item], tuple[Prediction, ...]]]:
    faces = [face for prepared in ready for face in prepared.faces]
    found = [
        prediction
        for start in range(0, len(faces), batch)
        for prediction in classifier.predict_pixels(np.stack(faces[start : start + batch]))
    ]
    answers, start = [], 0
    for prepared in ready:
        end = start + len(prepared.faces)
        answers.append((prepared, tuple(found[start:end])))
        start = end
    return answers


def answer(name: str, prepared: Prepared[Any], predictions: tuple[Prediction, ...]) -> Answer:
    """The answer to the image called ``name``."""
    return Answer(name, predictions, prepared.boxes if predictions else None, prepared.error)
