"""What is given as an image in Python is taken for what it is, or refused by what it is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferplus_keras.errors import BadInputError
from ferplus_keras.predict.given import from_array, is_one, items, name_of, opened

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def encoded() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_arrays_of_pixels_are_images(shape: tuple[int, ...], dtype: type) -> None:
    pixels = noise(*shape)
    found = np.asarray(from_array(pixels.astype(dtype)))
    np.testing.assert_array_equal(found, np.broadcast_to(pixels.reshape(20, 30, -1), (20, 30, 3)))


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 20, 30), np.uint8), r"channels first.*moveaxis"),
        (np.zeros((3, 60, 3), np.uint8), "may have its channels first"),
        (np.zeros((7, 20, 30), np.uint8), "7 grey images would be n x height"),
        (np.zeros((2, 2304), np.uint8), "2 rows of pixels"),
        (np.zeros((500, 2304), np.uint8), "500 rows of pixels"),
        (np.zeros((1, 100), np.uint8), "looks like 1 row of"),
        (np.zeros((2, 20, 30, 3), np.uint8), "several images go in a list"),
        (np.zeros((0, 5, 3), np.uint8), "not an image"),
        (np.zeros(5, np.uint8), "not an image"),
        (PIXELS / 255.0, "multiply it by 255"),
        (PIXELS / 200.0, "no number above 1.2"),
        (PIXELS // 128 * np.int64(1), "multiply it by 255"),
        (PIXELS.astype(np.float32) - 131.0, "nor less a mean"),
        (PIXELS.astype(np.uint16), "8 bits but no number above 255"),
        (PIXELS.astype(np.uint16) * 16, "8 bits but no number above 4080"),
        (np.array(7), "a single number"),
        (np.full((5, 5), np.nan), "NaN"),
        (np.full((5, 5), 300), r"outside 0\.\.255"),
        (np.array([["a"]]), "not an image"),
        (np.zeros((5, 5), bool), "not an image"),
        (np.zeros((5, 5), complex), "not an image"),
    ],
)  # fmt: skip
def test_arrays_that_are_no_pixels_are_refused(array: np.ndarray, says: str) -> None:
    with pytest.raises(BadInputError, match=says) as error:
        opened(array)
    assert "\n" not in str(error.value)


def test_tensors_are_arrays() -> None:
    torch, tf = pytest.importorskip("torch"), pytest.importorskip("tensorflow")
    for tensor in (
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS.astype("f4")).requires_grad_(),
        tf.constant(PIXELS),
    ):
        assert is_one(tensor)
        np.testing.assert_array_equal(np.asarray(opened(tensor)), PIXELS)
    first = torch.from_numpy(PIXELS.transpose(2, 0, 1).copy())
    assert is_one(first)
    with pytest.raises(BadInputError, match="channels first"):
        opened(first)
    stack = torch.from_numpy(np.stack([PIXELS] * 3))
    assert not is_one(stack) and len(list(items(stack))) == 3
    with pytest.raises(BadInputError, match="cannot be made a NumPy array"):
        opened(torch.zeros(20, 30, 3, dtype=torch.bfloat16))


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, io.BytesIO])
def test_the_bytes_of_a_file_are_an_image(wrap: Any) -> None:
    given = wrap(encoded())
    assert is_one(given)
    np.testing.assert_array_equal(np.asarray(opened(given)), PIXELS)


def test_an_open_file_is_an_image_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded())
    with path.open("rb") as stream:
        stream.seek(0, io.SEEK_END)
        np.testing.assert_array_equal(np.asarray(opened(stream)), PIXELS)
    with pytest.raises(BadInputError, match="cannot be read"):
        opened(stream)
    text = tmp_path / "a.txt"
    text.write_text("words")
    with text.open() as words:
        assert is_one(words)
        with pytest.raises(BadInputError, match="mode 'rb'"):
            opened(words)


@pytest.mark.parametrize(
    ("thing", "called"), [(None, "a NoneType"), (7, "an int"), ({"a.png": 1}, "a dict"), (object(), "an object")]
)
def test_what_is_no_image_is_called_by_its_name(thing: Any, called: str) -> None:
    for take in (is_one, opened):
        with pytest.raises(BadInputError, match=f"^{called} is not an image"):
            take(thing)


def test_images_have_names() -> None:
    assert name_of(Path("a/b.png"), 3) == "a/b.png" and name_of(b"...", 3) == "image 3"
