"""One rule for what goes in and what comes out, whatever runs the network."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferplus_keras.engines import Engine, interruptible, open_engine
from ferplus_keras.engines.engine import LOGITS, PROBABILITIES, Takes
from ferplus_keras.engines.record import FileFacts
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.preprocessing import PUBLISHED, preprocess_input

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


def engine(rows: Any, **fields: Any) -> Engine:
    names = tuple("abcdefgh")
    made = Engine(Path("x.h5"), "NumPy", lambda batch: np.tile(rows, (len(batch), 1)), Takes(32), labels=names)
    return replace(made, **fields)


# --- what goes in ---------------------------------------------------------------------------------------------------


def test_images_go_in_as_the_file_wants_them() -> None:
    np.testing.assert_array_equal(Takes(32).prepared(PIXELS), preprocess_input(PIXELS))
    assert Takes(32, channels_first=True).prepared(PIXELS).shape == (5, 3, 32, 32)
    bare = Takes(32, mean=(0.0, 0.0, 0.0))
    np.testing.assert_array_equal(bare.prepared(PIXELS), PIXELS.astype(np.float32))
    whole = Takes(32, dtype="uint8")
    assert whole.prepared(PIXELS) is PIXELS
    np.testing.assert_array_equal(whole.prepared(PIXELS + np.float32(0.3)), PIXELS)


@pytest.mark.parametrize("fixed", [None, 2])
def test_any_number_of_images_goes_in_at_the_files_number(fixed: int | None) -> None:
    sizes = []

    def call(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return batch.mean(axis=(1, 2))

    found = engine([], call=call, batch=3, takes=Takes(32, fixed=fixed)).run(PIXELS)
    assert found.shape == (5, 3) and sizes == ([2, 2, 2] if fixed else [3, 2])
    np.testing.assert_allclose(found, preprocess_input(PIXELS).mean(axis=(1, 2)), rtol=1e-4)
    assert engine(np.ones(8)).run(PIXELS[:0]).shape == (0, 8)


# --- what comes out -------------------------------------------------------------------------------------------------

SURE = np.array([0.9, 0.1, 0, 0, 0, 0, 0, 0])


def test_logits_or_probabilities_by_the_files_word_or_by_the_numbers() -> None:
    softened = np.exp(SURE) / np.exp(SURE).sum()
    for gives, wanted in ((LOGITS, softened), (PROBABILITIES, SURE), (None, SURE)):
        np.testing.assert_allclose(engine(SURE, gives=gives).probabilities(PIXELS)[0], wanted, rtol=1e-6)
    assert engine(SURE * 3).probabilities(PIXELS)[0].sum() == pytest.approx(1)
    with pytest.raises(BadInputError, match="not probabilities"):
        engine(SURE * 3, gives=PROBABILITIES).probabilities(PIXELS)


def test_probabilities_that_int8_rounded_sum_to_one() -> None:
    rounded = np.array([130, 60, 40, 20, 1, 1, 1, 1]) / 256
    for gives in (PROBABILITIES, None):
        found = engine(rounded, gives=gives, numbers="int8").probabilities(PIXELS)
        np.testing.assert_allclose(found[0], rounded / rounded.sum())
    with pytest.raises(BadInputError, match="not probabilities"):
        engine(rounded, gives=PROBABILITIES).probabilities(PIXELS)  # float32 does not round so


def test_what_comes_out_is_a_row_for_each_image() -> None:
    with pytest.raises(BadInputError, match="not a row each"):
        engine(SURE, call=lambda batch: np.zeros((1, 8))).run(PIXELS)
    with pytest.raises(ValueError, match="takes n x 32 x 32 x 3"):
        engine(SURE).run(PIXELS[:, :16])


# --- what a file says -----------------------------------------------------------------------------------------------


def test_a_record_is_believed_as_far_as_it_makes_sense() -> None:
    path = Path("x.onnx")
    assert FileFacts.of(path, None) == FileFacts(path) and FileFacts.of(path, {}).mean == PUBLISHED.mean
    told = FileFacts.of(path, {"preprocessing": {"size": [64, 64]}, "labels": ["a"], "output": "logits"})
    assert (told.side_for(), told.side_for(None, 64), told.labels, told.gives) == (64, 64, ("a",), LOGITS)
    assert FileFacts.of(path, {"labels": [1], "output": ["logits"]}).gives is None
    assert FileFacts.of(path, {"preprocessing_inside": True}).mean == (0.0, 0.0, 0.0)
    assert FileFacts(path).side_for(96, 96) == 96 and FileFacts(path).side_for(None, None) == 224


@pytest.mark.parametrize(
    ("preprocessing", "says"),
    [
        ({"channel_order": "BGR"}, "channel_order BGR"), ({"std": [58, 57, 57]}, "std"),
        ({"mean": [1e400, 0, 0]}, "mean"), ({"mean": [1, 2]}, "mean"), ({"mean": "grey"}, "mean"),
    ],
)  # fmt: skip
def test_a_record_that_asks_for_something_else_is_refused(preprocessing: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInputError, match=says):
        FileFacts.of(Path("x.onnx"), {"preprocessing": preprocessing})


@pytest.mark.parametrize("graph", [(64, 64), (224, 100), (16, 16), (5000, 5000)])
def test_a_graph_of_another_size_than_the_records_is_refused(graph: tuple[int, int]) -> None:
    told = FileFacts.of(Path("x.onnx"), {"preprocessing": {"size": [48, 48]}})
    with pytest.raises(BadInputError, match="these networks take images of 48 x 48 x 3"):
        told.side_for(*graph)


def test_what_is_no_network_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"nothing")
    with pytest.raises(BadInputError, match="not a file that can be run"):
        open_engine(tmp_path / "x.bin")
    with pytest.raises(BadInputError, match="is a folder"):
        open_engine(tmp_path)


# --- a signal ends it -----------------------------------------------------------------------------------------------


class _SignalError(Exception):
    pass


def test_a_call_that_never_returns_is_left_when_a_signal_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruptible, "GRACE", 0.05)
    hung = threading.Event()

    def handler(_number: int, _frame: Any) -> None:
        raise _SignalError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        start = time.perf_counter()
        with pytest.raises(_SignalError):
            interruptible.interruptible(hung.wait, 30)
        assert time.perf_counter() - start < 5
    finally:
        hung.set()
        signal.signal(signal.SIGALRM, before)


def test_a_calls_result_and_error_come_through() -> None:
    assert interruptible.interruptible(max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        interruptible.interruptible(lambda: 1 // 0)
