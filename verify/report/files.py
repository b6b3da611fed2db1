"""The folder for a report."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ferplus_keras.errors import OutputError


def ready_folder(folder: Path) -> Path:
    """Make ``folder`` and see that it can be written to, before minutes of work whose result it is to hold.

    Raises :class:`OutputError`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except FileExistsError:
        raise OutputError(f"{folder} is a file; give the name of a folder for the report.") from None
    except OSError as error:
        raise OutputError(
            f"The report cannot be written to {folder}: {error.strerror}. Choose another place."
        ) from None
    return folder
