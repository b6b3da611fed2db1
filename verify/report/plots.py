"""Plots as SVG that is part of the page: no image, no library, every text a text.

Positions are percentages, so that a plot is as wide as the page and its letters stay as large as the page's. A
panel's points stand on a logarithmic scale; what is exactly zero has a line of its own below it, and what has no
number is a cross on the upper edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from verify.report.page import render

if TYPE_CHECKING:
    from markupsafe import Markup

#: The shapes of marks, in the order in which series take them; ``templates/plot.html.j2`` draws as many.
SHAPES = 6


@dataclass(frozen=True)
class Point:
    """One figure. ``value`` None: there is none, and ``text`` says why."""

    value: float | None
    text: str  #: for the tooltip
    beyond: bool = False  #: over the tolerance


@dataclass(frozen=True)
class Series:
    """Figures of one kind along the positions; None where the series has nothing."""

    name: str
    points: Sequence[Point | None]


@dataclass(frozen=True)
class Band:
    """Positions ``first`` to ``last`` under one name."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Panel:
    """One plot: positions from left to right, figures on a logarithmic scale."""

    id: str  #: unique on the page
    title: str
    summary: str  #: what is to be seen, for those who cannot see it
    positions: Sequence[str]  #: the heading of each position's tooltip
    series: Sequence[Series]
    bound: Sequence[float | None] = ()  #: a line beside the points, such as what rounding can do
    bound_name: str = ""
    limit: float | None = None  #: a level line, such as a tolerance
    limit_name: str = ""
    bands: Sequence[Band] = ()
    flag: tuple[int, str] | None = None  #: a position to point at, and what to say there
    unit: str = ""  #: of the vertical axis
    caption: str = ""


@dataclass(frozen=True)
class Scale:
    """Decades from bottom to top; positions in percent from the top."""

    low: int
    high: int

    @classmethod
    def around(cls, values: Iterable[float | None]) -> Scale:
        """The decades that hold every positive one of ``values``."""
        found = [math.log10(value) for value in values if value is not None and 0 < value < math.inf]
        if not found:
            return cls(-1, 0)
        low, high = math.floor(min(found)), math.ceil(max(found))
        return cls(low, max(high, low + 1))

    def at(self, value: float) -> float:
        return 100 * (self.high - math.log10(value)) / (self.high - self.low)

    @property
    def ticks(self) -> list[int]:
        """Exponents to label: every decade, or fewer where there are many."""
        step = max(1, math.ceil((self.high - self.low) / 8))
        return [exponent for exponent in range(self.low, self.high + 1) if (exponent - self.high) % step == 0]


@dataclass(frozen=True)
class _Mark:
    x: float
    y: float
    shape: int
    beyond: bool
    kind: str  #: "point", "zero" or "none"


@dataclass(frozen=True)
class _Position:
    x: float
    title: str
    texts: list[str]
    marks: list[_Mark] = field(default_factory=list)


def log_plot(panel: Panel) -> Markup:
    """``panel`` as a figure with a legend, tooltips on hover and, with the keyboard, by the arrow keys."""
    values = [point.value for series in panel.series for point in series.points if point is not None]
    scale = Scale.around([*values, *panel.bound, panel.limit])
    count = len(panel.positions)
    positions = []
    for index, title in enumerate(panel.positions):
        x = _place(index, count)
        position = _Position(x, title, [])
        for shape, series in enumerate(panel.series):
            if (point := series.points[index]) is None:
                continue
            kind, y = "point", 0.0
            if point.value is None or not math.isfinite(point.value):
                kind = "none"
            elif point.value <= 0:
                kind, y = "zero", 100.0
            else:
                y = scale.at(point.value)
            position.marks.append(_Mark(x, y, shape % SHAPES, point.beyond, kind))
            name = f"{series.name}: " if len(panel.series) > 1 else ""
            position.texts.append(f"{name}{point.text}")
        positions.append(position)
    return render(
        "plot.html.j2", panel=panel, positions=positions, scale=scale, width=100 / max(count, 1),
        limit=None if panel.limit is None else scale.at(panel.limit),
        bound=_line(panel.bound, scale),
        bands=[(one.name, 100 * one.first / count, 100 * (one.last - one.first + 1) / count) for one in panel.bands],
        flag=None if panel.flag is None else (_place(panel.flag[0], count), panel.flag[1]),
        zero=any(mark.kind == "zero" for position in positions for mark in position.marks),
        beyond=any(mark.beyond for position in positions for mark in position.marks),
        without=any(mark.kind == "none" for position in positions for mark in position.marks),
    )  # fmt: skip


def bands(names: Sequence[str]) -> list[Band]:
    """Neighbours of one name put together."""
    found: list[Band] = []
    for index, name in enumerate(names):
        if found and found[-1].name == name:
            found[-1] = Band(name, found[-1].first, index)
        else:
            found.append(Band(name, index, index))
    return found


def _place(index: int, count: int) -> float:
    return 100 * (index + 0.5) / max(count, 1)


def _line(values: Sequence[float | None], scale: Scale) -> list[list[tuple[float, float]]]:
    """The unbroken pieces of a line through ``values``, in percent; a zero or a gap ends a piece."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for index, value in enumerate(values):
        if value is None or not 0 < value < math.inf:
            pieces.append([])
        else:
            pieces[-1].append((_place(index, len(values)), scale.at(value)))
    return [piece for piece in pieces if piece]
