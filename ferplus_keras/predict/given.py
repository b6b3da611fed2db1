"""What people give as an image in Python: a path, a file's bytes, an open file, a Pillow image, an array, a tensor.

An array is judged by what it is and not by what it could be read as: a stack of rows, channels that come first, 16 bits
that hold bytes are refused, each in a sentence that says what came and what is wanted.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.opening import is_file, is_folder
from ferplus_keras.networks.pixel_range import range_problem
from ferplus_keras.packages import naming_missing
from ferplus_keras.predict.decoding import MAX_FILE_BYTES, as_rgb, decode, read_image
from ferplus_keras.predict.sixteen_bits import need_all_bits, to_8_bits
from ferplus_keras.predict.sources import Source, find_sources
from ferplus_keras.wording import counted

if TYPE_CHECKING:
    from PIL.Image import Image

WANTED = "give height x width (grey), or height x width x 3 (RGB)"

#: Two-dimensional arrays of these widths are taken for a row of pixels each: 48 x 48, 224 x 224, and those in RGB.
ROWS = (48 * 48, 48 * 48 * 3, 224 * 224, 224 * 224 * 3)

#: A longer strip is not an image of a face.
LONGEST = 16


def is_one(images: Any) -> bool:
    """Whether ``images`` is one image, and no list of them. Raises :class:`BadInputError` on what is neither."""
    if isinstance(images, str | os.PathLike):
        return not _names_several(images)
    if isinstance(images, bytes | bytearray | memoryview) or _is_open(images) or _is_pillow(images):
        return True
    if _is_array(images):
        return len(_shape(images)) != 4
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise BadInputError(
            f"{_kind(images)} is not an image: give a path, an image file's bytes, a Pillow image, an array of "
            "pixels, or several of these."
        )
    return False


def items(images: Any) -> Iterable[Any]:
    """The images of a folder, a pattern, a stack n x height x width x channels, or of whatever holds several."""
    if isinstance(images, str | os.PathLike):
        return find_sources([os.fsdecode(images)])
    if not _is_array(images):
        return images  # type: ignore[no-any-return]
    stack: Iterable[Any] = as_numpy(images)
    return stack


def opened(image: Any) -> Image:
    """One image, upright, in RGB. Raises :class:`BadInputError` in a few words, without a name."""
    if isinstance(image, Source):
        return image.read()
    if isinstance(image, str | os.PathLike):
        return read_image(os.fspath(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return decode(bytes(image))
    if _is_pillow(image):
        try:
            return as_rgb(image)
        except (BadInputError, MemoryError):
            raise
        except Exception as error:  # what Pillow decodes only now
            raise BadInputError(f"damaged: {str(error)[:120]}") from None
    if _is_open(image):
        return decode(_content(image))
    if _is_array(image) or isinstance(image, list | tuple):
        return from_array(image)
    raise BadInputError(f"{_kind(image)} is not an image")


def name_of(image: Any, number: int) -> str:
    """What an image is called in a message: its path, or its place, counted from 1."""
    if isinstance(image, Source):
        return image.name
    return os.fsdecode(image) if isinstance(image, str | os.PathLike) else f"image {number}"


def from_array(array: Any) -> Image:
    """An array or a tensor as an RGB image: height x width (grey), or height x width x 1, 3 (RGB) or 4 (RGBA).

    Bytes are taken as they are, unsigned integers of 16 bits divided by 257 (their brightest must be above 16383),
    other numbers must lie in 0..255. Raises :class:`BadInputError` on other shapes and on numbers that are no pixels,
    0..1 among them.
    """
    with naming_missing():
        from PIL import Image

    pixels = as_numpy(array)
    if problem := _wrong_shape(pixels.shape):
        raise BadInputError(problem)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return as_rgb(Image.fromarray(np.ascontiguousarray(_bytes(pixels))))


def as_numpy(array: Any) -> np.ndarray:
    """NumPy's view of an array or of any library's tensor. Raises :class:`BadInputError` where there is none."""
    try:
        if hasattr(array, "detach"):  # PyTorch's, perhaps with a gradient, perhaps on another device
            array = array.detach().cpu().numpy()
        return np.asarray(array)
    except MemoryError:
        raise
    except Exception as error:  # whatever the library raises on a symbolic tensor, or a kind that NumPy has not
        raise BadInputError(f"{_kind(array)} that cannot be made a NumPy array ({first_line(error, 120)})") from None


def _wrong_shape(shape: tuple[int, ...]) -> str:
    """What is wrong with the shape of an image; "" where it is one."""
    if not shape:
        return f"a single number is not an image: {WANTED}"
    given = f"an array of the shape {' x '.join(map(str, shape))}"
    if 0 in shape or len(shape) not in (2, 3):
        more = "; several images go in a list, or as n x height x width x 3" if len(shape) > 3 else ""
        return f"{given} is not an image: {WANTED}{more}"
    if len(shape) == 2 and (shape[1] in ROWS or shape[1] > LONGEST * shape[0]) and shape[0] != shape[1]:
        return (
            f"{given} looks like {counted(shape[0], 'row')} of pixels, one for each image, and not like one image: "
            "reshape it to n x height x width x 1 (one image of that size: height x width x 1)"
        )
    if len(shape) == 3 and shape[2] not in (1, 3, 4):
        several = f"{counted(shape[0], 'grey image')} would be n x height x width x 1"
        if shape[0] in (1, 3, 4):
            return f"{given} has its channels first: move them to the end (numpy.moveaxis(array, 0, -1)); {several}"
        return f"{given} is not an image: {WANTED}; {several}"
    if len(shape) == 3 and shape[0] in (1, 3) and shape[1] > LONGEST * shape[0]:
        return f"{given} may have its channels first, and is not an image of a face: {WANTED}"
    return ""


def _bytes(pixels: np.ndarray) -> np.ndarray:
    """The pixels as 0..255, or :class:`BadInputError` where their range is doubtful."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        need_all_bits([pixels])
        return to_8_bits(pixels)
    if problem := range_problem(pixels):
        raise BadInputError(problem)
    whole: np.ndarray = np.rint(pixels).astype(np.uint8)
    return whole


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}"


def _is_array(value: Any) -> bool:
    """NumPy's arrays, and what can be made one: tensors of PyTorch, TensorFlow, JAX. Pillow's images are not meant."""
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__") or hasattr(value, "__dlpack__")


def _names_several(path: str | os.PathLike[str]) -> bool:
    """Whether this is a folder, or a pattern: what `ferplus predict` takes for several images."""
    return is_folder(name := os.fsdecode(path)) or (glob.has_magic(name) and not is_file(name))


def _is_pillow(value: Any) -> bool:
    return hasattr(value, "getexif")  # recognised without importing Pillow


def _is_open(value: Any) -> bool:
    return hasattr(value, "read") and not _is_pillow(value)


def _shape(value: Any) -> tuple[int, ...]:
    """The shape as the library has it, or NumPy's where it does not tell."""
    try:
        return tuple(value.shape)
    except (AttributeError, TypeError, ValueError):
        return as_numpy(value).shape


def _content(stream: Any) -> bytes:
    """The bytes in an open file, from its beginning where it can go there."""
    try:
        if getattr(stream, "seekable", lambda: False)():
            stream.seek(0)
        content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # closed, or not for reading
        raise BadInputError(f"an open file that cannot be read ({first_line(error, 120)})") from None
    if not isinstance(content, bytes | bytearray):
        raise BadInputError("a file that was opened as text: open it with the mode 'rb'")
    if len(content) > MAX_FILE_BYTES:
        raise BadInputError(f"more than the limit of {MAX_FILE_BYTES >> 20} MiB")
    return bytes(content)
