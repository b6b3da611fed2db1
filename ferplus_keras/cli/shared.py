"""What several commands need: how they are declared, and how they speak."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferplus_keras.errors import CheckFailedError
from ferplus_keras.quiet import silent_stderr

if TYPE_CHECKING:
    from convert.pipeline import Made

EXIT_CODES = """\
exit codes:
  0    done
  1    the check ran and failed
  2    bad input or a wrong command line; nothing was written
  3    a result could not be written; what was there before is unchanged
  4    a download failed
  5    done, but for some pictures that could not be read: they were named and skipped
  130  interrupted (143: terminated)"""

#: The exit code of a command that left out what it could not read.
SKIPPED = 5

Run = Callable[[argparse.Namespace], int]


class Commands:
    """A level of commands: ``ferplus ...`` itself, or ``ferplus verify ...``."""

    def __init__(self, parser: argparse.ArgumentParser, *, title: str = "commands", metavar: str = "COMMAND") -> None:
        self._level = parser.add_subparsers(title=title, required=True, metavar=metavar)
        self._groups: dict[str, Commands] = {}

    def add(self, name: str, run: Run, summary: str, example: str) -> argparse.ArgumentParser:
        """A command with ``--help`` (the summary, an example and the exit codes) and ``--json``; ``run`` does it."""
        added = self._level.add_parser(
            name, help=summary, description=summary, epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        added.add_argument("--json", action="store_true", help="print the result as JSON")
        added.set_defaults(run=run)
        return added

    def group(self, name: str, summary: str, *, title: str, metavar: str) -> Commands:
        """A command that has commands of its own; asked for again, it is the same one."""
        if name not in self._groups:
            parser = self._level.add_parser(name, help=summary)
            self._groups[name] = Commands(parser, title=title, metavar=metavar)
        return self._groups[name]


def verify_group(commands: Commands) -> Commands:
    """``ferplus verify``, to which several modules add."""
    return commands.group("verify", "Hold a file against its source, or against data.", title="checks", metavar="CHECK")


def add_reports(command: argparse.ArgumentParser) -> None:
    """``--report DIR`` of the commands that check several files."""
    command.add_argument(
        "--report", metavar="DIR", type=Path,
        help="where each file's report goes, in a folder of its own (default: weights/reports)",
    )  # fmt: skip


def add_key(command: argparse.ArgumentParser) -> None:
    """``--key NAME`` of the commands that read a checkpoint."""
    command.add_argument(
        "--key", metavar="NAME", help="the network that is meant where a file holds several, such as model_ema"
    )


def add_data(command: argparse.ArgumentParser) -> None:
    """``--data PATH`` of the commands that look at FERPlus's pictures."""
    command.add_argument(
        "--data", metavar="PATH",
        help="fer2013.csv with fer2013new.csv, Microsoft's folders, or a .zip of either (default: $FERPLUS_DATA)",
    )  # fmt: skip


def typed_again(command: str, options: argparse.Namespace, *left_out: str) -> str:
    """The command line that has the same result again: ``command``, the model, and every option but ``left_out``.

    What ``$FERPLUS_DATA`` says is said in it; where the result goes is not.
    """
    from ferplus_keras.dataset import DATA_VARIABLE

    words = ["ferplus", *command.split(), options.model]
    given = vars(options) | {"data": options.data or os.environ.get(DATA_VARIABLE)}
    for name, value in given.items():
        if name in ("run", "model", "json", *left_out) or value is None or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def keras_settings(backend: str | None = None) -> None:
    """What Keras is to find in the environment when it is imported: ``backend``, or TensorFlow unless one is set."""
    if backend:
        os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def start_keras(backend: str | None = None) -> None:
    """Import Keras with these settings, unheard; that it is missing is said in a sentence later, where it is needed."""
    keras_settings(backend)
    with silent_stderr(), suppress(ImportError):  # TensorFlow greets there before it can be told not to
        import keras  # noqa: F401


def reports_folder_of(options: argparse.Namespace) -> Path:
    """The folder that ``--report`` names, made if need be. Raises :class:`OutputError`."""
    from convert.manifest import reports_folder
    from verify.report import ready_folder

    return ready_folder(options.report or reports_folder())


def report(made: list[Made], as_json: bool) -> int:
    from convert.pipeline import failed, table

    if as_json:
        print(json.dumps([plain(asdict(each)) for each in made], indent=2))
    else:
        print(f"\n{table(made)}")
    if failed(made):
        raise CheckFailedError("A converted file is not the same function as its source: do not use it.")
    return 0


def sayer(as_json: bool) -> Callable[[str], None]:
    """Progress lines go to the screen, or beside it when standard output is for a machine."""
    return lambda line: print(line, file=sys.stderr if as_json else sys.stdout, flush=True)


def plain(value: Any) -> Any:
    """``value`` with its paths as text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, os.PathLike) else value


def seed(text: str) -> int:
    """The type of an option that seeds a generator."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"at least 0, not {text}")
    return value


def tolerance(text: str) -> float:
    """The type of an option that is a largest difference: NaN and infinity would let everything pass."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0, not {text}")
    return value


def count(text: str) -> int:
    """The type of an option that is a number of things."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {text}")
    return value


__all__ = [
    "EXIT_CODES",
    "SKIPPED",
    "Commands",
    "Run",
    "add_data",
    "add_reports",
    "count",
    "keras_settings",
    "plain",
    "report",
    "reports_folder_of",
    "sayer",
    "seed",
    "silent_stderr",
    "start_keras",
    "tolerance",
    "typed_again",
    "verify_group",
]  # fmt: skip
