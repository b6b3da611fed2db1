"""Graphs as Keras writes them, of networks that hold no numbers: what the tests of the graph forms change."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from convert.writers.keras_h5 import functional_config
from ferplus_keras.graph.form import Graph
from ferplus_keras.graph.keras_config import keras_graph
from ferplus_keras.graph.matcher import Match, match
from ferplus_keras.graph.table import Place, table_graph
from ferplus_keras.networks.architecture import FERPLUS_HEAD, Architecture, Head, architecture
from ferplus_keras.networks.keras_plan import keras_plan

Model = dict[str, Any]


def keras2(network: str = "resnet50", head: Head = FERPLUS_HEAD, dropout: float = 0.0, **options: Any) -> Model:
    """The graph as our own writer puts it into a file, in Keras 2's style."""
    plan = keras_plan(architecture(network, head, dropout), **options)
    return {"class_name": "Functional", "config": functional_config(plan, network)}


def keras3(network: str = "resnet50", **options: Any) -> Model:
    """The graph as Keras 3 saves it."""
    import ferplus_keras

    model = {"resnet50": ferplus_keras.ResNet50, "senet50": ferplus_keras.SeNet50}[network](weights=None, **options)
    parsed: Model = json.loads(model.to_json())
    return parsed


def graph_of(model: Any, table: Architecture) -> Graph:
    """The model's graph, its arrays under our names and of our shapes."""
    places = {layer: {role: Place(shape) for role, shape in roles.items()} for layer, roles in table.parameters.items()}
    return keras_graph(model, places)


def held(model: Any, table: Architecture) -> Match:
    return match(table_graph(table), graph_of(model, table))


def departure(model: Any, table: Architecture) -> str:
    """The first departure in words, "" where there is none."""
    return str(held(model, table).departure or "")


def layer_of(model: Model, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(layer for layer in model["config"]["layers"] if layer["config"]["name"] == name)
    return found


def configured(name: str, **config: Any) -> Callable[[Model], None]:
    """A change of a layer's arguments."""

    def change(model: Model) -> None:
        old = layer_of(model, name)["config"]
        assert all(old.get(key) != value for key, value in config.items()), "the fault changes nothing"
        old.update(config)

    return change


def rewired(layer: str, old: str, new: str) -> Callable[[Model], None]:
    """``layer`` fed by ``new`` in place of ``old``, in either style."""

    def change(model: Model) -> None:
        nodes = json.dumps(layer_of(model, layer)["inbound_nodes"])
        assert f'"{old}"' in nodes
        layer_of(model, layer)["inbound_nodes"] = json.loads(nodes.replace(f'"{old}"', f'"{new}"'))

    return change


def inserted(class_name: str, behind: str, before: str, **config: Any) -> Callable[[Model], None]:
    """A layer ``extra`` more, in Keras 2's style."""

    def change(model: Model) -> None:
        rewired(before, behind, "extra")(model)
        extra = {"class_name": class_name, "name": "extra", "config": {"name": "extra", **config}}
        model["config"]["layers"].append(extra | {"inbound_nodes": [[[behind, 0, 0, {}]]]})

    return change


def appended(class_name: str, **config: Any) -> Callable[[Model], None]:
    """A layer ``extra`` behind the last."""

    def change(model: Model) -> None:
        last, *_ = model["config"]["output_layers"]
        extra = {"class_name": class_name, "name": "extra", "config": {"name": "extra", **config}}
        model["config"]["layers"].append(extra | {"inbound_nodes": [[[last, 0, 0, {}]]]})
        model["config"]["output_layers"] = [["extra", 0, 0]]

    return change


def every_epsilon(model: Model) -> None:
    for layer in model["config"]["layers"]:
        if layer["class_name"] == "BatchNormalization":
            layer["config"]["epsilon"] = 1e-3


def renamed(model: Model, names: dict[str, str]) -> Model:
    """Layers called otherwise, wherever their names stand."""
    text = json.dumps(model)
    for old, new in names.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    result: Model = json.loads(text)
    return result
