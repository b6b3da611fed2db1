"""Where converted weights lie."""

from __future__ import annotations

import os
from pathlib import Path

from ferplus_keras.errors import BadInputError

#: Folder of the manifest, the downloads and the outputs. The variable moves it, for instance to a larger disk.
WEIGHTS_VARIABLE = "FERPLUS_WEIGHTS"


def weights_folder() -> Path:
    """``$FERPLUS_WEIGHTS``, or the ``weights`` folder of the checkout that this package was installed from.

    Raises :class:`BadInputError` when the variable names something that is no folder.
    """
    if folder := os.environ.get(WEIGHTS_VARIABLE):
        if os.path.lexists(folder) and not os.path.isdir(folder):  # noqa: PTH112  (Path.is_dir raises on a long name)
            raise BadInputError(f"{WEIGHTS_VARIABLE} is {folder}, which is no folder: set it to one, or unset it.")
        return Path(folder)
    return Path(__file__).resolve().parents[2] / "weights"


def output_folder() -> Path:
    """Where ``make convert`` puts its results."""
    return weights_folder() / "output"
