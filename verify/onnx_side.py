"""The ONNX side: the *file*, run by ONNX Runtime as anyone would run it; only more of its outputs are looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.checkpoint import Arrays, Checkpoint, Provenance
from convert.readers import read_checkpoint
from convert.readers.onnx_file import paired_layers
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.onnx_graph import read_graph
from ferplus_keras.networks.architecture import INPUT_SIZE, Dropout
from ferplus_keras.networks.keras_plan import PROBABILITIES
from verify.onnx_float64 import OPERATORS
from verify.pairing import Pairing
from verify.runs import Observe

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: What computes, in the place where Keras names its backend. It computes in float64 too (verify/onnx_float64.py).
BACKEND = "onnxruntime"

Outputs = dict[str, np.ndarray]


@dataclass
class OnnxModel:
    """An ONNX file, and which of its tensors are the outputs of which layers."""

    path: Path
    outputs: dict[str, str]
    side: int = INPUT_SIZE  #: of the images that it is shown
    beside: str = ""  #: what is said of further outputs of the file's own


@dataclass
class OnnxSide:
    """An opened ONNX file, as :class:`verify.runs.Side` has it. Its layers were found by walking the graph."""

    model: OnnxModel
    pairing: Pairing
    arrays: Arrays
    provenance: Provenance | None
    backend: str = BACKEND
    dtypes: tuple[str, ...] = ("float64", "float32")
    preprocess: Callable[[np.ndarray], np.ndarray] | None = None

    def runner(self, dtype: str) -> Callable[[np.ndarray, Observe], np.ndarray]:
        """A function that runs a batch in ``dtype`` and hands over each layer's output."""
        run_all = layer_outputs(self.model, [*self.pairing.by, PROBABILITIES], dtype)
        head = list(self.pairing.by)[-1]

        def run(batch: np.ndarray, observe: Observe) -> np.ndarray:
            outputs = run_all(batch)
            for layer in self.pairing.by:
                observe(layer, outputs[layer])
            return outputs.get(PROBABILITIES, outputs[head])

        return run


def open_side(path: Path, checkpoint: Checkpoint) -> OnnxSide:
    """Open the ONNX file at ``path``, to be held against ``checkpoint``.

    Raises :class:`BadInputError` when it is damaged or another network.
    """
    ours, table = read_checkpoint(path), checkpoint.architecture
    if (ours.architecture.network, ours.architecture.head) != (table.network, table.head):
        raise BadInputError(
            f"{path} is a {ours.architecture} and {checkpoint.provenance.source.name} is a {table}: "
            "they cannot be compared."
        )
    model = open_model(path, checkpoint)
    layers = [layer.name for layer in table.layers[1:]]
    shown = {layer: number for number, layer in enumerate(layers) if layer in model.outputs}
    pairing = Pairing(
        shown, dict.fromkeys(shown, "structure"), names={layer: model.outputs[layer] for layer in shown},
        hidden=set(layers) - shown.keys(), beside=model.beside,
    )  # fmt: skip
    return OnnxSide(model, pairing, ours.arrays, ours.provenance)


def open_model(path: Path, checkpoint: Checkpoint) -> OnnxModel:
    """The model in the file, its nodes paired with the layers of ``checkpoint``'s architecture.

    Raises :class:`BadInputError` when it is damaged or another network.
    """
    file = MappedFile(path)
    graph = read_graph(file)
    paired = paired_layers(graph, file)
    outputs = paired.outputs
    for layer in checkpoint.architecture.layers:
        if isinstance(layer, Dropout):  # does nothing, and most exporters leave it out
            outputs[layer.name] = outputs[layer.inputs[0]]
    head = checkpoint.architecture.output
    if checkpoint.architecture.head.kind == "classifier" and paired.output != outputs.get(head):
        outputs[PROBABILITIES] = paired.output  # what the file itself returns: its own softmax
    return OnnxModel(path, outputs, checkpoint.provenance.side, paired.beside)


def layer_outputs(model: OnnxModel, names: list[str], dtype: str) -> Callable[[np.ndarray], Outputs]:
    """A function from a batch to the outputs of those of the layers ``names`` that the file has, in ``dtype``.

    Where an exporter folded a batch normalisation into the convolution before it, the convolution's own output does
    not exist. Raises :class:`BadInputError` when ONNX Runtime does not take the file.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise BadInputError(f"An .onnx file is run by ONNX Runtime, which is missing ({error}): pip install "
                            "onnx onnxruntime.") from None  # fmt: skip
    from verify.onnx_session import OnnxSession

    proto = onnx.load(model.path, load_external_data=False)
    tensors = _numbers_apart(proto) if dtype == "float64" else {}
    shown = {name: model.outputs[name] for name in names if name in model.outputs}
    _show(proto, set(shown.values()), model.side)
    session = OnnxSession(proto, tensors, dtype)
    del proto

    def run(batch: np.ndarray) -> Outputs:
        outputs = session.run(batch)
        return {name: outputs[tensor] for name, tensor in shown.items()}

    return run


def _show(model: ModelProto, names: set[str], side: int) -> None:
    """Make ``names`` the outputs of the graph, whose images are ``side`` x ``side``."""
    from onnx import TensorProto, helper

    graph = model.graph
    needed = _needed(graph.node, names)
    graph.ClearField("node")
    graph.node.extend(needed)
    graph.ClearField("output")
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in sorted(names))
    initializers = {tensor.name for tensor in graph.initializer}
    for info in graph.input:
        shape = info.type.tensor_type.shape.dim
        if info.name not in initializers and len(shape) == 4:
            for axis in range(1, 4):
                if not shape[axis].dim_value:
                    last = shape[3].dim_value == 3
                    shape[axis].dim_value = 3 if axis == 1 and not last and not shape[1].dim_value else side


def _needed(nodes: Sequence[NodeProto], names: set[str]) -> list[NodeProto]:
    """Those of ``nodes`` on which the tensors ``names`` depend, so that nothing else in a file from elsewhere is run.

    Raises :class:`BadInputError` when one of them does what no layer of these networks does.
    """
    wanted = set(names)
    kept = []
    for node in reversed(nodes):  # sorted, as ONNX demands: what a node takes was made before it
        if wanted & set(node.output):
            if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
                raise BadInputError(
                    f"The file's node {node.name} is a {node.op_type}, which these networks do not have."
                )
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _numbers_apart(model: ModelProto) -> dict[str, np.ndarray]:
    """Take the floating-point initialisers out of the graph and declare them as its inputs."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    tensors = {each.name: numpy_helper.to_array(each) for each in graph.initializer if each.data_type in kinds}
    kept = [each for each in graph.initializer if each.name not in tensors]
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
    declared = {info.name for info in graph.input}
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        for name, array in tensors.items() if name not in declared
    )  # fmt: skip
    return tensors
