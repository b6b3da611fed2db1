"""The networks that come with the package, straight from their arrays."""

from __future__ import annotations

from pathlib import Path

from ferplus_keras.engines.engine import LOGITS, Engine
from ferplus_keras.engines.keras_engine import imported_for, running
from ferplus_keras.engines.record import Told
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.shipped import Shipped, shipped_at
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.quiet import silent_stderr


def open_shipped(path: Path) -> Engine:
    """The trained network in the ``.safetensors`` at ``path``. Raises :class:`BadInputError` when it is none."""
    found = shipped_at(path)
    if found is None:
        raise BadInputError(
            f"{path} is none of the trained networks that come with this package. "
            f"`ferplus convert {path.name} {path.stem}.h5` makes a file that can be run."
        )
    return engine_of(found)


def engine_of(found: Shipped) -> Engine:
    """The engine of a trained network, in the manifest or not yet. Raises :class:`BadInputError`."""
    path, arrays = found.path, found.arrays()
    imported_for(path)
    from ferplus_keras.engines.forward import Forward

    with silent_stderr():
        forward = Forward(found.table, arrays)
    told = Told(path, {"network": found.network, "labels": list(EMOTIONS)}, EMOTIONS, side=found.size)
    return told.engine(running(), forward.logits, len(EMOTIONS), side=found.size, network=found.network, gives=LOGITS)


__all__ = ["engine_of", "open_shipped"]
