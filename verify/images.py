"""Images to compare networks on, made from a seed.

White noise alone is a poor test: after the first convolution it averages out, so that every image gives nearly the
same features and a mistake in padding hides in a border nobody lights. Natural images have a power spectrum that
falls with the square of the frequency; so have these, in many contrasts and colours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.networks.preprocessing import load_image, preprocess_input

if TYPE_CHECKING:
    import torch


#: What a folder is searched for; whatever else Pillow opens can be converted to one of these.
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Images:
    """Images for a comparison: bytes, count x size x size x 3, RGB; both sides get the same array."""

    pixels: np.ndarray
    origin: str

    @classmethod
    def of(cls, count: int, *, seed: int = 0, folder: Path | None = None, size: int = INPUT_SIZE) -> Images:
        """``count`` images of ``size`` x ``size``: seeded ones, or from ``folder``, chosen by the seed among more.

        Raises :class:`BadInputError` when the folder holds no picture, or one that cannot be read.
        """
        if folder is None:
            return cls(
                natural_pixels(count, seed=seed, size=size), f"seeded images with natural statistics, seed {seed}"
            )
        if not folder.is_dir():
            raise BadInputError(f"{folder} is no folder; --images takes a folder of pictures.")
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
        if not paths:
            raise BadInputError(f"There is no picture in {folder} ({', '.join(PICTURES)}).")
        chosen = sorted(np.random.default_rng(seed).permutation(len(paths))[:count])
        try:
            pixels = np.stack([load_image(paths[index], size) for index in chosen])
        except (OSError, BadInputError) as error:
            raise BadInputError(f"A picture in {folder} cannot be read: {str(error).rstrip('.')}.") from None
        return cls(pixels, f"{len(chosen)} of {len(paths)} pictures in {folder.name}, seed {seed}")

    @property
    def count(self) -> int:
        return len(self.pixels)

    @property
    def inputs(self) -> np.ndarray:
        """Preprocessed for the networks, float32."""
        return preprocess_input(self.pixels)


def natural_pixels(count: int, *, seed: int = 0, size: int = INPUT_SIZE) -> np.ndarray:
    """``count`` RGB images, count x size x size x 3 bytes, whose amplitude falls about as 1 / frequency."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0 / size  # the mean: as strong as the longest wave
    pictures = []
    for _ in range(count):
        shared = generator.normal(size=(1, size, size))  # brightness, common to the channels as in real pictures
        own = generator.normal(size=(3, size, size))
        # Pictures differ: in sharpness (the slope), contrast, brightness and tint. Were they all alike, a network
        # would tell them apart by small differences of large numbers, and rounding would look worse than it is.
        slope = generator.uniform(0.6, 1.6)
        waves = np.fft.irfft2(np.fft.rfft2(shared + 0.5 * own) / frequency**slope, s=(size, size))
        waves /= np.abs(waves).max()
        tint = generator.uniform(-40.0, 40.0, (3, 1, 1))
        picture = generator.uniform(70.0, 185.0) + tint + generator.uniform(30.0, 160.0) * waves
        pictures.append(np.clip(np.round(picture), 0, 255).astype(np.uint8).transpose(1, 2, 0))
    return np.stack(pictures)


def natural_inputs(count: int, *, seed: int = 0) -> np.ndarray:
    """The same images as network input: preprocessed, count x 224 x 224 x 3, float32."""
    return preprocess_input(natural_pixels(count, seed=seed))


def natural_images(count: int, *, seed: int = 0) -> torch.Tensor:
    """The same images as PyTorch has them: count x 3 x 224 x 224."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(natural_inputs(count, seed=seed).transpose(0, 3, 1, 2)))
