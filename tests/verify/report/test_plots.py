"""Plots put every figure where it belongs, the ones that have no place on a logarithmic scale too."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.verify.report.results import HOSTILE, made_up, several_backends
from verify.report.parity_page import panels
from verify.report.plots import Band, Panel, Point, Scale, Series, bands, log_plot

SVG = ElementTree.Element


def parsed(panel: Panel) -> ElementTree.Element:
    text = str(log_plot(panel))
    assert "{{" not in text.replace(HOSTILE, "")
    # HTML knows boolean attributes without a value; XML does not.
    return ElementTree.fromstring(text.replace(" data-plot>", ' data-plot="">'))


def columns(figure: SVG) -> list[SVG]:
    return [each for each in figure.iter("g") if each.get("class") == "col"]


def percent(text: str | None) -> float:
    assert text is not None and text.endswith("%")
    return float(text[:-1])


def panel(*values: float | None, **more: object) -> Panel:
    points = [Point(value, f"value {value}") for value in values]
    names = [f"layer{index}" for index in range(len(values))]
    return Panel(
        **({"id": "p", "title": "t", "summary": "s", "positions": names, "series": [Series("a", points)]} | more)
    )  # type: ignore[arg-type]


def test_the_higher_the_larger() -> None:
    figure = parsed(panel(1e-15, 1e-12, 1e-14))
    heights = [percent(column.find("use").get("y")) for column in columns(figure)]  # type: ignore[union-attr]
    assert heights == [100.0, 0.0, pytest.approx(200 / 3, abs=0.001)]
    places = [percent(column.find("use").get("x")) for column in columns(figure)]  # type: ignore[union-attr]
    assert places == [pytest.approx(x, abs=0.001) for x in (100 / 6, 50, 500 / 6)]


def test_zero_and_no_number_have_places_of_their_own() -> None:
    figure = parsed(panel(0.0, None, math.inf, 1e-7))
    zero, none, infinite, point = columns(figure)
    assert "zero" in (zero.find("use").get("class") or "") and percent(zero.find("use").get("y")) == 100  # type: ignore[union-attr]
    for each in (none, infinite):
        assert each.find("use") is None and each.find("svg").get("class") == "without"  # type: ignore[union-attr]
    assert "zero" not in (point.find("use").get("class") or "")  # type: ignore[union-attr]
    legend = "".join(figure.find("ul").itertext())  # type: ignore[union-attr]
    assert "exactly equal" in legend and "no number" in legend


def test_nothing_to_plot_is_no_error() -> None:
    assert columns(parsed(panel())) == []
    parsed(panel(None, 0.0, limit=None))


def test_a_bound_is_broken_where_it_is_unknown() -> None:
    figure = parsed(panel(1e-9, 1e-9, 1e-9, 1e-9, bound=[1e-8, 1e-8, None, 1e-8], bound_name="b"))
    lines = next(each for each in figure.iter("svg") if each.get("class") == "lines")
    assert len([each for each in lines if each.get("class") == "bound"]) == 2


@given(st.lists(st.floats(min_value=1e-300, max_value=1e300), min_size=1))
def test_a_scale_holds_all_its_values(values: list[float]) -> None:
    scale = Scale.around(values)
    assert all(-1e-9 <= scale.at(value) <= 100 + 1e-9 for value in values)
    assert 1 <= len(scale.ticks) <= 10 and all(scale.low <= tick <= scale.high for tick in scale.ticks)


def test_bands_put_neighbours_together() -> None:
    assert bands(["a", "a", "b", "a"]) == [Band("a", 0, 1), Band("b", 2, 2), Band("a", 3, 3)]


# --- of a parity result ---------------------------------------------------------------------------------------------


def test_a_panel_for_each_precision_with_the_bound_and_the_tolerance() -> None:
    shown = panels(several_backends())
    assert [each.title for each in shown] == ["float64", "float32"]
    assert [[series.name for series in each.series] for each in shown] == [
        ["tensorflow"],
        ["tensorflow", "jax", "torch"],
    ]
    assert [each.limit for each in shown] == [1e-12, 5e-5]
    for each in shown:
        figure = parsed(each)
        assert len(columns(figure)) == len(each.positions) == 174
        assert all(len(column.findall("use")) == len(each.series) for column in columns(figure))
        assert any(line.get("class") == "limit" for line in figure.iter("line"))
        assert len({mark.get("href") for column in columns(figure) for mark in column.iter("use")}) == len(each.series)
        # Every mark lies below the tolerance, and says its figure.
        limit = next(percent(line.get("y1")) for line in figure.iter("line") if line.get("class") == "limit")
        for column in columns(figure):
            assert all(percent(mark.get("y")) > limit for mark in column.findall("use"))
            assert re.search(r"rounding can do \d", "".join(column.find("title").itertext()))  # type: ignore[union-attr]


def test_the_first_layer_that_departs_is_pointed_at() -> None:
    float64, float32 = panels(made_up(fault="conv4_2_3x3_bn"))
    for each in (float64, float32):
        assert each.flag is not None and each.positions[each.flag[0]] == "conv4_2_3x3_bn (BatchNorm)"
        marks = [(mark.get("class") or "") for column in columns(parsed(each)) for mark in column.iter("use")]
        assert all("beyond" not in mark for mark in marks[: each.flag[0]])
        assert all("beyond" in mark for mark in marks[each.flag[0] :])
    assert all(each.flag is None for each in panels(made_up()))


def test_float32_layers_beyond_the_tolerance_are_not_red_in_a_run_that_passed() -> None:
    result = made_up(dtypes=("float32",))
    result["runs"][0]["layers"][7] |= {"relative": 1e-4, "passed": False}
    (shown,) = panels(result)
    assert not any(point.beyond for series in shown.series for point in series.points if point)


def test_a_reference_that_does_not_show_every_layer_leaves_gaps() -> None:
    result = several_backends()
    result["runs"][2]["layers"] = result["runs"][2]["layers"][::2]
    shown = panels(result)[1]
    assert len(shown.positions) == 174
    assert [point is None for point in shown.series[1].points[:4]] == [False, True, False, True]
    parsed(shown)
