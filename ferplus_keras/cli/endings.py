"""How a command ends when it does not end well: every exception becomes an exit code and a sentence, here alone."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from ferplus_keras import __version__
from ferplus_keras.errors import BadInputError, FerplusError, OutputError, first_line
from ferplus_keras.packages import missing_sentence

#: The exit code of what nobody thought of: ``EX_SOFTWARE`` of sysexits.h.
UNEXPECTED = 70

#: What the system says when it is the disk's fault, whatever was being done.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: Packages whose versions a report names.
PACKAGES = ("numpy", "h5py", "safetensors", "pillow", "keras", "tensorflow", "torch", "jax", "onnx", "onnxruntime")

#: Settings that a report names; no others of the environment go into it.
SETTINGS = ("KERAS_BACKEND", "FERPLUS_WEIGHTS", "FERPLUS_DATA", "FERPLUS_CACHE", "LANG", "LC_ALL")


class Terminated(BaseException):
    """SIGTERM, as an exception: what is open is closed and removed on the way out."""


#: The stops that were asked for by a signal and not yet carried out.
STOPS: list[BaseException] = []


@contextmanager
def stops_heard() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the block as :class:`Terminated` and ``KeyboardInterrupt``, whatever they pass through.

    They are raised wherever the program happens to be, inside h5py's callbacks too, which turn them into errors of
    their own: those were the stop all the same. Where interrupts are ignored (``nohup``, ``&``), they stay so.
    """
    STOPS.clear()
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _stop)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, _stop)
    try:
        yield
    except BaseException as error:
        if STOPS and error is not STOPS[-1]:
            raise STOPS[-1] from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: Any) -> NoReturn:
    STOPS.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
    raise STOPS[-1]


@dataclass(frozen=True)
class Ending:
    """An exit code, a sentence that says why, and lines to go before it."""

    code: int
    sentence: str
    details: tuple[str, ...] = ()
    prefix: str = "error: "


def ending_of(error: BaseException, words: Sequence[str]) -> Ending:
    """How the command line ``words`` ends with ``error``. What is not known is written to a report that can be sent."""
    left = "unfinished files were removed, finished ones are complete."
    if isinstance(error, FerplusError):
        return Ending(error.exit_code, str(error), tuple(error.details.split("\n")) if error.details else ())
    if isinstance(error, KeyboardInterrupt):
        return Ending(130, f"interrupted: {left}", prefix="")
    if isinstance(error, Terminated):
        return Ending(143, f"terminated: {left}", prefix="")
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return Ending(
            OutputError.exit_code,
            "There is not enough memory. Close other programs, or take smaller batches where the command has --batch.",
        )
    if isinstance(error, ModuleNotFoundError):
        return Ending(BadInputError.exit_code, missing_sentence([error.name or first_line(error)]))
    if isinstance(error, OSError) and error.errno in FULL:
        where = f"{error.filename} could not be written: " if error.filename else ""
        return Ending(OutputError.exit_code, f"{where}{os.strerror(error.errno or 0)}. Make room and run this again.")
    return Ending(UNEXPECTED, _unexpected(error, words))


def _unexpected(error: BaseException, words: Sequence[str]) -> str:
    import tempfile

    what = f"This is a bug in ferplus: {type(error).__name__}, {first_line(error, 200).rstrip('.')}."
    try:
        descriptor, path = tempfile.mkstemp(prefix="ferplus-crash-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(crash_report(error, words))
    except OSError as unwritable:
        return f"{what} No report could be written ({unwritable.strerror})."
    return f"{what} Please open an issue and attach {path} (see CONTRIBUTING.md)."


def crash_report(error: BaseException, words: Sequence[str]) -> str:
    """What is needed to find the fault: versions, command line, a few settings, traceback. No file's content."""
    import platform  # none of these is needed where all goes well, and `--help` answers at once
    import traceback
    from importlib import metadata

    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    settings = [f"{name}={os.environ[name]!r}" for name in SETTINGS if name in os.environ]
    return "\n".join(
        [
            f"ferplus-keras {__version__}, Python {sys.version.split()[0]}, {platform.platform()}",
            ", ".join(versions),
            f"command line: {['ferplus', *words]!r}",
            f"settings: {', '.join(settings) or 'none'}",
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
