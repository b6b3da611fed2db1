"""How arguments are parsed: argparse, with the errors of ours and a guess at what was meant."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from ferplus_keras.cli import screen
from ferplus_keras.errors import BadInputError


class UsageError(BadInputError):
    """A wrong command line. ``details`` is the usage of the command that was meant."""


Kind = Callable[[str], Any] | tuple[str, ...] | None
Option = tuple[str, dict[str, Any]]


def option(name: str, help: str, kind: Kind = None, default: Any = None, **more: Any) -> Option:
    """An argument of a command: its name and what stands for its value, such as ``--csv FILE`` or ``inputs* INPUT``.

    ``kind`` are its choices, or makes its value of the word. Without kind and value ``--name`` is a flag. ``more`` is
    argparse's.
    """
    name, _, metavar = name.partition(" ")
    given: dict[str, Any] = {"help": help, "default": default}
    if name[-1] in "?*+":
        name, given["nargs"] = name[:-1], name[-1]
    if metavar:
        given["metavar"] = metavar
    if isinstance(kind, tuple):
        given["choices"] = kind
    elif kind is not None:
        given["type"] = kind
    elif name.startswith("--") and not metavar:
        given |= {"action": "store_true", "default": False}
    return name, given | more


def repeated(name: str, help: str, kind: Kind = None) -> Option:
    """An option whose values make a list."""
    return option(name, help, kind, [], action="append")


class Parser(argparse.ArgumentParser):
    """A parser that raises :class:`UsageError`, and prints where everything is printed."""

    _intermixed = False  #: while argparse parses options and names apart

    def error(self, message: str) -> NoReturn:
        end = "" if message.endswith((".", "?")) else "."
        raise UsageError(f"{message[:1].upper()}{message[1:]}{end}", self.format_usage().rstrip())

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse, but a word behind an option with an optional choice is its value only where it is a choice."""
        words = None if args is None else list(args)
        for place, word in enumerate(words or ()):
            action = self._option_string_actions.get(word)
            if action is not None and action.nargs == "?" and action.choices and words is not None:
                if words[place + 1 : place + 2] and words[place + 1] in action.choices:
                    continue
                words[place] = f"{word}={action.const}"
        levels = any(isinstance(action, argparse._SubParsersAction) for action in self._actions)
        if levels and words and is_option(words[0]):  # argparse would only miss the command
            name = words[0].split("=")[0]
            if not any(known.startswith(name) for known in self._option_string_actions):
                self.refuse(words[:1])
        found = super().parse_known_args(words, namespace)
        # argparse ends a list of names at the first option: "predict NETWORK --top 2 IMAGE" has an image left over.
        if words is None or not found[1] or any(map(is_option, found[1])) or "--" in words:
            return found
        if self._intermixed or levels:
            return found
        self._intermixed = True
        try:
            return self.parse_known_intermixed_args(words)
        finally:
            self._intermixed = False

    def _print_message(self, message: str, file: Any = None) -> None:
        screen.result(*message.rstrip("\n").split("\n"))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        if isinstance(action, argparse._SubParsersAction):
            guess = did_you_mean(str(value), choices)
            self.error(f'there is no command "{value}"{guess or "; there are " + ", ".join(choices)}')
        raise argparse.ArgumentError(
            action, f'"{value}" is none of {", ".join(choices)}{did_you_mean(str(value), choices)}'
        )

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            if error.message.startswith("invalid "):  # a ValueError of the type's, which Python words after its name
                raise argparse.ArgumentError(action, f'"{arg_string}" is not a number') from None
            raise

    def refuse(self, left_over: Sequence[str]) -> NoReturn:
        """Raise :class:`UsageError` for words that no command takes."""
        options = [word for word in left_over if word.startswith("-")]
        if not options:
            self.error(f'"{left_over[0]}" is one argument too many')
        option = options[0].split("=")[0]
        self.error(f"there is no option {option}{did_you_mean(option, self._option_string_actions)}")


def is_option(word: str) -> bool:
    """Whether ``word`` is an option, and no name; ``-`` stands for standard input."""
    return word.startswith("-") and word != "-"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean "predict"?``, or "" when nothing is near."""
    from difflib import get_close_matches

    known = list(known)
    near = get_close_matches(word, known, 1) or [each for each in known if each.startswith(f"-{word}")]
    return f'; did you mean "{near[0]}"?' if near else ""


def number(kind: type, least: float, most: float, what: str) -> Callable[[str], Any]:
    """The type of an option: an ``int`` or a ``float`` from ``least`` to ``most``, both allowed. NaN is not."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            if kind is not int or text.isdigit():  # Python takes no more than 4,300 digits
                raise
            raise argparse.ArgumentTypeError(f'a whole number is needed, not "{text}"') from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{what}, not {text}")
        return value

    return parse
