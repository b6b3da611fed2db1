"""What kind of zip archive a file is, told without loading a reader: PyTorch's checkpoints are archives too."""

from __future__ import annotations

import zipfile
from pathlib import Path


def is_keras_zip(path: Path) -> bool:
    """Whether ``path`` is a zip archive with Keras's weights in it. A damaged one is for its reader to complain of."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "model.weights.h5" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


__all__ = ["is_keras_zip"]
