"""Layers as they would compute with a fault in them: images x height x width x channels, float64, any padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def conv2d(
    data: np.ndarray, kernel: np.ndarray, bias: np.ndarray | None, stride: int, pad: tuple[int, ...]
) -> np.ndarray:
    """Convolution in float64; ``pad`` is top, bottom, left, right."""
    import torch

    weights = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
    shift = None if bias is None else torch.from_numpy(np.ascontiguousarray(bias))
    return _back(torch.nn.functional.conv2d(_padded(data, pad, 0.0), weights, shift, stride))


def max_pool(data: np.ndarray, kernel: int, stride: int, pad: tuple[int, ...], value: float) -> np.ndarray:
    import torch

    return _back(torch.nn.functional.max_pool2d(_padded(data, pad, value), kernel, stride))


def average_pool(data: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    import torch

    return _back(torch.nn.functional.avg_pool2d(_padded(data, (0, 0, 0, 0), 0.0), kernel, stride, ceil_mode=True))


def _padded(data: np.ndarray, pad: tuple[int, ...], value: float) -> torch.Tensor:
    import torch

    top, bottom, left, right = pad
    tensor = torch.from_numpy(np.ascontiguousarray(data.transpose(0, 3, 1, 2)))
    return torch.nn.functional.pad(tensor, (left, right, top, bottom), value=value)


def _back(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy().transpose(0, 2, 3, 1)
