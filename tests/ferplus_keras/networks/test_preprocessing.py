"""From pixels to the network's input: the published means, in RGB order."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from ferplus_keras.compat import utils
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.preprocessing import PUBLISHED, preprocess_input
from ferplus_keras.predict.decoding import load_image
from ferplus_keras.predict.given import from_array

MEAN = (131.0912, 103.8827, 91.4953)  # red, green, blue


# --- preprocess_input ---------------------------------------------------------------------------------------------


def test_the_published_preprocessing() -> None:
    assert PUBLISHED.mean == MEAN
    assert PUBLISHED.channel_order == "RGB"
    assert (PUBLISHED.pixel_range, PUBLISHED.std, PUBLISHED.size) == ((0.0, 255.0), (1.0, 1.0, 1.0), (224, 224))
    assert PUBLISHED.as_dict()["mean"] == MEAN


def test_each_channel_loses_its_own_mean_and_keeps_its_place() -> None:
    pixels = np.zeros((2, 4, 5, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = 200, 100, 50

    result = preprocess_input(pixels)

    assert result.dtype == np.float32
    assert result.shape == pixels.shape
    np.testing.assert_allclose(result[0, 0, 0], (200 - MEAN[0], 100 - MEAN[1], 50 - MEAN[2]), rtol=1e-6)
    assert np.unique(result.reshape(-1, 3), axis=0).shape == (1, 3)


def test_one_image_and_a_batch_give_the_same() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 7, 3), np.uint8)
    np.testing.assert_array_equal(preprocess_input(pixels)[1], preprocess_input(pixels[1]))
    np.testing.assert_array_equal(preprocess_input(pixels.tolist()), preprocess_input(pixels))


@given(
    st_numpy.arrays(
        st.sampled_from([np.uint8, np.int16, np.int64, np.float32, np.float64]),
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(3)),
        elements=st.integers(0, 255).filter(lambda value: not 0 < value <= 3),  # alone, they look like 0 to 1
    )
)
def test_the_argument_is_left_alone_and_the_type_does_not_matter(pixels: np.ndarray) -> None:
    before = pixels.copy()

    result = preprocess_input(pixels)

    np.testing.assert_array_equal(pixels, before)
    assert not np.shares_memory(result, pixels)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, preprocess_input(before.astype(np.uint8)))


@pytest.mark.parametrize("shape", [(224, 224), (224, 224, 1), (224, 224, 4), (3, 224, 224), (1, 1, 8, 8, 3), (3,), ()])
def test_what_is_no_rgb_image_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="RGB images as height x width x 3") as caught:
        preprocess_input(np.zeros(shape))
    assert str(shape) in str(caught.value)


# --- load_image ---------------------------------------------------------------------------------------------------


def test_the_whole_image_is_kept_and_resized_bilinearly(tmp_path: Path) -> None:
    # Straight to the square: no crop, so the four corners of an oblong image are the result's corners.
    pixels = np.zeros((40, 80, 3), np.uint8)
    corners = {(0, 0): 60, (0, -1): 120, (-1, 0): 180, (-1, -1): 240}
    for (row, column), value in corners.items():
        pixels[slice(0, 8) if row == 0 else slice(-8, None), slice(0, 8) if column == 0 else slice(-8, None)] = value
    path = tmp_path / "corners.png"
    Image.fromarray(pixels).save(path)

    image = load_image(path)

    assert (image.shape, image.dtype) == ((224, 224, 3), np.uint8)
    assert {corner: int(image[corner][0]) for corner in corners} == corners
    expected = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(image, expected)
    assert (image != np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.NEAREST))).any()
    Image.fromarray(expected).save(path)  # of the right size already: unchanged
    np.testing.assert_array_equal(load_image(str(path)), expected)
    image[0, 0] = 0  # the array is the caller's to change


# --- what is no image of 0..255 ---------------------------------------------------------------------------------


def sample() -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)


def whole() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3))


#: What torchvision's Normalize makes of bytes.
IMAGENET = (sample() / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)

SPOILED = [
    (sample() / 255, "no number above 0.99.*multiply it by 255"),
    (sample() / 255 * 1.04 - 0.02, "no number above 1.01.*multiply it by 255"),  # resized bicubically
    (sample() / 127.5 - 1, r"outside 0\.\.255 .*neither scaled nor less a mean"),
    (IMAGENET, r"outside 0\.\.255 .*neither scaled nor less a mean"),
    (np.maximum(IMAGENET, 0.1), "no number above 2.6"),  # of a bright image
    (sample() - np.float32(131), "nor less a mean"),
    (sample() / 2 + 100 - np.float32(131), "nor less a mean"),  # of an image without black
    (sample() * 256, r"outside 0\.\.255"),
    (whole() - 128, "nor less a mean"),
    (whole() // 4 + 100 - 128, "nor less a mean"),
    (whole().astype(np.int8), "nor less a mean"),
    (whole().astype(np.uint16) * 257, r"outside 0\.\.255 \(.*divide 16 bits by 257"),
    (whole() // 128, "no number above 1.*multiply it by 255"),
    (whole() > 128, "an array of bool"),
    (np.where(np.arange(3) == 1, np.nan, sample()), "NaN"),
    (np.where(np.arange(3) == 1, np.inf, sample()), "NaN or infinity"),
    (sample().astype(str), "an array of <U"),
    (sample().astype(complex), "an array of complex"),
]  # fmt: skip


@pytest.mark.parametrize(("spoiled", "message"), SPOILED)
def test_numbers_that_are_no_pixels_are_refused(spoiled: np.ndarray, message: str) -> None:
    for refuse in (preprocess_input, partial(utils.preprocess_input, version=2)):
        with pytest.raises(ValueError, match=f"^preprocess_input takes pixels from 0 to 255: .*{message}"):
            refuse(spoiled)
    if spoiled.dtype != np.uint16:  # there, all 16 bits are an image's
        with pytest.raises(BadInputError, match=message):
            from_array(spoiled[0])


@pytest.mark.parametrize("first", [np.moveaxis(sample(), -1, 1), np.moveaxis(sample()[0], -1, 0)])
def test_channels_that_come_first_are_refused(first: np.ndarray) -> None:
    with pytest.raises(ValueError, match="channels come first"):
        preprocess_input(first)


def test_what_is_rare_and_right_is_let_through() -> None:
    black, dark = np.zeros((4, 4, 3), np.float32), np.ones((4, 4, 3), np.uint8)
    overshot = sample() + np.float32(20)
    empty = np.zeros((0, 4, 4, 3), np.float32)
    for pixels in (black, black.astype(int), dark, overshot, empty, sample().astype(np.float16)):
        assert preprocess_input(pixels).shape == pixels.shape


@pytest.mark.parametrize("low, high", [(-3, 260), (-60, 300), (-10, 100), (-0.5, 255), (40, 336)])
def test_what_bicubic_resizing_leaves_is_let_through(low: float, high: float) -> None:
    """Of FERPlus's faces 192 are above 287 after it, and some below -50."""
    pixels = np.linspace(low, high, 8 * 8 * 3, dtype=np.float32).reshape(8, 8, 3)
    np.testing.assert_array_equal(preprocess_input(pixels), pixels - np.asarray(MEAN, np.float32))
