"""The arrays of a file with a graph, renamed to ours by their position in the graph.

Names say nothing about what layers do: a port may use Albanie's names in another graph, or conv2d_7 and be exact.
"""

from __future__ import annotations

from dataclasses import replace

from convert.heads import HEAD_NAMES, head_note
from convert.matching import NamedArrays
from ferplus_keras.graph.keras_config import vggface_graph
from ferplus_keras.graph.matcher import Match, match
from ferplus_keras.graph.recognise import recognised
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON, Architecture
from ferplus_keras.wording import counted

#: A graph with a smaller share of a network's layers is another network, unless the names of its arrays fit.
LEAST_SHARED = 0.5


def by_graph(found: NamedArrays, *, dialect: bool) -> NamedArrays:
    """``found`` with our names if its graph is one of these networks, else with the first departure.

    ``dialect``: it had keras_vggface's names, already converted to ours, so its inexact padding is accepted too.
    """
    assert found.graph is not None
    table, matched = recognised(found.graph)
    if dialect and matched.graph_departure and table.head.kind != "embedding" and not table.folded:
        matched = max(matched, match(vggface_graph(table, BATCHNORM_EPSILON), found.graph), key=_reach)
    owners = {matched.owner(layer): layer for layer in table.parameters if layer in matched.pairs}
    departure = matched.graph_departure
    if len(owners) == len(table.parameters):
        found = _renamed(found, owners, table)
    problem = str(departure or "") or ("" if len(owners) == len(table.parameters) else "some layers are used twice")
    if matched.preprocessed and not (found.provenance or {}).get("preprocessing_inside"):
        found.notes.append("its graph subtracts the published mean; converted files do not")
    if matched.note:
        found.notes.append(matched.note)
    akin = len(owners) >= LEAST_SHARED * len(table.parameters)
    return replace(found, departure=problem, akin=akin, preprocessed=matched.preprocessed)


def _reach(matched: Match) -> int:
    """How many of our nodes come before the first departure."""
    names = list(matched.ours.nodes)
    departure = matched.graph_departure
    return names.index(departure.node) if departure and departure.node in names else len(names)


def _renamed(found: NamedArrays, owners: dict[str, str], table: Architecture) -> NamedArrays:
    """The arrays of ``owners`` (the file's name -> ours) under our names; biases of zeros that ours lack go."""
    arrays, dtypes, zeros, notes = {}, {}, [], list(found.notes)
    for name, array in found.arrays.items():
        layer, _, role = name.rpartition("/")
        ours = owners.get(layer, layer)
        if role == "bias" and layer in owners and role not in table.parameters[ours] and not array.any():
            zeros.append(name)
            continue
        key = f"{ours}/{role}"
        if layer not in owners and ours in table.parameters:
            key = f"{ours}/{role} (again)"  # it has the name of one of ours, but another layer has its position
        arrays[key], dtypes[key] = array, found.dtypes[name]
    if zeros:
        notes.append(
            f"biases that are all zeros, where these networks have none, were left out: {', '.join(zeros[:3])}"
        )
    head = table.head.layer_name
    others = [theirs for theirs, ours in owners.items() if theirs != ours]
    adopted = next((theirs for theirs in others if owners[theirs] == head and theirs not in HEAD_NAMES), None)
    if found.format.startswith("matconvnet"):
        adopted = None  # a .mat lists its classes in its head's order
    body = [theirs for theirs in others if theirs != adopted]
    if body:
        shown = ", ".join([f"{theirs} is {owners[theirs]}" for theirs in body[:2]] + ["..."] * (len(body) > 2))
        verb, how = "has" if len(body) == 1 else "have", "they were identified by their position in the graph"
        notes.append(f"{counted(len(body), 'layer')} {verb} other names than published ({shown}); {how}")
    if adopted is not None:
        notes.append(head_note(adopted, table.head.units))
    return replace(found, arrays=arrays, dtypes=dtypes, notes=notes, adopted=adopted or found.adopted)
