"""Any image as upright RGB, in bounded memory; what is damaged, unsafe or ambiguous is refused in a sentence.

One decoding for everything that looks at images: :func:`ferplus_keras.load_image`, ``ferplus predict``, Ray's
workers. What a format leaves open is settled here: transparent pixels stand on white; 16 bits become 8 by division,
not by clipping, as Pillow's own conversion does; the first frame counts; EXIF says which way is up; ICC profiles are
not applied, as in the published evaluation.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ferplus_keras.errors import BadInputError, ShortageError, first_line
from ferplus_keras.files.opening import AN_ADDRESS, is_address, need_no_address
from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.packages import naming_missing
from ferplus_keras.predict.room import room
from ferplus_keras.predict.sixteen_bits import had_16_bits, is_wide, need_all_bits, need_bright_colours, to_8_bits

if TYPE_CHECKING:
    from PIL.Image import Image

#: More pixels than this are not decoded: where Pillow begins to warn of a bomb, a quarter of a GiB in RGB.
MAX_PIXELS = 89_478_485

#: Some decoders read the whole file at once, so a file has a bound as well.
MAX_FILE_BYTES = 512 << 20

#: Resizing keeps 16 bytes for each pixel of a side, and a JPEG can have no more.
MAX_SIDE = 65_535

#: Pixels that are made RGB at a time.
STRIP = 1 << 20

#: What the system says when it is short of something, and not the file; and how Pillow's decoders say it.
SHORTAGES = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
OUT_OF_MEMORY = "out of memory"

#: Exif's tag, and what its values ask of the viewer, by Pillow's names.
ORIENTATION = 0x0112
TURNS: dict[object, str] = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
    8: "ROTATE_90",
}  # fmt: skip

#: PostScript is a program: Pillow would start Ghostscript to run it.
POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")

#: What transparent pixels stand on.
BACKGROUND = (255, 255, 255)


def read_image(path: str | Path) -> Image:
    """The image in the file at ``path``, upright, in mode RGB.

    Raises :class:`BadInputError` saying in a few words, without the name, what is wrong with it, and
    :class:`ShortageError`, with the name, when it is the machine that is short of something.
    """
    try:
        # Not waited for: a named pipe without a writer would hold the whole run up.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as stream:
            about = os.fstat(stream.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise BadInputError("not a file")
            if about.st_size > MAX_FILE_BYTES:
                raise BadInputError(f"{about.st_size:,} bytes, more than the limit of {MAX_FILE_BYTES >> 20} MiB")
            return decode(stream, str(path))
    except OSError as error:
        if error.errno in SHORTAGES:
            raise _short(str(path), (error.strerror or "").lower()) from None
        said = AN_ADDRESS if is_address(path) else (error.strerror or first_line(error)).lower()
        raise BadInputError(said) from None
    except ValueError as error:  # a name with a NUL in it
        raise BadInputError(f"not a file name ({first_line(error)})") from None


def decode(data: bytes | BinaryIO, name: str = "an image") -> Image:
    """The image in these bytes, or in this open file, upright, in mode RGB; errors as in :func:`read_image`.

    ``name`` is what it is called where memory does not suffice.
    """
    with naming_missing():
        from PIL import Image, UnidentifiedImageError

    stream = io.BytesIO(data) if isinstance(data, bytes | bytearray | memoryview) else data
    taken = 0
    try:
        head = stream.read(4)
        if not head:
            raise BadInputError("empty")
        if head in POSTSCRIPT:
            raise BadInputError("PostScript, which is a program and is not run; save it as PNG")
        stream.seek(0)
        with Image.open(stream) as image:
            _check_size(image)
            taken = room.take(image.width * image.height)
            found = as_rgb(image)
        room.hold(found, taken)
        taken = 0
        return found
    except BadInputError:
        raise
    except UnidentifiedImageError:
        raise BadInputError("not an image that Pillow knows") from None
    except Image.DecompressionBombError:
        raise BadInputError(f"more than the limit of {MAX_PIXELS:,} pixels") from None
    except MemoryError:
        raise _short(name, "not enough memory") from None
    except Exception as error:  # whatever a decoder raises on damaged bytes: OSError, SyntaxError, struct.error ...
        if OUT_OF_MEMORY in str(error).lower() or getattr(error, "errno", None) in SHORTAGES:
            raise _short(name, first_line(error, 120)) from None
        raise BadInputError(f"damaged: {first_line(error, 120)}") from None
    finally:
        if taken:
            room.give(taken)


def as_rgb(image: Image) -> Image:
    """``image`` decoded, upright, in mode RGB. Raises :class:`BadInputError`, or what Pillow raises on damage."""
    from PIL import Image

    _check_size(image)
    were_16_bits = had_16_bits(image)
    image.load()
    if image.mode == "F":
        raise BadInputError("floating-point pixels of unknown range; save it with 8 or 16 bits")
    if were_16_bits:
        need_bright_colours(image)
    if is_wide(image):
        need_all_bits(np.asarray(image.crop(box)) for box in _strips(image))
    turn = TURNS.get(_orientation(image))
    upright = _converted(image)
    return upright if turn is None else upright.transpose(Image.Transpose[turn])


def _orientation(image: Image) -> object:
    try:
        return image.getexif().get(ORIENTATION)
    except MemoryError:
        raise
    except Exception:  # these data may be damaged where the pixels are not
        return None


def _check_size(image: Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadInputError(f"{width} x {height}, more than the limit of {MAX_PIXELS:,} pixels")
    if max(width, height) > MAX_SIDE:
        raise BadInputError(f"{width} x {height}; a side may have at most {MAX_SIDE:,} pixels")
    if width < 1 or height < 1:
        raise BadInputError("no pixels")


def _converted(image: Image) -> Image:
    """A loaded ``image`` in mode RGB, strip by strip, so that no more than one of its size is made beside it."""
    from PIL import Image

    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    whole = Image.new("RGB", image.size)
    for box in _strips(image):
        whole.paste(_strip_as_rgb(image.crop(box)), box)
    return whole


def _strips(image: Image) -> Iterator[tuple[int, int, int, int]]:
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _strip_as_rgb(strip: Image) -> Image:
    from PIL import Image

    if is_wide(strip):
        strip = Image.fromarray(to_8_bits(np.asarray(strip)))
    if strip.mode in ("La", "RGBa"):  # colours that were multiplied by their opacity
        strip = strip.convert({"La": "LA", "RGBa": "RGBA"}[strip.mode])
    if strip.has_transparency_data:
        opaque = Image.new("RGBA", strip.size, (*BACKGROUND, 255))
        opaque.alpha_composite(strip.convert("RGBA"))
        strip = opaque
    return strip if strip.mode == "RGB" else strip.convert("RGB")


def as_input(image: Image, box: tuple[int, int, int, int] | None = None, side: int = INPUT_SIZE) -> np.ndarray:
    """An RGB image, or what is in ``box`` of it, as the network takes it: side x side x 3 bytes, bilinear, uncropped.

    ``box`` is left, top, right, bottom in pixels.
    """
    from PIL import Image

    part = image if box is None else image.crop(box)
    return np.array(part.resize((side, side), Image.Resampling.BILINEAR))


def _short(name: str, what: str) -> ShortageError:
    return ShortageError(
        f"{name} could not be read: {what}. The image may be sound: run it again with more memory, with fewer "
        "--threads, or when other programs have ended."
    )


def load_image(path: str | Path, size: int = INPUT_SIZE) -> np.ndarray:
    """The image at ``path`` as RGB bytes, ``size`` x ``size`` x 3, ready for :func:`preprocess_input`.

    Turned upright as its EXIF data say, transparent pixels on white, 16 bits made 8, grey become three channels; then
    resized straight to the square (a face crop is expected), bilinear as in Pillow. Raises ``FileNotFoundError`` when
    there is none, :class:`ferplus_keras.errors.BadInputError` when it is no image, damaged, or too large to be one.
    """
    need_no_address(path)
    Path(path).stat()
    try:
        return as_input(read_image(path), side=size)
    except BadInputError as error:
        raise BadInputError(f"{path}: {error}.") from None
