"""``.onnx`` by ONNX Runtime or OpenVINO, once this project's bounded reader has understood all of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.engines.budget import Shape
from ferplus_keras.engines.card import GRAY, NO_CARD, Card
from ferplus_keras.engines.engine import BATCH, Engine, Run, telling_line
from ferplus_keras.engines.interruptible import interruptible
from ferplus_keras.engines.onnx_policy import check_graph
from ferplus_keras.engines.openvino_engine import PRECISIONS, compiled
from ferplus_keras.engines.record import FileFacts
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.onnx_graph import OnnxFile, read_graph
from ferplus_keras.files.provenance import provenance_of
from ferplus_keras.graph.form import GraphError
from ferplus_keras.graph.onnx_graph import onnx_graph
from ferplus_keras.graph.recognise import recognised

#: TensorProto.DataType of an input: floats, or bytes where the preprocessing is inside.
INPUTS = {1: "float32", 2: "uint8"}

#: What can run these files; the first is taken where none is named.
RUNTIMES = ("onnxruntime", *PRECISIONS)

#: The largest number of images that a file may insist on.
MAX_FIXED = 256


def check_runtime(path: Path, runtime: str) -> None:
    """Raise :class:`BadInputError` unless ``runtime`` is one of :data:`RUNTIMES` and ``path`` an ONNX file."""
    if runtime not in RUNTIMES:
        raise BadInputError(f"There is no runtime {runtime}: choose {', '.join(RUNTIMES[:-1])} or {RUNTIMES[-1]}.")
    if path.suffix.lower() != ".onnx":
        raise BadInputError(
            f"{path} is not an .onnx file; --runtime is for those. `ferplus export {path.name} {path.stem}.onnx "
            "--to onnx` makes one."
        )


def open_onnx(file: MappedFile, threads: int | None = None, card: Card = NO_CARD, runtime: str | None = None) -> Engine:
    """The network in ``file``. ``runtime`` is one of :data:`RUNTIMES`.

    Raises :class:`BadInputError` when the file is damaged, takes anything but images, or is not for us to run.
    """
    path = file.path
    graph = read_graph(file)
    facts = FileFacts.of(path, provenance_of(path, graph.metadata.get(PROVENANCE_KEY)), card)
    name = next((each for each in graph.inputs if each not in graph.tensors), "")
    kind, shape = graph.declared.get(name, (0, None))
    if shape is None or kind not in INPUTS:
        raise BadInputError(f"{path} does not take images as bytes or float32.")
    layout = facts.layout(shape)
    first, side = layout.first, facts.side_for(*layout.extents)
    fixed = shape[0] if shape[0] is None or 0 < shape[0] <= MAX_FIXED else 0
    if fixed == 0:
        raise BadInputError(f"{path} takes {shape[0]} images at a time; 1 to {MAX_FIXED} are supported.")
    channels = 1 if layout.order == GRAY else 3
    image = (channels, side, side) if first else (side, side, channels)
    shapes = check_graph(path, graph, (fixed or BATCH, *image))
    place, notes = _output(facts, graph, shapes)
    output = shapes[place]
    known = {fixed or BATCH}
    opening = compiled if runtime in PRECISIONS else _session
    run, by = interruptible(opening, file, (name, graph.outputs[place]), runtime or RUNTIMES[0], threads)

    def call(batch: np.ndarray) -> np.ndarray:
        if len(batch) not in known:  # what a graph makes of one image need not be a part of what it makes of two
            check_graph(path, graph, batch.shape)
            known.add(len(batch))
        return run(batch)

    if notes:  # the record does not say which of them it means
        facts = replace(facts, gives=None)
    numbers = "bfloat16" if runtime == "openvino-bf16" else "float32"
    numbers = "int8" if any(node.kind == "QuantizeLinear" for node in graph.nodes) else numbers
    return facts.engine(
        by, call, output[1] if len(output) == 2 else None, side=side, fixed=fixed, channels_first=first,
        order=layout.order, dtype=INPUTS[kind], numbers=numbers, notes=notes, output=graph.outputs[place],
    )  # fmt: skip


def _output(facts: FileFacts, graph: OnnxFile, shapes: list[Shape]) -> tuple[int, tuple[str, ...]]:
    """Which output is the classes, by what one of these networks computes, else by its size; and what is said of it."""
    if len(shapes) > 1:
        with suppress(GraphError):
            _, matched = recognised(onnx_graph(graph).graph)
            if matched.departure is None:
                return graph.outputs.index(matched.output), (matched.note,) if matched.note else ()
    return facts.output_of(list(zip(graph.outputs, shapes, strict=True)))


def _session(file: MappedFile, ends: tuple[str, str], _runtime: str, threads: int | None) -> tuple[Run, str]:
    try:
        import onnxruntime
    except ImportError:
        raise BadInputError(
            f"{file.path} is run by ONNX Runtime, which is not installed: pip install onnxruntime."
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    try:
        session = onnxruntime.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:  # the library's own exception classes share no base that is public
        raise BadInputError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run {file.path}: {telling_line(error)}"
        ) from None

    def run(batch: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([ends[1]], {ends[0]: batch})[0])

    return run, f"ONNX Runtime {onnxruntime.__version__}"
