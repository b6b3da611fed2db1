"""Options of MatConvNet's layers: missing ones have defaults, and one number can stand for several."""

from __future__ import annotations

from convert.readers.dagnn import DagLayer, number, numbers, text

#: No stride, window or padding of these networks is larger than their image.
MAX_PIXELS = 224


def method_of(layer: DagLayer) -> str:
    """How a pooling reduces: the option, or the default of its class."""
    return text(layer.block.get("method", "")) or ("avg" if layer.type == "GlobalPooling" else "max")


def leak_of(layer: DagLayer) -> float:
    """The slope of a ReLU below zero."""
    leak, options = layer.block.get("leak"), layer.block.get("opts")
    if isinstance(options, list) and "leak" in [each for each in options[:-1] if isinstance(each, str)]:
        leak = options[next(at for at, each in enumerate(options) if isinstance(each, str) and each == "leak") + 1]
    return number(leak, 0.0)  # older releases: opts = {'leak', 0.1}


def four(value: object) -> tuple[int, int, int, int]:
    """Padding as top, bottom, left, right; given for all sides, for vertical and horizontal, or for each."""
    given = [_whole(each) for each in numbers(value, (0,))]
    if len(given) == 2:
        given = [given[0], given[0], given[1], given[1]]
    elif len(given) == 1:
        given *= 4
    elif len(given) != 4:
        raise ValueError(f"{len(given)} numbers for the padding of four sides")
    top, bottom, left, right = given
    return top, bottom, left, right


def two(value: object) -> tuple[int, int]:
    """A stride or size as vertical, horizontal; one number is for both."""
    given = [_whole(each) for each in numbers(value, (1,))]
    if len(given) > 2:
        raise ValueError(f"{len(given)} numbers for a stride or size")
    vertical, horizontal = given * 2 if len(given) == 1 else given
    if vertical < 1 or horizontal < 1:
        raise ValueError(f"a stride or size of {vertical} x {horizontal}")
    return vertical, horizontal


def _whole(value: float) -> int:
    """A number of pixels."""
    if not (0 <= value <= MAX_PIXELS and value == int(value)):
        raise ValueError(f"{value:g} is not a number of pixels")
    return int(value)
