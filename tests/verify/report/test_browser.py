"""The report in a real browser: what a reader sees, clicks and types."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.verify.report.results import made_up, of_other_hands, poisoned, several_backends
from tests.verify.report.test_accuracy_report import DATASET, result_of
from verify.report import write_report

pytestmark = pytest.mark.slow  # they start a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on PATH: install the package chromium to run the tests of the report's page")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    results = {
        "pass": made_up(),
        "fail": made_up(fault="conv4_2_3x3_bn"),
        "backends": several_backends(),
        "long": made_up(name=f"{'x' * 250}.h5", network="senet50"),
        "hostile": poisoned(of_other_hands("conv4_2_3x3_bn")),
    }
    return {name: write_report(result, folder / name)[-1] for name, result in results.items()}


class Visit:
    """A page that is open, with everything that it asked for and complained about."""

    def __init__(self, browser: Any, path: Path, width: int = 1280, **more: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **more)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message) or dialog.dismiss())
        self.page.goto(path.as_uri())
        assert self.requests == [path.as_uri()], "the page loads something"

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_error: object) -> None:
        self.context.close()
        assert not self.complaints

    def column(self, number: int, table: str = "#figures details[open] table") -> list[str]:
        return self.page.eval_on_selector_all(
            f"{table} tbody tr > :nth-child({number})", "all => all.map(e => e.textContent)"
        )


@pytest.mark.parametrize("name", ["pass", "fail", "backends", "long", "hostile"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_fits_and_loads_nothing(
    name: str, width: int, scheme: str, browser: Any, reports: dict[str, Path]
) -> None:
    with Visit(browser, reports[name], width, color_scheme=scheme) as visit:
        wide, inner = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= inner == width, "the page scrolls sideways"
        # No letter of the plot is cut off by the edge of the screen.
        for box in visit.page.evaluate(
            "[...document.querySelectorAll('.marks text')].map(e => e.getBoundingClientRect())"
        ):
            assert box["left"] >= 0 and box["right"] <= width
        visit.page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        dark = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, dark[4:-1].split(","))) < 64) == (scheme == "dark")


def test_the_verdict_is_the_first_thing_to_be_seen(browser: Any, reports: dict[str, Path]) -> None:
    for name, verdict in (("pass", "Passed: The same function"), ("fail", "Failed: Not the same function")):
        with Visit(browser, reports[name], 390) as visit:
            assert visit.page.locator("h1").inner_text().replace("\n", " ") == verdict
            assert visit.page.locator("h1").bounding_box()["y"] < 200
            assert "STAND-IN weights" in visit.page.locator("aside").inner_text()
            assert visit.page.title().startswith("STAND-IN: ")


def test_a_click_on_a_heading_sorts_worst_first_and_then_the_other_way(browser: Any, reports: dict[str, Path]) -> None:
    with Visit(browser, reports["fail"]) as visit:
        head = visit.page.locator("#figures details[open] th", has_text="Error").first
        assert head.get_attribute("aria-sort") is None
        before = visit.column(2)
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == "descending"
        errors = [float(text) for text in visit.column(4)]
        assert errors == sorted(errors, reverse=True) and errors[0] == 1e-3
        assert sorted(visit.column(2)) == sorted(before) and visit.column(2) != before
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        assert [float(text) for text in visit.column(4)] == sorted(errors)
        # Back to the network's own order.
        visit.page.locator("#figures details[open] th", has_text="#").locator("button").click()
        assert visit.column(2) == before
        assert head.get_attribute("aria-sort") is None


def test_the_keyboard_sorts_too(browser: Any, reports: dict[str, Path]) -> None:
    with Visit(browser, reports["pass"]) as visit:
        button = visit.page.locator("#figures details[open] th button").nth(1)
        button.focus()
        visit.page.keyboard.press("Enter")
        names = visit.column(2)
        assert names[:2] == ["classifier", "conv1_7x7_s2"] and button.evaluate("e => document.activeElement === e")
        visit.page.keyboard.press("Space")
        assert visit.column(2)[-1] == "classifier"


def test_what_is_equal_and_what_has_no_number_find_their_places(browser: Any, tmp_path: Path) -> None:
    path = write_report(made_up(fault="classifier", problem="shape (1, 7)", dtypes=("float32",)), tmp_path)[-1]
    with Visit(browser, path) as visit:
        visit.page.locator("#figures details[open] th button").nth(3).click()
        errors = visit.column(4)
        assert errors[0] == "shape (1, 7)" and errors[-1] == "equal"


def test_tooltips_follow_the_pointer_and_the_arrow_keys(browser: Any, reports: dict[str, Path]) -> None:
    with Visit(browser, reports["backends"]) as visit:
        plot = visit.page.locator("[data-plot]").nth(1)
        tip = plot.locator(".tip")
        assert not tip.is_visible()
        plot.locator(".col").nth(100).hover()
        told = tip.inner_text().splitlines()
        result = several_backends()
        entry = result["runs"][1]["layers"][100]
        assert told[0] == f"{entry['layer']} ({entry['kind']})"
        assert told[1].startswith(f"tensorflow: {entry['relative']:.1e}, rounding can do") and len(told) == 4
        visit.page.mouse.move(0, 0)
        assert not tip.is_visible()
        plot.focus()
        visit.page.keyboard.press("ArrowRight")
        assert tip.inner_text().startswith(result["runs"][1]["layers"][1]["layer"])
        visit.page.keyboard.press("End")
        assert tip.inner_text().startswith("classifier")
        assert plot.get_attribute("role") == "group" and "arrow keys" in plot.get_attribute("aria-label")
        visit.page.keyboard.press("Escape")
        assert not tip.is_visible()


@pytest.mark.parametrize("width", [390, 1280])
def test_no_tooltip_leaves_the_screen(width: int, browser: Any, reports: dict[str, Path]) -> None:
    with Visit(browser, reports["backends"], width) as visit:
        plot = visit.page.locator("[data-plot]").first
        plot.focus()
        for key in ("Home", "End"):
            visit.page.keyboard.press(key)
            box = plot.locator(".tip").bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_javascript_everything_is_there(browser: Any, reports: dict[str, Path]) -> None:
    with Visit(browser, reports["fail"], java_script_enabled=False) as visit:
        assert visit.page.locator("h1").is_visible()
        # The browser's own tooltips, the tables in network order, the folded tables.
        assert visit.page.locator(".col title").first.text_content().startswith("conv1_7x7_s2 (Conv)")
        assert visit.page.locator("#figures details[open] tbody tr").count() == 174
        visit.page.locator("#figures summary").nth(1).click()
        assert visit.page.locator("#figures details[open]").count() == 2
        assert visit.page.locator("thead button").count() == 0


def test_hostile_names_do_nothing(browser: Any, reports: dict[str, Path]) -> None:
    with Visit(browser, reports["hostile"]) as visit:
        visit.page.locator(".col").nth(10).hover()
        assert "<script>alert('x')</script>" in visit.page.locator(".tip").first.inner_text()
        visit.page.wait_for_timeout(200)
        assert visit.page.locator("img").count() == 0 and visit.page.locator("script").count() == 1
        assert len(visit.requests) == 1


def test_the_policy_stops_what_escaping_would_miss(browser: Any, reports: dict[str, Path], tmp_path: Path) -> None:
    """A fault planted in the page itself: a script and an image that got through."""
    page = reports["pass"].read_text(encoding="utf-8")
    planted = (
        "<script>document.title = 'taken'</script><img src='http://127.0.0.1:9/x' onerror=\"document.title = 'taken'\">"
    )
    path = tmp_path / "planted.html"
    path.write_text(page.replace("<main", f"{planted}<main"), encoding="utf-8")
    context = browser.new_context()
    try:
        opened = context.new_page()
        opened.goto(path.as_uri())
        opened.wait_for_timeout(200)
        assert opened.title().startswith("STAND-IN")
    finally:
        context.close()


def test_the_page_prints_whole(browser: Any, reports: dict[str, Path]) -> None:
    with Visit(browser, reports["pass"]) as visit:
        visit.page.emulate_media(media="print")
        height, inner = visit.page.evaluate(
            "(e => [e.clientHeight, e.scrollHeight])(document.querySelector('#figures details[open] .scroll'))"
        )
        assert height >= inner - 2, "a table is cut where its window ends"
        assert visit.page.pdf()[:5] == b"%PDF-"


def test_the_figures_on_the_page_are_the_jsons(browser: Any, reports: dict[str, Path]) -> None:
    result = json.loads((reports["fail"].parent / "parity.json").read_text())
    with Visit(browser, reports["fail"]) as visit:
        for number, run in enumerate(result["runs"], 1):
            visit.page.evaluate(f"document.querySelectorAll('#figures details')[{number - 1}].open = true")
            table = f"#figures details:nth-of-type({number}) table"
            assert visit.column(2, table) == [each["layer"] for each in run["layers"]]
            shown = [0.0 if text == "equal" else float(text) for text in visit.column(4, table)]
            assert shown == [pytest.approx(each["relative"], rel=0.06) for each in run["layers"]]


def test_recall_and_f1_are_seen_on_a_narrow_screen(browser: Any, tmp_path: Path) -> None:
    page = write_report(result_of(expect=100.0), tmp_path, DATASET.images)[-1]
    with Visit(browser, page, 500) as visit:
        for name in ("Recall", "F1"):
            box = visit.page.locator("th", has_text=name).first.bounding_box()
            assert box["x"] + box["width"] <= 500, name
        wide = visit.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 500, "the page scrolls sideways"


def test_the_flag_stands_above_the_marks(browser: Any, reports: dict[str, Path]) -> None:
    with Visit(browser, reports["fail"], 500) as visit:
        flag = visit.page.locator(".flag text").first.bounding_box()
        plot = visit.page.locator(".marks").first.bounding_box()
        assert flag["y"] + flag["height"] <= plot["y"] + 1
        for other in visit.page.locator(".grid .unit").all():
            box = other.bounding_box()
            assert box["y"] + box["height"] <= flag["y"] + 2 or box["y"] > flag["y"] + flag["height"]
