"""The seeded images: the same everywhere, of natural statistics, and different from each other."""

from __future__ import annotations

import numpy as np

from ferplus_keras.preprocessing import preprocess_input
from verify.images import natural_images, natural_inputs, natural_pixels


def test_the_seed_decides() -> None:
    first = natural_pixels(2, seed=3, size=64)
    assert (first.shape, first.dtype) == ((2, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(first, natural_pixels(2, seed=3, size=64))
    assert (first != natural_pixels(2, seed=4, size=64)).any()
    np.testing.assert_array_equal(first[:1], natural_pixels(1, seed=3, size=64))


def test_power_falls_with_frequency_and_white_noise_would_not() -> None:
    def low_share(pictures: np.ndarray) -> np.ndarray:
        """Share of the power (the mean left out) in the lowest eighth of the frequencies."""
        power = np.abs(np.fft.fft2(pictures[..., 0])) ** 2
        power[:, 0, 0] = 0.0
        frequency = np.abs(np.fft.fftfreq(power.shape[1]))
        low = np.maximum(frequency[:, None], frequency[None, :]) < 1 / 16
        return power[:, low].sum(axis=1) / power.sum(axis=(1, 2))

    natural = natural_pixels(8, size=128).astype(float)
    white = np.random.default_rng(0).uniform(0, 255, natural.shape)
    assert low_share(natural).min() > 0.2
    assert low_share(white).max() < 0.05


def test_pictures_differ_and_use_the_range() -> None:
    pictures = natural_pixels(8, size=96).astype(float)
    brightness, contrast = pictures.mean(axis=(1, 2, 3)), pictures.std(axis=(1, 2, 3))
    assert np.ptp(brightness) > 20
    assert contrast.max() > 1.5 * contrast.min() > 0
    assert (np.abs(pictures[..., 0] - pictures[..., 2]).mean(axis=(1, 2)) > 1).all(), "a grey picture hides BGR"


def test_both_layouts_hold_the_same_preprocessed_images() -> None:
    inputs, images = natural_inputs(2, seed=1), natural_images(2, seed=1)
    assert (inputs.shape, inputs.dtype) == ((2, 224, 224, 3), np.float32)
    assert tuple(images.shape) == (2, 3, 224, 224)
    np.testing.assert_array_equal(inputs, preprocess_input(natural_pixels(2, seed=1)))
    np.testing.assert_array_equal(images.numpy().transpose(0, 2, 3, 1), inputs)
