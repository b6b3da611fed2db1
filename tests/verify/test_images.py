"""The seeded images: the same everywhere, of natural statistics, and different from each other."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.preprocessing import preprocess_input
from verify.images import Images, natural_images, natural_inputs, natural_pixels


def test_the_seed_decides() -> None:
    first = natural_pixels(2, seed=3, size=64)
    assert (first.shape, first.dtype) == ((2, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(first, natural_pixels(2, seed=3, size=64))
    assert (first != natural_pixels(2, seed=4, size=64)).any()
    np.testing.assert_array_equal(first[:1], natural_pixels(1, seed=3, size=64))


def test_power_falls_with_frequency_and_white_noise_would_not() -> None:
    def low_share(images: np.ndarray) -> np.ndarray:
        """Share of the power (the mean left out) in the lowest eighth of the frequencies."""
        power = np.abs(np.fft.fft2(images[..., 0])) ** 2
        power[:, 0, 0] = 0.0
        frequency = np.abs(np.fft.fftfreq(power.shape[1]))
        low = np.maximum(frequency[:, None], frequency[None, :]) < 1 / 16
        return power[:, low].sum(axis=1) / power.sum(axis=(1, 2))

    natural = natural_pixels(8, size=128).astype(float)
    white = np.random.default_rng(0).uniform(0, 255, natural.shape)
    assert low_share(natural).min() > 0.2
    assert low_share(white).max() < 0.05


def test_images_differ_and_use_the_range() -> None:
    images = natural_pixels(8, size=96).astype(float)
    brightness, contrast = images.mean(axis=(1, 2, 3)), images.std(axis=(1, 2, 3))
    assert np.ptp(brightness) > 20
    assert contrast.max() > 1.5 * contrast.min() > 0
    assert (np.abs(images[..., 0] - images[..., 2]).mean(axis=(1, 2)) > 1).all(), "a grey image hides BGR"


def test_both_layouts_hold_the_same_preprocessed_images() -> None:
    inputs, images = natural_inputs(2, seed=1), natural_images(2, seed=1)
    assert (inputs.shape, inputs.dtype) == ((2, 224, 224, 3), np.float32)
    assert tuple(images.shape) == (2, 3, 224, 224)
    np.testing.assert_array_equal(inputs, preprocess_input(natural_pixels(2, seed=1)))
    np.testing.assert_array_equal(images.numpy().transpose(0, 2, 3, 1), inputs)


def test_a_folder_of_images_is_taken_as_it_is(tmp_path: Path) -> None:
    for number in range(5):
        image = np.random.default_rng(number).integers(0, 255, (48, 48), np.uint8)
        Image.fromarray(image).save(tmp_path / f"fer{number:07d}.png")
    images = Images.of(3, seed=1, folder=tmp_path)
    assert images.pixels.shape == (3, 224, 224, 3) and images.pixels.dtype == np.uint8 and images.count == 3
    assert "3 of 5 images" in images.origin
    np.testing.assert_array_equal(images.pixels, Images.of(3, seed=1, folder=tmp_path).pixels)
    assert not np.array_equal(images.pixels, Images.of(3, seed=2, folder=tmp_path).pixels)
    assert Images.of(9, folder=tmp_path).count == 5
    np.testing.assert_allclose(images.inputs[..., 0], images.pixels[..., 0] - 131.0912, atol=1e-4)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no image"):
        Images.of(1, folder=tmp_path)
    with pytest.raises(BadInputError, match="not a folder"):
        Images.of(1, folder=tmp_path / "absent")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG but not really")
    with pytest.raises(BadInputError, match="cannot be read"):
        Images.of(1, folder=tmp_path)


def test_real_faces_are_taken_where_they_are(tmp_path: Path) -> None:
    data = os.environ.get("FERPLUS_DATA")
    archive = Path(data or "", "ferplus.zip")
    if not data or not archive.exists():
        pytest.skip("FERPLUS_DATA does not lead to ferplus.zip")
    with zipfile.ZipFile(archive) as zipped:
        names = [name for name in zipped.namelist() if name.endswith(".png") and "Valid" in name][:4]
        for name in names:
            (tmp_path / Path(name).name).write_bytes(zipped.read(name))
    assert Images.of(4, folder=tmp_path).pixels.std() > 10
