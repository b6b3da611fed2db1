"""The shell of every HTML report: a verdict, what follows from it, and sections. One file, no network, no surprise.

A page may load nothing: its policy (Content-Security-Policy) allows the two blocks of style and script that stand in
it, named by their hashes, and no more. So even a layer's name that slipped through escaping could do nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ferplus_keras.errors import BadInputError

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@dataclass(frozen=True)
class Fact:
    """A figure under the verdict: what it is, how much, and what to hold it against."""

    label: str
    value: str
    note: str = ""
    passed: bool | None = None  #: None for a figure that is no verdict


@dataclass(frozen=True)
class Verdict:
    """What the page says first. ``sentence`` may be markup made by :func:`html`."""

    passed: bool | None  #: None for a measurement of which nothing was asked
    title: str
    sentence: str
    facts: Sequence[Fact] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading. ``body`` is what :func:`render` or a function of ``parts`` made."""

    id: str
    title: str
    body: Markup
    lead: str = ""  #: a sentence or two under the heading: how to read what follows
    tone: str = ""  #: "fail" for a section that explains a failure


@dataclass(frozen=True)
class Page:
    """A whole report."""

    kind: str  #: what is reported on, such as "Parity"
    subject: str  #: the file it is about
    verdict: Verdict
    sections: Sequence[Section]
    standin: str = ""  #: what is made up and what follows from that; empty when nothing is
    footer: Sequence[str] = field(default=())
    style: str = ""  #: a style sheet of ``templates/`` for what only this kind of report has

    @property
    def title(self) -> str:
        """The browser tab's and bookmark's."""
        word = {True: " passed", False: " FAILED", None: ""}[self.verdict.passed]
        return f"{'STAND-IN: ' if self.standin else ''}{self.kind}{word}: {self.subject}"


def render_page(page: Page) -> str:
    """``page`` as one self-contained HTML file."""
    style, script = _asset("style.css"), _asset("script.js")
    if page.style:
        style = f"{style}\n{_asset(page.style)}"
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
    return str(
        render(
            "page.html.j2", page=page, style=_trusted(style), script=_trusted(script),
            policy=f"{policy}base-uri 'none'; form-action 'none'",
        )
    )  # fmt: skip


def render(template: str, **values: Any) -> Markup:
    """A template of ``templates/`` with ``values``, every text in them escaped."""
    return _trusted(_environment().get_template(template).render(**values))


def html(text: str, *values: object) -> Markup:
    """``text``, which is ours and may have tags, with the ``{}`` in it filled by escaped ``values``."""
    return _trusted(text).format(*values)


def _trusted(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise BadInputError(
            "Reports are written with Jinja2, which is not installed: pip install 'ferplus-keras[verify]', "
            "or leave --report out."
        ) from None
    # Every template is HTML or SVG, so everything is escaped, whatever a template is called.
    return Environment(
        loader=PackageLoader("verify.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=False,
    )  # fmt: skip


@cache
def _asset(name: str) -> str:
    return files("verify.report").joinpath("templates", name).read_text(encoding="utf-8").strip()


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode()}"
