"""Stand-ins: checkpoints of the published size, names and file format with made-up weights, and marked as such.

They make it possible to run and measure everything without the published files. Kernels are He-initialised from a seed.
The BatchNorm statistics come from a forward pass over images with natural statistics, so that activations are as large
as in a trained network and any mistake shows in the logits. The predictions mean nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.checkpoint import STANDIN
from convert.manifest import Known
from ferplus_keras.files.atomic import atomic_path
from ferplus_keras.networks.architecture import Architecture, BatchNorm, Conv, Linear, architecture, torch_name

if TYPE_CHECKING:
    import torch

#: Images of the calibration pass. With fewer, the statistics of the last stage's 7 x 7 maps are noisy.
CALIBRATION_IMAGES = 16

#: Spread of the made-up logits: wide enough that rounding changes no decision.
LOGIT_STD = 2.5


def standin_path(known: Known, folder: Path) -> Path:
    """The stand-in's file name for a known checkpoint: ``resnet50_ferplus_dag-standin.pth``."""
    published = Path(known.file)
    return folder / f"{published.stem}-{STANDIN}{published.suffix}"


def write_standin(known: Known, path: Path, *, seed: int = 0, legacy: bool = True) -> None:
    """Write a stand-in for ``known`` to ``path``, in the old torch.save format unless ``legacy`` is False.

    Needs PyTorch. The same seed gives the same kernels everywhere; the BatchNorm statistics are sums over a forward
    pass and may differ in the last bits between machines. Raises :class:`OutputError` when it cannot be written.
    """
    import torch

    from ferplus_keras.networks.natural import natural_images
    from ferplus_keras.networks.torch_module import ReferenceNetwork

    table = architecture(known.network, known.head)
    module = ReferenceNetwork(table)
    module.load_state_dict(_made_up(table, seed), strict=False)
    images = natural_images(CALIBRATION_IMAGES, seed=seed + 1)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = 1.0  # the statistics of this batch alone, not mixed with the initial 0 and 1
        features: list[torch.Tensor] = []
        module.train()
        module(images, observe=lambda name, value: features.append(value) if name == "pool5_7x7_s1" else None)
        if features:
            _spread_logits(module, table.output, features[0])
        for name, buffer in module.named_buffers():
            if name.endswith("num_batches_tracked"):
                buffer.fill_(0)  # as in files that were imported from MatConvNet and never trained in PyTorch
    state = module.state_dict()
    state._metadata[STANDIN] = True  # type: ignore[attr-defined]  # survives renaming the file
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        torch.save(state, stream, _use_new_zipfile_serialization=not legacy)


def _made_up(table: Architecture, seed: int) -> dict[str, torch.Tensor]:
    import torch

    generator = np.random.default_rng(seed)
    state = {}
    for layer in table.layers:
        if isinstance(layer, Conv | Linear):
            fan_in = layer.in_channels * (layer.kernel**2 if isinstance(layer, Conv) else 1)
            kernel = layer.kernel if isinstance(layer, Conv) else 1
            units = layer.out_channels if isinstance(layer, Conv) else layer.units
            values = generator.normal(0.0, np.sqrt(2.0 / fan_in), (units, layer.in_channels, kernel, kernel))
            state[torch_name(layer.name, "kernel")] = values
            if layer.bias:
                state[torch_name(layer.name, "bias")] = generator.normal(0.0, 0.1, units)
        elif isinstance(layer, BatchNorm):
            # Away from 1 and 0, so that swapped or forgotten parameters show. Blocks add little to their input, as in
            # trained networks: with gamma near 1 throughout, 16 blocks would amplify rounding tenfold.
            low, high = (0.1, 0.4) if layer.name.endswith("_1x1_increase_bn") else (0.5, 1.5)
            state[torch_name(layer.name, "gamma")] = generator.uniform(low, high, layer.channels)
            state[torch_name(layer.name, "beta")] = generator.normal(0.0, 0.2, layer.channels)
    return {name: torch.from_numpy(np.asarray(values, np.float32)) for name, values in state.items()}


def _spread_logits(module: torch.nn.Module, head: str, features: torch.Tensor) -> None:
    """Scale the head so that the logits of the calibration images are centred and spread by LOGIT_STD."""
    layer: Any = module.get_submodule(head)
    logits = layer(features).flatten(1)
    factor = LOGIT_STD / logits.std(dim=0).mean()
    layer.weight.mul_(factor)
    if layer.bias is not None:
        layer.bias.copy_(-(logits - layer.bias).mean(dim=0) * factor)
