"""The accuracy report: every figure of the result is on the page, and nothing but them."""

from __future__ import annotations

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from ferplus_keras.dataset.protocols import PROTOCOLS
from tests.conftest import ROOT
from tests.verify.oracles import painted, seer, swapped
from verify.accuracy import evaluate, run_other_resizers, run_second_network
from verify.accuracy_gate import Expectation
from verify.accuracy_result import SCHEMA, as_result
from verify.report import write_report
from verify.report.accuracy_plots import reliability

CONTRACT = json.loads((ROOT / "verify/report/accuracy.schema.json").read_text())
HOSTILE = '"><script>alert(1)</script>|`$x$`@all\n# h.h5'
DATASET = painted([*range(8)] * 6, [0, 1, 2] * 16)


def result_of(
    name: str = "a.h5", expect: float | None = None, versus: bool = False, resize: bool = False
) -> dict[str, Any]:
    network = seer(swapped("sadness", "anger"), path=Path(name))
    network = replace(network, source=replace(network.source, name=name))
    evaluation = evaluate(network, DATASET, PROTOCOLS["albanie"], splits=("val", "test"))
    if resize:
        run_other_resizers(evaluation)
    if versus:
        run_second_network(evaluation, seer(path=Path("b.h5")))
    expected = [] if expect is None else [Expectation("test", expect, 0.1, "the test")]
    return as_result(evaluation, expected, f"ferplus verify accuracy '{name}'", 2.0)


@pytest.fixture(scope="module")
def red() -> dict[str, Any]:
    return result_of(expect=100.0, versus=True, resize=True)


def written(result: dict[str, Any], folder: Path) -> dict[str, str]:
    paths = write_report(result, folder, DATASET.images)
    assert paths[-1].name == "report.html"
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def test_the_schema_is_one_and_is_kept(red: dict[str, Any], tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(CONTRACT)
    assert CONTRACT["properties"]["schema"]["const"] == SCHEMA
    for result in (red, result_of()):
        jsonschema.validate(json.loads(written(result, tmp_path)["accuracy.json"]), CONTRACT)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(schema=2),
        lambda r: r.pop("protocol"),
        lambda r: r["splits"][0].update(accuracy=87.6),
        lambda r: r["splits"][0]["confusion"].pop(),
        lambda r: r["protocol"].update(name="mine"),
    ],
)
def test_the_schema_says_no(red: dict[str, Any], change: Any) -> None:
    result = json.loads(json.dumps(red))
    change(result)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(result, CONTRACT)


def test_the_page_says_what_was_found(red: dict[str, Any], tmp_path: Path) -> None:
    page = written(red, tmp_path)["report.html"]
    text = re.sub(r"<[^>]+>", " ", page)
    for figure in ("75.00 %", "protocol albanie", "McNemar", "Wilson", "12 of 16", "mcnDatasets", "align-corners"):
        assert figure in text, figure
    assert 'class="fail"' in page and "not as expected" in text
    assert page.count('class="plot confusion"') == page.count('class="plot reliability"') == 2
    assert len(re.findall(r'<text class="count', page)) == 2 * 8 and page.count("<svg") > 10


def test_bars_of_few_images_are_pale(red: dict[str, Any]) -> None:
    bins = [{"low": low, "high": low + 0.1, "n": n, "accuracy": 0.5, "confidence": low}
            for low, n in ((0.3, 9), (0.4, 600), (0.5, 0))]  # fmt: skip
    found = reliability(
        "r", red["splits"][0] | {"n": 609, "calibration": {"bins": bins, "ece": 0.1, "confidence": 0.4}}
    )
    assert re.findall(r'<g opacity="([0-9.]+)">', found) == ["0.15", "1.00"]
    nine, many = (float(low) - float(high) for high, low in re.findall(r'"whisker".*y1="(.*?)%" y2="(.*?)%"', found))
    assert nine > 50 and many < 10


def test_the_verdict_is_green_red_or_none(tmp_path: Path) -> None:
    for result, word in ((result_of(), "measured"), (result_of(expect=75.0), "pass"), (result_of(expect=90.0), "fail")):
        page = written(result, tmp_path)["report.html"]
        assert f'<body class="{word}' in page
        title = "" if word == "measured" else " passed" if word == "pass" else " FAILED"
        assert f"<title>Accuracy on FERPlus (protocol albanie){title}: a.h5</title>" in page


def test_the_mistakes_are_images_inside_the_page_and_nowhere_else(red: dict[str, Any], tmp_path: Path) -> None:
    files = written(red, tmp_path)
    sources = re.findall(r'<img src="data:image/png;base64,([^"]+)"', files["report.html"])
    assert len(sources) == sum(len(split["mistakes"]) for split in red["splits"]) > 0
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources[0]))))
    np.testing.assert_array_equal(first, DATASET.images[red["splits"][0]["mistakes"][0]["row"]])
    assert not any("base64" in content for name, content in files.items() if name != "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_the_page_loads_nothing_and_its_style_is_the_one_it_allows(red: dict[str, Any], tmp_path: Path) -> None:
    page = written(red, tmp_path)["report.html"]
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and " style=" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_junit_has_a_case_for_each_thing_asked(red: dict[str, Any], tmp_path: Path) -> None:
    tree = ElementTree.fromstring(written(red, tmp_path)["junit.xml"])
    assert (tree.get("tests"), tree.get("failures")) == ("3", "3")
    assert {each.get("name") for each in tree.iter("property")} >= {"protocol", "test.accuracy", "val.n"}
    quiet = ElementTree.fromstring(written(result_of(), tmp_path)["junit.xml"])
    assert (quiet.get("tests"), quiet.get("failures")) == ("1", "0")


def test_the_summary_names_the_protocol_and_every_split(red: dict[str, Any], tmp_path: Path) -> None:
    summary = written(red, tmp_path)["report.md"]
    assert summary.startswith("# FAIL: 75.00 % on val and 75.00 % on test")
    assert "Protocol **albanie**" in summary and "| disgust |" in summary and "Repeat with:" in summary


def test_names_from_outside_are_only_text(tmp_path: Path) -> None:
    files = written(result_of(name=HOSTILE, expect=100.0, versus=True), tmp_path)
    outside_of_code = re.sub(r"(`+) ?[^\n]*?\1(?!`)", "", files["report.md"])
    assert "<script>alert" not in files["report.html"] and "<script>" not in outside_of_code
    ElementTree.fromstring(files["junit.xml"])
    assert "\n# h" not in files["report.md"]


def test_a_standin_says_so_on_every_paper(tmp_path: Path) -> None:
    files = written(result_of(name="a-standin.h5"), tmp_path)
    assert all("STAND-IN" in files[name] for name in ("report.html", "report.md"))
    assert json.loads(files["accuracy.json"])["standin"] is True
