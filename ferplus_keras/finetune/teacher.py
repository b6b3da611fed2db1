"""Teachers: networks that were trained here before, whose answers a larger one learns from.

A teacher sees the same augmented images as its student, at its own size, in every step: nothing is computed in advance
(Beyer et al. 2022, arXiv:2106.05237, "a good teacher is patient and consistent").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.network_folder import RELEASED
from ferplus_keras.files.opening import is_file
from ferplus_keras.files.shipped import released_arrays
from ferplus_keras.finetune.folder import RunFolder
from ferplus_keras.finetune.recipe import load_recipe
from ferplus_keras.finetune.state import arrays_by_layer, best_of
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.gates import Arrays

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Teacher:
    """The best epoch of a run, or a released network."""

    name: str
    sha256: str
    table: arch.Architecture
    size: int  #: side of its input in pixels
    arrays: Arrays

    def model(self) -> keras.Model:
        """Its network, from images to logits, which learns nothing."""
        import keras

        from ferplus_keras.finetune.network import set_arrays
        from ferplus_keras.networks.models import model_from_architecture

        built = model_from_architecture(
            self.table, input_shape=(self.size, self.size, 3), activation=None, name=f"teacher_{self.sha256[:8]}"
        )
        built.get_layer(self.table.output).dtype_policy = keras.dtype_policies.DTypePolicy("float32")
        set_arrays(built, self.table, self.arrays)
        built.trainable = False
        return built


def load_teacher(path: Path, classes: int) -> Teacher:
    """The best epoch of the run in the folder ``path``, or the network that was released into it.

    Raises:
        BadInputError: it is no such folder, or its network has other classes.
    """
    folder = RunFolder(path)
    if not folder.started:
        raise BadInputError(f"--teacher takes the folder of a `ferplus finetune` run, and {path} is not one.")
    options = folder.read_run().get("options")
    network = str(options.get("arch")) if isinstance(options, dict) else ""
    if network not in arch.KNOWN:
        raise BadInputError(f"{folder.run} does not name a network of this project, so it cannot be a teacher.")
    if is_file(weights := path / RELEASED):
        arrays = released_arrays(weights, network)
    else:
        weights = best_of(path)
        arrays = arrays_by_layer(weights)
    found = np.size(arrays.get("classifier", {}).get("bias", ()))
    if found != classes:
        raise BadInputError(f"The teacher in {path} has {found} classes, and this run has {classes}.")
    size = load_recipe(folder.recipe, network=network).legs[-1].recipe.network.size
    table = arch.architecture(network, arch.classifier(classes))
    return Teacher(path.name, sha256_of(weights), table, size, arrays)
