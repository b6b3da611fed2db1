"""JUnit XML for CI systems: the form that Jenkins, GitLab, Azure and the GitHub actions for it have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from xml.sax.saxutils import escape, quoteattr

#: What XML 1.0 cannot hold at all, not even escaped: control characters, lone surrogates, the last two of the plane.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One check. ``failure``: the sentence that says what is wrong; ``skipped``: why it was not made."""

    name: str
    classname: str
    seconds: float = 0.0
    failure: str = ""
    kind: str = "parity"  #: the failure's type
    details: str = ""  #: more lines under the failure
    skipped: str = ""


@dataclass(frozen=True)
class Suite:
    """Checks that belong together."""

    name: str
    cases: Sequence[Case]
    properties: Sequence[tuple[str, str]] = field(default=())


def to_xml(name: str, suites: Sequence[Suite], created: str) -> str:
    """All ``suites`` as one document. ``created`` is an ISO time."""
    # Schemas want local time without an offset; ours is UTC throughout.
    stamp = datetime.fromisoformat(created).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    every = [case for suite in suites for case in suite.cases]
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<testsuites{_counts(name, every)}>"]
    for suite in suites:
        skipped = sum(bool(case.skipped) and not case.failure for case in suite.cases)
        more = f'skipped="{skipped}" timestamp="{stamp}" hostname="localhost"'
        lines.append(f"  <testsuite{_counts(suite.name, suite.cases)} {more}>")
        if suite.properties:
            lines.append("    <properties>")
            lines += [
                f"      <property name={_quoted(key)} value={_quoted(value)}/>" for key, value in suite.properties
            ]
            lines.append("    </properties>")
        for case in suite.cases:
            lines += _case(case)
        lines.append("  </testsuite>")
    return "\n".join([*lines, "</testsuites>", ""])


def _case(case: Case) -> list[str]:
    head = f'    <testcase name={_quoted(case.name)} classname={_quoted(case.classname)} time="{case.seconds:.3f}"'
    if case.failure:
        text = escape(_legal("\n".join(filter(None, (case.failure, case.details)))))
        told = f"message={_quoted(case.failure)} type={_quoted(case.kind)}"
        return [f"{head}>", f"      <failure {told}>{text}</failure>", "    </testcase>"]
    if case.skipped:
        return [f"{head}>", f"      <skipped message={_quoted(case.skipped)}/>", "    </testcase>"]
    return [f"{head}/>"]


def _counts(name: str, cases: Sequence[Case]) -> str:
    failures = sum(bool(case.failure) for case in cases)
    seconds = sum(case.seconds for case in cases)
    return f' name={_quoted(name)} tests="{len(cases)}" failures="{failures}" errors="0" time="{seconds:.3f}"'


def _quoted(text: str) -> str:
    return quoteattr(_legal(text), {"\n": "&#10;", "\r": "&#13;", "\t": "&#9;"})


def _legal(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
