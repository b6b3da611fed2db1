"""A MATLAB file's variables as a MatConvNet network: layers, parameters and metadata as stored.

The layout is that of ``dagnn.DagNN.saveobj``: ``layers`` (name, type, inputs, outputs, params, block), ``params``
(name, value), ``vars`` and ``meta``, at the top of the file or in one variable. Nothing here depends on which network
it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convert.readers.matlab import read_variables
from convert.readers.matlab.values import Opaque, Struct, Value
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.wording import counted, printable

#: Usual names of the variable with the network, tried before any other struct.
USUAL_NAMES = ("net", "netStruct")

#: DagNN's root fields; others are reported and ignored. Source: DagNN.saveobj in MatConvNet's releases.
ROOT_FIELDS = {
    "vars", "params", "layers", "meta", "mode", "holdOn", "accumulateParamDers", "conserveMemory",
    "parameterServer", "device",
}  # fmt: skip

HOW_TO_SAVE = "In MATLAB: net = net.saveobj(); save('network.mat', '-struct', 'net')"


@dataclass(frozen=True)
class DagLayer:
    """A stored layer. ``type`` is its class without ``dagnn.``, ``block`` the options of that class."""

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[str, ...]
    block: dict[str, Value]


@dataclass
class DagNN:
    """A stored network. ``params`` are arrays with MATLAB's dimensions (trailing ones may be missing)."""

    version: str  #: of the file format: "5" or "7.3"
    layers: list[DagLayer]
    params: dict[str, np.ndarray]
    meta: dict[str, Value] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_dagnn(file: MappedFile) -> DagNN:
    """The network in ``file``. Raises :class:`BadInputError` when it is damaged or holds none."""
    version, variables = read_variables(file)
    root, notes = _root(file.path, variables)
    layers = [_layer(file.path, record) for record in _records(root["layers"])]
    if not layers:
        raise BadInputError(f"{file.path} holds a network without layers.")
    names = Counter(layer.name for layer in layers)
    if twice := [name for name, count in names.items() if count > 1]:
        raise BadInputError(f"{file.path} has two layers called {printable(twice[0])}; layers' names must differ.")
    params: dict[str, np.ndarray] = {}
    for record in _records(root["params"]):
        name, value = text(record.get("name")), record.get("value")
        if not isinstance(value, np.ndarray):
            what = value.kind if isinstance(value, Opaque) else type(value).__name__
            hint = " Move the network to the CPU before it is saved: net.move('cpu')." if "gpuArray" in what else ""
            raise BadInputError(f"{file.path}: the parameter {printable(name)} is {what}, not numbers.{hint}")
        if name in params:
            raise BadInputError(f"{file.path} has two parameters called {printable(name)}.")
        params[name] = value
    meta = _records(root.get("meta"))
    return DagNN(version, layers, params, meta[0] if meta else {}, notes + _notes(root, layers))


def _root(path: Path, variables: dict[str, Value]) -> tuple[dict[str, Value], list[str]]:
    """The network's fields, wherever they are in the file, and notes about what was ignored."""
    if "layers" in variables and "params" in variables:
        return variables, []
    structs = {name: value for name, value in variables.items() if isinstance(value, Struct) and value.count == 1}
    nets = [name for name, value in structs.items() if "layers" in value and "params" in value]
    chosen = [name for name in USUAL_NAMES if name in nets] or nets
    if len(chosen) == 1 or (chosen and chosen[0] in USUAL_NAMES):
        others = ", ".join(name for name in nets if name != chosen[0])
        notes = [f"it holds several networks; {chosen[0]} was read, and {others[:200]} ignored"] if others else []
        return structs[chosen[0]].records()[0], notes
    if chosen:
        raise BadInputError(f"{path} holds several networks ({', '.join(chosen)}). Save one to its own file.")
    objects = [value.kind for value in variables.values() if isinstance(value, Opaque) and "DagNN" in value.kind]
    if objects:
        raise BadInputError(f"{path} holds a network as an {objects[0]}, which only MATLAB can read. {HOW_TO_SAVE}")
    if "layers" in variables or any("layers" in value for value in structs.values()):
        raise BadInputError(
            f"{path} holds a SimpleNN network, a chain of layers. The networks of this family have shortcuts, which no "
            "chain can hold: it is another network."
        )
    shown = ", ".join(list(variables)[:5]) or "nothing"
    raise BadInputError(f"{path} is a MATLAB file but not a MatConvNet network: it holds {shown[:200]}.")


def _records(value: Value) -> list[dict[str, Value]]:
    """The elements of a struct array, of a cell array of structs, or of nothing."""
    if isinstance(value, Struct):
        return value.records()
    if isinstance(value, list):
        return [record for item in value if isinstance(item, Struct) for record in item.records()]
    return []


def _layer(path: Path, record: dict[str, Value]) -> DagLayer:
    missing = [name for name in ("name", "type", "inputs", "outputs") if name not in record]
    if missing:
        raise BadInputError(f"{path}: a layer has no field {missing[0]}; DagNN.saveobj did not make this network.")
    name, blocks = text(record["name"]), _records(record.get("block"))
    if not name:
        raise BadInputError(f"{path} has a layer without a name.")
    return DagLayer(
        name,
        text(record["type"]).removeprefix("dagnn."),
        names(record["inputs"]),
        names(record["outputs"]),
        names(record.get("params")),
        blocks[0] if blocks else {},
    )


def _notes(root: dict[str, Value], layers: Iterable[DagLayer]) -> list[str]:
    notes = []
    if unknown := sorted(set(root) - ROOT_FIELDS):
        notes.append(f"it also holds {', '.join(unknown[:8])[:200]}, which was ignored")
    kinds = Counter(value.kind for layer in layers for value in layer.block.values() if isinstance(value, Opaque))
    notes += [f"ignored in its layers' options: {kind} ({counted(count, 'time')})" for kind, count in kinds.items()]
    return notes


# --- values by their meaning ----------------------------------------------------------------------------


def text(value: Value) -> str:
    """A name, stored as char or as a cell with one; "" if it is neither."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else ""


def names(value: Value) -> tuple[str, ...]:
    """Names, stored as a cell array, as a char matrix, or, if there is only one, as char."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(text(item) for item in value) if isinstance(value, list) else ()


def numbers(value: Value, default: Iterable[float]) -> tuple[float, ...]:
    """A short row or column of numbers; ``default`` if there is none."""
    if not isinstance(value, np.ndarray) or not value.size:
        return tuple(default)
    return tuple(float(each) for each in value.reshape(-1, order="F")[:16])


def number(value: Value, default: float) -> float:
    """A single number or logical."""
    return numbers(value, (default,))[0]


def fields(value: Any) -> dict[str, Value]:
    """The fields of a single struct; empty if there is none."""
    found = _records(value)
    return found[0] if found else {}
