"""The job summary: short, complete, and with nothing in it that GitHub would take for markup."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tests.verify.report.results import HOSTILE, made_up, of_other_hands, poisoned, several_backends
from verify.report import markdown
from verify.report.parity_texts import WORST, summary

#: CommonMark with GitHub's tables and its links from bare addresses; HTML passes, as it does at GitHub.
GITHUB = MarkdownIt("commonmark", {"html": True}).enable("table")


def test_green_says_all_there_is_to_say() -> None:
    result = several_backends()
    said = summary(result)
    assert said.startswith("# PASS: the same function of STAND-IN weights\n")
    assert len(said.splitlines()) < 100
    for told in (result["model"], result["source"]):
        assert told["name"] in said and told["sha256"] in said
    rendered = GITHUB.render(said)
    for level in result["levels"]:
        assert html.escape(level["title"], quote=False) in rendered
    assert rendered.count("<tr>") == (1 + 5) + (1 + WORST) + (1 + 2)
    assert "<strong>not independent</strong>" in rendered
    assert result["command"] in html.unescape(rendered)
    assert "Cause" not in said


def test_red_says_why_before_anything_else() -> None:
    said = summary(made_up(fault="conv4_2_3x3_bn", standin=False))
    assert said.startswith("# FAIL: not the same function\n") and "STAND-IN" not in said
    assert said.index("has epsilon 0.001") < said.index("Levels of proof")
    assert "First layer that differs: `conv4_2_3x3_bn`" in said


def test_guesses_are_said() -> None:
    assert "1 of these are guesses" in summary(of_other_hands()) and "guesses" not in summary(made_up())


def test_the_worst_layers_come_first() -> None:
    result = made_up(fault="conv4_2_3x3_bn")
    rows = re.findall(r"^\| `(.*?)` \| (float\d+) on", summary(result), re.MULTILINE)
    assert len(rows) == WORST and {dtype for _, dtype in rows} == {"float64"}
    run = result["runs"][0]
    errors = [next(each["relative"] for each in run["layers"] if each["layer"] == layer) for layer, _ in rows]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == max(each["relative"] for each in run["layers"])


def test_what_has_no_number_is_worse_than_any() -> None:
    result = made_up(fault="classifier", problem="shape (1, 7) where the reference has (1, 8)")
    assert re.search(r"## Worst layers\n\n\| layer .*\n.*\n\| `classifier` \| .*shape \(1, 7\)", summary(result))


def test_hostile_names_are_text() -> None:
    said = summary(poisoned(made_up(fault="conv4_2_3x3_bn"), f"{HOSTILE} [a](http://evil.test) www.evil.test *b*"))
    rendered = GITHUB.render(said)
    tags = set(re.findall(r"<(/?\w+)", rendered))
    assert {tag.strip("/") for tag in tags} <= {
        "h1", "h2", "p", "blockquote", "strong", "code", "table", "thead", "tbody", "tr", "th", "td", "br", "ul", "li",
    }  # fmt: skip
    # GitHub makes links of bare addresses that stand in the source outside code: there must be none.
    prose = re.sub(r"(`+).*?\1", "", said)
    assert "evil.test" in prose and "://" not in prose and "www." not in prose
    assert "<a" not in rendered


@settings(max_examples=300)
@given(st.text(max_size=60))
def test_any_text_comes_out_as_it_went_in(text: str) -> None:
    plain = " ".join(markdown._one_line(text).split())
    if not plain:
        return
    for escaped in (markdown.text(text), markdown.code(text)):
        rendered = GITHUB.render("\n".join(markdown.table(("a", "b"), [(f"x {escaped}", "end")])))
        cells = re.findall(r"<td>(.*?)</td>", rendered, re.DOTALL)
        assert len(cells) == 2 and cells[1] == "end", rendered
        shown = html.unescape(re.sub(r"</?code>", "", cells[0]))
        assert " ".join(shown.split()) == f"x {plain}"


@pytest.mark.parametrize("length", [10, 10_000_000])
def test_a_summary_is_never_larger_than_github_takes(length: int) -> None:
    said = markdown.document(["# heading", "é" * length])
    assert len(said.encode("utf-8")) < 1 << 20
    assert ("(cut:" in said) == (length > 1000)
