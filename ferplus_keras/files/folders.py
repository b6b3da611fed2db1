"""Where weights lie: those that come with the package, and those that are downloaded and converted."""

from __future__ import annotations

import os
from pathlib import Path

from ferplus_keras.errors import BadInputError

#: Folder of the downloads and the outputs. The variable moves it, for instance to a larger disk.
WEIGHTS_VARIABLE = "FERPLUS_WEIGHTS"

MANIFEST = "manifest.toml"

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped_folder() -> Path:
    """The folder of the manifest and the trained weights: the checkout's ``weights``, or the wheel's copy of it."""
    checkout = _PACKAGE.parent / "weights"
    return checkout if (checkout / MANIFEST).is_file() else _PACKAGE / "weights"


def weights_folder() -> Path:
    """``$FERPLUS_WEIGHTS``, or the checkout's ``weights``, or a folder of the user's where this is installed.

    Raises :class:`BadInputError` when the variable names something that is no folder.
    """
    if folder := os.environ.get(WEIGHTS_VARIABLE):
        if os.path.lexists(folder) and not os.path.isdir(folder):  # noqa: PTH112  (Path.is_dir raises on a long name)
            raise BadInputError(f"{WEIGHTS_VARIABLE} is {folder}, which is not a folder: set it to one, or unset it.")
        return Path(folder)
    if shipped_folder().parent != _PACKAGE:
        return shipped_folder()
    from platformdirs import user_data_path

    return user_data_path("ferplus-keras", appauthor=False) / "weights"


def output_folder() -> Path:
    """Where ``make convert`` puts its results."""
    return weights_folder() / "output"
