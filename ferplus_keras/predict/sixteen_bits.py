"""16 bits made 8, where an image uses all 16. Bytes, and a camera's 10, 12 or 14 bits, in a wider type are refused.

No format says reliably how many of its 16 bits are used, and read as 16 the others are almost black: the network
would answer all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.errors import BadInputError

if TYPE_CHECKING:
    from PIL.Image import Image

#: An image with nothing brighter is taken for one of 14 bits or fewer. Read as 16, it would reach a quarter of white at
#: most: a photograph as dark as that is rare, and can be given as bytes.
NARROWER = (1 << 14) - 1

#: Pillow's names of colours of 16 bits each. BGR;16 is 16 bits for all three.
DEEP_COLOURS = re.compile(r"(RGB[AXa]*|LA);16[BLN]")


def is_wide(image: Image) -> bool:
    """Whether ``image`` is one of 16 or 32 bits, as Pillow has such: whole numbers, one to a pixel."""
    return image.mode == "I" or image.mode.startswith("I;16")


def had_16_bits(image: Image) -> bool:
    """Whether a file has colours of 16 bits, of which Pillow keeps the upper 8. Ask before it is loaded."""
    return any(DEEP_COLOURS.search(str(tile[3])) for tile in getattr(image, "tile", ()))


def need_all_bits(parts: Iterable[np.ndarray]) -> None:
    """Raises :class:`BadInputError` where the numbers in all ``parts`` of an image are not those of 16 bits."""
    extremes = [(int(part.min()), int(part.max())) for part in parts]
    if min(low for low, _ in extremes) < 0 or (high := max(high for _, high in extremes)) > 65535:
        raise BadInputError("32-bit pixels of unknown range; save it with 8 or 16 bits")
    if high:  # black is black in any number of bits
        _need_bright(high)


def need_bright_colours(image: Image) -> None:
    """Raises :class:`BadInputError` where the upper 8 of 16 bits, all that is left of the colours, are hardly used.

    Zeros alone are refused too: they may be black, but also bytes.
    """
    extremes: dict[str, Any] = dict(zip(image.getbands(), image.getextrema(), strict=True))
    if highs := [extremes[band][1] for band in "RGBL" if band in extremes]:
        _need_bright(int(max(highs)) << 8 | 255)


def _need_bright(high: int) -> None:
    if high <= NARROWER:
        raise BadInputError(
            f"more than 8 bits but no number above {high}, which would be almost black: give 8 bits, or numbers up to "
            "65535"
        )


def to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """0..65535 as 0..255, rounded. Pillow hands 16-bit PGM and PNG over as 32-bit integers or as they are."""
    result: np.ndarray = ((pixels.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)
    return result
