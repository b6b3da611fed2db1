"""Every benchmark run on small networks and data, in this process: that it still calls what is there."""

from __future__ import annotations

import io
import json
import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from benchmarks import (
    accuracy_speed,
    children,
    convert_speed,
    faces,
    film_speed,
    harness,
    inference,
    inference_one,
    mat_speed,
)  # fmt: skip
from benchmarks.harness import Cost
from convert.conversion import convert
from ferplus_keras.dataset import load_ferplus
from ferplus_keras.finetune import devices
from ferplus_keras.networks.natural import natural_inputs
from ferplus_keras.predict.classifier import EmotionClassifier
from tests.ferplus_files import small, write_pair

pytestmark = pytest.mark.usefixtures("small")


def _here(*words: object, **environment: str) -> Cost:
    """:func:`harness.run` without a process, which would take seconds to import what is imported here."""
    kind, what, *arguments = map(str, words)
    if what == "benchmarks.children":
        kind, what = "", arguments.pop(0)
    out = io.StringIO()
    with patch.object(sys, "argv", [what, *arguments]), patch.dict("os.environ", environment), redirect_stdout(out):
        try:
            if not kind:
                children.TASKS[what](*arguments)
            elif kind == "-m":
                runpy.run_module(what, run_name="__main__")
            else:
                exec(what, {})
        except SystemExit as end:
            assert not end.code, (words, out.getvalue())
    return Cost(1.0, 1.0, out.getvalue().strip().rpartition("\n")[2])


@pytest.fixture(autouse=True)
def _small_work(tmp_path: Path) -> Iterator[None]:
    alone = dict.fromkeys(mat_speed.FORMS, "")
    with (
        patch.object(harness, "WORK", tmp_path), patch.object(harness, "run", _here), patch.dict("os.environ"),
        patch.object(accuracy_speed, "PLAIN", ""), patch.dict(mat_speed.FORMS, alone),
        patch.object(children, "SPLITS", (240, 30, 30)), patch.object(convert_speed, "NETWORKS", ("resnet50",)),
    ):  # fmt: skip
        os.environ.pop("FERPLUS_DATA", None)
        yield


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convert_speed", {"rounds": 1}),
        pytest.param("mat_speed", {"rounds": 1}, marks=pytest.mark.slow),
        pytest.param("accuracy_speed", {"rounds": 1, "images": 1}, marks=pytest.mark.slow),
        pytest.param("predict_startup", {"rounds": 1}, marks=pytest.mark.slow),
        pytest.param("parity_speed", {"images": 1}, marks=pytest.mark.slow),
        pytest.param("finetune_speed", {"rounds": 1, "sizes": "32:1:1"}, marks=pytest.mark.slow),
    ],
)
def test_a_benchmark_measures_and_its_tables_can_be_shown(name: str, options: dict[str, Any]) -> None:
    tables = import_module(f"benchmarks.{name}").measure(**options)
    assert all(tables.values())
    json.dumps(tables, allow_nan=False)
    assert all(heading in harness.as_text(tables) for rows in tables.values() for heading in rows[0])


@pytest.mark.parametrize("library", ["onnx", "torch"])  # TensorFlow's threads are set once in a process
def test_a_library_of_the_inference_benchmark_runs_the_files_that_are_made_for_it(library: str) -> None:
    source, stem = harness.standin("resnet50"), f"{harness.WORK}/resnet50-"
    convert(source, [f"{stem}standin.h5", f"{stem}standin.onnx"])
    way = next(way for way, its, _ in inference.WAYS if its == library and way in ("onnx", "torch"))
    answer = inference_one.LIBRARIES[library](way, stem, natural_inputs(1))()
    assert np.asarray(answer).shape in ((1, 8), (1, 1, 8))


@pytest.mark.parametrize("has", [True, False])
def test_what_needs_bfloat16_is_left_out_where_the_processor_has_none(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: has)
    assert [way for way, _, _ in inference.WAYS if not harness.runs_here(way)] == (
        [] if has else ["openvino-bf16", "torch-bf16"]
    )


@pytest.mark.slow
def test_the_files_of_the_inference_benchmark_can_be_made() -> None:
    files = dict.fromkeys(name for way, _, _ in inference.WAYS for name in inference.needed(way))
    inference.prepare("resnet50", str(harness.WORK), *files)
    assert files and all((harness.WORK / f"resnet50-{name}").exists() for name in files)


def test_faces_are_pasted_and_a_film_is_made_of_them(tmp_path: Path) -> None:
    data = write_pair(small(40), tmp_path / "data")
    image, pasted = faces.sheet(load_ferplus(data), iter(range(40)), np.random.default_rng(0))
    assert image.size == faces.SHEET and pasted
    film_speed.make(tmp_path / "film.mp4", str(data), 2)
    assert film_speed.plain_loop(tmp_path / "film.mp4", EmotionClassifier(), lambda _image: []) == 0
