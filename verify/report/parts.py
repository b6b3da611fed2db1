"""What reports are made of: levels, tables, files, lists of facts, commands. Each function gives markup."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ferplus_keras.durations import duration
from verify.report import numbers
from verify.report.page import html, render
from verify.result import Result

if TYPE_CHECKING:
    import numpy as np
    from markupsafe import Markup


@dataclass(frozen=True)
class Column:
    """A column of a table. ``kind``: "text", "code", "number" or "verdict" (how it is set, and how it sorts)."""

    title: str
    kind: str = "text"
    help: str = ""  #: what the figures are, shown on hover and read out
    down_first: bool = False  #: the first click on the heading sorts the largest (the worst) to the top


@dataclass(frozen=True)
class Cell:
    """A cell: what is shown, and what it is sorted by (None: the text; numbers sort before it)."""

    text: str
    sort: float | None = None
    passed: bool | None = None  #: colours the cell, with a word beside it in verdict columns


@dataclass(frozen=True)
class Table:
    """A table that sorts by its headings. ``caption`` says what it shows."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    row_header: int = 0  #: the column that names the row
    tall: bool = False  #: scrolls within itself, under headings that stay


def levels(steps: Sequence[dict[str, Any]]) -> Markup:
    """A result's levels, one under the other, each with its verdict."""
    return render("levels.html.j2", steps=steps)


def table(content: Table) -> Markup:
    """A sortable table; without JavaScript it stands as it was given."""
    return render("table.html.j2", table=content)


@dataclass(frozen=True)
class Remark:
    """Something with a word about it and a sentence or two."""

    title: str
    word: str
    text: str
    passed: bool | None = None  #: colours the word


def remarks(content: Sequence[Remark]) -> Markup:
    """Remarks one under the other."""
    return render("remarks.html.j2", remarks=content)


def notes(content: Sequence[str], of: Sequence[tuple[str, str]] = ()) -> Markup:
    """What to know before reading on: sentences, and others ``of`` a file each, which is named."""
    items = [html("<li>{}.</li>", note[:1].upper() + note[1:]) for note in content]
    items += [html("<li><code>{}</code>: {}.</li>", name, note) for name, note in of]
    return html('<div class="prose"><ul class="notes">{}</ul></div>', html("").join(items))


def fold(summary: str, body: Markup, *, open: bool = False) -> Markup:
    """``body`` under a line that opens and closes it."""
    return render("fold.html.j2", summary=summary, body=body, open=open)


@dataclass(frozen=True)
class File:
    """A file that took part, and where it came from."""

    role: str
    name: str
    facts: Sequence[tuple[str, str]]
    sha256: str = ""
    standin: bool = False


def file_cards(content: Sequence[File]) -> Markup:
    """Files side by side, each with its size, hash and provenance."""
    return render("files.html.j2", files=content)


def facts(content: Sequence[tuple[str, Any]]) -> Markup:
    """Names and values in two columns."""
    return render("facts.html.j2", facts=content)


def repetition(result: Result, *more: tuple[str, str]) -> Markup:
    """The command line that made ``result``, to be copied, and what it took; ``more`` stands first."""
    rows = [
        *more, ("Machine", result["machine"]), ("Versions", versions(result)),
        ("Time", f"{numbers.moment(result['created'])}, took {duration(result['seconds'])}"),
        ("Memory", f"{numbers.size(result['peak_bytes'])} at most"),
    ]  # fmt: skip
    return html("{}{}", command(result["command"]), facts(rows))


def versions(result: Result) -> str:
    """The libraries that took part."""
    return ", ".join(f"{name} {version}" for name, version in result["versions"].items())


def command(line: str) -> Markup:
    """A command line to be copied."""
    return render("command.html.j2", line=line)


def image_source(pixels: np.ndarray) -> str:
    """An image as part of the page: a PNG in a data URI."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
