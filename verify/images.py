"""Images to compare networks on: made from a seed, or out of a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.opening import is_folder
from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.networks.natural import natural_images, natural_inputs, natural_pixels
from ferplus_keras.networks.preprocessing import preprocess_input
from ferplus_keras.predict.decoding import load_image
from ferplus_keras.wording import counted

#: What a folder is searched for; whatever else Pillow opens can be converted to one of these.
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Images:
    """Images for a comparison: bytes, count x size x size x 3, RGB; both sides get the same array."""

    pixels: np.ndarray
    origin: str

    @classmethod
    def of(
        cls, count: int, *, seed: int = 0, folder: Path | None = None, size: int = INPUT_SIZE, skip: int = 0
    ) -> Images:
        """``count`` images of ``size`` x ``size``: seeded ones, or from ``folder``, chosen by the seed among more.

        ``skip`` leaves out as many of the folder's as a call with that ``count`` and the same seed takes.

        Raises :class:`BadInputError` when the folder holds no image, or one that cannot be read.
        """
        if folder is None:
            return cls(
                natural_pixels(count, seed=seed, size=size), f"seeded images with natural statistics, seed {seed}"
            )
        paths = image_paths(folder)
        chosen = sorted(np.random.default_rng(seed).permutation(len(paths))[skip : skip + count])
        try:
            pixels = np.stack([load_image(paths[index], size) for index in chosen])
        except (OSError, BadInputError) as error:
            raise BadInputError(f"An image in {folder} cannot be read: {str(error).rstrip('.')}.") from None
        return cls(pixels, f"{len(chosen)} of {counted(len(paths), 'image')} in {folder.name}, seed {seed}")

    @property
    def count(self) -> int:
        return len(self.pixels)

    @property
    def inputs(self) -> np.ndarray:
        """Preprocessed for the networks, float32."""
        return preprocess_input(self.pixels)


def image_paths(folder: Path) -> list[Path]:
    """The images in ``folder`` and below. Raises :class:`BadInputError` when there are none."""
    if not is_folder(folder):
        raise BadInputError(f"{folder} is not a folder; --images takes a folder of images.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    if not paths:
        raise BadInputError(f"There is no image in {folder} ({', '.join(IMAGES)}).")
    return paths


__all__ = ["Images", "image_paths", "natural_images", "natural_inputs", "natural_pixels"]
