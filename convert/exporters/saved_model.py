"""A SavedModel: a folder that TensorFlow and TensorFlow Serving load without Keras."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from convert.checkpoint import Checkpoint
from convert.exporters.serving import serving_module
from convert.readers.exports import EXTRA
from ferplus_keras import PROVENANCE_MEMBER
from ferplus_keras.files.atomic import as_os_error

if TYPE_CHECKING:
    from convert.exporters import Quiet, Recipe


def export_saved_model(checkpoint: Checkpoint, recipe: Recipe, path: Path, *, quiet: Quiet, **_: Any) -> None:
    """Write the folder ``path`` with the signature ``serving_default``; the provenance is in ``assets.extra``."""
    module = serving_module(checkpoint, recipe, constants=False)
    import tensorflow as tf

    with as_os_error(tf.errors.OpError), quiet():
        tf.saved_model.save(module, str(path), signatures=module.serve.get_concrete_function())
    extra = path / EXTRA
    extra.mkdir()
    (extra / PROVENANCE_MEMBER).write_text(checkpoint.provenance.to_json(), encoding="utf-8")
