"""What a TensorFlow Lite file or a SavedModel says about itself; it is not run.

Its weights are not read: a converter has merged, transposed and perhaps quantised them irreversibly.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert.checkpoint import Provenance, Source
from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.engines.saved_model import EXTRA, record_text
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.network_folder import is_saved_model
from ferplus_keras.files.opening import is_folder
from ferplus_keras.files.provenance import named_standin, provenance_of
from ferplus_keras.files.tflite_file import is_tflite, read_tflite, shown
from ferplus_keras.networks.architecture import Head

MAX_FILES = 1000  #: in a SavedModel's folder; TensorFlow writes five


@dataclass
class Export:
    """What an export says about itself."""

    source: Source
    provenance: Provenance | None = None
    tensors: int = 0
    dtypes: dict[str, int] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)  #: "float32 ? x 224 x 224 x 3"
    outputs: list[str] = field(default_factory=list)
    problem: str = ""  #: why it cannot be run
    notes: list[str] = field(default_factory=list)


def is_export(path: Path) -> bool:
    """Whether the file or folder is an export, for :func:`read_export`."""
    if is_folder(path):
        return is_saved_model(path)
    return is_tflite(bytes(MappedFile(path).view[:8]))


def read_export(path: str | Path) -> Export | None:
    """What the export at ``path`` says about itself; None if it is not an export.

    Raises :class:`BadInputError` when it is damaged.
    """
    path = Path(path)
    if is_folder(path):
        return _saved_model(path) if is_saved_model(path) else None
    file = MappedFile(path)
    return _tflite(file) if is_tflite(bytes(file.view[:8])) else None


def _tflite(file: MappedFile) -> Export:
    model = read_tflite(file, PROVENANCE_KEY)
    found = Export(Source(file.path.name, file.size, file.sha256(), "tflite"), tensors=len(model.tensors))
    found.dtypes = dict(Counter(each.dtype for each in model.tensors))
    found.inputs, found.outputs = (
        [shown(file.path, model, index) for index in indices] for indices in (model.inputs, model.outputs)
    )
    _add_provenance(found, file.path, model.texts.get(PROVENANCE_KEY))
    if model.custom:
        found.problem = f"it needs operators that are not TensorFlow Lite's own: {', '.join(model.custom[:4])}"
    elif not model.outputs:
        found.problem = "it holds no network"
    return found


def _saved_model(path: Path) -> Export:
    files = sorted(each for each in path.rglob("*") if each.is_file())[: MAX_FILES + 1]
    if len(files) > MAX_FILES:
        raise BadInputError(f"{path} has more than {MAX_FILES} files: it is not a SavedModel of one of these networks.")
    digest = hashlib.sha256()
    try:
        for each in files:
            digest.update(os.fsencode(f"{each.relative_to(path)}\0{sha256_of(each)}\n"))
        size = sum(each.stat().st_size for each in files)
        found = Export(Source(path.name, size, digest.hexdigest(), "saved_model"))
        found.notes.append("the SHA-256 covers the names and SHA-256s of the folder's files")
        _add_provenance(found, path, record_text(path))
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.") from None
    return found


def _add_provenance(found: Export, path: Path, text: str | None) -> None:
    record = provenance_of(path, text)
    try:
        found.provenance = Provenance.from_dict(record) if record else None
    except ValueError as error:
        found.notes.append(f"its provenance record could not be read and was ignored ({error})")


def inspect_export(path: str | Path) -> dict[str, Any] | None:
    """:func:`convert.inspection.inspect`'s result for an export; None for any other file."""
    found = read_export(path)
    if found is None:
        return None
    record = found.provenance
    result: dict[str, Any] = {
        "file": str(path), "size": found.source.size, "sha256": found.source.sha256, "format": found.source.format,
        "tensors": found.tensors, "step_counters": 0, "dtypes": found.dtypes,
        "network": record.network if record else None, "head": str(Head(record.head, record.units)) if record else None,
        "folded": record.folded if record else None, "parameters": None, "output": record.output if record else None,
        "inputs": found.inputs, "outputs": found.outputs,
        "standin": named_standin(Path(path).name) or bool(record and record.standin), "notes": found.notes,
        "provenance": json.loads(record.to_json()) if record else None, "problems": "",
    }  # fmt: skip
    if found.problem:
        result["problems"] = f"{path}: {found.problem}"
    return result


__all__ = ["EXTRA", "Export", "inspect_export", "is_export", "is_saved_model", "is_tflite", "read_export"]
