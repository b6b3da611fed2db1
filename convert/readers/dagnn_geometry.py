"""Is the stored graph the network that its names and sizes say it is? Connections and options, held against our table.

Two networks can share every array and compute different things: a stride on the next layer, a pooling without its
padding. A ``.mat`` says which it is, so the reader looks.
"""

from __future__ import annotations

from convert.readers.dagnn import DagLayer, DagNN, number, numbers, text
from convert.readers.dagnn_structure import known_graph
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import INPUT_SIZE, Architecture, Layer

#: No stride, window or padding of these networks is larger than their image.
MAX_PIXELS = 224


def departure(net: DagNN, known_as: dict[str, str]) -> str:
    """Where ``net`` parts from the network whose layers it names, in words; "" where it does not.

    ``known_as`` maps stored names to ours. Of a network that is not complete only the options are looked at: what
    is missing is for the comparison of its arrays to say.
    """
    table, pairs, reason = known_graph(net, known_as)
    side = sides(table)
    for layer in table.layers:  # from the image on: the first to differ is the cause of what follows
        stored = pairs.get(layer.name)
        if stored is not None:
            try:
                different = _unlike(layer, stored, side)
            except ValueError as error:
                different = f"the options cannot be read ({error})"
            if different:
                return f"at {layer.name} {different}"
    return reason


def sides(table: Architecture) -> dict[str, int]:
    """Height (and width) of each layer's output at the published input size."""
    side: dict[str, int] = {}
    for layer in table.layers:
        before = side[layer.inputs[0]] if layer.inputs else INPUT_SIZE
        match layer:
            case arch.Conv():
                side[layer.name] = (before + 2 * layer.padding - layer.kernel) // layer.stride + 1
            case arch.MaxPool():
                side[layer.name] = -((layer.kernel - before) // layer.stride) + 1
            case arch.AveragePool():
                side[layer.name] = before - layer.kernel + 1
            case arch.GlobalPool():
                side[layer.name] = 1
            case _:
                side[layer.name] = before
    return side


def _unlike(layer: Layer, stored: DagLayer, side: dict[str, int]) -> str:
    """What ``stored`` does otherwise than ``layer``."""
    match layer:
        case arch.Conv() | arch.Linear():
            stride, padding = (layer.stride, layer.padding) if isinstance(layer, arch.Conv) else (1, 0)
            found = (two(stored.block.get("stride")), four(stored.block.get("pad")), two(stored.block.get("dilate")))
            if found != ((stride,) * 2, (padding,) * 4, (1, 1)):
                return (
                    f"the stride is {stride} and the padding {padding}, and the file has strides {list(found[0])}, "
                    f"padding {list(found[1])} and dilation {list(found[2])}"
                )
        case arch.ReLU():
            if leak := leak_of(stored):
                return f"the ReLU has no leak, and the file has one of {leak:g}"
        case arch.MaxPool():
            return _max_pool(layer, stored, side)
        case arch.AveragePool() | arch.GlobalPool():
            return _whole_map(stored, side[layer.inputs[0]])
    return ""


def _max_pool(layer: arch.MaxPool, stored: DagLayer, side: dict[str, int]) -> str:
    size, stride = two(stored.block.get("poolSize")), two(stored.block.get("stride"))
    top, bottom, left, right = pad = four(stored.block.get("pad"))
    # MatConvNet rounds sizes down; what it pads at the bottom and right, [0 1 0 1], is what rounding up adds.
    made = [(side[layer.inputs[0]] + more - layer.kernel) // layer.stride + 1 for more in (bottom, right)]
    like = (
        method_of(stored) == "max"
        and (size, stride) == ((layer.kernel,) * 2, (layer.stride,) * 2)
        and (top, left) == (0, 0)
        and made == [side[layer.name]] * 2
        and max(bottom, right) < layer.kernel
    )
    if like:
        return ""
    return (
        f"the pooling is a maximum over {layer.kernel} x {layer.kernel}, stride {layer.stride}, padded [0, 1, 0, 1], "
        f"and the file has {method_of(stored)[:20]!r} over {list(size)}, strides {list(stride)}, padded {list(pad)}"
    )


def _whole_map(stored: DagLayer, side: int) -> str:
    if method_of(stored) != "avg":
        return f"the pooling is an average, and the file has {method_of(stored)[:20]!r}"
    if stored.type == "GlobalPooling":
        return ""
    size, pad = two(stored.block.get("poolSize")), four(stored.block.get("pad"))
    if (size, pad) != ((side, side), (0,) * 4):
        return f"the pooling covers the whole map, {side} x {side}, and the file has {list(size)}, padded {list(pad)}"
    return ""


# --- options as MatConvNet takes them -------------------------------------------------------------------------------


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
    """Padding as top, bottom, left, right; one number stands for all sides, two for vertical and horizontal."""
    given = [_whole(each) for each in numbers(value, (0,))]
    if len(given) == 2:
        given = [given[0], given[0], given[1], given[1]]
    elif len(given) == 1:
        given *= 4
    top, bottom, left, right = given
    return top, bottom, left, right


def two(value: object) -> tuple[int, int]:
    """A stride or size as vertical, horizontal; one number stands for both."""
    given = [_whole(each) for each in numbers(value, (1,))]
    vertical, horizontal = given * 2 if len(given) == 1 else given
    if vertical < 1 or horizontal < 1:
        raise ValueError(f"a stride or size of {given}")
    return vertical, horizontal


def _whole(value: float) -> int:
    """A number of pixels."""
    if not (0 <= value <= MAX_PIXELS and value == int(value)):
        raise ValueError(f"{value:g} is no number of pixels")
    return int(value)


__all__ = ["departure", "four", "leak_of", "method_of", "sides", "two"]
