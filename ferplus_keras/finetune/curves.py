"""Learning curves as one SVG file, without a drawing library: the loss above, the accuracy on Valid below.

The best epoch is marked in both, and the accuracy's axis covers what is drawn and no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from ferplus_keras.finetune.schedules import Row
from ferplus_keras.wording import counted

WIDTH, HEIGHT, LEFT, RIGHT, TOP, GAP, BOTTOM = 720, 460, 56, 16, 46, 36, 40
PLOT = (HEIGHT - TOP - GAP - BOTTOM) / 2
TRAIN, VALID, FAINT, TEXT = "#b45309", "#1d4ed8", "#9ca3af", "#374151"


def learning_curves(history: Sequence[Row], title: str, commonest: float) -> str:
    """An SVG document. ``commonest``: the accuracy of always saying the commonest class, as a line to compare with."""
    epochs = max(len(history), 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'role="img" font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(_summary(history, title))}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 18, f"{title}: {counted(len(history), 'epoch')}", TEXT, size=15),
    ]
    losses = [value for row in history for value in (row["loss"], row["val_loss"]) if _drawable(value)]
    top = max(losses, default=1.0)
    low = min(losses, default=0.0)
    spread = (low - 0.05 * (top - low), top + 0.05 * (top - low) + 1e-9)
    best = _best(history)
    parts += _panel(TOP, "loss", spread, epochs, _ticks(*spread), "{:.2f}")
    parts += [_line([row["loss"] for row in history], TOP, spread, epochs, TRAIN),
              _line([row["val_loss"] for row in history], TOP, spread, epochs, VALID)]  # fmt: skip
    below = TOP + PLOT + GAP
    shares = [row["val_accuracy"] for row in history if _drawable(row["val_accuracy"])]
    room = (max(0.0, min([commonest, *shares]) - 0.05), min(1.0, max([commonest, *shares]) + 0.05))
    parts += _panel(below, "accuracy on Valid, %", room, epochs, _ticks(*room), "{:.0f}", 100)
    level = _y(commonest, below, room)
    parts.append(
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}" stroke="{FAINT}" '
        'stroke-dasharray="4 4"/>'
    )
    parts.append(
        _text(WIDTH - RIGHT, level - 4, f"always the commonest class: {100 * commonest:.1f} %", FAINT, anchor="end")
    )
    parts.append(_line([row["val_accuracy"] for row in history], below, room, epochs, VALID))
    if best is not None:
        x, share = _x(best, epochs), history[best]["val_accuracy"]
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="{VALID}" '
                     'stroke-dasharray="2 3"/>')  # fmt: skip
        label = f"best accuracy: {100 * share:.1f} %, epoch {best + 1}"
        aside = (x - 6, "end") if x > WIDTH / 2 else (x + 6, "start")
        parts.append(_text(aside[0], TOP + 12, label, VALID, anchor=aside[1]))
    parts += [
        _text(WIDTH - RIGHT, 18, "Valid", VALID, anchor="end"),
        _text(WIDTH - RIGHT - 44, 18, "Train", TRAIN, anchor="end"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "epoch", TEXT, anchor="middle"),
        *(_text(_x(epoch - 1, epochs), HEIGHT - 24, str(epoch), TEXT, anchor="middle") for epoch in _epochs(epochs)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _summary(history: Sequence[Row], title: str) -> str:
    best = _best(history)
    ending = "" if best is None else (
        f"; the best accuracy on Valid is {100 * history[best]['val_accuracy']:.1f} %, after epoch {best + 1}"
    )  # fmt: skip
    return f"Learning curves of {title} over {counted(len(history), 'epoch')}{ending}"


def _best(history: Sequence[Row]) -> int | None:
    """The first of the epochs, from 0, with the highest accuracy on Valid."""
    found = [(row["val_accuracy"], -index) for index, row in enumerate(history) if _drawable(row["val_accuracy"])]
    return -max(found)[1] if found else None


def _epochs(last: int) -> list[int]:
    """The epochs that the axis names: the first, and round numbers to the end."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, last) if last / step <= 10)
    return sorted({1, *range(step, last + 1, step)})


def _panel(top: float, name: str, spread: tuple[float, float], epochs: int, ticks: list[float], form: str,
           times: float = 1) -> list[str]:  # fmt: skip
    parts = [_text(LEFT, top - 8, name, TEXT)]
    for tick in ticks:
        y = _y(tick, top, spread)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        parts.append(_text(LEFT - 6, y + 4, form.format(tick * times), TEXT, anchor="end"))
    return parts


def _line(values: Sequence[float | None], top: float, spread: tuple[float, float], epochs: int, colour: str) -> str:
    """A line through the values that there are, and a dot on each: one epoch alone is a dot."""
    places = [
        (_x(index, epochs), _y(value, top, spread))
        for index, value in enumerate(values) if _drawable(value) and value is not None
    ]  # fmt: skip
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in places)
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>{dots}'


def _x(index: int, epochs: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT - 8) * (index / max(epochs - 1, 1))


def _y(value: float, top: float, spread: tuple[float, float]) -> float:
    low, high = spread
    return top + PLOT * (1 - (value - low) / (high - low))


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 2)) if high > low else 1.0
    step *= next((times for times in (1, 2, 5) if (high - low) / (step * times) <= 5), 5)
    first = math.ceil(low / step)
    return [step * number for number in range(first, first + 8) if step * number <= high]


def _drawable(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _text(x: float, y: float, text: str, colour: str, *, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'
    )
