"""``X.h5`` with ``--layout keras-vggface``: weights for keras_vggface 0.6's own graphs.

A file of weights alone, in Keras 2's style: ``VGGFace(model="resnet50", weights=None, classes=8)`` of the old package
loads it by position or ``by_name=True``. It has no graph, because keras_vggface's is inexact, and nobody should get it
by opening a file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py

from convert.checkpoint import Arrays, Checkpoint
from convert.folding import refuse_folded
from convert.layouts import LAYOUTS
from convert.writers.keras_h5 import METADATA_BLOCK, fill, reserve_layers
from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.atomic import as_os_error
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON
from ferplus_keras.networks.keras_vggface import (
    EPSILON,
    KERAS_VGGFACE,
    PADDING_NOTE,
    their_name,
    vggface_plan,
    with_epsilon,
)


def for_keras_vggface(checkpoint: Checkpoint) -> Checkpoint:
    """``checkpoint`` with gammas for keras_vggface's epsilon, and a provenance that says what the file is.

    The first kernel stays RGB here; the layout flips it when the file is written.
    Raises :class:`BadInputError` for an embedding, a folded or the compact network, which keras_vggface does not have.
    """
    table, provenance = checkpoint.architecture, checkpoint.provenance
    if table.network not in EPSILON:
        raise BadInputError(
            f"keras_vggface has ResNet50 and SE-ResNet50, and {provenance.source.name} is neither: leave out --layout."
        )
    if table.head.kind == "embedding":
        raise BadInputError(
            f"keras_vggface has no embeddings, and {provenance.source.name} is a {table}: leave out its head "
            "(--no-top), or write a .h5 in our own layout."
        )
    refuse_folded(checkpoint, "keras_vggface's graph has batch normalisations: leave out --fold.")
    published = provenance.preprocessing
    bgr = {"channel_order": "BGR", "mean": tuple(reversed(published["mean"])), "std": tuple(reversed(published["std"]))}
    epsilon = EPSILON[table.network]
    notes = (
        f"for keras_vggface 0.6's {table.network}: BGR, gammas for epsilon {epsilon:g}; not exact: {PADDING_NOTE}",
        "feed it keras_vggface.utils.preprocess_input(images, version=2)",
    )
    return replace(
        checkpoint,
        arrays=with_epsilon(checkpoint.arrays, BATCHNORM_EPSILON, epsilon),
        provenance=replace(
            provenance, layout=KERAS_VGGFACE, preprocessing=published | bgr, notes=(*provenance.notes, *notes)
        ),
    )  # fmt: skip


def write_keras_vggface(checkpoint: Checkpoint, path: Path, *, activation: str | None, model_name: str) -> None:
    """Write the result of :func:`for_keras_vggface` as a weights file. The other arguments have no effect."""
    table = checkpoint.architecture
    plan = vggface_plan(table, exact=False, rename=their_name)
    arrays: Arrays = {}
    for slot in LAYOUTS[KERAS_VGGFACE](table).values():
        layer, _, role = slot.name.rpartition("/")
        arrays.setdefault(layer, {})[role] = slot.from_neutral(checkpoint.arrays[slot.layer][slot.role])
    with as_os_error(RuntimeError), h5py.File(path, "w", meta_block_size=METADATA_BLOCK) as file:
        file.attrs[PROVENANCE_KEY] = checkpoint.provenance.to_json().encode()
        places = reserve_layers(file, tuple(layer for layer in plan if layer.weights), arrays)
    fill(path, places)
