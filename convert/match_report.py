"""A mismatch between a file and an architecture as a readable table, with similar names in one row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sized
from dataclasses import dataclass, field

from ferplus_keras.wording import in_columns, printable

#: Up to this many tensors may be missing or unexpected on purpose.
A_FEW = 60

#: Advice that `ferplus inspect` itself leaves out.
INSPECT = " `ferplus inspect` lists what it holds."


@dataclass
class Mismatch:
    """Everything wrong with a file's arrays, in both directions. Falsy if nothing is."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    wrong_shape: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    bad_values: list[tuple[str, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.wrong_shape or self.bad_values)

    def summary(self) -> str:
        """For instance ``3 missing, 1 unexpected``."""
        counts: dict[str, Sized] = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of the wrong shape": self.wrong_shape,
            "with impossible values": self.bad_values,
        }
        return ", ".join(f"{len(items)} {what}" for what, items in counts.items() if items)

    @property
    def advice(self) -> str:
        """What to do next: the options help only if a few tensors are missing or unexpected."""
        if self.wrong_shape or self.bad_values or len(self.missing) > A_FEW or len(self.unexpected) > A_FEW:
            return f"It is damaged, or belongs to another network.{INSPECT}"
        return "If this is intended, name the tensors with --allow-missing or --allow-unexpected."

    def rows(self) -> list[tuple[str, str, str]]:
        """(problem, tensors, detail), one row for each fold."""
        rows = [("missing", names, "") for names in fold(self.missing)]
        for shape in dict.fromkeys(shape for _, shape in self.unexpected):
            names = [name for name, its in self.unexpected if its == shape]
            rows += [("unexpected", folded, f"{by(shape)}") for folded in fold(names)]
        for key in dict.fromkeys((have, want) for _, have, want in self.wrong_shape):
            names = [name for name, have, want in self.wrong_shape if (have, want) == key]
            rows += [("wrong shape", folded, f"is {by(key[0])}, must be {by(key[1])}") for folded in fold(names)]
        for problem in dict.fromkeys(problem for _, problem in self.bad_values):
            names = [name for name, its in self.bad_values if its == problem]
            rows += [("bad values", folded, problem) for folded in fold(names)]
        return rows

    def table(self, limit: int = 40) -> str:
        """At most ``limit`` rows as text, and a count of the rest. Names are made printable."""
        rows = self.rows()
        shown = [("problem", "tensors", ""), *((kind, printable(names), what) for kind, names, what in rows[:limit])]
        lines = [f"  {line}" for line in in_columns(shown)]
        if len(rows) > limit:
            lines.append(f"  ... and {len(rows) - limit} more rows")
        return "\n".join(lines)


def by(shape: Iterable[int]) -> str:
    """A shape in words: ``8 x 2048``; ``a single number`` if it is empty."""
    return " x ".join(map(str, shape)) or "a single number"


def fold(names: Iterable[str]) -> list[str]:
    """Names that differ only in their numbers or in their last part become one entry with a count.

    >>> fold(["conv2_1_bn.weight", "conv2_1_bn.bias", "conv2_2_bn.weight", "conv2_2_bn.bias", "fc.weight"])
    ['conv2_{1,2}_bn.{weight,bias} (4)', 'fc.weight']
    """
    by_suffix: dict[str, list[str]] = {}  # layer -> last parts
    for name in names:
        end = max(name.rfind("."), name.rfind("/")) + 1
        layer, suffix = (name[:end], name[end:]) if end else (name, "")
        by_suffix.setdefault(layer, []).append(suffix)
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}  # (pattern, last parts) -> layers
    for layer, suffixes in by_suffix.items():
        pattern = re.sub(r"(?<=_)\d+(?=_|\.|/|$)|(?<=\.)\d+(?=\.)|(?<=conv)\d+(?=_)", "#", layer)
        groups.setdefault((pattern, tuple(suffixes)), []).append(layer)
    entries = []
    for (_, tails), layers in groups.items():
        count = len(tails) * len(layers)
        tail = tails[0] if len(tails) == 1 else "{" + ",".join(tails) + "}"
        entries.append(_braced(layers) + tail + (f" ({count})" if count > 1 else ""))
    return entries


def _braced(layers: list[str]) -> str:
    """``conv2_1_bn.`` and ``conv3_1_bn.`` as ``conv{2,3}_1_bn.``"""
    if len(layers) == 1:
        return layers[0]
    split = [re.split(r"(\d+)", layer) for layer in layers]
    if len({len(parts) for parts in split}) > 1:
        return f"{layers[0]}...{layers[-1]}"
    result = ""
    for values in zip(*split, strict=True):
        unique = list(dict.fromkeys(values))
        result += unique[0] if len(unique) == 1 else "{" + ",".join(unique) + "}"
    return result
