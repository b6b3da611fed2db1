"""What goes wrong, said in one sentence. The command line prints the sentence and exits with the code."""

from __future__ import annotations

import os
import warnings


class FerplusError(Exception):
    """An error of the input or of the world, not of the program: no traceback is shown for it.

    The message is one sentence or two: what was received, and what to do next. ``details`` (a table, say) is
    printed before it.
    """

    exit_code = 2

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class BadInputError(FerplusError):
    """A file that is damaged, unsafe, of another kind, or of another network. Exit code 2."""


class CheckFailedError(FerplusError):
    """The work was done and the result is wrong: a parity figure over its tolerance. Exit code 1."""

    exit_code = 1


class OutputError(FerplusError):
    """A result could not be written: disk full, no permission, a name that is not allowed. Exit code 3."""

    exit_code = 3


class DownloadError(FerplusError):
    """A file could not be fetched, or is not the one it should be. Exit code 4."""

    exit_code = 4


class ShortageError(FerplusError):
    """The machine is short of something, memory say: nothing is known of the input. Exit code 3."""

    exit_code = 3


class NetworkWarning(UserWarning):
    """What to know of a network's file before its predictions are believed."""


class StandInWarning(NetworkWarning):
    """The weights are made up, of the right names and shapes: the model's predictions mean nothing."""


class DamagedError(ValueError):
    """The bytes of a file contradict themselves, or end too early; a reader says it in a sentence of its own."""


def warn_of_standin(path: str | os.PathLike[str], *, stacklevel: int = 2) -> None:
    """Warn that the weights at ``path`` are made up; ``stacklevel`` is ``warnings.warn``'s, as seen by the caller."""
    name = os.path.basename(path)  # noqa: PTH119
    warnings.warn(
        f"{name} is a STAND-IN with made-up weights: its predictions mean nothing", StandInWarning, stacklevel + 1
    )


def first_line(error: BaseException, limit: int | None = None) -> str:
    """What a library says of an error, for a sentence of ours: its first line, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]
