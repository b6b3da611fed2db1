"""Any picture as upright RGB, in bounded memory; what is damaged, unsafe or ambiguous is refused in a sentence.

One decoding for everything that looks at pictures: :func:`ferplus_keras.load_image`, ``ferplus predict``, Ray's
workers. What a format leaves open is settled here: transparent pixels stand on white; 16 bits become 8 by division,
not by clipping, as Pillow's own conversion does; the first frame counts; EXIF says which way is up; ICC profiles are
not applied, as in the published evaluation.
"""

from __future__ import annotations

import io
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.networks.architecture import INPUT_SIZE

if TYPE_CHECKING:
    from PIL.Image import Image

#: More pixels than this are not decoded: where Pillow begins to warn of a bomb, a quarter of a GiB in RGB.
MAX_PIXELS = 89_478_485

#: Some decoders read the whole file at once, so a file has a bound as well.
MAX_FILE_BYTES = 512 << 20

#: PostScript is a program: Pillow would start Ghostscript to run it.
POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")

#: What transparent pixels stand on.
BACKGROUND = (255, 255, 255)


def read_picture(path: str | Path) -> Image:
    """The picture in the file at ``path``, upright, in mode RGB.

    Raises :class:`BadInputError` saying in a few words, without the name, what is wrong with it.
    """
    try:
        # Not waited for: a named pipe without a writer would hold the whole run up.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as stream:
            about = os.fstat(stream.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise BadInputError("not a file")
            if about.st_size > MAX_FILE_BYTES:
                raise BadInputError(f"{about.st_size:,} bytes, more than the {MAX_FILE_BYTES >> 20} MiB that are read")
            return decode(stream)
    except OSError as error:
        raise BadInputError((error.strerror or first_line(error)).lower()) from None
    except ValueError as error:  # a name with a NUL in it
        raise BadInputError(f"not a file name ({first_line(error)})") from None


def decode(data: bytes | BinaryIO) -> Image:
    """The picture in these bytes, or in this open file, upright, in mode RGB; errors as in :func:`read_picture`."""
    from PIL import Image, UnidentifiedImageError

    stream = io.BytesIO(data) if isinstance(data, bytes | bytearray | memoryview) else data
    try:
        head = stream.read(4)
        if not head:
            raise BadInputError("empty")
        if head in POSTSCRIPT:
            raise BadInputError("PostScript, which is a program and is not run; save it as PNG")
        stream.seek(0)
        with Image.open(stream) as picture:
            return as_rgb(picture)
    except BadInputError:
        raise
    except UnidentifiedImageError:
        raise BadInputError("not a picture that Pillow knows") from None
    except Image.DecompressionBombError:
        raise BadInputError(f"more than the {MAX_PIXELS:,} pixels that are decoded") from None
    except Exception as error:  # whatever a decoder raises on damaged bytes: OSError, SyntaxError, struct.error ...
        raise BadInputError(f"damaged: {first_line(error, 120)}") from None


def as_rgb(picture: Image) -> Image:
    """``picture`` decoded, upright, in mode RGB. Raises :class:`BadInputError`, or what Pillow raises on damage."""
    from PIL import Image, ImageOps

    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise BadInputError(f"{width} x {height}, more than the {MAX_PIXELS:,} pixels that are decoded")
    if width < 1 or height < 1:
        raise BadInputError("no pixels")
    picture.load()
    upright = picture
    with suppress(Exception):  # orientation data may be damaged where the pixels are not
        upright = ImageOps.exif_transpose(picture)
    if upright.mode == "F":
        raise BadInputError("floating-point pixels, which do not say what white is; save it with 8 or 16 bits")
    if upright.mode == "I" or upright.mode.startswith("I;16"):
        upright = Image.fromarray(_to_8_bits(np.asarray(upright)))
    if upright.mode in ("La", "RGBa"):  # colours that were multiplied by their opacity
        upright = upright.convert({"La": "LA", "RGBa": "RGBA"}[upright.mode])
    if upright.has_transparency_data:
        opaque = Image.new("RGBA", upright.size, (*BACKGROUND, 255))
        opaque.alpha_composite(upright.convert("RGBA"))
        upright = opaque
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def as_input(picture: Image, box: tuple[int, int, int, int] | None = None, side: int = INPUT_SIZE) -> np.ndarray:
    """An RGB picture, or what is in ``box`` of it, as the network takes it: side x side x 3 bytes, bilinear, uncropped.

    ``box`` is left, top, right, bottom in pixels.
    """
    from PIL import Image

    part = picture if box is None else picture.crop(box)
    return np.array(part.resize((side, side), Image.Resampling.BILINEAR))


def from_array(array: Any) -> Image:
    """An array as an RGB picture: height x width (grey), or height x width x 1, 3 (RGB) or 4 (RGBA).

    Bytes are taken as they are, 16-bit integers divided by 257, other numbers must lie in 0..255. Raises
    :class:`BadInputError` on other shapes and on numbers that are no pixels, 0..1 among them.
    """
    from PIL import Image

    pixels = np.asarray(array)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))) or 0 in pixels.shape:
        raise BadInputError(
            f"an array of the shape {pixels.shape} is no picture: give height x width, or height x width x 3 (RGB)"
        )
    if pixels.dtype == np.uint16:
        pixels = _to_8_bits(pixels)
    elif pixels.dtype == np.bool_ or pixels.dtype.kind not in "uif":
        raise BadInputError(f"an array of {pixels.dtype} is no picture: give numbers from 0 to 255")
    elif pixels.dtype != np.uint8:
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 255:
            raise BadInputError("the array has numbers outside 0..255: pixels are wanted, with no mean subtracted")
        if pixels.dtype.kind == "f" and 0 < pixels.max() <= 1:
            raise BadInputError("the array's numbers lie in 0..1, and pixels in 0..255: multiply it by 255")
        pixels = np.rint(pixels).astype(np.uint8)
    return as_rgb(Image.fromarray(np.ascontiguousarray(pixels)))


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """0..65535 as 0..255, rounded. Pillow hands 16-bit PGM and PNG over as 32-bit integers or as they are."""
    wide = pixels.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise BadInputError("32-bit pixels, which do not say what white is; save it with 8 or 16 bits")
    result: np.ndarray = ((wide * 255 + 32767) // 65535).astype(np.uint8)
    return result


__all__ = ["BACKGROUND", "MAX_FILE_BYTES", "MAX_PIXELS", "as_input", "as_rgb", "decode", "from_array", "read_picture"]
