"""Texts in the attributes of an HDF5 file, read when it is known what they come to.

Strings of any length lie in heaps, and an attribute has references to them. HDF5 makes room for as many bytes as a
reference says before it looks at the heap, and follows a heap's entries from one to the next until it ends. So both are
looked at before, in the bytes of the file: the heaps, and the attributes that refer to them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import h5py
import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.budget import MAX_NAMES, TEXT_BYTES, Budget
from ferplus_keras.files.mapped_file import release

STEP = 1 << 20  #: bytes that are looked through at a time
HEAP = b"GCOL\1\0\0\0"  #: how a heap of strings begins; its size stands behind, in the file's own number of bytes
HEAP_HEADER = 16  #: bytes before a heap's entries, and before each of them
#: How a heap begins that attributes lie in when there are many; the bytes of its filters' names stand behind.
ATTRIBUTE_HEAP = b"FRHP\0\x08\0"
OVERLAP = 16  #: bytes of the next piece that a piece ends with, so that nothing is cut
TEXT = (9, 1)  #: the class of a type, of variable length, and the kind of it
BYTE = b"\1\0\0\0"  #: the size of what it is a row of


class _Found(NamedTuple):
    """What the bytes of a file say of its texts."""

    largest_heap: int  #: bytes
    types: tuple[int, ...]  #: where the types of attributes begin that may be texts of any length


class Attributes:
    """The texts in the attributes of an open HDF5 file; ``content`` is all of the file, mapped or in memory."""

    def __init__(self, h5: h5py.File, content: Any, budget: Budget) -> None:
        self.content, self.budget = content, budget
        self.entries = 0
        self._claims: dict[str, list[int]] = {}  # by attribute: every layer has one of the same name
        self.address_bytes, self.size_bytes = h5.id.get_create_plist().get_sizes()

    def texts(self, item: Any, name: str) -> list[str] | None:
        """The texts in the attribute ``name`` of the group ``item``; None where there is none.

        Raises :class:`BadInputError` when they are no texts, or too many, or too long.
        """
        if not h5py.h5a.exists(item.id, name.encode()):
            return None
        stored = h5py.h5a.open(item.id, name.encode())
        if stored.shape is None or not math.prod(stored.shape):
            return []  # Keras has numbers for the names of no weights
        string = h5py.check_string_dtype(stored.dtype)
        if string is None:
            raise BadInputError(f"{self.budget.path}: its attribute {name} is not text. The file is damaged.")
        count = math.prod(stored.shape)
        if count > MAX_NAMES:
            raise BadInputError(f"{self.budget.path}: {name} has far too many names. The file is not a model.")
        if string.length is not None:
            self.budget.text(count * string.length, f"the attribute {name}")
            values = np.empty(stored.shape, stored.dtype)
            stored.read(values)
            return [value.decode("utf-8", "replace") for value in values.reshape(-1)]
        if self._found.largest_heap > TEXT_BYTES:
            self.budget.text(self._found.largest_heap, f"a text such as {name}")
        if (lengths := self._claims.get(name)) is None:
            lengths = self._claims[name] = [*self._lengths(name)]
        lie_together = h5py.h5o.get_info(item.id).meta_size.attr.heap_size
        if not lengths or (lie_together and self._packed):
            raise BadInputError(f"{self.budget.path}: its attribute {name} is stored in a way that Keras does not use. "
                                "Save the model anew.")  # fmt: skip
        if max(lengths) > TEXT_BYTES:
            self.budget.text(max(lengths), f"the attribute {name}")
        values = np.asarray(item.attrs[name], object).reshape(-1)
        found = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in values]
        self.budget.text(sum(map(len, found)), f"the attribute {name}")
        return found

    def text(self, item: Any, name: str) -> str | None:
        """The only text in such an attribute."""
        found = self.texts(item, name)
        if found and len(found) != 1:
            raise BadInputError(f"{self.budget.path}: its attribute {name} is not a single text. The file is damaged.")
        return found[0] if found else None

    @cached_property
    def _found(self) -> _Found:
        """The heaps and the types of texts, from one walk through the file.

        Raises :class:`BadInputError` when a heap does not lead on to its end, or there are too many.
        """
        largest, types, view = 0, [], memoryview(self.content)
        kind = bytes(1) + (4 + self.address_bytes + 4).to_bytes(4, "little")  # bytes 3 to 7 of such a type
        for start, piece in self._pieces():
            for place in _places(piece, HEAP):
                begin = start + place + len(HEAP)
                size = int.from_bytes(view[begin : begin + self.size_bytes], "little")
                largest = max(largest, size)
                self._check_heap(view[start + place : start + place + size])
            types += [start + place - 3 for place in _places(piece, kind)]
            if len(types) > MAX_NAMES:  # by chance a network's numbers look like some 600
                raise BadInputError(f"{self.budget.path}: it has far too many texts. The file is not a model.")
        return _Found(largest, tuple(types))

    @cached_property
    def _packed(self) -> bool:
        """Whether attributes that lie together do so behind filters, where their references cannot be seen."""
        ends = ((piece, place + len(ATTRIBUTE_HEAP)) for _, piece in self._pieces()
                for place in _places(piece, ATTRIBUTE_HEAP))  # fmt: skip
        return any(any(piece[end : end + 2]) for piece, end in ends)

    def _pieces(self) -> Iterator[tuple[int, bytes]]:
        """All of the file in turn, each piece with its place and the first bytes of the next."""
        view = memoryview(self.content)
        for start in range(0, len(view), STEP):
            yield start, bytes(view[start : start + STEP + OVERLAP])
            release(self.content, start, STEP)  # the file is read from end to end for the sake of a few names

    def _check_heap(self, heap: memoryview) -> None:
        """See that each entry of a heap leads on to another, for HDF5 goes from one to the next until the heap ends.

        Raises :class:`BadInputError`.
        """
        place = HEAP_HEADER
        while len(heap) - place >= HEAP_HEADER:
            index = int.from_bytes(heap[place : place + 2], "little")
            size = int.from_bytes(heap[place + 8 : place + 8 + self.size_bytes], "little")
            step = HEAP_HEADER + (size + 7) // 8 * 8 if index else size  # what is free counts its header
            self.entries += 1
            if not HEAP_HEADER <= step <= len(heap) - place or self.entries > MAX_NAMES:
                raise BadInputError(f"{self.budget.path}: its texts do not stand one behind the other. It is damaged.")
            place += step

    def _lengths(self, name: str) -> Iterator[int]:
        """For each attribute ``name`` in the file, of whatever object: bytes of all its texts, as its references say.

        An attribute is a version, the sizes of name, type and space, and these three, before the references
        ("Attribute Message" in HDF5's file format specification); everything is padded to eight bytes in version 1.
        """
        label = name.encode() + b"\0"
        for place in self._found.types:
            for version, header, step in ((1, 8, 8), (2, 8, 1), (3, 9, 1)):
                start = place - _padded(len(label), step) - header
                if start < 0 or self.content[start] != version:
                    continue
                kind = self.content[place] & 15, self.content[place + 1] & 15
                if kind == TEXT and self.content[start + header : start + header + len(label)] == label:
                    if self.content[place + 12 : place + 16] != BYTE:
                        raise BadInputError(f"{self.budget.path}: its attribute {name} is not text. It is damaged.")
                    type_bytes, space_bytes = struct.unpack_from("<HH", self.content, start + 4)
                    space = place + _padded(type_bytes, step)
                    yield self._length(space, space + _padded(space_bytes, step))

    def _length(self, space: int, references: int) -> int:
        """Bytes of the texts that the ``references`` are to; ``space`` says how many these are."""
        rank, sizes = self.content[space + 1], space + (8 if self.content[space] == 1 else 4)
        dimensions = bytes(self.content[sizes : sizes + rank * self.size_bytes])
        count = math.prod(
            int.from_bytes(dimensions[at : at + self.size_bytes], "little")
            for at in range(0, len(dimensions), self.size_bytes)
        )  # fmt: skip
        form = np.dtype({"names": ["length"], "formats": ["<u4"], "itemsize": 4 + self.address_bytes + 4})
        count = min(count, MAX_NAMES, (len(self.content) - references) // form.itemsize)
        return int(np.frombuffer(self.content, form, count, references)["length"].sum(dtype=np.uint64))


def _places(piece: bytes, what: bytes) -> Iterator[int]:
    place = piece.find(what)
    while place >= 0:
        yield place
        place = piece.find(what, place + 1)


def _padded(size: int, step: int) -> int:
    return -(-size // step) * step
