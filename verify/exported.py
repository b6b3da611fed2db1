"""An exported file, opened by what runs such files: preprocessed images in, whatever the network yields out.

A TensorFlow Lite file and a SavedModel are programs. Before anything of a file is run, its operators are looked at:
those of these networks do arithmetic, and anything else, an operator that writes a file among them, is refused.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Provenance, Source
from convert.readers.exports import Export, is_saved_model, is_tflite, read_export
from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.opening import open_regular
from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.networks.preprocessing import PUBLISHED
from ferplus_keras.quiet import silent_stderr

#: Images at a time where the file takes any number.
BATCH = 8

#: What stands in the graph of a SavedModel of these networks: the arithmetic, and the variables,
ARITHMETIC = {
    "Add", "AddV2", "AvgPool", "BiasAdd", "Cast", "Const", "Conv2D", "FusedBatchNormV3", "Identity", "MatMul",
    "MaxPool", "Mean", "Mul", "NoOp", "Pack", "Pad", "PadV2", "PartitionedCall", "Placeholder", "ReadVariableOp",
    "Relu", "Reshape", "Rsqrt", "Shape", "Sigmoid", "Softmax", "Squeeze", "StatefulPartitionedCall", "StridedSlice",
    "Sub", "DisableCopyOnRead", "VarHandleOp",
}  # fmt: skip

#: and how TensorFlow reads and writes these: never on the way from images to probabilities.
SAVING = {
    "AssignVariableOp", "MergeV2Checkpoints", "RestoreV2", "SaveV2", "Select", "ShardedFilename",
    "StaticRegexFullMatch", "StringJoin",
}  # fmt: skip

#: TensorFlow writes a graph of these networks, without the numbers, in less than 2 MB.
MAX_GRAPH = 64 << 20


@dataclass(frozen=True)
class Exported:
    """An export ready to run: ``run`` takes n x 224 x 224 x 3, float32, RGB less the mean."""

    path: Path
    by: str
    run: Callable[[np.ndarray], np.ndarray]
    source: Source
    provenance: Provenance | None
    batch: int
    kind: str  #: "float32", "float16" or "int8": the coarsest numbers that it computes with
    notes: tuple[str, ...] = ()


def is_export(path: Path) -> bool:
    """Whether :func:`open_exported` is for this file or folder."""
    if path.is_dir():
        return is_saved_model(path)
    with suppress(BadInputError), open_regular(path) as stream:
        return is_tflite(stream.read(8))
    return False


def open_exported(path: Path) -> Exported:
    """The TensorFlow Lite file or the SavedModel at ``path``. Raises :class:`BadInputError` when it cannot be run."""
    export = read_export(path)
    if export is None:
        raise BadInputError(f"{path} is neither a TensorFlow Lite file nor a SavedModel.")
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        raise BadInputError(f"{path} is run by TensorFlow, which is not installed: pip install tensorflow.") from None
    return _open_saved_model(path, export) if path.is_dir() else _open_tflite(path, export)


def as_pixels(images: np.ndarray) -> np.ndarray:
    """Preprocessed ``images`` as the bytes they were made from; exact where they were made from bytes."""
    back = np.rint(images + np.asarray(PUBLISHED.mean, np.float32))
    pixels: np.ndarray = np.clip(back, 0, 255).astype(np.uint8)
    return pixels


# --- TensorFlow Lite ---------------------------------------------------------------------------------------------


def _open_tflite(path: Path, export: Export) -> Exported:
    if export.custom:
        raise BadInputError(
            f"{path} needs operators that are not TensorFlow Lite's own ({', '.join(export.custom[:4])[:200]}); these "
            "networks have none, and it is not run."
        )
    import tensorflow as tf

    threads = os.cpu_count() or 1
    try:
        with warnings.catch_warnings(), silent_stderr():  # the class will move to another package; a delegate was made
            warnings.simplefilter("ignore")
            interpreter = tf.lite.Interpreter(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
        (images,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    except Exception as error:  # ValueError, RuntimeError, whatever the library's parts raise
        raise BadInputError(
            f"TensorFlow Lite cannot open {path} as a network of one input: {first_line(error, 300)}"
        ) from None
    shape = tuple(int(each) for each in images["shape_signature"])
    _images_of(path, shape)
    fixed = shape[0] if shape[0] > 0 else None
    prepared = 0

    def run(batch: np.ndarray) -> np.ndarray:
        nonlocal prepared
        if not prepared or (fixed is None and prepared != len(batch)):
            interpreter.resize_tensor_input(images["index"], [fixed or len(batch), *shape[1:]])
            interpreter.allocate_tensors()
            prepared = fixed or len(batch)
        interpreter.set_tensor(images["index"], _quantized(batch, images))
        interpreter.invoke()
        return _dequantized(interpreter.get_tensor(output["index"]), output)

    kind = "int8" if export.dtypes.get("int8") else "float16" if export.dtypes.get("float16") else "float32"
    by = f"TensorFlow Lite {tf.__version__}, {threads} threads"
    return Exported(
        path, by, _in_pieces(path, run, fixed), export.source, export.provenance, fixed or BATCH, kind,
        tuple(export.notes),
    )  # fmt: skip


def _quantized(images: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    """Images as the input wants them: float32, bytes (where the preprocessing is inside), or integers with a scale."""
    if details["dtype"] == np.float32:
        return images
    scale, zero = details["quantization"]
    if not scale:
        return as_pixels(images)
    limits = np.iinfo(details["dtype"])
    whole: np.ndarray = np.clip(np.rint(images / scale) + zero, limits.min, limits.max).astype(details["dtype"])
    return whole


def _dequantized(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    scale, zero = details["quantization"]
    if values.dtype.kind == "f" or not scale:
        return np.array(values, np.float32)
    result: np.ndarray = (values.astype(np.float32) - zero) * np.float32(scale)
    return result


# --- SavedModel --------------------------------------------------------------------------------------------------


def _open_saved_model(path: Path, export: Export) -> Exported:
    _looked_at(path)
    import tensorflow as tf

    try:
        with silent_stderr():
            loaded = tf.saved_model.load(str(path))  # kept below: what the signature computes with hangs on it
        serve = loaded.signatures["serving_default"]
        ((name, spec),) = serve.structured_input_signature[1].items()
        (output,) = serve.structured_outputs
    except Exception as error:  # a folder from anywhere
        raise BadInputError(
            f"TensorFlow cannot open {path} as a network of one input: {first_line(error, 300)}"
        ) from None
    _refuse(path, serve.graph.as_graph_def(), ARITHMETIC)
    shape = tuple(-1 if each is None else int(each) for each in spec.shape)
    _images_of(path, shape)
    fixed = shape[0] if shape[0] > 0 else None
    pixels = spec.dtype == tf.uint8

    def run(batch: np.ndarray, _kept: Any = loaded) -> np.ndarray:
        found: np.ndarray = serve(**{name: tf.constant(as_pixels(batch) if pixels else batch)})[output].numpy()
        return found

    by = f"TensorFlow {tf.__version__}, the signature serving_default"
    return Exported(
        path, by, _in_pieces(path, run, fixed), export.source, export.provenance, fixed or BATCH, "float32",
        tuple(export.notes),
    )  # fmt: skip


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


# --- both --------------------------------------------------------------------------------------------------------


def _images_of(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 4 or shape[1:] != (INPUT_SIZE, INPUT_SIZE, 3):
        raise BadInputError(f"{path} takes {shape}, and these networks take images of 224 x 224 x 3.")


def _in_pieces(
    path: Path, run: Callable[[np.ndarray], np.ndarray], fixed: int | None
) -> Callable[[np.ndarray], np.ndarray]:
    """``run`` for any number of images: in pieces of the size that the file takes, the last filled up with black."""

    def all_of(images: np.ndarray) -> np.ndarray:
        size = fixed or min(BATCH, max(len(images), 1))
        found = []
        for start in range(0, len(images), size):
            piece = images[start : start + size]
            if fixed and len(piece) < fixed:
                piece = np.concatenate([piece, np.zeros((fixed - len(piece), *piece.shape[1:]), piece.dtype)])
            try:
                found.append(np.asarray(run(np.ascontiguousarray(piece)))[: min(size, len(images) - start)])
            except (ValueError, RuntimeError) as error:
                raise BadInputError(f"{path} could not be run: {first_line(error, 300)}") from None
        return np.concatenate(found)

    return all_of


__all__ = ["Exported", "as_pixels", "is_export", "open_exported"]
