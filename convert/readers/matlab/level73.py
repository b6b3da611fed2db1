"""MATLAB 7.3 files (``save -v7.3``): HDF5 behind a MATLAB header, with MATLAB's own conventions.

A struct is a group whose members are the fields; a struct array's fields, and cell arrays, are datasets of references
to values in ``#refs#``. The attribute ``MATLAB_class`` says what an object is. HDF5 has dimensions in row-major order,
so they are reversed. Links, external and virtual datasets are refused; references are followed inside the file only,
and circular ones end at the maximum depth.
"""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np

from convert.readers.matlab.values import NUMERIC, Budget, Opaque, Struct, TooMuchError, Value, refused, text_of
from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.hdf5 import DAMAGE, MAX_DEFLATION, check_pieces, piece_bytes
from ferplus_keras.files.mapped_file import MappedFile

#: MATLAB's own groups: the values of references, and the store of objects.
INTERNAL = (b"#refs#", b"#subsystem#")

CLASS, EMPTY, OBJECT = b"MATLAB_class", b"MATLAB_empty", b"MATLAB_object_decode"


def read_level73(file: MappedFile) -> dict[str, Value]:
    """The variables of a MATLAB 7.3 file by name. Raises :class:`BadInputError`."""
    try:
        with h5py.File(file.path, "r") as h5:
            return _Reader(h5.id, file).variables()
    except BadInputError:
        raise
    except TooMuchError as error:
        raise refused(file.path, str(error)) from None
    except DAMAGE as error:
        reason = first_line(error)
        raise BadInputError(
            f"{file.path} is a damaged MATLAB 7.3 file ({reason}). It was probably cut short: copy or download it "
            "again."
        ) from None


class _Reader:
    def __init__(self, root: h5py.h5g.GroupID, file: MappedFile) -> None:
        self.root, self.file, self.budget = root, file, Budget(file.path, file.size)

    def variables(self) -> dict[str, Value]:
        members = self._members(self.root)
        return {name.decode("utf-8", "replace"): self.value(item, 0) for name, item in members.items()}

    def value(self, item: Any, depth: int) -> Value:
        """The value of the group or dataset ``item``."""
        self.budget.value(depth)
        class_name = _attribute(item, CLASS)
        if isinstance(item, h5py.h5g.GroupID):
            if class_name not in (b"struct", b""):
                return self._opaque(class_name)
            return self._struct(item, depth)
        if not isinstance(item, h5py.h5d.DatasetID):
            return self._opaque(b"named type")
        self._refuse_foreign(item)
        if h5py.h5a.exists(item, OBJECT) and class_name not in (b"cell", b"struct"):
            return self._opaque(class_name)
        if class_name in (b"cell", b"struct") or h5py.check_ref_dtype(item.dtype) is h5py.Reference:
            return [] if h5py.h5a.exists(item, EMPTY) else self._follow(item, depth)
        if class_name == b"canonical empty":  # the content of an empty cell
            return np.empty((0, 0))
        if class_name == b"char":
            numbers = self._numbers(item, "uint16")
            return text_of(numbers.reshape(-1, order="F"), numbers.shape, self.budget)
        if class_name.decode("ascii", "replace") in NUMERIC:
            return self._numbers(item, class_name.decode())
        return self._opaque(class_name)

    def _struct(self, group: h5py.h5g.GroupID, depth: int) -> Struct:
        members = self._members(group)
        columns: dict[str, list[Value]] = {}
        scalar: dict[str, Value] = {}
        for raw, item in members.items():
            name = raw.decode("utf-8", "replace")
            # A struct array's field is a bare dataset of references, without a class.
            bare = isinstance(item, h5py.h5d.DatasetID) and not h5py.h5a.exists(item, CLASS)
            if bare and h5py.check_ref_dtype(item.dtype) is h5py.Reference:
                self._refuse_foreign(item)
                columns[name] = self._follow(item, depth)
            else:
                scalar[name] = self.value(item, depth + 1)
        if columns and scalar:
            raise ValueError("a struct array with a field that is not an array")
        if not columns:
            return Struct(1, {name: [value] for name, value in scalar.items()})
        counts = {len(values) for values in columns.values()}
        if len(counts) > 1:
            raise ValueError("a struct array whose fields differ in length")
        return Struct(counts.pop(), columns)

    def _follow(self, dataset: h5py.h5d.DatasetID, depth: int) -> list[Value]:
        """The values of the references in ``dataset``, in column-major order (as HDF5 stores them)."""
        if h5py.check_ref_dtype(dataset.dtype) is not h5py.Reference:
            raise ValueError("numbers where references should be")
        count = math.prod(dataset.shape)
        self.budget.take(max(8 * count, piece_bytes(dataset)), "a cell array")
        if count > self.budget.values_left:
            raise TooMuchError(f"a cell array has {count:,} values")
        references = self._read(dataset).reshape(-1)
        values = []
        for reference in references:
            if not reference:
                raise ValueError("a reference to nothing")
            values.append(self.value(h5py.h5r.dereference(reference, self.root), depth + 1))
        return values

    def _numbers(self, dataset: h5py.h5d.DatasetID, class_name: str) -> np.ndarray:
        wanted = np.dtype(NUMERIC[class_name])
        if h5py.h5a.exists(dataset, EMPTY):  # an empty matrix is stored as its dimensions
            return np.empty((0, 0), wanted)
        if dataset.dtype.kind not in "fiu":
            return np.empty((0, 0), wanted) if dataset.shape == (0,) else self._unreadable(dataset)
        size = math.prod(dataset.shape) * dataset.dtype.itemsize
        offset = dataset.get_offset()
        if offset is not None and dataset.dtype == wanted and offset + size <= self.file.size and size:
            flat = np.ndarray((size // wanted.itemsize,), wanted, buffer=self.file.view, offset=offset)
            return flat.reshape(dataset.shape).T
        made = max(size, size // dataset.dtype.itemsize * wanted.itemsize, piece_bytes(dataset))
        if made > MAX_DEFLATION * dataset.get_storage_size():
            raise TooMuchError(f"a matrix claims {made:,} bytes and has no data for them")
        self.budget.take(made, "a matrix")
        return self._read(dataset).astype(wanted, copy=False).T

    def _read(self, dataset: h5py.h5d.DatasetID) -> np.ndarray:
        check_pieces(dataset, self.file.view, self.budget, "of a variable")
        values: np.ndarray = h5py.Dataset(dataset)[()]
        return values

    def _unreadable(self, dataset: h5py.h5d.DatasetID) -> np.ndarray:
        raise ValueError(f"a matrix of {dataset.dtype}")

    def _members(self, group: h5py.h5g.GroupID) -> dict[bytes, Any]:
        """Name -> object of every member except MATLAB's own; nothing is followed out of the file."""
        found = {}
        self.budget.values(group.get_num_objs(), "a group", "members")
        for name in group:
            if name in INTERNAL:
                continue
            if group.links.get_info(name).type != h5py.h5l.TYPE_HARD:
                shown = name.decode("utf-8", "replace")
                raise BadInputError(
                    f"{self.file.path}: {shown} is a link and not data; a MATLAB file has none. "
                    "Do not load it; get the file from its author again."
                )
            found[name] = h5py.h5o.open(group, name)
        return found

    def _refuse_foreign(self, dataset: h5py.h5d.DatasetID) -> None:
        if dataset.get_offset() is None:
            creation = dataset.get_create_plist()
            if creation.get_external_count() or creation.get_layout() == h5py.h5d.VIRTUAL:
                raise BadInputError(f"{self.file.path} keeps an array in another file; a MATLAB file carries its own.")

    def _opaque(self, class_name: bytes) -> Opaque:
        name = class_name.decode("utf-8", "replace").replace("_", " ") or "value without a class"
        kind = name if name in ("function handle", "named type") else f"object of class {name}"
        self.budget.opaque.append(kind)
        return Opaque(kind)


def _attribute(item: Any, name: bytes) -> bytes:
    """A text attribute's bytes; empty if there is none."""
    if not h5py.h5a.exists(item, name):
        return b""
    attribute = h5py.h5a.open(item, name)
    if attribute.dtype.kind != "S" or attribute.shape != () or attribute.dtype.itemsize > 64:
        return b"?"
    value = np.empty((), attribute.dtype)
    attribute.read(value)
    return bytes(value[()])
