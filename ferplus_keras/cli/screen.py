"""Everything that the command line prints goes through here, line by line; nothing else prints.

What comes from a file, a path, a server or an environment variable may hold anything: each line is made printable, and
what the stream's encoding has no character for is written as an escape. Standard streams may be closed or full. Where
standard output is the result, that is an error; where a file is, the file is still finished, and is said to be.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO

from ferplus_keras.errors import OutputError
from ferplus_keras.wording import printable

#: Takes the place of a standard stream that was closed when the process began, or could not take what it was given.
_nowhere: TextIO | None = None

#: Whether a line stands on the terminal that the next one is to overwrite.
_open = False


def prepare() -> None:
    """Make good for standard streams that are closed: no file shall be opened under their numbers."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    sys.stdout, sys.stderr = sys.stdout or _devnull(), sys.stderr or _devnull()


def _devnull() -> TextIO:
    global _nowhere
    _nowhere = _nowhere or open(os.devnull, "w")  # noqa: PTH123, SIM115
    return _nowhere


def result(*lines: str) -> None:
    """Lines that were asked for, on standard output. Raises :class:`OutputError` when it cannot take them.

    A reader that has seen enough (``ferplus ... | head``) raises ``BrokenPipeError``.
    """
    if sys.stdout is _nowhere:
        raise OutputError("Standard output is closed, and the result goes there. Leave it open, or redirect it.")
    try:
        _write(sys.stdout, lines)
    except BrokenPipeError:
        _abandon(sys.stdout)
        raise
    except OSError as error:
        _abandon(sys.stdout)
        raise OutputError(
            f"Standard output could not take the result: {error.strerror or error}. Redirect it to another place."
        ) from None


def result_json(value: Any, *, indent: int | None = 2) -> None:
    """Plain data as JSON, which is ASCII: any text in it is escaped."""
    import json

    result(*json.dumps(value, indent=indent, allow_nan=False).split("\n"))


def news(*lines: str) -> None:
    """Lines about work that is done, on standard output, or where that is of no use on standard error."""
    if sys.stdout is not _nowhere:
        try:
            _write(sys.stdout, lines)
            return
        except OSError:
            _abandon(sys.stdout)
    notice(*lines)


def notice(*lines: str) -> None:
    """Lines for a person, on standard error; when it cannot take them, nobody is there to be told."""
    try:
        _write(sys.stderr, lines)
    except OSError:
        _abandon(sys.stderr)


def passing(line: str) -> None:
    """A line on a terminal's standard error which the next one overwrites."""
    global _open
    with suppress(OSError):
        sys.stderr.write(f"\r\x1b[K{_encodable(sys.stderr, line)}")
        sys.stderr.flush()
        _open = True


def _abandon(stream: TextIO) -> None:
    """Use a standard stream no more, and let go what it could not take: Python would try once more at the end."""
    with suppress(OSError, ValueError):  # a stream of a test has no number
        os.dup2(_devnull().fileno(), stream.fileno())
        stream.flush()
    if stream is sys.stdout:
        sys.stdout = _devnull()
    else:
        sys.stderr = _devnull()


def _write(stream: TextIO, lines: tuple[str, ...]) -> None:
    global _open
    if _open:
        passing("")
        _open = False
    stream.write("".join(f"{_encodable(stream, line)}\n" for line in lines))
    stream.flush()


def _encodable(stream: TextIO, line: str) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return printable(line).encode(encoding, "backslashreplace").decode(encoding)
