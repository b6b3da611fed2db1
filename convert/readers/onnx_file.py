"""``.onnx``: ours, or exported from these networks by others; weights are found by walking the graph."""

from __future__ import annotations

from convert.matching import NamedArrays
from convert.readers.onnx_walk import DepartsError, Paired, pair
from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.onnx_graph import Graph, read_graph
from ferplus_keras.files.provenance import provenance_of

FORMAT = "onnx"

#: What the note says of a file whose exporter did that; the parity check looks for it.
FOLDED = "batch normalisations were folded into"


def read_onnx(file: MappedFile) -> NamedArrays:
    """The arrays of an ONNX file under PyTorch's names.

    Raises :class:`BadInputError` when it is damaged, keeps its numbers elsewhere, or is another network.
    """
    graph = read_graph(file)
    paired = paired_layers(graph, file)
    notes = []
    if paired.folded:
        notes.append(
            f"{len(paired.folded)} {FOLDED} the convolutions before them by the exporter. "
            "Their statistics are gone: each became one that changes nothing (the same function; keep them "
            "frozen in training). torch.onnx.export keeps them with dynamo=False, do_constant_folding=False"
        )
    provenance = provenance_of(file.path, graph.metadata.get(PROVENANCE_KEY))
    return NamedArrays(
        FORMAT, "torch", paired.arrays, paired.dtypes, notes, provenance,
        output="probabilities" if paired.probabilities else "logits",
    )  # fmt: skip


def paired_layers(graph: Graph, file: MappedFile) -> Paired:
    """The graph's nodes as a network's layers. Raises :class:`BadInputError` saying where it is another graph."""
    try:
        return pair(graph, folded=_says_folded(file, graph))
    except DepartsError as error:
        raise BadInputError(
            f"{file.path} is an ONNX model ({graph.producer[:40] or 'of no stated origin'}), but not one of Albanie's "
            f"networks: {str(error)[:400]}."
        ) from None


def _says_folded(file: MappedFile, graph: Graph) -> bool:
    """Whether the file is one of ours, written folded. In a stranger's the walk finds out for itself."""
    record = provenance_of(file.path, graph.metadata.get(PROVENANCE_KEY))
    return isinstance(record, dict) and record.get("folded") is True
