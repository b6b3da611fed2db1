"""MatConvNet's layers in test mode, in plain NumPy, written from its documentation of each.

Arrays are images x height x width x channels. NumPy, because it shares no kernel with PyTorch, TensorFlow or JAX and
computes in float64 as in float32; a convolution is a sum of matrix products, one for each place in the filter, which
takes no memory to speak of.

Sources: the help texts of vl_nnconv, vl_nnbnorm, vl_nnpool, vl_nnrelu, vl_nnsoftmax and of the ``dagnn`` classes; of
vl_nnaxpy, vl_nnglobalpool and vl_nnreshape in mcnSENets; of vl_nnflatten in mcnExtraLayers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

Pad = tuple[int, int, int, int]  # top, bottom, left, right
Pair = tuple[int, int]  # vertical, horizontal


def convolve(
    x: np.ndarray, filters: np.ndarray, bias: np.ndarray | None, pad: Pad, stride: Pair, dilate: Pair
) -> np.ndarray:
    """vl_nnconv. ``filters`` are height x width x channels of a group x filters; groups follow from the channels."""
    height, width, depth, count = filters.shape
    groups, left_over = divmod(x.shape[3], depth)
    if left_over or not groups or count % groups:
        raise ValueError(f"filters {filters.shape} do not divide the {x.shape[3]} channels of their input")
    padded = np.pad(x, ((0, 0), pad[:2], pad[2:], (0, 0)))
    reach = ((height - 1) * dilate[0] + 1, (width - 1) * dilate[1] + 1)
    rows, columns = _output_size(padded.shape[1:3], reach, stride)
    each = count // groups
    result = np.zeros((x.shape[0], rows, columns, count), x.dtype)
    for i in range(height):
        for j in range(width):
            window = _window(padded, i * dilate[0], j * dilate[1], (rows, columns), stride)
            for group in range(groups):
                of_group = filters[i, j, :, group * each : (group + 1) * each]
                channels = window[..., group * depth : (group + 1) * depth]
                result[..., group * each : (group + 1) * each] += channels @ of_group
    if bias is not None:
        result += bias
    return result


def normalise(
    x: np.ndarray, multiplier: np.ndarray, bias: np.ndarray, mean: np.ndarray, sigma: np.ndarray
) -> np.ndarray:
    """vl_nnbnorm with given moments: epsilon is in ``sigma`` already."""
    result: np.ndarray = (multiplier / sigma) * (x - mean) + bias
    return result


def pool(x: np.ndarray, method: str, size: Pair, pad: Pad, stride: Pair) -> np.ndarray:
    """vl_nnpool: the padding counts for the geometry only, neither in a maximum nor in an average; sizes round down."""
    if max(pad[:2]) >= size[0] or max(pad[2:]) >= size[1]:
        raise ValueError(f"a pooling window {size} that is not larger than its padding {pad}")
    widths = ((0, 0), pad[:2], pad[2:], (0, 0))
    padded = np.pad(x, widths, constant_values=-np.inf if method == "max" else 0.0)
    shape = _output_size(padded.shape[1:3], size, stride)
    windows = (_window(padded, i, j, shape, stride) for i in range(size[0]) for j in range(size[1]))
    if method == "max":
        return _reduced(np.maximum, windows)
    inside = np.pad(np.ones((1, *x.shape[1:3], 1), x.dtype), widths)
    counts = (_window(inside, i, j, shape, stride) for i in range(size[0]) for j in range(size[1]))
    average: np.ndarray = _reduced(np.add, windows) / _reduced(np.add, counts)
    return average


def rectify(x: np.ndarray, leak: float) -> np.ndarray:
    """vl_nnrelu."""
    result: np.ndarray = np.maximum(x, 0) if not leak else x * np.where(x > 0, x.dtype.type(1), x.dtype.type(leak))
    return result


def sigmoid(x: np.ndarray) -> np.ndarray:
    """vl_nnsigmoid, in the form that does not overflow."""
    small = np.exp(-np.abs(x))
    result: np.ndarray = np.where(x >= 0, 1 / (1 + small), small / (1 + small))
    return result


def softmax(x: np.ndarray) -> np.ndarray:
    """vl_nnsoftmax: over the channels, at every place by itself."""
    powers = np.exp(x - x.max(axis=3, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=3, keepdims=True)
    return result


def reshape(x: np.ndarray, shape: list[int | None]) -> np.ndarray:
    """vl_nnreshape: each image in MATLAB's column-major order; 0 keeps an extent, -1 or None stands for the rest.

    Of two extents the third is the rest.
    """
    extents = [*shape, None] if len(shape) == 2 else shape
    kept = [x.shape[axis + 1] if extent == 0 else extent for axis, extent in enumerate(extents)]
    wanted = [-1 if extent is None else extent for extent in kept]
    return np.stack([image.reshape(wanted, order="F") for image in x])


def flatten(x: np.ndarray, axis: int) -> np.ndarray:
    """vl_nnflatten: height, width and channels all go to ``axis`` (1, 2 or 3; MATLAB counts from one)."""
    wanted = [1, 1, 1]
    wanted[axis - 1] = -1
    return np.stack([image.reshape(wanted, order="F") for image in x])


def _output_size(padded: tuple[int, ...], reach: Pair, stride: Pair) -> Pair:
    sizes = tuple((extent - span) // step + 1 for extent, span, step in zip(padded, reach, stride, strict=True))
    if min(sizes) < 1:
        raise ValueError(f"a window of {reach} in a map of {padded}")
    return sizes[0], sizes[1]


def _window(padded: np.ndarray, i: int, j: int, shape: Pair, stride: Pair) -> np.ndarray:
    """What stands at place (i, j) of every window."""
    rows = slice(i, i + (shape[0] - 1) * stride[0] + 1, stride[0])
    columns = slice(j, j + (shape[1] - 1) * stride[1] + 1, stride[1])
    return padded[:, rows, columns]


def _reduced(operation: np.ufunc, arrays: Iterator[np.ndarray]) -> np.ndarray:
    result = next(arrays).copy()
    for array in arrays:
        operation(result, array, out=result)
    return result
