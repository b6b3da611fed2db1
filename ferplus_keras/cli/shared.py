"""What several commands need: how they are declared, and how they speak."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferplus_keras.cli import screen
from ferplus_keras.cli.parsing import Parser, number
from ferplus_keras.cli.requirements import backend_of_environment, need
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
  5    done, but for some images that could not be read: they were named and skipped
  70   a fault of ferplus itself; a report that can be sent was written
  130  interrupted (143: terminated)"""

#: The exit code of a command that left out what it could not read.
SKIPPED = 5

Run = Callable[[argparse.Namespace], int]


class Commands:
    """A level of commands: ``ferplus ...`` itself, or ``ferplus verify ...``."""

    def __init__(self, parser: Parser, *, title: str = "commands", metavar: str = "COMMAND") -> None:
        self._level = parser.add_subparsers(title=title, required=True, metavar=metavar)
        self._groups: dict[str, Commands] = {}

    def add(self, name: str, run: Run, summary: str, example: str) -> Parser:
        """A command with ``--help`` (the summary, an example and the exit codes) and ``--json``; ``run`` does it."""
        added = self._parser(name, summary, example)
        added.add_argument("--json", action="store_true", help="print the result, or the error, as JSON")
        added.set_defaults(run=run, parser=added)
        return added

    def group(self, name: str, summary: str, example: str, *, title: str, metavar: str) -> Commands:
        """A command that has commands of its own; asked for again, it is the same one."""
        if name not in self._groups:
            self._groups[name] = Commands(self._parser(name, summary, example), title=title, metavar=metavar)
        return self._groups[name]

    def _parser(self, name: str, summary: str, example: str) -> Parser:
        return self._level.add_parser(
            name, help=summary, description=summary, epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip


def verify_group(commands: Commands) -> Commands:
    """``ferplus verify``, to which several modules add."""
    return commands.group(
        "verify", "Check a file against its source, or measure it on data.",
        "ferplus verify parity resnet50_ferplus.h5 --against resnet50_ferplus_dag.pth", title="checks", metavar="CHECK",
    )  # fmt: skip


def add_reports(command: argparse.ArgumentParser) -> None:
    """``--report DIR`` of the commands that check several files."""
    command.add_argument(
        "--report", metavar="DIR", type=Path,
        help="write each file's report into a folder of its own in DIR (default: weights/reports)",
    )  # fmt: skip


def add_key(command: argparse.ArgumentParser) -> None:
    """``--key NAME`` of the commands that read a checkpoint."""
    command.add_argument(
        "--key", metavar="NAME", help="which network to take from a file that holds several, such as model_ema"
    )


def add_channels(command: argparse.ArgumentParser) -> None:
    """``--channels`` of the commands that write ONNX files."""
    command.add_argument(
        "--channels", choices=("first", "last"),
        help="ONNX: take images as 3 x 224 x 224, or as 224 x 224 x 3 (default: first)",
    )  # fmt: skip


def add_data(command: argparse.ArgumentParser) -> None:
    """``--data PATH`` of the commands that look at FERPlus's images."""
    command.add_argument(
        "--data", metavar="PATH",
        help="fer2013.csv with fer2013new.csv, Microsoft's folders, or a .zip of either (default: $FERPLUS_DATA)",
    )  # fmt: skip


def typed_again(command: str, options: argparse.Namespace, *left_out: str) -> str:
    """The command line that has the same result again: ``command``, the model, and every option but ``left_out``.

    What ``$FERPLUS_DATA`` says is said in it; where the result goes is not.
    """
    from ferplus_keras.dataset import DATA_VARIABLE

    words = ["ferplus", *command.split(), *(getattr(options, "models", None) or [options.model])]
    given = vars(options) | {"data": options.data or os.environ.get(DATA_VARIABLE)}
    for name, value in given.items():
        if name in ("run", "parser", "model", "models", "json", *left_out) or value is None or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


def keras_settings(backend: str | None = None) -> None:
    """What Keras is to find in the environment when it is imported: ``backend``, or TensorFlow unless one is set.

    Raises :class:`BadInputError` when the environment names one that these networks cannot run on.
    """
    if backend or "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = backend or backend_of_environment()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def start_keras(backend: str | None = None) -> None:
    """Import Keras with these settings, unheard. Raises :class:`BadInputError` naming all packages that are missing."""
    keras_settings(backend)
    need("keras", os.environ.get("KERAS_BACKEND", "tensorflow"))
    with silent_stderr():  # TensorFlow greets there before it can be told not to
        import keras  # noqa: F401


def reports_folder_of(options: argparse.Namespace) -> Path:
    """The folder that ``--report`` names, made if need be. Raises :class:`OutputError`."""
    from convert.manifest import reports_folder
    from verify.report import ready_folder

    return ready_folder(options.report or reports_folder())


def report(made: list[Made], as_json: bool) -> int:
    from convert.pipeline import failed, table

    if as_json:
        screen.result_json([plain(asdict(each)) for each in made])
        return 1 if failed(made) else 0
    screen.news("", *table(made).split("\n"))
    if failed(made):
        raise CheckFailedError("A converted file is not the same function as its source: do not use it.")
    return 0


def sayer(as_json: bool) -> Callable[[str], None]:
    """Progress lines go to the screen, or beside it when standard output is for a machine."""
    return screen.notice if as_json else screen.news


def progress(as_json: bool) -> Callable[[str], None]:
    """Progress lines on standard error; none where a machine is to read the result."""
    return (lambda _line: None) if as_json else screen.notice


def in_the_way(path: str | os.PathLike[str]) -> str:
    """What to add to the news that ``path`` was written, asked before: "" when nothing was there."""
    return "; it replaced what was there" if os.path.lexists(path) else ""


def plain(value: Any) -> Any:
    """``value`` with its paths as text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, os.PathLike) else value


#: Types of options: something to seed a generator, a number of things, and a largest difference.
seed = number(int, 0, 2**63 - 1, "at least 0")
count = number(int, 1, 2**63 - 1, "at least 1")
tolerance = number(float, sys.float_info.min, sys.float_info.max, "a number above 0")


__all__ = [
    "EXIT_CODES",
    "SKIPPED",
    "Commands",
    "Run",
    "add_channels",
    "add_data",
    "add_reports",
    "count",
    "in_the_way",
    "keras_settings",
    "plain",
    "progress",
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
