"""``.onnx``: ours, or exported from these networks by others; arrays are identified by what the graph computes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from convert.matching import NamedArrays
from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.onnx_graph import OnnxFile, read_graph
from ferplus_keras.files.provenance import provenance_of
from ferplus_keras.graph.form import GraphError
from ferplus_keras.graph.onnx_graph import onnx_graph
from ferplus_keras.graph.recognise import recognised
from ferplus_keras.networks.architecture import Architecture, BatchNorm, architecture, torch_name

FORMAT = "onnx"

#: In the note about a file whose exporter did that; the parity check looks for it.
FOLDED = "batch normalisations were folded into"


#: A batch normalisation that does nothing: gamma / sqrt(variance + 1e-5) is 1 in float32 and within 2e-15 of 1 in
#: float64. Of the 8 million float32 gammas from 1 to 2, this one comes closest.
IDENTITY = {
    "gamma": float.fromhex("0x1.c0bf2ep+0"),
    "moving_mean": 0.0,
    "moving_variance": float.fromhex("0x1.894e84p+1"),
}


@dataclass
class Paired:
    """A file's nodes as layers of a network.

    ``outputs`` maps each layer to its output tensor (a convolution into which a batch normalisation was folded has
    none of its own). ``arrays`` has PyTorch's names and shapes.
    """

    architecture: Architecture
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    folded: list[str] = field(default_factory=list)  #: the batch normalisations that an exporter folded
    probabilities: bool = False
    preprocessed: bool = False  #: whether the graph subtracts the published mean
    output: str = ""  #: the file's name of the output that is the network's
    beside: str = ""  #: what is said of further outputs


def read_onnx(file: MappedFile) -> NamedArrays:
    """The arrays of an ONNX file under PyTorch's names.

    Raises :class:`BadInputError` if it is damaged, keeps its numbers elsewhere, or is another network.
    """
    graph = read_graph(file)
    paired = paired_layers(graph, file)
    notes = []
    if paired.folded:
        notes.append(
            f"{len(paired.folded)} {FOLDED} the convolutions before them by the exporter. "
            "Their statistics cannot be recovered: each became one that does nothing (the same function; keep them "
            "frozen in training). torch.onnx.export keeps them with dynamo=False, do_constant_folding=False"
        )
    if paired.beside:
        notes.append(paired.beside)
    provenance = provenance_of(file.path, graph.metadata.get(PROVENANCE_KEY))
    if paired.preprocessed and not (isinstance(provenance, dict) and provenance.get("preprocessing_inside")):
        notes.append("its graph subtracts the published mean; converted files do not")
    return NamedArrays(
        FORMAT, "torch", paired.arrays, paired.dtypes, notes, provenance,
        output="probabilities" if paired.probabilities else "logits", size=_size(graph),
    )  # fmt: skip


def _size(graph: OnnxFile) -> tuple[int, int] | None:
    """Height and width of the images that the graph takes, channels first or last; None where they are free."""
    declared = (graph.declared.get(name, (0, None))[1] for name in graph.inputs if name not in graph.tensors)
    shape = next((each for each in declared if each and len(each) == 4), None)
    height, width = (None, None) if shape is None else shape[2:] if shape[1] == 3 else shape[1:3]
    return None if height is None or width is None else (height, width)


def paired_layers(graph: OnnxFile, file: MappedFile) -> Paired:
    """The graph's nodes as a network's layers. Raises :class:`BadInputError` that says where it differs."""
    try:
        found = onnx_graph(graph)
        table, matched = recognised(found.graph)
        problem = str(matched.departure or "")
    except GraphError as error:
        problem = str(error)
    if problem:
        raise BadInputError(
            f"{file.path} is an ONNX model ({graph.producer[:40] or 'of unknown origin'}), but not one of Albanie's "
            f"networks: {problem[:400]}."
        )
    paired = Paired(
        table, probabilities=matched.probabilities, preprocessed=matched.preprocessed, output=matched.output,
        beside=matched.note,
    )  # fmt: skip
    for layer, key in matched.pairs.items():
        paired.outputs[layer] = key
        for role, array in found.graph.nodes[key].arrays.items():
            if role in table.parameters.get(layer, {}):  # not a bias of zeros
                name = torch_name(layer, role)
                paired.arrays[name] = (
                    array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
                )
                paired.dtypes[name] = graph.dtypes.get(found.sources[key].get(role, ""), array.dtype.name)
    if table.folded and not _says_folded(file, graph):
        _unfold(paired)
    return paired


def _unfold(paired: Paired) -> None:
    """Replace each folded batch normalisation by one that only adds the bias."""
    paired.architecture = table = architecture(paired.architecture.network, paired.architecture.head)
    for layer in table.layers:
        if isinstance(layer, BatchNorm):
            (convolution,) = layer.inputs
            bias = torch_name(convolution, "bias")
            beta, dtype = paired.arrays.pop(bias), paired.dtypes.pop(bias)
            for role in layer.parameters:
                name = torch_name(layer.name, role)
                paired.arrays[name] = beta if role == "beta" else np.full(beta.shape, IDENTITY[role], np.float32)
                paired.dtypes[name] = dtype if role == "beta" else "float32"
            paired.outputs[layer.name] = paired.outputs.pop(convolution)  # its own output no longer exists
            paired.folded.append(layer.name)


def _says_folded(file: MappedFile, graph: OnnxFile) -> bool:
    """Whether the file is one of ours, written folded. Of other files, the graph tells."""
    record = provenance_of(file.path, graph.metadata.get(PROVENANCE_KEY))
    return isinstance(record, dict) and record.get("folded") is True
