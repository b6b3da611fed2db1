"""The page's promises that can be read in its source: one file, nothing loaded, everything escaped, usable by all."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from ferplus_keras.errors import BadInputError
from tests.conftest import ROOT
from tests.verify.report.results import HOSTILE, made_up, of_other_hands, poisoned, several_backends
from verify.report import page as module
from verify.report.page import html, render_page
from verify.report.parity_page import parity_page

VOID = {"meta", "link", "br", "img", "input", "hr"}
STYLE = (ROOT / "verify/report/templates/style.css").read_text()


class Source(HTMLParser):
    """Every element with its attributes, and the text in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self._pieces: dict[str, list[list[str]]] = {}
        self.feed(text)
        self.close()
        self.texts = {tag: ["".join(each) for each in found] for tag, found in self._pieces.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self._pieces.setdefault(tag, []).append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self._pieces[tag][-1].append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


CASES = {
    "pass": made_up(),
    "fail": made_up(fault="conv4_2_3x3_bn"),
    "backends": several_backends(),
    "backends, fail": several_backends("pool1_3x3_s2"),
    "no number": made_up(fault="classifier", problem="shape (1, 7) where the reference has (1, 8)"),
    "real weights": made_up(standin=False),
    "senet": made_up(network="senet50"),
    "other hands": of_other_hands("conv4_2_3x3_bn"),
    "hostile, other hands": poisoned(of_other_hands()),
    "hostile": poisoned(made_up(fault="conv4_2_3x3_bn")),
}


@pytest.fixture(params=CASES, scope="module")
def source(request: pytest.FixtureRequest) -> Source:
    return Source(render_page(parity_page(CASES[request.param])))


def test_elements_are_closed_in_order(source: Source) -> None:
    assert source.open == []


def test_nothing_is_loaded(source: Source) -> None:
    for tag, attributes in source.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form", "audio", "video", "img")
        for name, value in attributes.items():
            assert not name.startswith("on") and name != "style"
            if name in ("src", "href", "action", "xlink:href", "srcset", "data", "poster"):
                assert value == "data:," or (value or "").startswith("#"), (tag, name, value)
    assert "url(" not in STYLE and "@import" not in STYLE


def test_only_our_style_and_script_may_act(source: Source) -> None:
    policy = next(each["content"] for each in source.of("meta") if each.get("http-equiv"))
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        (text,) = source.texts[tag]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy and f"{kind} 'sha256-{digest}';" in policy and "unsafe" not in policy
    assert policy and policy.startswith("default-src 'none';")


def test_the_page_can_be_read_aloud(source: Source) -> None:
    assert source.of("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in source.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), "a heading is skipped"
    ids = [attributes["id"] for _, attributes in source.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(source.texts["caption"]) == len(source.of("table")) and all(source.texts["caption"])
    assert {attributes.get("scope") for attributes in source.of("th")} == {"col", "row"}
    for tag, attributes in source.elements:
        for reference in (attributes.get("aria-labelledby") or "").split():
            assert reference in ids
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("role") == "img" or "class" in attributes


def test_stand_ins_are_said_wherever_a_reader_may_look() -> None:
    text = render_page(parity_page(CASES["pass"]))
    page = Source(text)
    assert page.texts["title"][0].startswith("STAND-IN: Parity passed: ")
    assert "STAND-IN weights" in page.texts["aside"][0] and "mean nothing" in page.texts["aside"][0]
    assert text.count('class="stamp"') == 2
    assert "STAND-IN" not in Source(render_page(parity_page(CASES["real weights"]))).texts["body"][0]


def test_hostile_text_is_text() -> None:
    page = Source(render_page(parity_page(CASES["hostile"])))
    assert len(page.of("script")) == len(page.of("style")) == 1
    assert HOSTILE in page.texts["body"][0]  # it is there, as text
    assert "49" not in page.texts["h1"][0]


def test_markup_of_ours_takes_values_as_text() -> None:
    assert html("<b>{}</b>", "<i>&") == "<b>&lt;i&gt;&amp;</b>"


def test_a_provenance_of_any_kind_is_shown() -> None:
    """It was written by whoever wrote the file."""
    result = made_up()
    odd = [{"a": [1, {"b": None}]}, "x" * 5000, 7]
    result["model"]["provenance"] |= {
        "preprocessing": odd,
        "labels": odd,
        "dropout": "much",
        "notes": odd,
        "tool": None,
    }
    text = Source(render_page(parity_page(result))).texts["body"][0]
    assert "x" * 601 not in text and "{'a': [1, {'b': None}]}" in text


def test_a_file_made_from_another_source_says_so() -> None:
    assert "same SHA-256" in render_page(parity_page(made_up()))
    result = made_up()
    result["source"]["sha256"] = "c" * 64
    assert "ANOTHER file: SHA-256 aaaa" in render_page(parity_page(result))


def test_a_port_of_other_hands_shows_how_its_layers_were_found() -> None:
    page = Source(render_page(parity_page(CASES["other hands"])))
    pairing = page.texts["section"][[each["id"] for each in page.of("section")].index("pairing")]
    assert "not sure" in pairing and "the first conv4_3_3x3" in pairing and "conv2d_12" in pairing
    assert "conv1_7x7_s2 (Conv), in the model conv2d_0" in page.texts["svg"][0] + "".join(page.texts["title"])
    ours = Source(render_page(parity_page(CASES["pass"])))
    assert "pairing" not in [each["id"] for each in ours.of("section")]


def test_the_cause_stands_on_top_and_in_prose() -> None:
    page = Source(render_page(parity_page(CASES["fail"])))
    assert "conv4_2_3x3_bn has epsilon 0.001, not 1e-05" in page.texts["header"][0]
    prose = page.texts["section"][0]
    assert "From the image up to conv4_2_3x3 both sides agree" in prose and "The cause is certain" in prose
    assert page.of("section")[0]["id"] == "cause"


def test_red_without_a_diagnosis_says_what_failed() -> None:
    result = made_up()
    result["tensors"] |= {"passed": False, "summary": "1 of 267 arrays differ, by up to 1 ulps: conv1_7x7_s2/kernel"}
    from verify.result import merged

    result = merged([result])
    assert not result["passed"]
    assert "1 of 267 arrays differ" in Source(render_page(parity_page(result))).texts["section"][0]


def test_without_jinja_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    module._environment.cache_clear()
    try:
        with pytest.raises(BadInputError, match=r"Jinja2.*pip install 'ferplus-keras\[verify\]'"):
            parity_page(made_up())
    finally:
        module._environment.cache_clear()


# --- contrast: WCAG 2's formula and levels ---------------------------------------------------------------------------


def palettes() -> dict[str, dict[str, str]]:
    roots = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{(.*?)\}", STYLE, re.S)
    ]
    return {"light": roots[0], "dark": roots[0] | roots[1]}


def luminance(color: str) -> float:
    channels = (int(color[index : index + 2], 16) / 255 for index in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_apart(scheme: str) -> None:
    colors = palettes()[scheme]
    grounds = ("page", "sheet", "shade")
    for ink in ("ink", "muted"):
        for ground in (*grounds, "good-soft", "bad-soft"):
            assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)
    for ink, ground in (
        ("good", "sheet"),
        ("good", "shade"),
        ("bad", "sheet"),
        ("bad", "shade"),
        ("amber", "amber-soft"),
    ):
        assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)
    for mark in ("s0", "s1", "s2", "s3", "s4", "s5", "bad", "good"):
        assert contrast(colors[mark], colors["sheet"]) >= 3 and contrast(colors[mark], colors["shade"]) >= 3, mark
