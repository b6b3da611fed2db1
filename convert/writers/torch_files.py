"""``X.pth`` and ``X.safetensors``: back to PyTorch, under Albanie's names and in his shapes."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.layouts import STEP_COUNTER, torch_layout
from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.errors import OutputError
from ferplus_keras.files.atomic import as_os_error
from ferplus_keras.networks.architecture import BatchNorm


def torch_arrays(checkpoint: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    """The state dict as arrays, in PyTorch's order, with the source's step counters and form of head."""
    counters = checkpoint.provenance.num_batches_tracked
    for name, slot in torch_layout(checkpoint.architecture).items():
        array = slot.from_neutral(checkpoint.arrays[slot.layer][slot.role])
        if slot.others and checkpoint.provenance.torch_head == "linear":
            array = array.reshape(slot.others[0])
        yield name, array
        layer = checkpoint.architecture.by_name[slot.layer]
        if isinstance(layer, BatchNorm) and slot.role == "moving_variance" and counters is not None:
            count = counters.get(slot.layer) if isinstance(counters, dict) else counters
            if count is not None:
                yield f"{slot.layer}.{STEP_COUNTER}", np.array(count, np.int64)


def write_pth(checkpoint: Checkpoint, path: Path, **_: Any) -> None:
    """Write a state dict with ``torch.save``.

    The provenance is in ``_metadata``, where ``load_state_dict`` only looks for version numbers.
    """
    try:
        import torch
    except ImportError:
        raise OutputError(
            ".pth files are written by PyTorch, which is not installed. Install torch, or write .safetensors, which "
            "PyTorch also reads (safetensors.torch.load_file)."
        ) from None
    state: OrderedDict[str, Any] = OrderedDict()
    for name, array in torch_arrays(checkpoint):
        state[name] = torch.from_numpy(np.array(array))  # a copy: the source is a read-only file mapping
    state._metadata = OrderedDict({PROVENANCE_KEY: _plain(asdict(checkpoint.provenance))})  # type: ignore[attr-defined]
    try:
        with path.open("wb") as stream:  # given a path, torch writes its name into the file
            torch.save(state, stream)
    except RuntimeError as error:  # "unexpected pos 36471360 vs 36471256": torch drops the system's reason
        raise OSError("PyTorch could not write all of it") from error


def write_safetensors(checkpoint: Checkpoint, path: Path, **_: Any) -> None:
    """Write ``.safetensors``; the provenance is in the header's metadata."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    metadata = {"format": "pt", PROVENANCE_KEY: checkpoint.provenance.to_json()}
    with as_os_error(SafetensorError):
        save_file(dict(torch_arrays(checkpoint)), path, metadata=metadata)
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a ``.safetensors``, which the library writes in a different order each time."""
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length  # the same text in another order
        stream.seek(8)
        stream.write(text.ljust(length))


def _plain(value: Any) -> Any:
    """``value`` made of dicts, lists, strings and numbers, which ``torch.load(weights_only=True)`` accepts."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
