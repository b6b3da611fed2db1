"""Networks side by side: each under its own name, on the same images, with the figures that each has alone."""

from __future__ import annotations

import json
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from ferplus_keras.cli import main
from ferplus_keras.dataset import load_ferplus
from ferplus_keras.dataset.protocols import PROTOCOLS
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.emotions import EMOTIONS
from tests.ferplus_files import Small, write_files, write_pair
from tests.verify.oracles import painted, seer, swapped
from verify.accuracy import evaluate
from verify.accuracy_result import as_result
from verify.accuracy_text import compared_text
from verify.comparing import COMPARED, compare, different
from verify.predictors import Predictor
from verify.report.comparison_page import comparison_page
from verify.report.page import render_page


def named(path: str, predictor: Predictor) -> Predictor:
    source = replace(predictor.source, name=Path(path).name)
    return replace(predictor, source=source, engine=replace(predictor.engine, path=Path(path)))


def test_each_network_has_the_figures_that_it_has_alone() -> None:
    dataset = painted([*range(8)] * 3 + [3])
    dataset.votes[-1] = [0, 0, 0, 5, 5, 0, 0, 0, 0, 0]  # only Microsoft's majority leaves it out
    networks = [
        named("a.h5", seer()), named("b.h5", seer(swapped("sadness", "anger"))),
        named("c.h5", seer(lambda logits: logits[:, :7], labels=EMOTIONS[:7])),
    ]  # fmt: skip
    result = compare(networks, dataset)
    for network, found in zip(networks, result["networks"], strict=True):
        for name in COMPARED:
            alone = evaluate(network, dataset, PROTOCOLS[name]).splits[0].rate
            assert found["protocols"][name]["all"] == alone.as_dict()
    assert [each["protocols"]["majority"]["all"]["n"] for each in result["networks"]] == [24, 24, 24]
    assert [each["protocols"]["albanie"]["all"]["correct"] for each in result["networks"]] == [25, 18, 22]
    assert result["networks"][2]["protocols"]["albanie"]["without_missing"]["accuracy"] == 1
    assert [(each["first"], each["second"], each["only_first"]) for each in result["pairs"]] == [
        (0, 1, 7), (0, 2, 3), (1, 2, 3)
    ]  # fmt: skip
    assert all(each["per_second"] > 0 for each in result["networks"])
    plain = json.loads(json.dumps(result, allow_nan=False))
    text, page = compared_text(plain), render_page(comparison_page(plain))
    assert "a.h5 alone is right on 7, b.h5 alone on 0" in text and "no class for contempt" not in text
    for name in ("a.h5", "b.h5", "c.h5", "McNemar", "Calibration error"):
        assert name in page


def test_what_makes_a_figure_worthless_is_said_as_of_a_single_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FERPLUS_CACHE", "off")
    data = painted([*range(8)] * 30)
    files = Small.of(data).files()
    dataset = load_ferplus(write_files({name: files[name] for name in files if "FER2013Test" in name}, tmp_path))
    guess = seer(call=lambda images: np.eye(8)[np.full(len(images), 7)])
    networks = [named("a.h5", seer(swapped("sadness", "anger"))), named("b<i>.h5", guess)]
    plain = json.loads(json.dumps(compare(networks, dataset, limit=200)))

    alone = [as_result(evaluate(each, dataset, PROTOCOLS["albanie"], limit=200), [], "", 0.0) for each in networks]
    assert {*alone[0]["notes"], *alone[1]["notes"]} <= {
        *plain["notes"], *plain["networks"][0]["notes"], *plain["networks"][1]["notes"]
    }  # fmt: skip
    text, page = compared_text(plain), render_page(comparison_page(plain))
    assert "Read this first" in page
    for note in (
        "which are not fer2013new.csv&#39;s", "is no folder for train and val, so exact",
        "200 test images, where the protocol albanie keeps 3,294", "the protocol majority keeps 3,153",
        "<code>a.h5</code>: with the classes in the order", "<code>b&lt;i&gt;.h5</code>: every test image gets",
        "<code>b&lt;i&gt;.h5</code>: 12.50 % on test is no better than always",
    ):  # fmt: skip
        assert note in page, note
        assert unescape(note.replace("<code>", "note: ").replace("</code>", "")) in text, note


def test_a_whole_split_needs_no_caution(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COMPARED:
        monkeypatch.setitem(PROTOCOLS, name, replace(PROTOCOLS[name], kept=(0, 0, 16)))
    dataset = painted([*range(8)] * 2)
    networks = [named("a.h5", seer()), named("b.h5", seer())]
    result = compare(networks, dataset)
    assert not result["notes"] and "Read this first" not in render_page(comparison_page(result))
    assert len(compare(networks, dataset, limit=15)["notes"]) == len(COMPARED)
    assert "1 test" in compare(networks, dataset, limit=1)["notes"][0]


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    networks = [named(path, seer()) for path in ("one/x.h5", "two/x.h5", "three/y.h5")]
    result = compare(networks, painted([*range(8)]))
    assert [each["name"] for each in result["networks"]] == ["one/x.h5", "two/x.h5", "y.h5"]


@pytest.mark.parametrize("names", [["a.h5"], ["a.h5", "a.h5"], ["a.h5", "./a.h5"]])
def test_a_network_is_not_compared_with_itself(names: list[str]) -> None:
    with pytest.raises(BadInputError, match="two or more different networks"):
        different([Path(name) for name in names])


def test_the_command_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FERPLUS_CACHE", "off")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("verify.predictors.recognised", lambda _name: None)
    monkeypatch.setattr("verify.predictors.open_predictor", lambda name: named(name, seer()))
    dataset = painted([*range(8)])
    data = write_pair(Small.of(dataset), tmp_path / "fer")
    for name in ("a.h5", "b.h5"):
        Path(name).touch()
    assert main(["verify", "compare", "a.h5", "b.h5", "--data", str(data), "--html", "c.html"]) == 0
    assert "100.00 %" in capsys.readouterr().out
    assert f"ferplus verify compare a.h5 b.h5 --data {data} --split test" in Path("c.html").read_text()
