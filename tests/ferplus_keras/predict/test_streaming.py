"""Decoding and network at once, in order, with a bound on what is in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferplus_keras.errors import BadInputError
from ferplus_keras.predict.faces import Face
from ferplus_keras.predict.records import Prediction
from ferplus_keras.predict.streaming import Preparation, Prepared, answer, stream
from tests.ferplus_keras.predict.conftest import Brightness


def grey(number: int) -> Image.Image:
    if number % 7 == 3:
        raise BadInputError("damaged: on purpose")
    return Image.new("RGB", (8, 8), (number % 256,) * 3)


def run(
    count: int, batch: int, classifier: Any = None, prepare: Any = None, threads: int = 3
) -> list[tuple[Prepared[int], tuple[Prediction, ...]]]:
    classifier = classifier or Brightness()
    groups = stream(range(count), prepare or Preparation(grey), classifier, batch=batch, threads=threads)
    return [each for group in groups for each in group]


@pytest.mark.parametrize("batch", [1, 4, 32])
@pytest.mark.parametrize("count", [0, 1, 5, 70])
def test_every_item_comes_once_and_in_order(count: int, batch: int) -> None:
    classifier = Brightness()
    found = run(count, batch, classifier)
    assert [prepared.item for prepared, _ in found] == list(range(count))
    for prepared, predictions in found:
        if prepared.item % 7 == 3:
            assert prepared.error == "damaged: on purpose" and not predictions
        else:
            (only,) = predictions
            assert only.probabilities["happiness"] == pytest.approx(prepared.item / 255)
    assert max(classifier.batches, default=0) <= batch
    if count == 70:
        assert max(classifier.batches) == batch, "batches are full"


def test_no_more_is_asked_for_than_keeps_all_busy() -> None:
    asked = 0

    def items() -> Iterator[int]:
        nonlocal asked
        for number in range(10_000):
            asked += 1
            yield number * 7

    answered = 0
    for group in stream(items(), Preparation(grey), Brightness(), batch=8, threads=2):
        answered += len(group)
        assert asked - answered <= 2 * 8 + 2
        if answered > 200:
            break


def test_the_next_images_are_decoded_while_the_network_is_busy() -> None:
    """The network does not return before an image of the next batch was opened: a pipeline without overlap hangs."""
    opened = [threading.Event() for _ in range(20)]

    def read(number: int) -> Image.Image:
        opened[number].set()
        return Image.new("RGB", (8, 8))

    class Waiting(Brightness):
        def predict_pixels(self, pixels: np.ndarray) -> list[Prediction]:
            following = sum(self.batches) + len(pixels)
            assert following >= 20 or opened[following].wait(20), "nothing was decoded meanwhile"
            return super().predict_pixels(pixels)

    assert len(run(20, 4, Waiting(), Preparation(read), threads=2)) == 20


def test_several_faces_of_an_image_stay_with_it() -> None:
    def find(image: Image.Image) -> list[Face]:
        return [Face((0, 0, 4, 4))] * (image.getpixel((0, 0))[0] % 4)  # type: ignore[index]

    found = run(30, 5, None, Preparation(lambda number: Image.new("RGB", (8, 8), (number,) * 3), find))
    for prepared, predictions in found:
        assert len(predictions) == prepared.item % 4 == len(prepared.boxes or ())
        told = answer(f"{prepared.item}.png", prepared, predictions).rows("m")
        assert [row["face"] for row in told] == (list(range(1, len(predictions) + 1)) or [0])


def test_a_fault_of_the_program_is_not_taken_for_a_damaged_image() -> None:
    def read(number: int) -> Image.Image:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(3, 2, None, Preparation(read))


def test_what_waits_to_be_drawn_on_is_small() -> None:
    (only,) = run(1, 1, None, Preparation(lambda _number: Image.new("RGB", (4000, 1000)), show=True))
    assert only[0].shown is not None and only[0].shown.size == (720, 180) and only[0].scale == 0.18
