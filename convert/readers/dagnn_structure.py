"""Which stored layer is which of ours: by name where the names are Albanie's, else by the shape of the two graphs.

The order in the file is no help (a projection may stand before or after its block), and neither are sizes (in the
first block two kernels have the same). So both graphs are walked from their outputs to the image, side by side.
"""

from __future__ import annotations

import re

from convert.readers.dagnn import DagLayer, DagNN, text
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.architecture import NETWORKS, NO_HEAD, Architecture, Layer, architecture

#: Layers that neither change the numbers' order nor own any: walked through.
TRANSPARENT = ("DropOut", "Reshape", "Flatten")

#: Layers that come after the network's own output.
BEYOND = ("SoftMax", "Loss", "SoftmaxCELoss", "SoftMaxLoss")

#: Pairs may be compared in both orders at each of 16 sums; more than this many comparisons is no network of ours.
MAX_STEPS = 20_000

OPERATIONS: dict[type[Layer], tuple[str, ...]] = {
    arch.Conv: ("Conv",),
    arch.Linear: ("Conv",),
    arch.BatchNorm: ("BatchNorm",),
    arch.ReLU: ("ReLU",),
    arch.Sigmoid: ("Sigmoid",),
    arch.MaxPool: ("Pooling",),
    arch.AveragePool: ("Pooling", "GlobalPooling"),
    arch.GlobalPool: ("Pooling", "GlobalPooling"),
    arch.Scale: ("Scale",),
    arch.Add: ("Sum",),
}


def sanitised(name: str) -> str:
    """``conv1/7x7_s2/bn`` as ``conv1_7x7_s2_bn``: MATLAB's field names, and so MatConvNet's, are identifiers."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def our_names(net: DagNN) -> tuple[dict[str, str], list[str]]:
    """(stored layer name -> this project's name, notes).

    A layer whose place is unknown keeps its own name, so that the comparison with the architecture can report it.
    """
    by_name = {layer.name: sanitised(layer.name) for layer in net.layers}
    ours = set(by_name.values())
    for network in NETWORKS:
        if ours >= set(architecture(network, NO_HEAD).parameters) and _has_known_head(net, ours):
            changed = any(stored != name for stored, name in by_name.items())
            return by_name, ["'/' and the like in its layers' names became '_'"] if changed else []
    for network in NETWORKS:
        found = _Walk(net, network).run()
        if found is not None:
            owners = [layer.name for layer in net.layers if layer.params and found.get(layer.name) != layer.name]
            shown = ", ".join(f"{name} is {found.get(name, 'left over')}" for name in owners[:2])
            note = f"{len(owners)} layers have other names than published ({shown}, ...); their place in the graph told"
            return by_name | found, [note]
    return by_name, []


def _has_known_head(net: DagNN, names: set[str]) -> bool:
    """Whether the last layer with parameters goes by one of the heads' names, or there is no head at all."""
    if names & {"classifier", "feat_extract"}:
        return True
    last = next((layer for layer in reversed(net.layers) if layer.type == "Conv"), None)
    return last is not None and sanitised(last.name) in architecture(NETWORKS[1], NO_HEAD).parameters


def known_graph(net: DagNN, known_as: dict[str, str]) -> tuple[Architecture, dict[str, DagLayer], str]:
    """(the network that the names in ``known_as`` are of, our layer -> stored layer, where the graphs part or "").

    The parts of an incomplete network are known by name alone.
    """
    stored = {layer.name: layer for layer in net.layers}
    by_our_name = {known_as[layer.name]: layer for layer in net.layers}
    network = "senet50" if any(name.endswith("_1x1_down") for name in by_our_name) else "resnet50"
    head = next((make(1) for make in (arch.classifier, arch.embedding) if make(1).layer_name in by_our_name), NO_HEAD)
    table = architecture(network, head)
    if not set(by_our_name) >= set(table.parameters):
        return table, {name: by_our_name[name] for name in table.by_name if name in by_our_name}, ""
    owners = {name: known_as[name] for name in stored if known_as[name] in table.parameters}
    walk = _Walk(net, network, owners)
    end = by_our_name.get(table.output)
    found = walk.run(end.outputs[0] if end is not None and end.outputs else None, table)
    if found is None:
        pairs = {name: by_our_name[name] for name in table.by_name if name in by_our_name}
        return table, pairs, walk.departure
    return table, {ours: stored[name] for name, ours in found.items()}, ""


class _Walk:
    """One attempt to lay a network of ours over the stored one. ``owners`` are stored layers that are known already."""

    def __init__(self, net: DagNN, network: str, owners: dict[str, str] | None = None) -> None:
        self.net, self.owners = net, owners or {}
        self.made_by = {output: layer for layer in net.layers for output in layer.outputs}
        self.network = network
        self.table: Architecture
        self.steps = 0
        self.furthest, self.departure = -1, "its connections are other ones"

    def run(self, end: str | None = None, table: Architecture | None = None) -> dict[str, str] | None:
        """Stored name -> our name, or None when the two graphs differ. ``end`` is the output's variable, if known."""
        if end is not None and table is not None:
            self.table = table
            return self._same(table.output, end, {})
        used = {name for layer in self.net.layers if layer.type not in BEYOND for name in layer.inputs}
        ends = [
            layer
            for layer in self.net.layers
            if layer.type not in BEYOND and layer.outputs and not set(layer.outputs) & used
        ]
        if len(ends) != 1:
            return None
        last = self._solid(ends[0].outputs[0])
        if last is None:
            return None
        head = NO_HEAD
        if last.type == "Conv":  # with a bias a classifier, without one an embedding, as published
            head = arch.classifier(1) if len(last.params) > 1 else arch.embedding(1)
        self.table = table or architecture(self.network, head)
        return self._same(self.table.output, last.outputs[0], {})

    def _same(self, ours: str, variable: str, known: dict[str, str]) -> dict[str, str] | None:
        """``known`` and what follows from our layer ``ours`` making the stored ``variable``; None: it does not."""
        found = self._pair(ours, variable, known)
        if found is None and len(known) > self.furthest:  # where the two had come furthest, they part
            stored = self._solid(variable)
            shown = f"{stored.name[:80]}, a {stored.type[:40]}," if stored else "the image"
            self.furthest, self.departure = len(known), f"where {ours} belongs, {shown} is connected"
        return found

    def _pair(self, ours: str, variable: str, known: dict[str, str]) -> dict[str, str] | None:
        self.steps += 1
        layer, stored = self.table.by_name[ours], self._solid(variable)
        if self.steps > MAX_STEPS:
            return None
        if isinstance(layer, arch.Input):
            return known if stored is None else None
        if stored is None:
            return None
        if stored.name in known:
            return known if known[stored.name] == ours else None
        if ours in known.values() or self.owners.get(stored.name, ours) != ours:
            return None
        if isinstance(layer, arch.Add) and stored.type == "Axpy" and len(stored.inputs) == 3:
            return self._axpy(layer, stored, known)
        if stored.type not in OPERATIONS[type(layer)] or not _alike(layer, stored):
            return None
        if len(stored.inputs) != len(layer.inputs):
            return None
        orders = [stored.inputs] if len(stored.inputs) == 1 else [stored.inputs, stored.inputs[::-1]]
        for order in orders:
            found: dict[str, str] | None = known | {stored.name: ours}
            for mine, theirs in zip(layer.inputs, order, strict=True):
                found = self._same(mine, theirs, found) if found is not None else None
            if found is not None:
                return found
        return None

    def _axpy(self, layer: Layer, stored: DagLayer, known: dict[str, str]) -> dict[str, str] | None:
        """Axpy(a, x, y) = a * x + y: our scale and our sum in one."""
        scale = self.table.by_name[layer.inputs[0]]
        if not isinstance(scale, arch.Scale):
            return None
        gate, map_, shortcut = stored.inputs
        found: dict[str, str] | None = known | {stored.name: layer.name}
        for mine, theirs in ((scale.inputs[0], map_), (scale.inputs[1], gate), (layer.inputs[1], shortcut)):
            found = self._same(mine, theirs, found) if found is not None else None
        return found

    def _solid(self, variable: str) -> DagLayer | None:
        """The layer that makes ``variable``, those that change nothing left out; None for the image."""
        for _ in range(len(self.net.layers) + 1):
            layer = self.made_by.get(variable)
            if layer is None or layer.type not in TRANSPARENT:
                return layer
            if not layer.inputs:
                return None
            variable = layer.inputs[0]
        return None


def _alike(layer: Layer, stored: DagLayer) -> bool:
    if isinstance(layer, arch.MaxPool):
        return (text(stored.block.get("method", "")) or "max") == "max"
    if isinstance(layer, arch.AveragePool | arch.GlobalPool):
        default = "avg" if stored.type == "GlobalPooling" else "max"
        return (text(stored.block.get("method", "")) or default) == "avg"
    return True
