"""The notebook of the docs, run from top to bottom."""

from __future__ import annotations

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_tour_runs_and_its_five_stops_say_what_the_page_shows() -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    book = nbformat.read(ROOT / "docs" / "tour.ipynb", 4)
    resources = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(book, timeout=900, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
    for told in ("<EmotionClassifier", "add up to the logits", "that it has not seen", "mine.pth", "the same function"):
        assert told in said
    assert any("image/png" in output.get("data", {}) for output in outputs), "the heat map is shown"
    assert not [output for output in outputs if output.get("name") == "stderr"], "no library is heard"
