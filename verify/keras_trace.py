"""A Keras model run with every operation watched: the calls in order, what went in and what came out.

This is how a model from elsewhere is looked at without knowing its names: nested models, shared layers and bare
operations (``x + y``) come out as one row of calls. Nothing of the model changes but its floating-point type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

#: (index of the call, its output as images x height x width x channels, or images x features)
Watch = Callable[[int, np.ndarray], None]


@dataclass(frozen=True)
class Step:
    """One call of one operation. ``inputs`` are the indices of the steps whose outputs it took."""

    index: int
    name: str  #: the operation's name, behind those of the models that it is nested in: ``base/conv2d_3``
    operation: Any
    inputs: tuple[int, ...]
    numbers: int = 0  #: how many plain numbers it took beside them, as in ``x * 2``

    @property
    def kind(self) -> str:
        """The class of the operation, as Keras calls it."""
        return type(self.operation).__name__

    @property
    def config(self) -> dict[str, Any]:
        """What the operation was made with; empty where it does not say."""
        try:
            return dict(self.operation.get_config())
        except NotImplementedError:
            return {}

    @property
    def arrays(self) -> dict[str, Any]:
        """Role -> Keras variable."""
        return {weight.name: weight for weight in getattr(self.operation, "weights", ())}


@dataclass(frozen=True)
class Trace:
    """The calls that a model makes, in order, and the indices of those whose outputs it returns (-1: its input)."""

    steps: tuple[Step, ...]
    outputs: tuple[int, ...]


class WatchedModel:
    """``model`` again in ``dtype``, with the same weights, run one batch at a time.

    ``unfused`` names an operation that is watched before its own activation and not behind it: a dense layer with
    a softmax, of which the logits are wanted.
    """

    def __init__(self, model: Any, dtype: str) -> None:
        self.unfused: str | None = None
        self._model = model.__class__.from_config(retyped(model.get_config(), dtype))
        self._model.set_weights(model.get_weights())
        self._watch: Callable[[str, Any, Any, Any], None] = lambda *_: None
        for path, operation in _operations(self._model):
            self._attach(path, operation)

    def _attach(self, path: str, operation: Any) -> None:
        inner = operation.call

        def call(*arguments: Any, **keywords: Any) -> Any:
            behind = operation.activation if path == self.unfused else None
            if behind is not None:
                operation.activation = None
            try:
                output = inner(*arguments, **keywords)
            finally:
                if behind is not None:
                    operation.activation = behind
            self._watch(path, operation, (arguments, keywords), output)
            return output if behind is None else behind(output)

        operation.call = call

    def run(self, batch: np.ndarray, watch: Watch) -> list[np.ndarray]:
        """Run ``batch`` and call ``watch`` with every output as it comes; what the model itself returns is returned."""
        import keras

        count = 0

        def passed_on(_path: str, _operation: Any, _arguments: Any, output: Any) -> None:
            nonlocal count
            watch(count, np.asarray(keras.ops.convert_to_numpy(output)))
            count += 1

        returned = keras.tree.flatten(self._run(batch, passed_on))
        return [np.asarray(keras.ops.convert_to_numpy(each)) for each in returned]

    def trace(self, batch: np.ndarray) -> Trace:
        """The calls that ``batch`` makes, and how they hang together."""
        import keras

        steps: list[Step] = []
        makers: dict[int, int] = {}
        alive: list[Any] = []  # a tensor that is let go may hand its identity to another

        def noted(path: str, operation: Any, arguments: Any, output: Any) -> None:
            flat = keras.tree.flatten(arguments)
            inputs = tuple(makers[id(each)] for each in flat if id(each) in makers)
            numbers = sum(isinstance(each, int | float) and not isinstance(each, bool) for each in flat)
            makers[id(output)] = len(steps)
            alive.append(output)
            steps.append(Step(len(steps), path, operation, inputs, numbers))

        returned = keras.tree.flatten(self._run(batch, noted))
        outputs = tuple(makers.get(id(each), -1) for each in returned)
        return Trace(tuple(steps), outputs if max(outputs, default=-1) >= 0 else (len(steps) - 1,))

    def _run(self, batch: np.ndarray, watch: Callable[[str, Any, Any, Any], None]) -> Any:
        self._watch = watch
        try:
            return self._model(batch)  # as the file says: a call that it has in training is one here, too
        finally:
            self._watch = lambda *_: None


def retyped(value: Any, dtype: str) -> Any:
    """A model's config with every floating-point type in it replaced, those of nested models too."""
    if isinstance(value, dict):
        return {key: dtype if key == "dtype" else retyped(item, dtype) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(retyped(item, dtype) for item in value)
    return value


def _operations(model: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every layer and bare operation once, those of nested models by their path."""
    import keras

    for operation in getattr(model, "operations", model.layers):
        if isinstance(operation, keras.Model):
            yield from _operations(operation, f"{path}{operation.name}/")
        elif type(operation).__name__ != "InputLayer":
            yield f"{path}{operation.name}", operation
