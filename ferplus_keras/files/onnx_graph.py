"""An ONNX file's graph as plain data: nodes, tensors, metadata. Nothing is run, and nothing outside the file is read.

Field numbers are those of ``onnx.proto`` (ONNX's own specification of the format).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from ferplus_keras.errors import BadInputError, DamagedError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.protobuf import Message, Span

#: TensorProto.DataType -> (PyTorch's name, numpy type of the raw bytes).
DTYPES = {
    1: ("float32", "<f4"), 2: ("uint8", "u1"), 3: ("int8", "i1"), 6: ("int32", "<i4"), 7: ("int64", "<i8"),
    9: ("bool", "?"), 10: ("float16", "<f2"), 11: ("float64", "<f8"), 16: ("bfloat16", "<u2"),
}  # fmt: skip

#: TensorProto's typed fields: number -> (numpy type, data types kept there). Most exporters use raw_data (9) instead.
TYPED_FIELDS = {4: ("<f4", (1,)), 10: ("<f8", (11,))}

#: The fields for small integers, each a varint; no weight is kept there, so more than this many are not read.
INTEGER_FIELDS = {5: (2, 3, 6, 9), 7: (7,)}
MAX_INTEGERS = 64

#: Fields of AttributeProto that hold graphs, lists of tensors and sparse tensors: no layer of these networks has one.
NESTED_FIELDS = {6: "a graph", 10: "tensors", 11: "graphs", 22: "a sparse tensor", 23: "sparse tensors"}

MAX_DIMENSIONS = 8
MAX_NODES = 20_000

#: The largest of these networks in float64 is a fifth of this.
MAX_BYTES = 1 << 30

Value = int | float | str | list[int] | np.ndarray


@dataclass
class OnnxNode:
    """One operator."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Value] = field(default_factory=dict)

    def integers(self, name: str, default: list[int]) -> list[int]:
        """The attribute ``name`` when it is a list of integers, else ``default``."""
        value = self.attributes.get(name)
        return value if isinstance(value, list) else default

    def number(self, name: str, default: float) -> float:
        value = self.attributes.get(name)
        return value if isinstance(value, int | float) else default

    def text(self, name: str, default: str) -> str:
        """The attribute ``name``, or ``default`` where there is none; what is no text is "", which means nothing."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, str) else ""


@dataclass
class OnnxFile:
    """What an ONNX file holds."""

    nodes: list[OnnxNode] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    #: Of the inputs: name -> (TensorProto.DataType, extents; None where one is free). None: declared without a shape.
    declared: dict[str, tuple[int, tuple[int | None, ...] | None]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    producer: str = ""


def read_graph(file: MappedFile) -> OnnxFile:
    """The graph in an ONNX file; its tensors are views of the mapped bytes.

    Raises :class:`BadInputError` when the file is damaged, points to other files, or is far too large.
    """
    if file.size > MAX_BYTES:
        raise BadInputError(f"{file.path} has {file.size:,} bytes, more than any of these networks.")
    reader = _Reader(file)
    try:
        reader.model(Span(0, file.size))
    except DamagedError as error:
        raise BadInputError(
            f"{file.path} is a damaged ONNX file ({error}). It was probably cut short: copy or download it again."
        ) from None
    if not reader.graph.nodes:
        raise BadInputError(f"{file.path} is not an ONNX model: it has no graph. Check that the download is complete.")
    return reader.graph


class _Reader:
    def __init__(self, file: MappedFile) -> None:
        self.path, self.view = file.path, file.view
        self.message = Message(file.view)
        self.graph = OnnxFile()

    def model(self, span: Span) -> None:
        for number, value in self.message.fields(span):
            if number == 2:
                self.graph.producer = self.message.text(value)
            elif number == 7:
                self._graph(_span(value))
            elif number == 14:
                key, text = self._pair(value)
                self.graph.metadata[key] = text
            elif number == 25:
                raise BadInputError(
                    f"{self.path} keeps its layers as functions of its own. Export it again with them inlined "
                    "(onnx.inliner.inline_local_functions)."
                )

    def _pair(self, value: int | Span) -> tuple[str, str]:
        parts = {number: self.message.text(inner) for number, inner in self.message.fields(_span(value))}
        return parts.get(1, ""), parts.get(2, "")

    def _graph(self, span: Span) -> None:
        for number, value in self.message.fields(span):
            if number == 1:
                if len(self.graph.nodes) >= MAX_NODES:
                    raise DamagedError("it has far too many nodes")
                self.graph.nodes.append(self._node(_span(value)))
            elif number == 5:
                name, dtype, array = self._tensor(_span(value))
                if name in self.graph.tensors:
                    raise DamagedError(f"the tensor {name} stands in it twice")
                self.graph.tensors[name], self.graph.dtypes[name] = array, dtype
            elif number in (11, 12):
                name, declared = self._value_info(_span(value))
                (self.graph.inputs if number == 11 else self.graph.outputs).append(name)
                if number == 11:
                    self.graph.declared[name] = declared
            elif number == 15:
                raise BadInputError(f"{self.path} holds sparse tensors, which these networks do not have.")

    def _value_info(self, span: Span) -> tuple[str, tuple[int, tuple[int | None, ...] | None]]:
        """A tensor's name, its type, and its extents: ValueInfoProto, TypeProto, TypeProto.Tensor, TensorShapeProto."""
        name, kind = "", 0
        extents: list[int | None] | None = None
        for number, value in self.message.fields(span):
            if number == 1:
                name = self.message.text(value)
            for tensor in self._within(value, 1) if number == 2 else ():
                for part, content in self.message.fields(tensor):
                    if part == 1:
                        kind = next(iter(self.message.integers(content)), 0)
                    elif part == 2:
                        extents = [] if extents is None else extents
                        for extent in self._within(content, 1):
                            sizes = [size for part, size in self.message.fields(extent) if part == 1]
                            extents.append(next(self.message.integers(sizes[-1])) if sizes else None)
                            if len(extents) > MAX_DIMENSIONS:
                                raise DamagedError(f"{name} has more than {MAX_DIMENSIONS} dimensions")
        return name, (kind, None if extents is None else tuple(extents))

    def _within(self, value: int | Span, number: int) -> Iterator[Span]:
        """The messages that the message ``value`` holds in its field ``number``."""
        return (_span(inner) for each, inner in self.message.fields(_span(value)) if each == number)

    def _node(self, span: Span) -> OnnxNode:
        node = OnnxNode("", "", [], [])
        domain = ""
        for number, value in self.message.fields(span):
            if number == 1:
                node.inputs.append(self.message.text(value))
            elif number == 2:
                node.outputs.append(self.message.text(value))
            elif number == 3:
                node.name = self.message.text(value)
            elif number == 4:
                node.kind = self.message.text(value)
            elif number == 5:
                name, content = self._attribute(_span(value))
                if content is not None:
                    node.attributes[name] = content
            elif number == 7:
                domain = self.message.text(value)
        if domain not in ("", "ai.onnx"):
            node.kind = f"{domain}.{node.kind}"  # an operator of somebody's own
        if node.kind == "Constant" and node.outputs:
            content = node.attributes.get("value")
            if isinstance(content, np.ndarray):
                self.graph.tensors[node.outputs[0]] = content
                self.graph.dtypes[node.outputs[0]] = content.dtype.name
        return node

    def _attribute(self, span: Span) -> tuple[str, Value | None]:
        name = ""
        content: Value | None = None
        integers: list[int] = []
        for number, value in self.message.fields(span):
            if number == 1:
                name = self.message.text(value)
            elif number == 2:
                content = float(np.frombuffer(self.message.bytes(value), "<f4")[0]) if len(_span(value)) == 4 else None
            elif number == 3:
                content = next(iter(self.message.integers(value)), None)
            elif number == 4:
                content = self.message.text(value)
            elif number == 5:
                _, _, content = self._tensor(_span(value))
            elif number == 8:
                integers.extend(self.message.integers(value))
            elif number in NESTED_FIELDS:
                raise BadInputError(
                    f"{self.path} keeps {NESTED_FIELDS[number]} within a node of its graph (as If and Loop do), which "
                    "these networks do not have; it is not read."
                )
        return name, integers or content

    def _tensor(self, span: Span) -> tuple[str, str, np.ndarray]:
        shape: list[int] = []
        kind, name = 0, ""
        data: dict[int, Span] = {}
        integers: list[int] = []
        for number, value in self.message.fields(span):
            if number == 1:
                shape.extend(self.message.integers(value))
                if len(shape) > MAX_DIMENSIONS:
                    raise DamagedError(f"a tensor has more than {MAX_DIMENSIONS} dimensions")
            elif number == 2:
                kind = next(iter(self.message.integers(value)), 0)
            elif number == 8:
                name = self.message.text(value)
            elif number == 13 or (number == 14 and value):
                raise BadInputError(
                    f"{self.path} keeps its numbers in another file (external data), which is not followed. Save it as "
                    "one: onnx.save(onnx.load(path), 'one.onnx'), or export with external_data=False."
                )
            elif number == 9 or number in TYPED_FIELDS:
                if number in data:
                    raise DamagedError(f"the tensor {name} has two contents")
                data[number] = _span(value)
            elif kind in INTEGER_FIELDS.get(number, ()) and len(integers) < MAX_INTEGERS:
                integers.extend(islice(self.message.integers(value), MAX_INTEGERS + 1))
        if integers and not data and len(integers) == math.prod(shape):
            dtype, stored = DTYPES[kind]
            return name, dtype, np.array(integers).astype(stored).reshape(shape)
        return name, *self._numbers(name, kind, shape, data)

    def _numbers(self, name: str, kind: int, shape: list[int], data: dict[int, Span]) -> tuple[str, np.ndarray]:
        if kind not in DTYPES or any(extent < 0 for extent in shape):
            return f"type {kind}", np.zeros(0, np.uint8)  # strings, say: nothing that a network's weights are
        dtype, stored = DTYPES[kind]
        span = data.get(9)
        if span is None:  # the older way: in a field of the numbers' own type
            for number, (typed, kinds) in TYPED_FIELDS.items():
                if number in data and kind in kinds:
                    span, stored = data[number], typed
        size = math.prod(shape) * np.dtype(stored).itemsize
        if span is None:
            # Small integers stand in fields that no weight is kept in; what is not looked at may stay unread.
            return f"{dtype} unread", np.zeros(0, np.uint8)
        if len(span) != size:
            raise DamagedError(f"the tensor {name} of the shape {tuple(shape)} has {len(span):,} bytes, not {size:,}")
        try:
            return dtype, np.ndarray(tuple(shape), stored, buffer=self.view, offset=span.start)
        except (ValueError, OverflowError):  # a size of 2**62 beside a zero
            raise DamagedError(f"the tensor {name} has the impossible shape {tuple(shape)}") from None


def _span(value: int | Span) -> Span:
    if isinstance(value, int):
        raise DamagedError("a number stands where a message belongs")
    return value
