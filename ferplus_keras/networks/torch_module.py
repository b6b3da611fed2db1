"""The reference: the architecture table run by PyTorch's own layers, in PyTorch's layout.

Its state dict has the names and shapes of Albanie's files, so ``load_state_dict(strict=True)`` of a published
checkpoint works on it as on the lost ``*_dag.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import Architecture

Observe = Callable[[str, torch.Tensor], None]
Perturb = Callable[[arch.Layer, list[torch.Tensor], torch.Tensor], torch.Tensor]


class ReferenceNetwork(nn.Module):
    """``architecture`` as a PyTorch module: input images x 3 x 224 x 224, output images x units (or the feature map).

    ``forward`` takes an optional ``observe(layer name, output)`` that is called after every layer, and an optional
    ``perturb(layer, inputs, output)`` whose result takes the output's place.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        for layer in architecture.layers:
            module = _module(layer)
            if module is not None:
                self.add_module(layer.name, module)

    def forward(
        self, data: torch.Tensor, observe: Observe | None = None, perturb: Perturb | None = None
    ) -> torch.Tensor:
        remaining = _uses(self.architecture)
        values: dict[str, torch.Tensor] = {}
        for layer in self.architecture.layers:
            inputs = [values[name] for name in layer.inputs]
            match layer:
                case arch.Input():
                    value = data
                case arch.Scale():
                    value = inputs[0] * inputs[1]
                case arch.Add():
                    value = inputs[0] + inputs[1]
                case _:
                    value = getattr(self, layer.name)(inputs[0])
            if perturb is not None:
                value = perturb(layer, inputs, value)
            values[layer.name] = value
            if observe is not None:
                observe(layer.name, value)
            for name in layer.inputs:  # let go of what nobody needs any more: a batch in float64 is large
                remaining[name] -= 1
                if not remaining[name]:
                    del values[name]
        return value.flatten(1) if self.architecture.head.kind != "none" else value


def _uses(architecture: Architecture) -> dict[str, int]:
    uses = {layer.name: 0 for layer in architecture.layers}
    for layer in architecture.layers:
        for name in layer.inputs:
            uses[name] += 1
    return uses


def _module(layer: arch.Layer) -> nn.Module | None:
    match layer:
        case arch.Conv():
            return nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.padding, bias=layer.bias
            )
        case arch.Linear():
            return nn.Conv2d(layer.in_channels, layer.units, 1, bias=layer.bias)
        case arch.BatchNorm():
            return nn.BatchNorm2d(layer.channels, arch.BATCHNORM_EPSILON, 1 - arch.BATCHNORM_MOMENTUM)
        case arch.ReLU():
            return nn.ReLU()
        case arch.Sigmoid():
            return nn.Sigmoid()
        case arch.MaxPool():
            return nn.MaxPool2d(layer.kernel, layer.stride, padding=0, ceil_mode=True)
        case arch.AveragePool():
            return nn.AvgPool2d(layer.kernel, stride=1)
        case arch.GlobalPool():
            return nn.AdaptiveAvgPool2d(1)
        case arch.Dropout():
            return nn.Dropout(layer.rate)
        case arch.Input() | arch.Scale() | arch.Add():
            return None
        case _:
            raise TypeError(f"no PyTorch module is known for {type(layer).__name__} ({layer.name})")
