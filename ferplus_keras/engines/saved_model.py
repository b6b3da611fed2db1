"""A SavedModel by TensorFlow, once its operators have been looked at.

A SavedModel is a program: it may read and write files. Those of these networks do arithmetic, and anything else is
refused before TensorFlow loads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras import PROVENANCE_MEMBER
from ferplus_keras.engines.card import NO_CARD, Card
from ferplus_keras.engines.engine import Engine
from ferplus_keras.engines.record import FileFacts
from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.provenance import provenance_of
from ferplus_keras.quiet import silent_stderr

#: TensorFlow's own name for a folder in which a SavedModel carries what its runtime does not read.
EXTRA = "assets.extra"

#: What stands in the graph of a SavedModel of these networks: the arithmetic, and the variables,
ARITHMETIC = {
    "Add", "AddV2", "AvgPool", "BiasAdd", "Cast", "Const", "Conv2D", "FusedBatchNormV3", "Identity", "MatMul",
    "MaxPool", "Mean", "Mul", "NoOp", "Pack", "Pad", "PadV2", "PartitionedCall", "Placeholder", "ReadVariableOp",
    "Relu", "Reshape", "Rsqrt", "Shape", "Sigmoid", "Softmax", "Squeeze", "StatefulPartitionedCall", "StridedSlice",
    "Sub", "DisableCopyOnRead", "VarHandleOp",
    "ConcatV2", "DepthwiseConv2dNative", "Elu", "Exp", "ExpandDims", "LeakyRelu", "Max", "Maximum", "Minimum", "Neg",
    "RealDiv", "Relu6", "Selu", "Softplus", "Sqrt", "Square", "Sum", "Tanh", "Transpose",
}  # fmt: skip

#: and how TensorFlow reads and writes these: never on the way from images to probabilities.
SAVING = {
    "AssignVariableOp", "MergeV2Checkpoints", "RestoreV2", "SaveV2", "Select", "ShardedFilename",
    "StaticRegexFullMatch", "StringJoin", "VarIsInitializedOp",
}  # fmt: skip

#: TensorFlow writes a graph of these networks, without the numbers, in less than 2 MB; a record in some thousands.
MAX_GRAPH, MAX_RECORD = 64 << 20, 1 << 20


def open_saved_model(path: Path, card: Card = NO_CARD) -> Engine:
    """The signature ``serving_default`` of the SavedModel in the folder ``path``.

    Raises :class:`BadInputError` when it is damaged, takes anything but images, or has operators of another kind.
    """
    try:
        with silent_stderr():
            import tensorflow as tf
    except ImportError:
        raise BadInputError(f"{path} is run by TensorFlow, which is not installed: pip install tensorflow.") from None
    facts = FileFacts.of(path, provenance_of(path, record_text(path)), card)
    _looked_at(path)
    try:
        with silent_stderr():
            loaded = tf.saved_model.load(str(path))  # kept below: what the signature computes with hangs on it
        serve = loaded.signatures["serving_default"]
        ((name, spec),) = serve.structured_input_signature[1].items()
        outputs = {key: each.shape.as_list() if each.shape.rank else None for key, each in
                   sorted(serve.structured_outputs.items())}  # fmt: skip
        shape = [None if each is None else int(each) for each in spec.shape]
    except MemoryError:
        raise
    except Exception as error:  # a folder from anywhere
        raise BadInputError(
            f"TensorFlow cannot open {path} as a network of one input: {first_line(error, 300)}"
        ) from None
    _refuse(path, serve.graph.as_graph_def(), ARITHMETIC)
    layout = facts.layout(shape)
    place, notes = facts.output_of(list(outputs.items()))
    output = list(outputs)[place]

    def call(batch: np.ndarray, _kept: Any = loaded) -> np.ndarray:
        found: np.ndarray = serve(**{name: tf.constant(batch)})[output].numpy()
        return found

    classes = outputs[output] or []
    return facts.engine(
        f"TensorFlow {tf.__version__}, the signature serving_default", call,
        classes[-1] if len(classes) == 2 else None, side=facts.side_for(*layout.extents), fixed=shape[0],
        channels_first=layout.first, order=layout.order,
        dtype="uint8" if spec.dtype == tf.uint8 else "float32", batch=8,
        notes=notes,
    )  # fmt: skip


def record_text(path: Path) -> str | None:
    """The text of the record that an export of ours carries."""
    record = path / EXTRA / PROVENANCE_MEMBER
    try:
        if not record.is_file() or record.stat().st_size > MAX_RECORD:
            return None
        return record.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadInputError(f"{record} cannot be read: {error.strerror}.") from None


def _looked_at(path: Path) -> None:
    """Raises :class:`BadInputError` when the graph has an operator that these networks do not have."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    if file.stat().st_size > MAX_GRAPH:
        raise BadInputError(f"{file} has {file.stat().st_size:,} bytes, more than the graph of any of these networks.")
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError
        raise BadInputError(f"{file} is damaged ({first_line(error, 200)}). Make it again.") from None
    for graph in model.meta_graphs:
        _refuse(path, graph.graph_def, ARITHMETIC | SAVING)


def _refuse(path: Path, graph: Any, allowed: set[str]) -> None:
    nodes = [graph.node, *(function.node_def for function in graph.library.function)]
    if strange := sorted({node.op for some in nodes for node in some} - allowed):
        raise BadInputError(
            f"{path} has the operators {', '.join(strange[:4])[:200]}, which these networks do not have there; it is "
            "not run."
        )
