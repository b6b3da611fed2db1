"""JUnit XML for CI systems: the form that Jenkins, GitLab, Azure and the GitHub actions for it have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from xml.etree import ElementTree

#: What XML 1.0 cannot hold at all, not even escaped: control characters, lone surrogates, the last two of the plane.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One check. ``failure``: the sentence that says what is wrong."""

    name: str
    classname: str
    seconds: float = 0.0
    failure: str = ""
    kind: str = "parity"  #: the failure's type
    details: str = ""  #: more lines under the failure


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
    root = ElementTree.Element("testsuites", _counts(name, [case for suite in suites for case in suite.cases]))
    for suite in suites:
        more = {"skipped": "0", "timestamp": stamp, "hostname": "localhost"}
        inner = ElementTree.SubElement(root, "testsuite", _counts(suite.name, suite.cases) | more)
        if suite.properties:
            properties = ElementTree.SubElement(inner, "properties")
            for key, value in suite.properties:
                ElementTree.SubElement(properties, "property", name=_legal(key), value=_legal(value))
        for case in suite.cases:
            about = {"name": _legal(case.name), "classname": _legal(case.classname), "time": f"{case.seconds:.3f}"}
            shown = ElementTree.SubElement(inner, "testcase", about)
            if case.failure:
                attributes = {"message": _legal(case.failure), "type": _legal(case.kind)}
                text = "\n".join(filter(None, (case.failure, case.details)))
                ElementTree.SubElement(shown, "failure", attributes).text = _legal(text)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _counts(name: str, cases: Sequence[Case]) -> dict[str, str]:
    failures, seconds = sum(bool(case.failure) for case in cases), sum(case.seconds for case in cases)
    return {"name": _legal(name), "tests": str(len(cases)), "failures": str(failures), "errors": "0",
            "time": f"{seconds:.3f}"}  # fmt: skip


def _legal(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
