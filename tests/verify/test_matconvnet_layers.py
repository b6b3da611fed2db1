"""MatConvNet's layers against PyTorch, where PyTorch has the same, and against loops written from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from verify.references import matconvnet_layers as layers

QUICK = settings(max_examples=60)
small = st.integers(1, 3)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.numpy().transpose(0, 2, 3, 1)


@QUICK
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)), pad=st.tuples(*[st.integers(0, 3)] * 4),
    stride=st.tuples(small, small), dilate=st.tuples(small, small), groups=st.sampled_from([1, 2, 3]),
    bias=st.booleans(),
)  # fmt: skip
def test_convolution_with_groups_four_sided_padding_and_dilation(
    kernel: tuple[int, int], pad: tuple[int, int, int, int], stride: tuple[int, int], dilate: tuple[int, int],
    groups: int, bias: bool,
) -> None:  # fmt: skip
    x, filters = normal(2, 13, 11, 6), normal(*kernel, 6 // groups, 6, seed=1)
    biases = normal(6, seed=2) if bias else None
    ours = layers.convolve(x, filters, biases, pad, stride, dilate)
    padded = functional.pad(nchw(x), (pad[2], pad[3], pad[0], pad[1]))
    theirs = functional.conv2d(
        padded, torch.from_numpy(filters.transpose(3, 2, 0, 1).copy()),
        None if biases is None else torch.from_numpy(biases), stride, 0, dilate, groups,
    )  # fmt: skip
    np.testing.assert_allclose(ours, nhwc(theirs), rtol=0, atol=1e-12)


@QUICK
@given(
    size=st.tuples(st.integers(2, 4), st.integers(2, 4)), pad=st.tuples(*[st.integers(0, 1)] * 4),
    stride=st.tuples(small, small), method=st.sampled_from(["max", "avg"]),
)  # fmt: skip
def test_pooling_sees_the_image_alone(
    size: tuple[int, int], pad: tuple[int, int, int, int], stride: tuple[int, int], method: str
) -> None:
    x = normal(1, 9, 8, 2) - 5  # below zero throughout: a padding with zeros would win every maximum
    ours = layers.pool(x, method, size, pad, stride)
    rows = (9 + pad[0] + pad[1] - size[0]) // stride[0] + 1
    columns = (8 + pad[2] + pad[3] - size[1]) // stride[1] + 1
    assert ours.shape == (1, rows, columns, 2)
    for row in range(rows):
        for column in range(columns):
            top, left = row * stride[0] - pad[0], column * stride[1] - pad[2]
            window = x[0, max(top, 0) : top + size[0], max(left, 0) : left + size[1]].reshape(-1, 2)
            wanted = window.max(axis=0) if method == "max" else window.mean(axis=0)
            np.testing.assert_allclose(ours[0, row, column], wanted, rtol=1e-14)


def test_the_first_pooling_of_the_networks_is_pytorchs_ceil_mode() -> None:
    x = np.maximum(normal(1, 112, 112, 3), 0)
    theirs = functional.max_pool2d(nchw(x), 3, 2, ceil_mode=True)
    assert np.array_equal(layers.pool(x, "max", (3, 3), (0, 1, 0, 1), (2, 2)), nhwc(theirs))


def test_a_window_not_larger_than_its_padding_is_refused_as_matconvnet_does() -> None:
    with pytest.raises(ValueError, match="not larger than its padding"):
        layers.pool(normal(1, 5, 5, 1), "max", (2, 2), (0, 2, 0, 0), (1, 1))
    with pytest.raises(ValueError, match="a window of"):
        layers.pool(normal(1, 5, 5, 1), "max", (6, 6), (0, 0, 0, 0), (1, 1))
    with pytest.raises(ValueError, match="do not divide"):
        layers.convolve(normal(1, 5, 5, 4), normal(1, 1, 3, 2), None, (0, 0, 0, 0), (1, 1), (1, 1))


def test_normalisation_takes_the_moments_as_they_are() -> None:
    x, multiplier, bias, mean = normal(2, 3, 3, 4), normal(4, seed=1), normal(4, seed=2), normal(4, seed=3)
    variance = np.abs(normal(4, seed=4)) + 0.1
    theirs = functional.batch_norm(
        nchw(x), *(torch.from_numpy(each) for each in (mean, variance, multiplier, bias)), eps=1e-5
    )
    ours = layers.normalise(x, multiplier, bias, mean, np.sqrt(variance + 1e-5))
    np.testing.assert_allclose(ours, nhwc(theirs), rtol=0, atol=1e-13)


def test_elementwise_layers() -> None:
    x = normal(2, 3, 4, 5) * 50
    assert np.array_equal(layers.rectify(x, 0.0), nhwc(functional.relu(nchw(x))))
    np.testing.assert_allclose(layers.rectify(x, 0.1), nhwc(functional.leaky_relu(nchw(x), 0.1)), rtol=1e-15)
    np.testing.assert_allclose(layers.sigmoid(x), nhwc(torch.sigmoid(nchw(x))), rtol=1e-14, atol=1e-300)
    np.testing.assert_allclose(layers.softmax(x), nhwc(torch.softmax(nchw(x), dim=1)), rtol=1e-12, atol=1e-300)
    for result in (layers.sigmoid, layers.softmax):
        assert result(x.astype(np.float32)).dtype == np.float32


def test_reshape_and_flatten_follow_matlabs_column_major_order() -> None:
    x = normal(2, 2, 3, 4)
    by_hand = [x[1, row, column, channel] for channel in range(4) for column in range(3) for row in range(2)]
    for result in (layers.reshape(x, [1, 1, None]), layers.reshape(x, [1, 1, -1]), layers.flatten(x, 3)):
        assert result.shape == (2, 1, 1, 24) and result[1, 0, 0].tolist() == by_hand
    assert layers.flatten(x, 1).shape == (2, 24, 1, 1)
    assert layers.reshape(x, [0, 6]).shape == (2, 2, 6, 2)  # Caffe's style: 0 keeps, of two the third is the rest
    assert np.array_equal(layers.reshape(x, [0, 0, 0]), x)
