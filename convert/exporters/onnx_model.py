"""``X.onnx`` by a recipe: the graph that ``ferplus convert`` writes, with an export's options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.checkpoint import Checkpoint
from convert.readers import read_named
from convert.writers import compare
from convert.writers.onnx_file import write_onnx
from ferplus_keras.files.mapped_file import MappedFile

if TYPE_CHECKING:
    from convert.exporters import Recipe


def export_onnx(checkpoint: Checkpoint, recipe: Recipe, path: Path, **_: Any) -> None:
    """Write ``checkpoint`` to ``path``, read it back and compare the numbers bit for bit."""
    write_onnx(
        checkpoint, path, activation=None if recipe.logits else "softmax", model_name=checkpoint.architecture.network,
        channels_last=not recipe.channels_first, pixels=recipe.pixels, batch=recipe.batch,
    )  # fmt: skip
    file = MappedFile(path)
    compare(checkpoint, file, read_named(file), path)
