"""What an export says of itself: a TensorFlow Lite file or a SavedModel's folder, looked at and not run.

Its weights are not read: a converter has merged, transposed and perhaps quantised them, and there is no way back.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert.checkpoint import Provenance, Source
from convert.readers.flatbuffer import DamagedError, Table
from ferplus_keras import PROVENANCE_KEY, PROVENANCE_MEMBER
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.provenance import provenance_of

#: What stands at the fifth byte of a TensorFlow Lite file.
TFLITE_MAGIC = b"TFL3"

#: TensorFlow's own name for a folder in which a SavedModel carries what its runtime does not read.
EXTRA = "assets.extra"

#: The schema's TensorType, by number.
TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 5: "string", 6: "bool", 7: "int16", 9: "int8",
         10: "float64", 16: "uint32", 17: "int4"}  # fmt: skip

MAX_RECORD = 1 << 20
MAX_FILES = 1000  #: in a SavedModel's folder; TensorFlow writes five


@dataclass
class Export:
    """An export's own account of itself."""

    source: Source
    provenance: Provenance | None = None
    tensors: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)  #: "float32 ? x 224 x 224 x 3"
    outputs: list[str] = field(default_factory=list)
    custom: list[str] = field(default_factory=list)  #: operators that are not TensorFlow Lite's own
    notes: list[str] = field(default_factory=list)


def is_tflite(head: bytes) -> bool:
    return head[4:8] == TFLITE_MAGIC


def is_saved_model(path: Path) -> bool:
    return (path / "saved_model.pb").is_file()


def read_export(path: str | Path) -> Export | None:
    """What the file or folder at ``path`` says of itself; None when it is no export but a checkpoint, or neither.

    Raises :class:`BadInputError` when it is damaged.
    """
    path = Path(path)
    if path.is_dir():
        return _saved_model(path) if is_saved_model(path) else None
    file = MappedFile(path)
    return _tflite(file) if is_tflite(bytes(file.view[:8])) else None


def _tflite(file: MappedFile) -> Export:
    found = Export(Source(file.name, file.size, file.sha256(), "tflite"))
    try:
        model = Table.root(file.view)
        found.custom = [name for code in model.tables(1) if (name := code.text(1))]
        main = next(model.tables(2), None)
        tensors = list(main.tables(0)) if main else []
        found.tensors = len(tensors)
        found.dtypes = dict(Counter(TYPES.get(each.scalar(1, "<b"), "?") for each in tensors))
        if main:
            found.inputs = [_shown(tensors, index) for index in main.numbers(1)]
            found.outputs = [_shown(tensors, index) for index in main.numbers(2)]
        buffers = {each.text(0): each.scalar(1, "<I") for each in model.tables(6)}
        if (wanted := buffers.get(PROVENANCE_KEY)) is not None:
            buffer = next((each for index, each in enumerate(model.tables(4)) if index == wanted), None)
            _told(found, file.path, buffer.content(0, MAX_RECORD) if buffer else b"")
    except DamagedError as error:
        raise BadInputError(
            f"{file.path} is a damaged TensorFlow Lite file ({error}). It was probably cut short: make it again."
        ) from None
    return found


def _shown(tensors: list[Table], index: int) -> str:
    if not 0 <= index < len(tensors):
        raise DamagedError(f"there is no tensor {index}")
    tensor = tensors[index]
    shape = tensor.numbers(7) or tensor.numbers(0)
    kind = TYPES.get(tensor.scalar(1, "<b"), "?")
    return f"{kind} {' x '.join('any' if each < 0 else str(each) for each in shape)}"


def _saved_model(path: Path) -> Export:
    files = sorted(each for each in path.rglob("*") if each.is_file())[: MAX_FILES + 1]
    if len(files) > MAX_FILES:
        raise BadInputError(f"{path} has more than {MAX_FILES} files: it is no SavedModel of one of these networks.")
    digest = hashlib.sha256()
    try:
        for each in files:
            digest.update(f"{each.relative_to(path)}\0{sha256_of(each)}\n".encode())
        size = sum(each.stat().st_size for each in files)
        record = path / EXTRA / PROVENANCE_MEMBER
        found = Export(Source(path.name, size, digest.hexdigest(), "saved_model"))
        found.notes.append("the SHA-256 is of the names and SHA-256s of the folder's files")
        if record.is_file() and record.stat().st_size <= MAX_RECORD:
            _told(found, record, record.read_bytes())
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.") from None
    return found


def _told(found: Export, path: Path, text: bytes) -> None:
    record = provenance_of(path, text)
    try:
        found.provenance = Provenance.from_dict(record) if record else None
    except ValueError as error:
        found.notes.append(f"its provenance record could not be read and was ignored ({error})")


def inspect_export(path: str | Path) -> dict[str, Any] | None:
    """:func:`convert.inspection.inspect`'s answer for an export; None for any other file."""
    found = read_export(path)
    if found is None:
        return None
    told = found.provenance
    result: dict[str, Any] = {
        "file": str(path), "size": found.source.size, "sha256": found.source.sha256, "format": found.source.format,
        "tensors": found.tensors, "step_counters": 0, "dtypes": found.dtypes,
        "network": told.network if told else None, "head": f"{told.units} {told.head}" if told else None,
        "folded": told.folded if told else None, "parameters": None, "output": told.output if told else None,
        "inputs": found.inputs, "outputs": found.outputs,
        "standin": "standin" in Path(path).name.lower() or bool(told and told.standin), "notes": found.notes,
        "provenance": json.loads(told.to_json()) if told else None, "problems": "",
    }  # fmt: skip
    if found.custom:
        result["problems"] = f"{path}: it needs operators that are not TensorFlow Lite's own: {found.custom[:4]}"
    return result


__all__ = ["EXTRA", "Export", "inspect_export", "is_saved_model", "is_tflite", "read_export"]
