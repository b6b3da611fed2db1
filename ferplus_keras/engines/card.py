"""What somebody else's network takes and knows, where its file does not say: a line of words, kept in a card beside it.

``gray 48x48 0..1`` is such a line. The card of ``model.tflite`` is ``model.tflite.toml``::

    input = "gray 48x48 0..1"
    classes = ["angry", "disgust", "fear"]
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.atomic import write_text
from ferplus_keras.files.opening import is_file, open_regular
from ferplus_keras.wording import printable

GRAY, RGB, BGR = "gray", "RGB", "BGR"

#: Words of a line, and the field of :class:`Input` that each stands for.
WORDS: dict[str, dict[str, Any]] = {
    "gray": {"order": GRAY}, "grey": {"order": GRAY}, "rgb": {"order": RGB}, "bgr": {"order": BGR},
    "channels-first": {"first": True}, "nchw": {"first": True},
    "channels-last": {"first": False}, "nhwc": {"first": False},
    "logits": {"gives": "logits"}, "probabilities": {"gives": "probabilities"},
}  # fmt: skip

NUMBER = r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?"
BOUND = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"  # without a last dot: "0...5" would be 0 to 5
SIZE, RANGE = re.compile(r"(\d{1,4})x(\d{1,4})"), re.compile(rf"({BOUND})\.\.({BOUND})")
NUMBERS = re.compile(rf"{NUMBER}(?:,{NUMBER})*")

#: Sides of images that somebody's network may take.
MIN_SIDE, MAX_SIDE = 8, 1024

#: How far from 0 pixels are that were divided by a std: in whitened images by some 3, so that more is a mistake.
WHITENED = 30.0

#: A card has two lines.
MAX_CARD, MAX_CLASSES = 1 << 16, 100


@dataclass(frozen=True)
class Input:
    """The images that a network takes: pixels are brought to ``range``, then less ``mean``, divided by ``std``.

    None: the file says it, or it does not matter.
    """

    text: str
    order: str | None = None  #: "gray", "RGB" or "BGR"
    side: int | None = None
    range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    first: bool | None = None  #: whether the channels come before height and width
    gives: str | None = None

    @classmethod
    def parse(cls, text: str) -> Input:
        """The line ``text``: "gray 48x48 0..1", "bgr 224x224 mean 103.9,116.8,123.7". Raises :class:`BadInputError`."""
        found: dict[str, Any] = {}
        words = iter(text.lower().split())
        for word in words:
            if word in WORDS:
                said = WORDS[word]
            elif word in ("mean", "std"):
                said = {word: _numbers(text, word, next(words, ""))}
            elif size := SIZE.fullmatch(word):
                height, width = map(int, size.groups())
                if height != width or not MIN_SIDE <= height <= MAX_SIDE:
                    raise _wrong(text, f"{word} is not a square of {MIN_SIDE} to {MAX_SIDE} pixels")
                said = {"side": height}
            elif limits := RANGE.fullmatch(word):
                low, high = map(float, limits.groups())
                if not -1e6 < low < high < 1e6:
                    raise _wrong(text, f"{word} is not a range")
                said = {"range": (low, high)}
            else:
                raise _wrong(text, f'"{word[:40]}" is not understood')
            if twice := found.keys() & said.keys():
                raise _wrong(text, f"it says the {'layout' if twice == {'first'} else twice.pop()} twice")
            found |= said
        made = cls(text, **found)
        low, high, mean, std = *made.scale[0], *made.scale[1:]
        if made.order == GRAY and max(len(mean), len(std)) > 1:
            raise _wrong(text, "gray images have one channel, so mean and std are one number each")
        if outside := [each for each in mean if each and not low <= each <= high]:
            raise _wrong(text, f"pixels of {low:g}..{high:g} do not have a mean of {outside[0]:g}")
        ends = [abs(end - each) / by for end in (low, high) for each in mean for by in std]
        if set(std) != {1.0} and max(ends) > WHITENED:
            reached = f"pixels of {low:g}..{high:g} would reach {max(ends):.0f}"
            raise _wrong(text, f"divided by that std, {reached}: give the range too")
        return made

    @property
    def scale(self) -> tuple[tuple[float, float], tuple[float, ...], tuple[float, ...]]:
        """Range, mean and std; where only one of them is said, the others change nothing."""
        return self.range or (0.0, 255.0), self.mean or (0.0,), self.std or (1.0,)

    @property
    def scaled(self) -> bool:
        """Whether anything is said of how pixels are scaled."""
        return any(each is not None for each in (self.range, self.mean, self.std))


@dataclass(frozen=True)
class Card:
    """What is known of a network besides its file."""

    input: Input | None = None
    classes: tuple[str, ...] | None = None

    @classmethod
    def of(cls, input: str | None, classes: str | Iterable[str] | None) -> Card:
        """``input`` as :meth:`Input.parse` takes it, and the ``classes`` in order. Raises :class:`BadInputError`."""
        names = None
        if classes is not None:
            given = classes.split(",") if isinstance(classes, str) else classes
            names = tuple(printable(each.strip()) for each in given)
            twice = [each for each in names if names.count(each) > 1]
            if not 2 <= len(names) <= MAX_CLASSES or not all(names) or twice:
                problem = f"{twice[0][:40]} stands there twice" if twice and twice[0] else f"they are {len(names)}"
                raise BadInputError(f"The classes are two or more names separated by commas, and {problem}.")
        return cls(None if input is None else Input.parse(input), names)

    @classmethod
    def beside(cls, path: Path) -> Card:
        """What the card beside ``path`` says; nothing where there is none. Raises :class:`BadInputError`."""
        card = card_of(path)
        if not is_file(card):
            return cls()
        with open_regular(card) as stream:
            content = stream.read(MAX_CARD)
        try:
            said = tomllib.loads(content.decode())
        except (ValueError, RecursionError):  # TOMLDecodeError and UnicodeDecodeError are among them
            raise BadInputError(
                f"{card} is not TOML. Write `input = ...` and `classes = [...]`, or remove it."
            ) from None
        line, classes = said.get("input"), said.get("classes")
        good = isinstance(classes, list) and all(isinstance(each, str) for each in classes)
        if said.keys() - {"input", "classes"} or not isinstance(line, str | None) or not (classes is None or good):
            raise BadInputError(f"{card} may hold only `input`, a text, and `classes`, a list of names.")
        try:
            return cls.of(line, classes)
        except BadInputError as error:
            raise BadInputError(f"{card}: {error}") from None

    def over(self, other: Card) -> Card:
        """This card, and of the ``other`` what this one leaves open."""
        return Card(self.input or other.input, self.classes or other.classes)

    def keep(self, path: Path) -> Path | None:
        """Write the card beside ``path`` unless it says that already. Raises :class:`OutputError`."""
        if self == Card.beside(path):
            return None
        lines = []
        if self.input is not None:
            lines.append(f"input = {_quoted(self.input.text)}")
        if self.classes is not None:
            lines.append(f"classes = [{', '.join(map(_quoted, self.classes))}]")
        return write_text(card_of(path), "".join(f"{line}\n" for line in lines))

    def __bool__(self) -> bool:
        return self.input is not None or self.classes is not None


#: Where nothing is known.
NO_CARD = Card()


def card_of(path: Path) -> Path:
    """Where the card of the network at ``path`` is."""
    return path.with_name(f"{path.name}.toml")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")  # a basic string of TOML's


def _numbers(line: str, name: str, text: str) -> tuple[float, ...]:
    found = tuple(map(float, text.split(","))) if NUMBERS.fullmatch(text) else ()
    if len(found) not in (1, 3) or any(abs(each) > 1e6 for each in found) or (name == "std" and min(found) <= 0):
        raise _wrong(line, f"behind {name} one number is meant, or three with commas and no blanks between them")
    return found


def _wrong(line: str, problem: str) -> BadInputError:
    return BadInputError(
        f'The input "{line[:80]}" cannot be taken: {problem}. An example: "gray 48x48 0..1", or "bgr 224x224 0..255 '
        'mean 103.9,116.8,123.7 std 1 channels-first".'
    )
