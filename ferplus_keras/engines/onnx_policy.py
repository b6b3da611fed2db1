"""What of an ONNX file ONNX Runtime is given: graphs of known operations, each of whose tensors has a known size.

ONNX Runtime runs whatever a graph says: a loop without an end, a tensor of 100 GB. So each graph is gone through here
first, node by node, in sizes alone (:mod:`ferplus_keras.engines.onnx_sizes` knows the operations): what is no operation
of a network for images, what has a size that cannot be known beforehand or that none of these networks has, is refused.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from ferplus_keras.engines.budget import Budget, Shape
from ferplus_keras.engines.onnx_sizes import OPERATIONS, Sized
from ferplus_keras.errors import BadInputError, DamagedError
from ferplus_keras.files.onnx_graph import OnnxFile, OnnxNode
from ferplus_keras.wording import counted

#: Integers that a size is computed with: longer rows of them are numbers of the network.
MAX_VALUES = 64


def check_graph(path: Path, graph: OnnxFile, images: Shape) -> list[Shape]:
    """Follow ``images``, the shape of the input, through ``graph``; the shapes of its outputs.

    Raises :class:`BadInputError` saying what is refused.
    """
    known = {name: Sized(array.shape, _values(array)) for name, array in graph.tensors.items()}
    taken = [name for name in graph.inputs if name not in known]
    if len(taken) != 1 or not graph.outputs:
        has = f"{counted(len(taken), 'input')} and {counted(len(graph.outputs), 'output')}"
        raise BadInputError(f"{path} has {has}: one of each is expected.")
    known[taken[0]] = Sized(images)
    budget = Budget(images[0], max(images[1:]))
    budget.made([images])
    uses = Counter(name for node in graph.nodes for name in set(node.inputs))
    uses.update(graph.outputs)
    for node in graph.nodes:
        try:
            _follow(node, graph, known, budget)
        except DamagedError as error:
            place = f"its node {_shown(node.name)}" if node.name else "a node of it"
            raise BadInputError(f"{path} is not run: at {place} ({_shown(node.kind)}), {error}.") from None
        for name in set(node.inputs):
            uses[name] -= 1
            if not uses[name] and name in known and name not in graph.tensors:
                budget.gone(known.pop(name).shape)
    if lost := [name for name in graph.outputs if name not in known]:
        raise BadInputError(f"{path} is not run: nothing in it makes its output {_shown(lost[0])}.")
    return [known[name].shape for name in graph.outputs]


def _follow(node: OnnxNode, graph: OnnxFile, known: dict[str, Sized], budget: Budget) -> None:
    if node.kind == "Constant":
        if not node.outputs or node.outputs[0] not in known:
            raise DamagedError("the constant has no number that can be read")
        return
    operation = OPERATIONS.get(node.kind)
    if operation is None:
        raise DamagedError("these networks have no such operation")
    inputs: list[Sized | None] = []
    for name in node.inputs:
        if name and name not in known:
            raise DamagedError(f"its input {_shown(name)} is not produced by anything before it")
        if name and graph.dtypes.get(name, "").endswith("unread"):
            raise DamagedError(f"the numbers of its input {_shown(name)} cannot be read")
        inputs.append(known[name] if name else None)
    try:
        found, work = operation(node, inputs)
    except DamagedError:
        raise
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError):
        raise DamagedError("its output cannot be known beforehand") from None
    made = [name for name in node.outputs if name]
    if not made or any(name in known for name in made):
        raise DamagedError("its output already exists")
    # Further outputs, a Dropout's mask say, are as large as the first.
    budget.made([found.shape] * len(made), work)
    known.update(dict.fromkeys(made, Sized(found.shape)))
    known[made[0]] = found


def _shown(name: str) -> str:
    """A name from the file, on one line and none too long."""
    return name.encode("unicode_escape").decode()[:60]


def _values(array: np.ndarray) -> tuple[int, ...] | None:
    if array.dtype.kind not in "iu" or not 0 < array.size <= MAX_VALUES:
        return None
    return tuple(int(each) for each in array.ravel())
