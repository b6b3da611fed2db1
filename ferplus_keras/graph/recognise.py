"""Which of these networks a graph is, or comes nearest to: told from what it computes, not from what it says."""

from __future__ import annotations

from ferplus_keras.graph.form import Graph, Node
from ferplus_keras.graph.matcher import Match, match
from ferplus_keras.graph.table import table_graph
from ferplus_keras.networks.architecture import (
    COMPACT,
    COMPACT_BLOCKS,
    NETWORKS,
    NO_HEAD,
    Architecture,
    Head,
    architecture,
    classifier,
    embedding,
)

AVERAGES = ("average", "average of a part")


def recognised(graph: Graph) -> tuple[Architecture, Match]:
    """The architecture that ``graph`` has most in common with, and the two held against each other."""
    folded = not graph.has("normalisation")
    head = _head(graph)
    # Each block of both adds, and each of SE-ResNet50 multiplies, so that one odd node does not make it the other.
    network = NETWORKS[2 * graph.count("multiply") > graph.count("add")]
    if graph.count("add") == len(COMPACT_BLOCKS):
        network = COMPACT
    table = architecture(network, head, folded=folded)
    return table, match(table_graph(table), graph)


def _head(graph: Graph) -> Head:
    """The dense layer on the averaged features, looked for from the output back."""
    for key in reversed(list(graph.nodes)):
        node = graph.nodes[key]
        if node.operation == "add":  # the last block
            break
        if _is_head(graph, node):
            units = int(node.arrays["kernel"].shape[-1])
            return (classifier if "bias" in node.arrays else embedding)(max(units, 1))
    return NO_HEAD


def _is_head(graph: Graph, node: Node) -> bool:
    """Whether ``node`` is a convolution whose input, but for strange layers, is an average, be it the right one."""
    if node.operation != "convolution" or not getattr(node.arrays.get("kernel"), "shape", ()):
        return False
    before = graph.nodes[node.inputs[0]]
    while before.operation not in (*AVERAGES, "convolution", "add", "image") and before.inputs:
        before = graph.nodes[before.inputs[0]]
    return before.operation in AVERAGES
