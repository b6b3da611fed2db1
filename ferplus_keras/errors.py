"""What goes wrong, said in one sentence. The command line prints the sentence and exits with the code."""

from __future__ import annotations


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


class DamagedError(ValueError):
    """The bytes of a file contradict themselves, or end too early; a reader says it in a sentence of its own."""


def first_line(error: BaseException, limit: int | None = None) -> str:
    """What a library says of an error, for a sentence of ours: its first line, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]
