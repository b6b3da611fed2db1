"""The graph that stands in a Keras file, and whether it computes what its network computes.

A ``.h5`` and a ``.keras`` hold a graph beside their arrays. To write the arrays under another format is right only as
long as that graph is the network's own; here it is held against :func:`ferplus_keras.networks.keras_plan.keras_plan`.
Nothing of it is built or run: configs are read as data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ferplus_keras.networks.architecture import BATCHNORM_EPSILON, Architecture
from ferplus_keras.networks.keras_plan import PROBABILITIES, KerasLayer, keras_plan
from ferplus_keras.networks.preprocessing import PUBLISHED

#: Arguments that make the function, and what they are where the plan or an older file does not say.
DEFAULTS: dict[str, Any] = {
    "strides": None, "padding": None, "pool_size": None, "kernel_size": None, "data_format": "channels_last",
    "use_bias": None, "target_shape": None, "epsilon": BATCHNORM_EPSILON, "axis": -1, "activation": "linear",
    "dilation_rate": (1, 1), "groups": 1, "center": True, "scale": True, "keepdims": False,
}  # fmt: skip

#: Layers that hand on what they get when a network is applied: regularisation, and augmentation of training images.
PASSING = {
    "InputLayer", "Identity", "Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout", "GaussianNoise",
    "ActivityRegularization", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom", "RandomContrast",
    "RandomBrightness",
}  # fmt: skip

#: What may stand between the last block and a head that was put on it.
POOLING = ("Flatten", "GlobalAveragePooling2D", "AveragePooling2D", "GlobalMaxPooling2D", "Reshape")

MODELS = ("Functional", "Model", "Sequential")
MAX_DEPTH = 8  #: of models within models, and of lists within lists
MAX_NODES = 10_000  #: these networks have some 250 layers


@dataclass(frozen=True)
class Node:
    """One layer of a file's graph: ``inputs`` has the names it is called on, once for each of its calls."""

    name: str
    class_name: str
    config: dict[str, Any]
    inputs: tuple[tuple[str, ...], ...] = ()

    @property
    def passes(self) -> bool:
        """Whether it changes nothing at inference."""
        if self.class_name == "Rescaling":
            scale, offset = self.config.get("scale"), self.config.get("offset", 0)
            return all(each == 1 for each in _each(scale)) and all(each == 0 for each in _each(offset))
        if self.class_name == "Activation":
            return bool(_plain(self.config.get("activation")) == "linear")
        return self.class_name in PASSING


class Graph:
    """The layers of a model by name, those of the models within it included; empty for a file of weights alone.

    Raises ``ValueError`` when they are too many for any model.
    """

    def __init__(self, model: dict[str, Any] | None) -> None:
        self.nodes: dict[str, Node] = {}
        if isinstance(model, dict):
            self._add(model, (), 0)

    def _add(self, model: dict[str, Any], fed: tuple[tuple[str, ...], ...], depth: int) -> str:
        """Take the model's layers in, its own inputs fed by ``fed``; returns the name of the layer at its end."""
        config = model.get("config")
        layers = config.get("layers") if isinstance(config, dict) else config
        sequential = model.get("class_name") == "Sequential"
        local: dict[str, str] = {}  # a layer's name in this model -> the name here
        end = ""
        for layer in layers if isinstance(layers, list) and depth < MAX_DEPTH else ():
            if not isinstance(layer, dict) or not isinstance(layer.get("config"), dict | list):
                continue
            own = layer["config"] if isinstance(layer["config"], dict) else {}
            name, class_name = str(layer.get("name") or own.get("name")), str(layer.get("class_name"))
            if sequential:
                calls: tuple[tuple[str, ...], ...] = ((end,),) if end else fed
            else:
                calls = tuple(_callers(layer.get("inbound_nodes")))
                calls = tuple(tuple(local.get(each, each) for each in call) for call in calls) or fed
            if class_name in MODELS:
                end = local[name] = self._add(layer, calls, depth + 1)
                continue
            end = local[name] = name if name not in self.nodes else f"{model.get('name')}/{name}#{len(self.nodes)}"
            if len(self.nodes) >= MAX_NODES:
                raise ValueError(f"its graph has more than {MAX_NODES:,} layers")
            self.nodes[end] = Node(end, class_name, own, calls)
        if not sequential and isinstance(config, dict):
            last = next(iter(_callers([config.get("output_layers")])), ())
            end = local.get(last[0], end) if last else end
        return end

    def __bool__(self) -> bool:
        return bool(self.nodes)

    def before(self, name: str) -> list[tuple[str, ...]]:
        """What each call of the layer gets, seen through layers that pass on what they get."""
        node = self.nodes.get(name)
        return [tuple(map(self.through, call)) for call in node.inputs] if node else []

    def through(self, name: str) -> str:
        """The layer whose output arrives at ``name``: itself, or one before it that others only hand on."""
        for _ in range(len(self.nodes)):
            node = self.nodes.get(name)
            if node is None or not node.passes or not node.inputs or len(node.inputs[0]) != 1:
                break
            name = node.inputs[0][0]
        return name


def departure(graph: Graph, table: Architecture, adopted: str | None = None) -> str:
    """Where ``graph`` computes something else than ``table``, as half a sentence; "" where it does not.

    Args:
        graph: of a file whose arrays fit ``table``.
        table: what the arrays are those of.
        adopted: the layer that serves as ``table``'s head under a name of its own.

    A graph whose helper layers do not have our names was built by somebody else, in a way of his own: of that one the
    strides, epsilons and the like of the layers that own arrays are compared, not how it is put together.
    """
    plan = [layer for layer in keras_plan(table) if layer.class_name != "Dropout"]
    helpers = {layer.name for layer in plan if layer.name.endswith(("_pad", "_flat"))}
    ours = bool(helpers & graph.nodes.keys())
    through = {layer.name: layer.inputs[0] for layer in keras_plan(table) if layer.class_name == "Dropout"}
    place = {table.head.layer_name: adopted} if adopted else {}
    found: dict[str, str] = {}
    for layer in plan:
        inputs = tuple(found.get(through.get(each, each), "") for each in layer.inputs)
        name = place.get(layer.name) or (layer.name if layer.name in graph.nodes else "")
        if not name and ours:
            name = _like(graph, layer, inputs)
        found[layer.name] = name
        if layer.class_name == "InputLayer":
            found[layer.name] = first = graph.through(name)
            if takes_the_mean_off(graph, first):
                continue
            if ours and first in graph.nodes and graph.nodes[first].class_name != "InputLayer":
                what = f"{first}, a {graph.nodes[first].class_name}"
                return f"{name} is fed by {what}, and by the image in these networks"
            continue
        if not name:
            if ours and layer.name != PROBABILITIES:
                return f"it has no {layer.name}, a {layer.class_name} in these networks"
            continue
        node = graph.nodes[name]
        if (ours or layer.weights) and (problem := _config_departure(node, layer, ours)):
            return problem
        if ours and layer.name != PROBABILITIES and (problem := _wiring_departure(graph, name, inputs)):
            return problem
    return ""


def _like(graph: Graph, layer: KerasLayer, inputs: tuple[str, ...]) -> str:
    """A layer of another name at the same place: of that class, and called on the same."""
    for name, node in graph.nodes.items():
        if node.class_name == layer.class_name and inputs and sorted(inputs) in map(sorted, graph.before(name)):
            return name
    if layer.class_name == "InputLayer":
        return next((name for name, node in graph.nodes.items() if node.class_name == "InputLayer"), "")
    return ""


def _config_departure(node: Node, layer: KerasLayer, ours: bool) -> str:
    if node.class_name != layer.class_name and ours:
        return f"{node.name} is a {node.class_name}, and a {layer.class_name} in these networks"
    for key, default in DEFAULTS.items():
        wanted = layer.config.get(key, default)
        if key not in node.config or (key not in layer.config and key not in _defaulted(layer)):
            continue
        value = node.config[key]
        if not ours and (key in ("padding", "activation") or node.class_name != layer.class_name):
            continue  # zeros by a layer of his own or by this one, a ReLU in the layer or behind it
        if not _same(key, value, wanted, layer):
            return f"{node.name} has {key} {_shown(value)}, and {_shown(wanted)} in these networks"
    return ""


def _defaulted(layer: KerasLayer) -> set[str]:
    return {
        "Conv2D": {"dilation_rate", "groups", "activation"},
        "BatchNormalization": {"center", "scale"},
        "GlobalAveragePooling2D": {"keepdims"},
    }.get(layer.class_name, set())


def _same(key: str, value: Any, wanted: Any, layer: KerasLayer) -> bool:
    value, wanted = _plain(value), _plain(wanted)
    if key == "activation" and (layer.class_name == "Dense" or layer.name == PROBABILITIES):
        return value in ("linear", "softmax")  # what the output is said to be, not what the network is
    if key == "axis":
        return value in (-1, 3, (-1,), (3,))
    if isinstance(wanted, float) and isinstance(value, float):
        return math.isclose(value, wanted, rel_tol=1e-6)  # some versions write float32's 1.0000000474974513e-05
    if isinstance(wanted, tuple) and isinstance(value, int):
        value = (value,) * len(wanted)
    return bool(value == wanted)


def _wiring_departure(graph: Graph, name: str, inputs: tuple[str, ...]) -> str:
    calls = graph.before(name)
    if any(sorted(call) == sorted(inputs) for call in calls):
        return ""
    fed = " and ".join(calls[0]) if calls else "nothing"
    return f"{name} is fed by {fed}, and by {' and '.join(inputs)} in these networks"


def fed_by_features(graph: Graph, name: str, table: Architecture) -> bool:
    """Whether the layer ``name`` is called on what ``table``, which has no head, yields, averaged over the image.

    A Flatten may stand between, and a second pooling over the one pixel that the first has left.
    """
    for call in graph.before(name):
        averaged = False
        for _ in range(MAX_DEPTH):
            node = graph.nodes.get(call[0]) if len(call) == 1 else None
            if node is None or (averaged and _is_last(graph, node, table)):
                break
            averaged = averaged or node.class_name in ("GlobalAveragePooling2D", "AveragePooling2D")
            calls = graph.before(node.name)
            call = calls[0] if len(calls) == 1 and node.class_name in POOLING else ()
        else:
            continue
        if node is not None:
            return True
    return False


def _is_last(graph: Graph, node: Node, table: Architecture) -> bool:
    """Whether ``node`` is the ReLU after the last block: by its name, or by what it stands on."""
    if node.name == table.output:
        return True
    if _plain(node.config.get("activation")) != "relu":
        return False
    increase = table.by_name[table.by_name[table.output].inputs[0]].name + "_1x1_increase_bn"
    for total, *others in graph.before(node.name):
        added = graph.nodes.get(total)
        if others or added is None or added.class_name != "Add":
            continue
        for branch in graph.before(added.name):
            scaled = [each for name in branch if (scale := graph.nodes.get(name)) and scale.class_name == "Multiply"
                      for call in graph.before(scale.name) for each in call]  # fmt: skip
            if increase in (*branch, *scaled):
                return True
    return False


def takes_the_mean_off(graph: Graph, name: str) -> bool:
    """Whether the layer is the published preprocessing: a Rescaling that takes RGB images less the mean."""
    node = graph.nodes.get(name)
    if node is None or node.class_name != "Rescaling":
        return False
    scale, offset = _plain(node.config.get("scale")), _plain(node.config.get("offset"))
    if scale not in (1, (1,) * 3, (1.0,) * 3) or not isinstance(offset, tuple) or len(offset) != len(PUBLISHED.mean):
        return False
    fed = [graph.nodes.get(call[0]) for call in graph.before(name)]
    return all(before is not None and before.class_name == "InputLayer" for before in fed) and all(
        isinstance(have, float) and math.isclose(have, -mean, rel_tol=1e-6)
        for have, mean in zip(offset, PUBLISHED.mean, strict=True)
    )


def _callers(nodes: Any) -> Iterator[tuple[str, ...]]:
    """The names of the layers in ``inbound_nodes``, a tuple a call, in the style of Keras 2 or of Keras 3."""
    for node in nodes if isinstance(nodes, list) else ():
        names: list[str] = []
        stack = [node]
        while stack:
            value = stack.pop()
            if isinstance(value, dict):
                config = value.get("config")
                history = config.get("keras_history") if isinstance(config, dict) else None
                if value.get("class_name") == "__keras_tensor__" and isinstance(history, list) and history:
                    names.append(str(history[0]))
                else:
                    stack.extend(reversed(list(value.values())))
            elif isinstance(value, list):
                if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int):
                    names.append(value[0])
                    stack.extend(each for each in value[3:] if isinstance(each, dict))
                else:
                    stack.extend(reversed(value))
        if names:
            yield tuple(names)


def _plain(value: Any, depth: int = 0) -> Any:
    """Lists as tuples, and an activation that is written as an object as its name."""
    if isinstance(value, dict):
        inner = value.get("config")
        return inner if isinstance(inner, str) else str(value.get("class_name")).lower()
    if isinstance(value, list | tuple):
        return tuple(_plain(each, depth + 1) for each in value) if depth < MAX_DEPTH else ("...",)
    return "linear" if value is None else value


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else [value]


def _shown(value: Any) -> str:
    plain = _plain(value)
    return f"{plain:g}" if isinstance(plain, float) else str(plain)[:60]


__all__ = ["Graph", "Node", "departure", "fed_by_features"]
