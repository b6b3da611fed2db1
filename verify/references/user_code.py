"""A user's own code as the reference: the ``*_dag.py`` that was published with the checkpoint, or any PyTorch network.

It is code, and it runs with all of the user's rights: only when it is named with ``--reference-code``, never because
it happens to lie beside a checkpoint.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.match_report import by
from convert.torchvision_names import published_layer, published_name
from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.opening import is_file
from ferplus_keras.networks.emotions import softmax
from verify.references.torch_reference import as_torch, load_strictly

NOTE = "written by its author, not by this project; it shares only the checkpoint's tensors"

#: What authors call the number of classes.
CLASSES = ("num_classes", "n_classes", "nb_classes", "classes")

#: Names of a head beside the published one (:mod:`convert.heads` takes it in a file).
CLASSIFIER = "classifier"


class UserCodeReference:
    """The network class of a Python file, with the checkpoint's tensors loaded strictly."""

    name = "code"
    independent = True

    def __init__(self, checkpoint: Checkpoint, dtype: str, path: Path) -> None:
        import torch

        self.dtype = dtype
        self.output = checkpoint.architecture.output
        self.numbers = checkpoint.architecture.head.units
        self.names = set(checkpoint.architecture.by_name)
        made, self.module = _network(path, checkpoint)
        self.title = f"PyTorch, {made} of {path.name}"
        self.note = NOTE
        self.module = self.module.to(getattr(torch, dtype)).eval()

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs of those submodules that the architecture knows, and of the network as a whole."""
        import torch

        kept: dict[str, np.ndarray] = {}

        def keep(name: str) -> Any:
            def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
                if torch.is_tensor(output):
                    value = output if output.ndim == 4 else output.reshape(*output.shape[:2], 1, 1)
                    kept[name] = np.array(value.detach().numpy()).transpose(0, 2, 3, 1)

            return hook

        hooks = [
            module.register_forward_hook(keep(published_layer(name)))
            for name, module in self.module.named_modules()
            if published_layer(name) in self.names
        ]
        try:
            with torch.no_grad():
                result = self.module(as_torch(images, self.dtype))
        except (Exception, SystemExit) as error:  # whatever code that is not ours raises; it must not end the check
            failure = f"{type(error).__name__}: {error}"
            raise BadInputError(f"The reference code of {self.title} failed on an image: {failure}") from error
        finally:
            for hook in hooks:
                hook.remove()
        kept[self.output] = self._logits(list(_tensors(result)), kept.get(self.output), len(images))
        return kept

    def _logits(self, returned: list[Any], head: np.ndarray | None, images: int) -> np.ndarray:
        """The logits among what the network returned, recognised by their number; ``head``: what its own head returned.

        Raises :class:`BadInputError` where nothing that it returned can be the logits, or several things can.
        """
        arrays = [np.array(each.detach().numpy()) for each in returned]
        if not self.numbers:  # without a head: the feature map
            fitting = [each.transpose(0, 2, 3, 1) for each in arrays if each.ndim == 4]
        else:
            fitting = [each.reshape(images, 1, 1, -1) for each in arrays if each.size == images * self.numbers]
        shapes = " and ".join(by(each.shape) for each in arrays) or "no tensor"
        wanted = f"{self.numbers} numbers an image" if self.numbers else "a feature map"
        if len(arrays) > 1:
            self.note = f"{NOTE}; it returns {shapes}, of which the {wanted} are taken"
        if head is not None and fitting and head.shape == fitting[0].shape:
            # logits, probabilities, or both in any order
            if any(np.array_equal(each, head) for each in fitting):
                return head
            if any(np.allclose(each, softmax(head), rtol=1e-5, atol=0) for each in fitting):
                return head
        if len(fitting) != 1:
            which = "more than one" if fitting else "none"
            raise BadInputError(
                f"The reference code of {self.title} returns {shapes}, of which {which} is {wanted}. Let its forward "
                "return the logits, alone or among others."
            )
        return fitting[0]


def _tensors(value: Any) -> Iterator[Any]:
    """Every tensor in what a network returned, whatever it is wrapped in."""
    import torch

    if torch.is_tensor(value):
        yield value
    elif isinstance(value, tuple | list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _network(path: Path, checkpoint: Checkpoint) -> tuple[str, Any]:
    """The network of the file whose tensors are the checkpoint's, by its name and loaded; the file is executed."""
    code = _executed(path)
    refused: dict[str, str] = {}
    for name, make in _candidates(code, path.stem, checkpoint.architecture.head.units):
        try:
            module = make()
        except (Exception, SystemExit) as error:  # it takes arguments, say: blocks of a network do
            refused[name] = f"cannot be made: {type(error).__name__}: {first_line(error, 120)}"
            continue
        if not hasattr(module, "state_dict"):
            continue
        try:
            load_strictly(module, checkpoint, _its_names(module))
        except (KeyError, RuntimeError) as error:
            refused[name] = f"does not have the same tensors: {str(error.args[0]).splitlines()[0][:200]}"
            continue
        return name, module
    if not refused:
        raise BadInputError(f"{path} defines no torch.nn.Module.")
    reasons = "; ".join(f"{name} {why}" for name, why in list(refused.items())[:4])
    raise BadInputError(
        f"No network in {path} has the same tensors as the checkpoint ({reasons}). Name the file that belongs to it."
    )


def _executed(path: Path) -> ModuleType:
    if not is_file(path):
        raise BadInputError(f"There is no reference code at {path}.")
    spec = importlib.util.spec_from_file_location(f"reference_code_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BadInputError(f"{path} is not a Python file: reference code ends in .py.")
    code = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(code)
    except (Exception, SystemExit) as error:  # whatever code that is not ours raises; it must not end the check either
        raise BadInputError(f"{path} could not be run as reference code: {type(error).__name__}: {error}") from error
    return code


def _candidates(code: ModuleType, stem: str, units: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What may make the network: the class of the file's name, then the others from the last on, then functions.

    A file may define its blocks as classes too, and what is made of them comes last. A function is called only where
    its name says that it makes a net.
    """
    import torch

    own: list[Any] = [each for each in vars(code).values() if getattr(each, "__module__", None) == code.__name__]
    classes = [each for each in reversed(own) if inspect.isclass(each) and issubclass(each, torch.nn.Module)]
    classes.sort(key=lambda each: each.__name__.lower() != stem.lower())
    functions = [each for each in own if inspect.isfunction(each) and "net" in each.__name__.lower()]
    callables: list[Any] = [*classes, *functions]
    for each in callables:
        known = inspect.signature(each).parameters
        yield each.__name__, partial(each, **{name: units for name in CLASSES if name in known and units})


def _its_names(module: Any) -> Callable[[str], str]:
    """The module's own name of a published tensor: torchvision's, and a head of another name, where it has these."""
    its: dict[str, str] = {}
    layers: dict[str, None] = {}
    for name in module.state_dict():
        its.setdefault(published_name(name), name)
        layers[name.rpartition(".")[0]] = None
    if f"{CLASSIFIER}.weight" not in its and layers:
        *_, last = layers
        its |= {f"{CLASSIFIER}.{role}": f"{last}.{role}" for role in ("weight", "bias")}
    return lambda published: its.get(published, published)
