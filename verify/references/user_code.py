"""A user's own ``*_dag.py`` as the reference: the one that was published with the checkpoint, where somebody has it.

It is code, and it runs with all of the user's rights: only when it is named with ``--reference-code``, never because
it happens to lie beside a checkpoint.
"""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from ferplus_keras.errors import BadInputError
from verify.references.torch_reference import as_torch, load_strictly


class UserCodeReference:
    """The network class of a Python file, with the checkpoint's tensors loaded strictly."""

    name = "code"
    independent = True
    note = "written by its author, not by this project; it shares only the checkpoint's tensors"
    dtypes = ("float64", "float32")

    def __init__(self, checkpoint: Checkpoint, dtype: str, path: Path) -> None:
        import torch

        self.title = f"PyTorch, {path.name}"
        self.dtype = dtype
        self.output = checkpoint.architecture.output
        self.names = set(checkpoint.architecture.by_name)
        self.module = _network(path)
        try:
            load_strictly(self.module, checkpoint)
        except (KeyError, RuntimeError) as error:
            raise BadInputError(
                f"The network in {path} and the checkpoint do not have the same tensors ({str(error)[:300]}). "
                "Name the file that was published with this checkpoint."
            ) from None
        self.module = self.module.to(getattr(torch, dtype)).eval()

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of those submodules that the architecture knows, and of the network as a whole."""
        import torch

        kept: dict[str, np.ndarray] = {}

        def keep(name: str) -> Any:
            def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
                value = output if output.ndim == 4 else output.reshape(*output.shape[:2], 1, 1)
                kept[name] = np.array(value.detach().numpy()).transpose(0, 2, 3, 1)

            return hook

        hooks = [
            module.register_forward_hook(keep(name))
            for name, module in self.module.named_modules()
            if name in self.names
        ]
        try:
            with torch.no_grad():
                result = self.module(as_torch(images, self.dtype))
            if isinstance(result, tuple | list):  # some generated files return features beside the logits
                result = result[0]
            logits = np.array(result.numpy()).reshape(len(images), 1, 1, -1)
        except (Exception, SystemExit) as error:  # whatever a stranger's code raises; it must not end the check
            told = f"{type(error).__name__}: {error}"
            raise BadInputError(f"The reference code of {self.title} failed on an image: {told}") from error
        finally:
            for hook in hooks:
                hook.remove()
        kept[self.output] = logits
        return kept


def _network(path: Path) -> Any:
    """An instance of the one network class in the file; the file is executed."""
    import torch

    if not path.is_file():
        raise BadInputError(f"There is no reference code at {path}.")
    spec = importlib.util.spec_from_file_location(f"reference_code_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(code)
        classes = [
            each for each in vars(code).values()
            if inspect.isclass(each) and issubclass(each, torch.nn.Module) and each.__module__ == code.__name__
        ]  # fmt: skip
        # A file may define its blocks as classes too: the network is the one that no other is made of.
        networks = [each for each in classes if each.__name__.lower() == path.stem.lower()] or classes[-1:]
        if not networks:
            raise BadInputError(f"{path} defines no torch.nn.Module.")
        return networks[0]()
    except BadInputError:
        raise
    except (Exception, SystemExit) as error:  # whatever a stranger's code raises; it must not end the check either
        raise BadInputError(f"{path} could not be run as reference code: {type(error).__name__}: {error}") from error
