"""What several commands need: how they are declared, and how they speak."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferplus_keras.cli import screen
from ferplus_keras.cli.parsing import Option, Parser, number, option
from ferplus_keras.cli.requirements import need_folder
from ferplus_keras.errors import CheckFailedError
from ferplus_keras.packages import backend_of_environment, need
from ferplus_keras.quiet import import_keras

if TYPE_CHECKING:
    from convert.pipeline import Made

EXIT_CODES = """\
exit codes:
  0    done
  1    the check ran and failed
  2    bad input or a wrong command line; nothing was written
  3    a result could not be written; what was there before is unchanged
  4    a download failed
  5    done, except that some images could not be read: they were named and skipped
  70   a bug in ferplus; a crash report was written
  130  interrupted (143: terminated)"""

#: The exit code of a command that left out what it could not read.
SKIPPED = 5

Run = Callable[[argparse.Namespace], int]


class Commands:
    """A level of commands: ``ferplus ...`` itself, or ``ferplus verify ...``."""

    def __init__(self, parser: Parser, *, title: str = "commands", metavar: str = "COMMAND") -> None:
        self._level = parser.add_subparsers(title=title, required=True, metavar=metavar)
        self._groups: dict[str, Commands] = {}

    def add(
        self, name: str, run: Run, summary: str, example: str, *options: Option, **groups: tuple[Option, ...]
    ) -> None:
        """A command with these ``options`` and ``--json``, and an example in its help; ``run`` does it.

        ``groups`` are further options, under titles of their own.
        """
        added = self._parser(name, summary, example)
        as_json = option("--json", "print the result, or the error, as JSON")
        declared: list[tuple[argparse._ActionsContainer, tuple[Option, ...]]] = [(added, (as_json, *options))]
        declared += [(added.add_argument_group(title.replace("_", " ")), some) for title, some in groups.items()]
        for place, some in declared:
            for name, given in some:
                place.add_argument(name, **given)
        added.set_defaults(run=run, parser=added)

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


#: Options of several commands.
REPORTS = option(
    "--report DIR", "write each file's report into a folder of its own in DIR (default: weights/reports)", Path
)
KEY = option("--key NAME", "which network to take from a file that holds several, such as model_ema")
CHANNELS = option(
    "--channels", "ONNX: take images as 3 x 224 x 224, or as 224 x 224 x 3 (default: first)", ("first", "last")
)
DATA = option(
    "--data PATH", "fer2013.csv with fer2013new.csv, Microsoft's folders, or a .zip of either (default: $FERPLUS_DATA)"
)


def typed_again(command: str, options: argparse.Namespace, *left_out: str) -> str:
    """The command line that has the same result again: ``command``, the model, and every option but ``left_out``.

    What ``$FERPLUS_DATA`` says is said in it; where the result goes is not.
    """
    from ferplus_keras.dataset import DATA_VARIABLE

    given = vars(options) | {"data": options.data or os.environ.get(DATA_VARIABLE)}
    shown = [name for name in given if name not in ("run", "parser", "model", "models", "json", *left_out)]
    models = getattr(options, "models", None) or [options.model]
    return shlex.join(["ferplus", *command.split(), *models, *spelled(given, shown)])


def spelled(given: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The words that give the options of these ``names`` their values again; what was not given is left out."""
    words = []
    for name in names:
        values = given[name] if isinstance(given[name], list) else [given[name]]
        for value in values:
            if value is not None and value is not False:
                words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


def keras_settings(backend: str | None = None) -> None:
    """What Keras is to find in the environment when it is imported: ``backend``, or TensorFlow unless one is set.

    Raises :class:`BadInputError` when the environment names one that these networks cannot run on.
    """
    if backend or "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = backend or backend_of_environment()


def need_keras(backend: str | None = None) -> None:
    """Have all that Keras with these settings needs, for whoever imports it once the files have been looked at.

    Raises :class:`BadInputError` naming all packages that are missing.
    """
    keras_settings(backend)
    need("keras", os.environ.get("KERAS_BACKEND", "tensorflow"))


def start_keras(backend: str | None = None) -> None:
    """Import Keras with these settings, unheard. Raises :class:`BadInputError` as :func:`need_keras` does."""
    need_keras(backend)
    import_keras()


def reports_folder_of(options: argparse.Namespace) -> Path:
    """The folder that ``--report`` names, or the usual one. Raises :class:`OutputError` when it cannot be one."""
    from convert.manifest import reports_folder

    folder: Path = options.report or reports_folder()
    need_folder(folder)
    return folder


def report(made: list[Made], as_json: bool) -> int:
    """The end of a command that converted or checked several files."""
    from convert.pipeline import failed, table

    wrong = "A converted file is not the same function as its source: do not use it." if failed(made) else ""
    return finish(as_json, [plain(asdict(each)) for each in made], news=("", *table(made).split("\n")), failed=wrong)


def finish(
    as_json: bool, data: Any, lines: Iterable[str] = (), *, notes: Iterable[str] = (), news: Iterable[str] = (),
    failed: str | None = None,
) -> int:  # fmt: skip
    """The end of a command: its result as JSON, or else the ``lines`` that were asked for, then ``notes`` and ``news``.

    Where it ``failed``, which says why, the exit code is 1: for JSON it is returned, else :class:`CheckFailedError`.
    """
    if as_json:
        screen.result_json(data)
        return CheckFailedError.exit_code if failed else 0
    if shown := tuple(lines):
        screen.result(*shown)
    screen.news(*(f"note: {note}" for note in notes), *news)
    if failed:
        raise CheckFailedError(failed)
    return 0


def progress_printer(as_json: bool) -> Callable[[str], None]:
    """Progress lines go to the screen, or beside it when standard output is for a machine."""
    return screen.notice if as_json else screen.news


def in_the_way(path: str | os.PathLike[str]) -> str:
    """What to add to the news that ``path`` was written, asked before: "" when nothing was there."""
    return "; it replaced what was there" if os.path.lexists(path) else ""


def standin_sentence(name: str) -> str:
    return f"{name} is a STAND-IN with made-up weights: its predictions mean nothing."


def plain(value: Any) -> Any:
    """``value`` with its paths as text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, os.PathLike) else value


#: Types of options: something to seed a generator, a number of things, and a largest difference.
seed = number(int, 0, 2**63 - 1, "at least 0")
count = number(int, 1, 2**63 - 1, "at least 1")
tolerance = number(float, sys.float_info.min, sys.float_info.max, "a number above 0")
