"""The ``ferplus`` command: parses, calls, prints; the work is done elsewhere.

Nothing heavy is imported before it is needed: ``--help`` answers in a tenth of a second.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from ferplus_keras import __version__
from ferplus_keras.cli.shared import EXIT_CODES, Commands
from ferplus_keras.errors import FerplusError

#: Which module declares which command, in the order of ``--help``.
MODULES = {
    "converting": ("convert", "convert-all", "inspect", "roundtrip", "fetch"),
    "exporting": ("export",),
    "predicting": ("predict",),
    "verifying": ("verify",),
    "accuracy": ("verify",),
    "reporting": ("report",),
    "finetuning": ("finetune",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (default: the process's) and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser(arguments).parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except FerplusError as error:
        if error.details:
            print(error.details, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        # A file that a library could not finish complains once more when it is collected; all has been said.
        sys.unraisablehook = lambda _unraisable: None
        return error.exit_code
    except ModuleNotFoundError as error:
        print(
            f"error: this needs {error.name}, which is not installed here: pip install {error.name}.", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted: unfinished files were removed, finished ones are complete.", file=sys.stderr)
        return 130
    except _Terminated:
        print("terminated: unfinished files were removed, finished ones are complete.", file=sys.stderr)
        return 143
    except MemoryError:
        print("error: not enough memory; converting takes about twice the checkpoint's size.", file=sys.stderr)
        return 3
    except BrokenPipeError:  # `ferplus ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


class _Terminated(BaseException):
    """SIGTERM, as an exception: what is open is closed and removed on the way out."""


def _terminated(_signal: int, _frame: Any) -> NoReturn:
    raise _Terminated


def build_parser(arguments: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of ``arguments``: of the one command that they begin with, or else of all."""
    parser = argparse.ArgumentParser(
        prog="ferplus",
        description="Albanie's FERPlus networks as exact Keras models.",
        epilog=f"example:\n  ferplus convert resnet50_ferplus_dag.pth resnet50_ferplus.h5\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ferplus-keras {__version__}")
    commands = Commands(parser)
    wanted = [module for module, names in MODULES.items() if arguments[:1] and arguments[0] in names]
    for module in wanted or MODULES:
        import_module(f"ferplus_keras.cli.{module}").add(commands)
    return parser
