"""From pixels to the network's input: one function, one declared channel order."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras.architecture import INPUT_SIZE


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its input; travels inside every file that is written.

    ``mean`` is subtracted per channel from pixels in ``pixel_range``; nothing is divided.
    """

    channel_order: str = "RGB"
    pixel_range: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, float, float] = (131.0912, 103.8827, 91.4953)  # VGGFace2's, in *_dag.py's meta
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    size: tuple[int, int] = (INPUT_SIZE, INPUT_SIZE)
    resize: str = "straight to size, no crop, bilinear"
    layout: str = "height x width x channels"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


#: The one preprocessing of both FERPlus networks and of the VGGFace2 networks they come from.
PUBLISHED = Preprocessing()


def preprocess_input(images: Any) -> np.ndarray:
    """``images`` (height x width x 3, or a batch of them; RGB; 0..255, any dtype) as float32 less the mean.

    Raises ``ValueError`` when the last axis is not the three channels. Does not change its argument.
    """
    pixels = np.asarray(images)
    if pixels.ndim not in (3, 4) or pixels.shape[-1] != 3:
        raise ValueError(
            "preprocess_input takes RGB images as height x width x 3, or a batch of them; "
            f"it was given the shape {pixels.shape}"
        )
    return pixels.astype(np.float32) - np.asarray(PUBLISHED.mean, np.float32)


def load_image(path: str | Path) -> np.ndarray:
    """The picture at ``path`` as RGB bytes, 224 x 224 x 3, ready for :func:`preprocess_input`.

    Turned upright as its EXIF data say, transparent pixels on white, 16 bits made 8, grey become three channels; then
    resized straight to the square (a face crop is expected), bilinear as in Pillow. Raises ``FileNotFoundError`` when
    there is none, :class:`ferplus_keras.errors.BadInputError` when it is no picture, damaged, or too large to be one.
    """
    from ferplus_keras.errors import BadInputError
    from ferplus_keras.predict.decoding import as_input, read_picture  # Pillow is for those who bring files

    Path(path).stat()
    try:
        return as_input(read_picture(path))
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}.") from None
