"""The graph that stands in a Keras file as a config: of Keras 1 to 3, nested, functional or sequential.

Nothing of it is built or run. A model that is a layer of another is laid open in its place, once for each call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ferplus_keras.graph.building import MAX_NODES, Builder
from ferplus_keras.graph.form import Graph, GraphError
from ferplus_keras.graph.keras_layers import OTHERWISE_IN_TRAINING, Call, add_layer
from ferplus_keras.networks.architecture import Architecture
from ferplus_keras.networks.keras_plan import KerasLayer
from ferplus_keras.networks.keras_vggface import same_name, vggface_plan

MODELS = ("Functional", "Model", "Sequential")
MAX_DEPTH = 8  #: of models within models
MAX_VALUES = 200_000  #: in the calls of one layer

Arrays = Mapping[str, Mapping[str, Any]]
Tensor = tuple[str, int, int]  #: layer, number of its call, number of the call's output


def keras_graph(model: Any, arrays: Arrays) -> Graph:
    """The graph of a model's config (``{"class_name": ..., "config": ...}``).

    Args:
        model: the config, which may hold anything.
        arrays: layer -> role -> what has a shape, by the layers' own names.

    Raises :class:`GraphError` when it describes no graph.
    """
    if not isinstance(model, dict) or not _layers(model):
        raise GraphError("it has no layers")
    walk = _Walk(arrays, Counter(name for name, _, _ in all_layers(model)))
    outputs = walk.model(model, None, 0)
    if not outputs:
        raise GraphError("it has no output")
    return walk.builder.finish(outputs)


def all_layers(model: Any, depth: int = 0) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, class, config) of each layer of a model's config, those of models within it in their place."""
    for layer in _layers(model) if isinstance(model, dict) and depth < MAX_DEPTH else ():
        if layer.get("class_name") in MODELS:
            yield from all_layers(layer, depth + 1)
        elif isinstance(layer["config"], dict):
            yield _name(layer), _class(layer), layer["config"]


def plan_graph(plan: Iterable[KerasLayer]) -> Graph:
    """The graph of the Keras layers that this project would build."""
    builder = Builder()
    last = ""
    for layer in plan:
        shapes = {role: _Shaped(shape) for role, shape in layer.weights.items()}
        add_layer(builder, layer.name, Call(layer.name, layer.class_name, layer.config, layer.inputs, shapes))
        last = layer.name
    return builder.finish([last])


def vggface_graph(table: Architecture, epsilon: float) -> Graph:
    """keras_vggface's own graph of ``table``, under our names, its padding and the given epsilon."""
    plan = vggface_plan(table, exact=False, rename=same_name, activation=None)
    norms = {"BatchNormalization": {"epsilon": epsilon}}
    return plan_graph(replace(each, config={**each.config, **norms.get(each.class_name, {})}) for each in plan)


@dataclass(frozen=True)
class _Shaped:
    shape: tuple[int, ...]


@dataclass
class _Level:
    """One model of the config: its layers by name, and what their calls yield."""

    layers: dict[str, dict[str, Any]]
    training: bool = False  #: whether the model is called in training
    first: dict[str, int] = field(default_factory=dict)  #: of its models, the number of the first call (0 if absent)
    calls: dict[str, list[_Node]] = field(default_factory=dict)
    done: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    fed: dict[str, str] = field(default_factory=dict)  #: input layer -> key of what it is fed by


@dataclass
class _Node:
    """One call: the tensors that it takes, how many numbers stand beside them, and whether it is told to train."""

    tensors: list[Tensor] = field(default_factory=list)
    numbers: int = 0
    training: bool = False


class _Walk:
    def __init__(self, arrays: Arrays, names: Counter[str]) -> None:
        self.builder = Builder()
        self.arrays, self.names = arrays, names  # of two layers of one name, neither can be given arrays by it
        self.count = 0

    def model(self, model: dict[str, Any], fed: list[str] | None, depth: int, training: bool = False) -> list[str]:
        """Add the model's layers, its inputs fed by ``fed`` (None: by images); the keys of its outputs.

        ``training``: whether the model is called in training, and its layers with it.
        """
        if depth >= MAX_DEPTH:
            raise GraphError(f"its models stand within each other more than {MAX_DEPTH} deep")
        self._counted(_name(model))
        layers = _layers(model)
        if model.get("class_name") == "Sequential":
            return self._sequential(layers, fed, depth, training)
        config = model["config"]
        level = _Level({_name(layer): layer for layer in layers}, training)
        inputs = [name for name, _, _ in _tensors([config.get("input_layers")])]
        if fed is not None:
            if len(fed) != len(inputs):
                raise GraphError(f"the model {_name(model)} is fed {len(fed)} times and has {len(inputs)} inputs")
            level.fed = dict(zip(inputs, fed))  # noqa: B905 (Python 3.9)
        outputs = _tensors([config.get("output_layers")])
        level.first = _first_calls(layers, outputs)
        return [self._evaluate(level, tensor, depth) for tensor in outputs]

    def _sequential(self, layers: list[dict[str, Any]], fed: list[str] | None, depth: int, training: bool) -> list[str]:
        last = fed
        for layer in layers:
            if layer.get("class_name") == "InputLayer":
                last = last or self._layer(layer, _Node(), [], depth)
                continue
            if not last:
                own = layer["config"] if isinstance(layer["config"], dict) else {}
                image = {"class_name": "InputLayer", "name": "input", "config": {"batch_shape": own.get(
                    "batch_input_shape", own.get("batch_shape"))}}  # fmt: skip
                if layer.get("class_name") not in MODELS:
                    last = self._layer(image, _Node(), [], depth)
            if layer.get("class_name") in MODELS:
                last = self.model(layer, last, depth + 1, training)
            else:
                last = self._layer(layer, _Node(), last or [], depth, training)
        return last or []

    def _evaluate(self, level: _Level, wanted: Tensor, depth: int) -> str:
        """The key of what a tensor of the model is, all that it depends on added before."""
        entered: set[tuple[str, int]] = set()
        stack = [wanted[:2]]
        while stack:
            name, number = stack[-1]
            if (name, number) in level.done:
                stack.pop()
                continue
            layer, node = self._call(level, name, number)
            waiting = [each[:2] for each in node.tensors if each[:2] not in level.done]
            if waiting:
                if (name, number) in entered:
                    raise GraphError(f"it runs in a circle at {name[:80]}")
                entered.add((name, number))
                stack += waiting
                continue
            sources = [_output(level, each) for each in node.tensors]
            if name in level.fed:
                level.done[name, number] = [level.fed[name]]
            elif layer.get("class_name") in MODELS:
                training = level.training or node.training
                level.done[name, number] = self.model(layer, sources or None, depth + 1, training)
            else:
                level.done[name, number] = self._layer(layer, node, sources, depth, level.training)
            stack.pop()
        return _output(level, wanted)

    def _call(self, level: _Level, name: str, number: int) -> tuple[dict[str, Any], _Node]:
        layer = level.layers.get(name)
        if layer is None:
            raise GraphError(f"it has no layer {name[:80]}, from which another takes")
        if name not in level.calls:
            level.calls[name] = list(_nodes(layer.get("inbound_nodes"))) or [_Node()]
        place = number - level.first.get(name, 0)
        if not 0 <= place < len(level.calls[name]):
            raise GraphError(f"the layer {name[:80]} is called {len(level.calls[name])} times, and call {number} taken")
        return layer, level.calls[name][place]

    def _layer(
        self, layer: dict[str, Any], node: _Node, sources: list[str], depth: int, training: bool = False
    ) -> list[str]:
        """Add one call of a layer, which may stand in a model that is called in ``training``; the key of its output."""
        name = _name(layer)
        self._counted(name)
        key = name if name not in self.builder.values and not depth else f"{name}#{len(self.builder.values)}"
        config = layer["config"] if isinstance(layer["config"], dict) else {}
        arrays = self.arrays.get(name, {}) if self.names[name] == 1 else {}
        kind = _class(layer)
        trains = node.training or (training and kind in OTHERWISE_IN_TRAINING)
        call = Call(name, kind, config, tuple(sources), arrays, node.numbers, trains)
        add_layer(self.builder, key, call)
        return [key]

    def _counted(self, name: str) -> None:
        self.count += 1
        if self.count > MAX_NODES:
            raise GraphError(f"it has more than {MAX_NODES:,} layers (the last {name[:80]})")


# --- configs as Keras writes them -------------------------------------------------------------------------------------


def _layers(model: dict[str, Any]) -> list[dict[str, Any]]:
    config = model.get("config")
    layers = config.get("layers") if isinstance(config, dict) else config  # Keras 1's Sequential: the list itself
    known = (each for each in layers if isinstance(each, dict)) if isinstance(layers, list) else ()
    return [each for each in known if isinstance(each.get("config"), (dict, list))]


def _name(layer: dict[str, Any]) -> str:
    config = layer.get("config")
    own = config.get("name") if isinstance(config, dict) else None
    return str(layer.get("name") or own or layer.get("class_name"))[:200]


def _class(layer: dict[str, Any]) -> str:
    """The class, with its module where that is nobody's but the author's: any class may be called ReLU."""
    module, name = layer.get("module"), str(layer.get("class_name"))[:80]
    known = not module or str(module).split(".")[0] in ("keras", "tf_keras", "tensorflow")
    return name if known else f"{str(module)[:80]}.{name}"


def _output(level: _Level, tensor: Tensor) -> str:
    name, number, output = tensor
    outputs = level.done[name, number]
    if not 0 <= output < len(outputs):
        raise GraphError(f"output {output} of {name[:80]} is taken, which has {len(outputs)}")
    return outputs[output]


def _nodes(inbound: Any) -> Iterator[_Node]:
    """The calls in ``inbound_nodes``, in the style of Keras 2 or of Keras 3."""
    for call in inbound if isinstance(inbound, list) else ():
        node = _Node()
        for value in _flattened(call):
            if isinstance(value, tuple):
                node.tensors.append(value)
            elif value == "training":
                node.training = True
            else:
                node.numbers += 1
        yield node


def _first_calls(layers: list[dict[str, Any]], outputs: list[Tensor]) -> dict[str, int]:
    """Model inside -> the number of its first call, where that is not 0: Keras 2 counts how it was built as a call."""
    found: dict[str, int] = {}
    models = {_name(layer) for layer in layers if layer.get("class_name") in MODELS}
    for taken in (outputs, *(_tensors(layer.get("inbound_nodes")) for layer in layers if models)):
        for name, number, _ in taken:
            if name in models:
                found[name] = min(number, found.get(name, number))
    return found


def _tensors(value: Any) -> list[Tensor]:
    return [each for each in _flattened(value) if isinstance(each, tuple)]


def _flattened(value: Any) -> Iterator[Any]:
    """The tensors in a call, in order; a number for each number beside them; "training" where it is told to train."""
    stack = [value]
    count = 0
    while stack:
        count += 1
        if count > MAX_VALUES:
            raise GraphError("a layer is called with too many values")
        value = stack.pop()
        if isinstance(value, dict):
            config = value.get("config")
            history: Any = config.get("keras_history") if isinstance(config, dict) else None
            if value.get("class_name") == "__keras_tensor__" and _is_tensor(history):
                yield tuple(history[:3])
                continue
            if value.get("training") not in (None, False):  # Keras 2 writes 1, too
                yield "training"
            said = {key: each for key, each in value.items() if key not in ("training", "mask", "name")}
            if said.get("axis") == -1:  # the last one, which is meant without a word
                del said["axis"]
            stack.extend(reversed(said.values()))
        elif _is_tensor(value):
            yield tuple(value[:3])
            stack.extend(value[3:4])
        elif isinstance(value, list):
            stack.extend(reversed(value))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield value


def _is_tensor(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str)
        and all(isinstance(each, int) and not isinstance(each, bool) for each in value[1:3])
    )  # fmt: skip
