"""A TensorFlow Lite file as plain data: operators, tensors, buffers. Nothing is run.

Field numbers are those of TensorFlow's ``schema.fbs``. What this reader gives has been gone through to the last offset:
no index leads past its list, no array is longer or shorter than its tensor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from ferplus_keras.errors import BadInputError, DamagedError
from ferplus_keras.files.flatbuffer import Schema, Table, verify
from ferplus_keras.files.mapped_file import MappedFile

#: TensorType: number -> (name, bits). Others (strings, resources, variants) are no numbers.
TYPES = {0: ("float32", 32), 1: ("float16", 16), 2: ("int32", 32), 3: ("uint8", 8), 4: ("int64", 64), 6: ("bool", 8),
         7: ("int16", 16), 9: ("int8", 8), 10: ("float64", 64), 15: ("uint32", 32), 16: ("uint16", 16),
         17: ("int4", 4)}  # fmt: skip

#: Options of operators that the networks have: BuiltinOptions's number -> the table's fields.
OPTIONS: dict[int, tuple[str, dict[int, str]]] = {
    1: ("Conv2D", {0: "1", 1: "4", 2: "4", 3: "1", 4: "4", 5: "4", 6: "1"}),
    2: ("DepthwiseConv2D", {0: "1", 1: "4", 2: "4", 3: "4", 4: "1", 5: "4", 6: "4"}),
    5: ("Pool2D", {0: "1", 1: "4", 2: "4", 3: "4", 4: "4", 5: "1"}),
    8: ("FullyConnected", {0: "1", 1: "1", 2: "1", 3: "1", 4: "1"}),
    9: ("Softmax", {0: "4"}), 10: ("Concatenation", {0: "4", 1: "1"}), 11: ("Add", {0: "1", 1: "1"}),
    17: ("Reshape", {0: "[4]"}), 21: ("Mul", {0: "1"}), 22: ("Pad", {}), 26: ("Transpose", {}),
    27: ("Reducer", {0: "1"}), 28: ("Sub", {0: "1", 1: "1"}), 29: ("Div", {0: "1"}), 30: ("Squeeze", {0: "[4]"}),
    32: ("StridedSlice", dict.fromkeys(range(5), "4") | {5: "1"}), 37: ("Cast", {0: "1", 1: "1"}),
    38: ("Dequantize", {}), 39: ("MaximumMinimum", {}), 43: ("PadV2", {}), 52: ("ExpandDims", {}),
    55: ("Shape", {0: "1"}), 59: ("Pack", {0: "4", 1: "4"}), 75: ("LeakyRelu", {0: "4"}), 89: ("Quantize", {}),
    91: ("HardSwish", {}), 104: ("BroadcastTo", {}),
}  # fmt: skip

SCHEMA: Schema = {
    "Model": {0: "4", 1: "[OperatorCode]", 2: "[SubGraph]", 3: "text", 4: "[Buffer]", 5: "[4]", 6: "[Metadata]",
              7: "[SignatureDef]"},
    "OperatorCode": {0: "1", 1: "text", 2: "4", 3: "4"},
    "SubGraph": {0: "[Tensor]", 1: "[4]", 2: "[4]", 3: "[Operator]", 4: "text", 5: "4"},
    "Buffer": {0: "[1]", 1: "8", 2: "8"},
    "Tensor": {0: "[4]", 1: "1", 2: "4", 3: "text", 4: "Quantization", 5: "1", 7: "[4]", 8: "1"},
    "Quantization": {0: "[4]", 1: "[4]", 2: "[4]", 3: "[8]", 4: "1", 6: "4"},
    # Its options (4) are gone through by what they are options of.
    "Operator": {0: "4", 1: "[4]", 2: "[4]", 3: "1", 4: "4", 5: "[1]", 6: "1", 7: "[1]", 8: "[4]", 13: "4"},
    "Metadata": {0: "text", 1: "4"},
    "SignatureDef": {0: "[TensorMap]", 1: "[TensorMap]", 2: "text", 4: "4"},
    "TensorMap": {0: "text", 1: "4"},
    **dict(OPTIONS.values()),
}  # fmt: skip

#: Of the schema. There has been no other since 2017.
VERSION = 3

MAX_RANK = 8

#: Scales of one tensor (one for each channel); inputs of one operator.
MAX_SCALES, MAX_INPUTS = 1 << 16, 64


@dataclass(frozen=True)
class Tensor:
    """One tensor. ``shape`` is what it has when nothing is resized; -1 in ``signature`` is any extent."""

    shape: tuple[int, ...]
    signature: tuple[int, ...]
    dtype: str  #: "?" for what is no number
    constant: bool


@dataclass(frozen=True)
class Operator:
    """One operator: the number of its builtin code, the indices of its tensors (-1: left out), and its options."""

    code: int
    inputs: list[int]
    outputs: list[int]
    options_type: int
    options: Table | None


@dataclass
class TfliteModel:
    """What a TensorFlow Lite file holds."""

    custom: list[str] = field(default_factory=list)  #: operators that are not TensorFlow Lite's own
    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    graphs: int = 0
    texts: dict[str, str] = field(default_factory=dict)  #: of its metadata, by key: the record that our exports have


def read_tflite(file: MappedFile, record_key: str) -> TfliteModel:
    """The model in ``file``, with the text that stands under ``record_key`` in its metadata.

    Raises :class:`BadInputError` when anything in it leads astray.
    """
    try:
        return _read(Table.root(file.view), record_key)
    except DamagedError as error:
        raise BadInputError(
            f"{file.path} is a damaged TensorFlow Lite file ({error}). It was probably cut short: make it again."
        ) from None


def _read(root: Table, record_key: str) -> TfliteModel:
    if (version := root.scalar(0, "<I")) != VERSION:
        raise DamagedError(f"its schema is of the version {version}")
    _verify(root)
    codes = list(root.tables(1))
    buffers = [_buffer(each) for each in root.tables(4)]
    found = TfliteModel(custom=[name for code in codes if (name := code.text(1))])
    numbers = [max(code.scalar(0, "<b"), code.scalar(3, "<i")) for code in codes]
    for graph in root.tables(2):
        found.graphs += 1
        tensors = [_tensor(each, buffers) for each in graph.tables(0)]
        inputs, outputs = (_indices(graph, place, len(tensors)) for place in (1, 2))
        operators = [_operator(each, numbers, len(tensors)) for each in graph.tables(3)]
        if found.graphs == 1:
            found.tensors, found.inputs, found.outputs, found.operators = tensors, inputs, outputs, operators
    for signature in root.tables(7):
        if signature.scalar(4, "<I") >= max(found.graphs, 1):
            raise DamagedError("a signature is of a graph that is not there")
        for place in (0, 1):
            if any(each.scalar(1, "<I") >= len(found.tensors) for each in signature.tables(place)):
                raise DamagedError("a signature names a tensor that is not there")
    if any(not 0 <= each < len(buffers) for each in root.numbers(5)):
        raise DamagedError("its metadata lie in a buffer that is not there")
    for entry in root.tables(6):
        wanted = entry.scalar(1, "<I")
        if wanted >= len(buffers):
            raise DamagedError("its metadata lie in a buffer that is not there")
        if entry.text(0) == record_key:
            buffer = next(each for index, each in enumerate(root.tables(4)) if index == wanted)
            found.texts[record_key] = buffer.content(0, 1 << 20).decode("utf-8", "replace")
    return found


def _verify(root: Table) -> None:
    """All of the file by the schema, and the operators' options each by what it is."""
    verify(root, "Model", SCHEMA)
    for graph in root.tables(2):
        for operator in graph.tables(3):
            kind, options = operator.scalar(3, "<B"), operator.table(4)
            if options is not None and kind in OPTIONS:
                verify(options, OPTIONS[kind][0], SCHEMA)


def _buffer(buffer: Table) -> int:
    """The number of bytes in a buffer."""
    if buffer.scalar(1, "<Q") > 1 or buffer.scalar(2, "<Q") > 1:  # beyond the flatbuffer: files of 2 GB and more
        raise DamagedError("it keeps numbers outside its buffers")
    return buffer.length(0)


def _tensor(table: Table, buffers: list[int]) -> Tensor:
    shape, signature = (table.numbers(place, MAX_RANK) for place in (0, 7))
    name, bits = TYPES.get(table.scalar(1, "<b"), ("?", 0))
    buffer = table.scalar(2, "<I")
    if buffer >= len(buffers) and (buffer or buffers):
        raise DamagedError("a tensor's numbers lie in a buffer that is not there")
    if min(shape, default=0) < 0 or min(signature, default=0) < -1 or (signature and len(signature) != len(shape)):
        raise DamagedError(f"a tensor has the shape {shape}")
    held = buffers[buffer] if buffers else 0
    if held and bits and held != (math.prod(shape) * bits + 7) // 8:
        raise DamagedError(f"a tensor of the shape {shape} has {held:,} bytes")
    if (quantization := table.table(4)) is not None:
        _check_quantization(quantization, shape)
    return Tensor(tuple(shape), tuple(signature or shape), name, bool(held))


def _check_quantization(table: Table, shape: list[int]) -> None:
    scales, zeros = table.length(2, 4), table.length(3, 8)
    axis = table.scalar(6, "<i")
    if table.scalar(4, "<B") or (scales != zeros and scales and zeros):
        raise DamagedError("a tensor is quantised in a way that is not known")
    if scales > 1 and not (0 <= axis < len(shape) and shape[axis] == scales):
        raise DamagedError(f"a tensor of the shape {shape} has {scales:,} scales")
    if any(not 0 < each < 1e30 for each in table.numbers(2, MAX_SCALES, "f")):
        raise DamagedError("a tensor has a scale that is none")


def _operator(table: Table, codes: list[int], count: int) -> Operator:
    index = table.scalar(0, "<I")
    if index >= len(codes):
        raise DamagedError("an operator is of a kind that is not there")
    if table.length(8, 4):
        raise DamagedError("an operator keeps tensors of its own")
    inputs, outputs = (_indices(table, place, count) for place in (1, 2))
    return Operator(codes[index], inputs, outputs, table.scalar(3, "<B"), table.table(4))


def _indices(table: Table, place: int, count: int) -> list[int]:
    found = table.numbers(place, MAX_INPUTS)
    if any(not -1 <= each < count for each in found):
        raise DamagedError("it names a tensor that is not there")
    return found


def is_tflite(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is TensorFlow Lite's."""
    return head[4:8] == b"TFL3"


def shown(path: Path, model: TfliteModel, index: int) -> str:
    """The tensor ``index`` in words: "float32 any x 224 x 224 x 3"."""
    if not 0 <= index < len(model.tensors):
        raise BadInputError(f"{path} leaves out what it takes or gives.")
    tensor = model.tensors[index]
    return f"{tensor.dtype} {' x '.join('any' if each < 0 else str(each) for each in tensor.signature)}"
