"""The ``ferplus`` command: parses, calls, prints; the work is done elsewhere.

Nothing heavy is imported before it is needed: ``--help`` answers in a tenth of a second.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from ferplus_keras import __version__
from ferplus_keras.cli import screen
from ferplus_keras.cli.endings import ending_of, stops_heard
from ferplus_keras.cli.parsing import Parser
from ferplus_keras.cli.shared import EXIT_CODES, Commands
from ferplus_keras.errors import NetworkWarning, OutputError

#: Which module declares which command, in the order of ``--help``.
MODULES = {
    "converting": ("convert", "convert-all", "inspect", "roundtrip", "fetch"),
    "exporting": ("export",),
    "webpage": ("webpage",),
    "predicting": ("predict",),
    "verifying": ("verify", "release"),
    "accuracy": ("verify",),
    "reporting": ("report",),
    "finetuning": ("finetune",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (default: the process's) and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    screen.prepare()
    warnings.simplefilter("ignore", NetworkWarning)  # each command says it in its own words
    try:
        options = parsed(words)
        with stops_heard():
            code: int = options.run(options)
        return code
    except BrokenPipeError:  # `ferplus ... | head`: the reader has seen enough
        return 0
    except SystemExit as asked:  # --help and --version
        return int(asked.code or 0)
    except BaseException as error:
        return _end(error, words)


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """The options that ``words`` are; ``help`` and nothing at all ask for help. Raises :class:`UsageError`."""
    words = [*words[1:], "--help"] if words[:1] == ["help"] else list(words)
    if words in ([], ["verify"], ["verify", "help"]):
        words = [*words[:1], "--help"]
    parser = build_parser(words)
    options, left_over = parser.parse_known_args(words)
    if left_over:
        options.parser.refuse(left_over)
    return options


def _end(error: BaseException, words: Sequence[str]) -> int:
    ending = ending_of(error, words)
    # A file that a library could not finish complains once more when it is collected; everything has been reported.
    sys.unraisablehook = lambda _unraisable: None
    screen.notice(*ending.details, f"{ending.prefix}{ending.sentence}")
    if "--json" in words:
        fields = {"code": ending.code, "message": ending.sentence, "details": ending.details}
        with suppress(OutputError, BrokenPipeError):  # the sentence was printed
            screen.result_json({"error": fields}, indent=None)
    return ending.code


def build_parser(arguments: Sequence[str] = ()) -> Parser:
    """The parser of ``arguments``: of the one command that they begin with, or else of all."""
    parser = Parser(
        prog="ferplus",
        description="Convert Albanie's FERPlus emotion networks to Keras, prove the result, and use it.",
        epilog=f"example:\n  ferplus convert resnet50_ferplus_dag.pth resnet50_ferplus.h5\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ferplus-keras {__version__}")
    commands = Commands(parser)
    wanted = [module for module, names in MODULES.items() if arguments[:1] and arguments[0] in names]
    for module in wanted or MODULES:
        import_module(f"ferplus_keras.cli.{module}").add(commands)
    return parser
