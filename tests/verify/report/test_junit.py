"""JUnit files that every consumer takes: the attributes and their order, the counts, and odd text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.verify.report.results import HOSTILE, made_up, poisoned, several_backends
from verify.report.junit import Case, Suite, to_xml
from verify.report.parity_texts import junit_xml

CREATED = "2026-11-24T19:57:34+00:00"

#: Element -> attributes it must have, attributes it may have, elements it may hold: what the schemas of Jenkins
#: (xunit-plugin), GitLab and Azure agree on.
RULES = {
    "testsuites": ({"name", "tests", "failures", "errors", "time"}, set(), {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname"},
        set(),
        {"properties", "testcase"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": ({"name", "classname", "time"}, set(), {"failure", "skipped"}),
    "failure": ({"message", "type"}, set(), set()),
    "skipped": ({"message"}, set(), set()),
}


def checked(xml: str) -> ElementTree.Element:
    root = ElementTree.fromstring(xml.encode("utf-8"))
    assert root.tag == "testsuites"
    for element in root.iter():
        must, may, holds = RULES[element.tag]
        assert must <= set(element.attrib) <= must | may, element.attrib
        assert {child.tag for child in element} <= holds
        if element.tag in ("testsuites", "testsuite"):
            cases = list(element.iter("testcase"))
            assert int(element.get("tests", "")) == len(cases)
            assert int(element.get("failures", "")) == sum(case.find("failure") is not None for case in cases)
            assert int(element.get("errors", "")) == 0
            # Jenkins' pattern for seconds knows no exponent and no sign.
            assert re.fullmatch(r"\d+\.\d{3}", element.get("time", ""))
            assert float(element.get("time", "")) == pytest.approx(
                sum(float(case.get("time", "")) for case in cases), abs=0.001 * len(cases)
            )
        if element.tag == "testsuite":
            assert int(element.get("skipped", "")) == sum(case.find("skipped") is not None for case in element)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", element.get("timestamp", ""))
            # Properties come first.
            assert [child.tag for child in element].count("properties") == (element[0].tag == "properties")
        if element.tag == "testcase":
            assert len(element) <= 1
    return root


def test_a_suite_for_the_levels_and_one_for_each_run() -> None:
    result = several_backends()
    root = checked(junit_xml(result))
    assert [suite.get("name") for suite in root] == [
        "parity: levels", "parity: float64 on tensorflow", "parity: float32 on tensorflow", "parity: float32 on jax",
        "parity: float32 on torch",
    ]  # fmt: skip
    assert [case.get("name") for case in root[0].iter("testcase")] == [level["title"] for level in result["levels"]]
    for suite, run in zip(root[1:], result["runs"], strict=True):
        names = [case.get("name") for case in suite.iter("testcase")]
        assert names == [each["layer"] for each in run["layers"]] + ["logits", "probabilities", "decisions"]
        # No two cases of one name and class: consumers would take the second for a repetition of the first.
        assert len({(case.get("classname"), case.get("name")) for case in suite.iter("testcase")}) == len(names)
    assert root.get("failures") == "0"


def test_red_names_the_layer_the_sentence_and_the_cause() -> None:
    result = made_up(fault="conv4_2_3x3_bn")
    root = checked(junit_xml(result))
    failed = {case.get("name"): case.find("failure") for case in root[1] if case.find("failure") is not None}
    first = failed["conv4_2_3x3_bn"]
    assert first is not None and next(iter(failed)) == "conv4_2_3x3_bn"
    assert re.fullmatch(r"off by \d\.\de-04, 1e-12 is allowed", first.get("message", ""))
    assert "conv4_2_3x3_bn has epsilon 0.001, not 1e-05 (certain" in (first.text or "")
    assert "conv4_2_3x3" not in failed and "classifier" in failed and "logits" in failed
    levels = {case.get("classname"): case.find("failure") for case in root[0] if case.tag == "testcase"}
    assert levels["parity.layers"] is not None and levels["parity.tensors"] is None
    assert "epsilon" in (levels["parity.layers"].text or "")


@pytest.mark.parametrize(
    "result",
    [made_up(), several_backends(), made_up(fault="conv1_7x7_s2"), made_up(fault="classifier", problem="shape (1, 7)")],
    ids=["pass", "backends", "fail", "no number"],
)
def test_green_and_red_are_the_results(result: dict) -> None:
    # A float32 layer over the tolerance is rounding, no failure; the JUnit file may not be redder than the verdict.
    root = checked(junit_xml(result))
    assert (root.get("failures") == "0") == result["passed"]


def test_float32_layers_beyond_the_tolerance_are_no_failures_of_a_run_that_passed() -> None:
    result = made_up(dtypes=("float32",))
    result["runs"][0]["layers"][7] |= {"relative": 1e-4, "passed": False}
    assert checked(junit_xml(result)).get("failures") == "0"


def test_hostile_names_stay_text() -> None:
    root = checked(junit_xml(poisoned(made_up(fault="conv4_2_3x3_bn"))))
    name = root[1].find("testcase").get("name")  # type: ignore[union-attr]
    assert name == f"conv1_7x7_s2{HOSTILE}".replace("\x07", "\N{REPLACEMENT CHARACTER}")


@settings(max_examples=200)
@given(st.text(), st.text(), st.text())
def test_any_text_survives(name: str, failure: str, details: str) -> None:
    xml = to_xml(name, [Suite(name, [Case(name, name, 1.0, failure, details=details)], [(name, details)])], CREATED)
    case = checked(xml)[0].find("testcase")
    assert case is not None and case.get("name") == legal(name)
    if failure:
        told = case.find("failure")
        assert told is not None and told.get("message") == legal(failure)


def legal(text: str) -> str:
    """What XML can say of ``text``: control characters and lone surrogates become a mark that something was there."""
    return "".join(
        each if each in "\t\n\r" or " " <= each <= "\ud7ff" or "\ue000" <= each <= "\ufffd" or each > "\uffff"
        else "\N{REPLACEMENT CHARACTER}"
        for each in text
    )  # fmt: skip


def test_the_time_is_said_without_offset_in_utc() -> None:
    xml = to_xml("x", [Suite("x", [])], "2026-11-24T19:57:34+02:00")
    assert 'timestamp="2026-11-24T17:57:34"' in xml
