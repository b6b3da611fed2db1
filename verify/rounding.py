"""What rounding alone can do to each layer: the line that a float32 figure is to be read beside.

A dot product of n terms, added one after the other, is off by a random walk: each partial sum is rounded, and the
roundings have random signs (Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019). With
unit roundoff u and products p_i that sum to s, its standard deviation is about u * sqrt(n s^2 / 9 + n / 6 sum p_i^2).
Blocked and fused kernels do better, none does worse. That error is put into every layer of the reference, which runs
in float64, and what comes out at each layer is how far rounding reaches: through the network's own amplification, not
by a worst case that no input attains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ferplus_keras.networks import architecture as arch

if TYPE_CHECKING:
    import torch

    from ferplus_keras.networks.torch_module import ReferenceNetwork

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}

#: The bound is this many times the largest error seen in the trials: two sides round, independently (sqrt 2), and
#: the largest of some hundred thousand numbers varies from draw to draw (2).
SAFETY = 2 * 2**0.5

TRIALS = 2


def rounding_units(
    module: ReferenceNetwork, images: np.ndarray, exact: dict[str, np.ndarray], *, seed: int = 0
) -> dict[str, float]:
    """Layer -> the largest relative error that rounding is likely to cause, in units of the unit roundoff.

    Args:
        module: the reference in float64.
        images: a batch, height x width x channels.
        exact: the module's own outputs on ``images``, in Keras's layout.
        seed: of the random signs.
    """
    import torch

    from verify.references.torch_reference import as_torch

    largest = {name: float(np.abs(value).max()) or 1.0 for name, value in exact.items()}
    bounds = dict.fromkeys(exact, 0.0)
    unit = UNIT_ROUNDOFF["float32"]
    for trial in range(TRIALS):
        generator = torch.Generator().manual_seed(seed + trial)

        def perturb(layer: arch.Layer, inputs: list[torch.Tensor], value: torch.Tensor) -> Any:
            spread = _spread(module, layer, inputs, value)
            if spread is None:
                return value
            noise = torch.randn(value.shape, generator=generator)  # noqa: B023  (used at once)
            return spread.mul_(noise).mul_(unit).add_(value)

        def observe(name: str, value: torch.Tensor) -> None:
            apart = (value.permute(0, 2, 3, 1) - torch.from_numpy(exact[name])).abs_().max()
            bounds[name] = max(bounds[name], SAFETY * float(apart) / largest[name] / unit)

        with torch.no_grad():
            module(as_torch(images, "float64"), observe=observe, perturb=perturb)
    return bounds


def _spread(module: Any, layer: arch.Layer, inputs: list[torch.Tensor], value: torch.Tensor) -> Any:
    """The standard deviation of a layer's own rounding error, in units of u; None where nothing is rounded."""
    import torch

    own: Any
    if isinstance(layer, arch.Conv | arch.Linear):
        own = module.get_submodule(layer.name)
        terms = own.weight[0].numel()
        squares = torch.nn.functional.conv2d(inputs[0] ** 2, own.weight**2, None, own.stride, own.padding)
        return _walk(terms, value, squares)
    if isinstance(layer, arch.BatchNorm):  # two products and two sums of numbers that may cancel
        own = module.get_submodule(layer.name)
        scale = (own.weight / (own.running_var + own.eps).sqrt())[:, None, None]
        return inputs[0].abs().add_(own.running_mean[:, None, None].abs()).mul_(2 * scale.abs())
    if isinstance(layer, arch.GlobalPool | arch.AveragePool):
        terms = inputs[0].shape[-1] * inputs[0].shape[-2]
        return _walk(terms, value * terms, (inputs[0] ** 2).sum(dim=(2, 3), keepdim=True)) / terms
    if isinstance(layer, arch.Add):
        return inputs[0].abs().add_(inputs[1].abs())
    if isinstance(layer, arch.Scale):
        return value.abs()
    if isinstance(layer, arch.Sigmoid):  # an exponential, a sum and a quotient, the first of them approximate
        return 4 * value.abs()
    return None  # ReLU, max pooling and dropout choose, and do not compute


def _walk(terms: int, total: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """Standard deviation of a sum of ``terms`` numbers, from the sum and the sum of squares, which is written over."""
    return squares.mul_(terms / 6).addcmul_(total, total, value=terms / 9).sqrt_()
