"""Weights by layer name, all or nothing, and never in silence.

Three kinds of files and models have layers of nearly the same names, and their numbers mean different things:

* ``ours``: Albanie's names, RGB, epsilon 1e-5;
* ``keras-vggface``: keras_vggface's names and its own graph: BGR, another epsilon, another padding;
* ``compat``: :func:`ferplus_keras.compat.VGGFace`: BGR in Albanie's exact geometry.

This module imports no Keras, and runs on Python 3.9.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras.errors import BadInputError, warn_of_standin
from ferplus_keras.files.keras_files import KerasFile, open_keras_file
from ferplus_keras.graph.form import Graph
from ferplus_keras.graph.keras_config import keras_graph, vggface_graph
from ferplus_keras.graph.matcher import ROLES, differences, match
from ferplus_keras.graph.recognise import recognised
from ferplus_keras.graph.table import table_graph
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON, Architecture
from ferplus_keras.networks.keras_vggface import (
    BGR_CONV1,
    CONV1,
    EPSILON,
    KERAS_VGGFACE,
    THEIR_CONV1,
    ZEROS,
    our_name,
    speaks,
    turned,
    with_epsilon,
)
from ferplus_keras.wording import counted

OURS, COMPAT, OTHER = "ours", "compat", "other"

#: Heads of ours, which ``skip_head`` leaves out.
HEADS = frozenset(("classifier", "feat_extract"))

SHOWN = 3

#: What the layers of SE-ResNet50's gates end with, and no layer of ResNet50 does.
GATE = "_1x1_down"

#: The network that each is taken for.
SWAPPED = {"SeNet50": "ResNet50", "ResNet50": "SeNet50"}

Arrays = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_weights` did: layers of the model that got their weights, and what had no counterpart."""

    path: Path
    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()  #: layers of the model that the file has not, or has in other shapes
    left_over: tuple[str, ...] = ()  #: layers of the file that the model has not

    def __str__(self) -> str:
        parts = [f"{counted(len(self.matched), 'layer')} matched"]
        parts += [
            f"{len(names)} {what}: {_some(names)}"
            for names, what in ((self.missing, "missing in the file"), (self.left_over, "left over in the file"))
            if names
        ]
        return f"{self.path.name}: {'; '.join(parts)}"

    def __repr__(self) -> str:
        return f"<LoadReport {self}>"


def load_weights(
    model: Any, path: str | Path, *, skip_head: bool = False, layers: Collection[str] | None = None
) -> LoadReport:
    """Set every weight of ``model`` from the Keras file at ``path``, by layer name; all or nothing.

    Unlike ``model.load_weights(path, by_name=True)`` this cannot match nothing in silence: each layer of the model
    that owns weights must stand in the file with the same shapes, and each layer of the file must have a place in
    the model, but for the head when ``skip_head`` says so. Layers of models within the model count as its own.

    Args:
        model: of Keras 3, Keras 2 or tf_keras: ours, keras_vggface's own, or one of :mod:`ferplus_keras.compat`.
        path: a ``.h5``, ``.keras`` or ``.weights.h5`` file of the same kind of model.
        skip_head: let the file's head be left over.
        layers: the layers to set, where these are not all that own weights.

    Returns:
        What matched and what was left over; ``print`` it.

    Raises:
        BadInputError: the file does not fit, layer by layer, or is of another kind: the message says which call is
            for it. The model is as it was.
    """
    wanted = {name: layer for name, layer in _owners(model) if layers is None or name in layers}
    with open_keras_file(path) as file:
        _check_kind(path, file, model)
        stored = {our_name(name): {role: array.read() for role, array in roles.items()}
                  for name, roles in _fitting(file, wanted).items()}  # fmt: skip
        names = {our_name(name): name for name in file.layers}
        told = file.provenance or {}
    _check_graph(path, model, wanted, everything=layers is None)
    head = HEADS if skip_head else ()
    report = assign(model, wanted, stored, path, names, head, folded=told.get("folded") is True)
    if told.get("standin") is True:
        warn_of_standin(path, stacklevel=2 if layers is None else 4)
    return report


def assign(
    model: Any, wanted: dict[str, Any], stored: Arrays, path: str | Path,
    file_names: dict[str, str], may_be_left: Collection[str] = (), *, folded: bool = False,
) -> LoadReport:  # fmt: skip
    """Set the layers ``wanted`` from ``stored`` (our names), which may hold less than ``file_names`` (ours: theirs).

    ``folded`` says that the file has no batch normalisations any more, for the message when it does not fit.
    """
    values, missing, problems = {}, [], []
    keys = {name: our_name(name) for name in wanted}
    for name, layer in wanted.items():
        arrays = list(stored.get(keys[name], {}).values())
        want = [tuple(weight.shape) for weight in layer.weights]
        have = [tuple(array.shape) for array in arrays]
        if keys[name] not in file_names:
            problems.append(f"{name} is not in the file")
        elif want != have:
            problems.append(f"{name} has the shapes {have} in the file and {want} in the model")
        else:
            values[name] = arrays
            continue
        missing.append(name)
    left_over = [theirs for key, theirs in file_names.items() if key not in keys.values()]
    unwanted = [name for name in left_over if our_name(name) not in may_be_left]
    problems += [f"{name} is not in the model" for name in unwanted]
    report = LoadReport(Path(path), tuple(values), tuple(missing), tuple(left_over))
    if problems and folded:
        problems.insert(0, "its batch normalisations are folded into the convolutions, for inference only")
    theirs, mine = (any(name.endswith(GATE) for name in names) for names in (file_names, keys.values()))
    if theirs != mine and _has_blocks(file_names) and _has_blocks(keys.values()):
        network = "SeNet50" if theirs else "ResNet50"
        maker = f"VGGFace(model={network.lower()!r})" if model.name.startswith("vggface_") else network
        raise BadInputError(
            f"{path} holds the weights of {network}, and the model {model.name} is {SWAPPED[network]}: build "
            f"{maker} for them. Nothing was loaded."
        )
    if problems or not values:
        more = f" (and {len(problems) - SHOWN} more)" if len(problems) > SHOWN else ""
        nothing = "" if values else "not one layer has a counterpart of its name and shape; "
        raise BadInputError(
            f"{path} does not fit the model {model.name!r}: {nothing}{'; '.join(problems[:SHOWN])}{more}. "
            "`ferplus inspect` says what the file holds; nothing was loaded.",
            details=str(report),
        )
    for name, arrays in values.items():
        wanted[name].set_weights(arrays)
    return report


def neutral_layers(file: KerasFile) -> tuple[Arrays, dict[str, str]]:
    """The arrays of a file of any of the kinds under our names, RGB, for our epsilon; and our name -> the file's.

    Raises :class:`BadInputError` when the file is of no kind that is known.
    """
    kind = kind_of(file.layers, (*file.listed, *(name for name, _, _ in file.config_layers)))
    if kind == OTHER:
        raise BadInputError(f"its layers ({_some(tuple(file.layers))}) are those of another network")
    arrays = {our_name(name): {role: array.read() for role, array in roles.items()}
              for name, roles in file.layers.items()}  # fmt: skip
    if kind != OURS:
        arrays[CONV1] = {role: turned(array) for role, array in arrays[CONV1].items()}
    if kind == KERAS_VGGFACE:
        # The file's own graph, where it has one, was read by `ferplus convert`; here it is keras_vggface's or nothing.
        network = "senet50" if any(name.endswith("_1x1_down") for name in arrays) else "resnet50"
        arrays = with_epsilon(arrays, EPSILON[network], BATCHNORM_EPSILON)
    return arrays, {our_name(name): name for name in file.layers}


def kind_of(owners: Collection[str], all_names: Collection[str] = ()) -> str:
    """The kind of a file or model whose layers with weights are ``owners``, of all its layers ``all_names``."""
    if speaks(set(owners)):
        exact = BGR_CONV1 in owners or not set(ZEROS.values()).isdisjoint(all_names)
        return COMPAT if exact else KERAS_VGGFACE
    return OURS if CONV1 in owners else OTHER


def _owners(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers that own weights, those of models within the model too."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _owners(layer)
        elif layer.weights:
            yield layer.name, layer


def _has_blocks(names: Collection[str]) -> bool:
    """Whether these are layers of one of the two networks, blocks of convolutions and all."""
    return any(name.endswith("_1x1_increase") for name in names)


def _fitting(file: KerasFile, wanted: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The file's layers that have a counterpart, so that no others are read."""
    keys = set(map(our_name, wanted))
    return {name: roles for name, roles in file.layers.items() if our_name(name) in keys}


def _check_kind(path: str | Path, file: KerasFile, model: Any) -> None:
    """Refuse what has the names of the model and other numbers, and say what is for it."""
    listed = (*file.listed, *(name for name, _, _ in file.config_layers))
    theirs = kind_of(file.layers, listed)
    ours = kind_of([name for name, _ in _owners(model)], _all_names(model))
    if file.kind == "weights.h5" and theirs == OTHER and "conv2d" in file.layers:
        raise BadInputError(
            f"{path} names its layers by counters only (Keras before 3.6), which fit a model by their order alone: "
            f"call model.load_weights({str(path)!r}). Nothing was loaded."
        )
    if theirs == ours or OTHER in (theirs, ours):
        return
    holds = {
        OURS: "has Albanie's layout (RGB)",
        KERAS_VGGFACE: "is for keras_vggface's own graph (BGR, another epsilon)",
        COMPAT: "was saved from ferplus_keras.compat (BGR)",
    }
    call = {
        OURS: f"`ferplus convert {path} new.h5` makes a file for this model",
        KERAS_VGGFACE: f"`ferplus convert {path} new.h5 --layout {KERAS_VGGFACE}` makes a file for this model",
        COMPAT: f"VGGFace(weights={str(path)!r}) of ferplus_keras.compat loads it, translated",
    }
    raise BadInputError(f"{path} {holds[theirs]}, and the model {model.name!r} is of another kind: {call[ours]}. "
                        "Nothing was loaded.")  # fmt: skip


def _check_graph(path: str | Path, model: Any, wanted: dict[str, Any], *, everything: bool) -> None:
    """Refuse a model whose layers have the names and shapes and which computes something else between them.

    What stands before its first layer and behind its last is the user's affair, as is the rest of a model of which
    some layers alone are set (``everything`` is False): of those only their own arguments are looked at.
    """
    arrays = {name: {_role(weight): weight for weight in layer.weights} for name, layer in wanted.items()}
    try:
        graph = keras_graph(json.loads(model.to_json()), arrays)
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return  # of a class of the user's own: names and shapes are all that can be seen
    table, found = recognised(graph)
    if not everything:
        _check_layers(path, model, wanted, graph, table)
        return
    if kind_of(wanted) == KERAS_VGGFACE and found.graph_departure and table.head.kind != "embedding":
        found = match(vggface_graph(table, EPSILON[table.network]), graph)
    for departure in found.departures:
        if departure.where == "within" and departure.attribute not in ROLES:
            raise _other_function(path, model, str(departure))


def _check_layers(path: str | Path, model: Any, wanted: dict[str, Any], graph: Graph, table: Architecture) -> None:
    """Refuse layers of ours that have other arguments, whatever stands around them."""
    ours = {node.name: node for node in table_graph(table).nodes.values()}
    for node in graph.nodes.values():
        mine = ours.get(node.name) if node.name in wanted else None
        for attribute, have, want in differences(mine, node) if mine and mine.operation == node.operation else ():
            if attribute not in ROLES:
                raise _other_function(path, model, f"{node.name} has {attribute} {have}, and {want} in these networks")


def _other_function(path: str | Path, model: Any, said: str) -> BadInputError:
    return BadInputError(
        f"{path} is for a network that computes something other than the model {model.name}: {said}. "
        "Build the model so, or with ferplus_keras.ResNet50 or SeNet50; nothing was loaded."
    )


def _role(weight: Any) -> str:
    """``kernel`` of ``conv1_7x7_s2/kernel:0``."""
    return str(getattr(weight, "name", "")).rsplit("/", 1)[-1].split(":")[0]


def _all_names(model: Any) -> list[str]:
    names = []
    for layer in model.layers:
        names += [layer.name, *(_all_names(layer) if hasattr(layer, "layers") else ())]
    return names


def _some(names: Collection[str], shown: int = SHOWN) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(list(names)[:shown]) + more


__all__ = ["BGR_CONV1", "THEIR_CONV1", "LoadReport", "assign", "kind_of", "load_weights", "neutral_layers"]
