"""Where converted weights lie."""

from __future__ import annotations

import os
from pathlib import Path

#: Folder of the manifest, the downloads and the outputs. The variable moves it, for instance to a larger disk.
WEIGHTS_VARIABLE = "FERPLUS_WEIGHTS"


def weights_folder() -> Path:
    """``$FERPLUS_WEIGHTS``, or the ``weights`` folder of the checkout that this package was installed from."""
    if folder := os.environ.get(WEIGHTS_VARIABLE):
        return Path(folder)
    return Path(__file__).resolve().parents[2] / "weights"


def output_folder() -> Path:
    """Where ``make convert`` puts its results."""
    return weights_folder() / "output"
