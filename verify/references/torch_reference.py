"""The checkpoint run by PyTorch's own layers, from this project's architecture table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.writers.torch_files import torch_arrays
from ferplus_keras.networks.architecture import INPUT_SIZE


class TorchReference:
    """Runs images (height x width x channels) through the reference module; every layer's output, in Keras's layout."""

    name = "torch"
    title = "PyTorch, this project's module"
    independent = False
    note = (
        "PyTorch's own layers and kernels; independent of Keras, of the readers and the writers, and not of this "
        "project's understanding of the architecture"
    )

    def __init__(self, checkpoint: Checkpoint, dtype: str) -> None:
        self.module = reference_module(checkpoint, dtype)
        self.dtype = dtype

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        kept: dict[str, np.ndarray] = {}

        def observe(name: str, value: torch.Tensor) -> None:
            # A copy, for PyTorch may reuse the memory; laid out by PyTorch, which has more than one thread for it.
            kept[name] = value.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).numpy()

        with torch.no_grad():
            self.module(as_torch(images, self.dtype), observe=observe)
        return kept


def as_torch(images: np.ndarray, dtype: str) -> Any:
    """Images x height x width x channels as PyTorch has them."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(dtype))


def reference_module(checkpoint: Checkpoint, dtype: str) -> Any:
    """The PyTorch reference with the checkpoint's tensors, in evaluation mode."""
    import torch

    from ferplus_keras.networks.torch_module import ReferenceNetwork

    return _loaded(ReferenceNetwork(checkpoint.architecture), checkpoint).to(getattr(torch, dtype)).eval()


def exact_module(checkpoint: Checkpoint) -> Any:
    """The same for float64 arrays, none of which passes through float32 on the way."""
    import torch

    from ferplus_keras.networks.torch_module import ReferenceNetwork

    return _loaded(ReferenceNetwork(checkpoint.architecture).to(torch.float64), checkpoint).eval()


def _loaded(module: Any, checkpoint: Checkpoint) -> Any:
    import torch

    load_strictly(module, checkpoint)
    if checkpoint.provenance.side != INPUT_SIZE:
        module.pool5_7x7_s1 = torch.nn.AdaptiveAvgPool2d(1)  # over all of the last map, which is not 7 x 7
    return module


def load_strictly(module: Any, checkpoint: Checkpoint, its_name: Callable[[str], str] = lambda name: name) -> None:
    """Put every tensor of the checkpoint into ``module``, whose own names and shapes decide.

    ``its_name`` is the module's own name of a published tensor. Raises ``KeyError`` or ``RuntimeError`` when one is
    missing, left over, or of another size.
    """
    import torch

    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    arrays = {its_name(name): array for name, array in torch_arrays(checkpoint)}
    if strange := [name for name in arrays if name not in shapes]:
        raise KeyError(f"it has no {strange[0]} and {len(strange) - 1} more")
    state = {name: torch.from_numpy(np.array(array)).reshape(shapes[name]) for name, array in arrays.items()}
    missing, _unexpected = module.load_state_dict(state, strict=False)
    if left := [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise KeyError(f"the checkpoint has no {left[0]} and {len(left) - 1} more")
