"""Images made from a seed, with the statistics of natural ones, to run networks on.

White noise alone is a poor test: after the first convolution it averages out, so that every image gives nearly the
same features and a mistake in padding hides in a border nobody lights. Natural images have a power spectrum that
falls with the square of the frequency; so have these, in many contrasts and colours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.networks.preprocessing import preprocess_input

if TYPE_CHECKING:
    import torch


def natural_pixels(count: int, *, seed: int = 0, size: int = INPUT_SIZE) -> np.ndarray:
    """``count`` RGB images, count x size x size x 3 bytes, whose amplitude falls about as 1 / frequency."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0 / size  # the mean: as strong as the longest wave
    images = []
    for _ in range(count):
        shared = generator.normal(size=(1, size, size))  # brightness, common to the channels as in real images
        own = generator.normal(size=(3, size, size))
        # Images differ: in sharpness (the slope), contrast, brightness and tint. Were they all alike, a network
        # would tell them apart by small differences of large numbers, and rounding would look worse than it is.
        slope = generator.uniform(0.6, 1.6)
        waves = np.fft.irfft2(np.fft.rfft2(shared + 0.5 * own) / frequency**slope, s=(size, size))
        waves /= np.abs(waves).max()
        tint = generator.uniform(-40.0, 40.0, (3, 1, 1))
        image = generator.uniform(70.0, 185.0) + tint + generator.uniform(30.0, 160.0) * waves
        images.append(np.clip(np.round(image), 0, 255).astype(np.uint8).transpose(1, 2, 0))
    return np.stack(images)


def natural_inputs(count: int, *, seed: int = 0) -> np.ndarray:
    """The same images as network input: preprocessed, count x 224 x 224 x 3, float32."""
    return preprocess_input(natural_pixels(count, seed=seed))


def natural_images(count: int, *, seed: int = 0) -> torch.Tensor:
    """The same images as PyTorch has them: count x 3 x 224 x 224."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(natural_inputs(count, seed=seed).transpose(0, 3, 1, 2)))
