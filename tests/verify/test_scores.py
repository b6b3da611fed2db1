"""Figures against hand-made examples, textbooks and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify.scores import (
    Rate,
    better_order,
    calibration,
    confusion_matrix,
    log_loss,
    macro,
    mcnemar,
    per_class,
)  # fmt: skip


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (2886, 3294, 0.8645, 0.8870),  # the published 87.6 % on 3,294 images: +- 1.1 points
        (10, 10, 0.7225, 1.0),
        (0, 10, 0.0, 0.2775),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval(correct: int, n: int, low: float, high: float) -> None:
    interval = Rate(correct, n).interval
    assert interval == pytest.approx((low, high), abs=6e-5)


def test_a_rate_over_nothing_is_none_and_never_nan() -> None:
    assert Rate(0, 0).as_dict() == {"n": 0, "correct": 0, "accuracy": None, "interval": None}


def test_a_confusion_matrix_has_labels_as_rows() -> None:
    found = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_figures_by_class() -> None:
    rows = per_class(np.array([[8, 2, 0, 0], [1, 4, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0]]))
    assert rows[0] == {"support": 10, "decided": 9, "correct": 8, "precision": 8 / 9, "recall": 0.8,
                       "f1": pytest.approx(16 / 19)}  # fmt: skip
    assert (rows[2]["precision"], rows[2]["recall"], rows[2]["f1"]) == (None, 0.0, 0.0)
    assert rows[3]["recall"] is None and rows[3]["f1"] is None
    average = macro(rows)
    assert average["recall"] == pytest.approx((0.8 + 0.8 + 0) / 3)  # the class without images does not count
    assert average["precision"] == pytest.approx((8 / 9 + 4 / 11 + 0) / 3)


def test_calibration_of_one_that_knows_how_much_it_knows() -> None:
    generator = np.random.default_rng(0)
    sure = generator.uniform(0.2, 1.0, 200_000)
    probabilities = np.stack([sure, 1 - sure], axis=1)
    sure = probabilities.max(axis=1)
    honest = calibration(probabilities, generator.uniform(size=len(sure)) < sure)
    assert honest["ece"] < 0.005 and sum(each["n"] for each in honest["bins"]) == len(sure)
    boastful = calibration(probabilities, generator.uniform(size=len(sure)) < sure - 0.2)
    assert boastful["ece"] == pytest.approx(0.2, abs=0.01)
    certain = calibration(np.array([[1.0, 0.0]]), np.array([True]))
    assert certain["ece"] == 0 and certain["bins"][-1]["n"] == 1


def test_log_loss_is_least_where_the_prediction_is_the_vote() -> None:
    votes = np.array([[0.7, 0.3, 0.0], [1.0, 0.0, 0.0]])
    exact = log_loss(votes, votes)
    assert exact["cross_entropy"] == pytest.approx(exact["entropy"])
    assert exact["entropy"] == pytest.approx(-(0.7 * math.log(0.7) + 0.3 * math.log(0.3)) / 2)
    assert log_loss(np.full((2, 3), 1 / 3), votes)["cross_entropy"] == pytest.approx(math.log(3))
    assert math.isfinite(log_loss(np.array([[0.0, 0.0, 1.0]]), votes[1:])["cross_entropy"] or 0)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 50))
def test_mcnemar_is_the_exact_sign_test(only_ours: int, only_theirs: int, both: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    ours = np.array([True] * only_ours + [False] * only_theirs + [True] * both, bool)
    theirs = np.array([False] * only_ours + [True] * only_theirs + [True] * both, bool)
    found = mcnemar(ours, theirs)
    assert (found["only_first"], found["only_second"]) == (only_ours, only_theirs)
    n = only_ours + only_theirs
    expected = stats.binomtest(only_ours, n, 0.5).pvalue if n else 1.0
    assert found["p"] == pytest.approx(expected, abs=1e-9)


def test_mcnemar_of_thousands_does_not_overflow() -> None:
    ours = np.array([True] * 3000 + [False] * 3)
    assert mcnemar(ours, ~ours)["p"] < 1e-300 or mcnemar(ours, ~ours)["p"] == 0


def test_a_permuted_head_is_found_out() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 8, 1000)
    order = np.array([3, 1, 2, 0, 4, 5, 7, 6])
    found = better_order(confusion_matrix(labels, np.argsort(order)[labels], 8))
    assert found is not None and found[0] == order.tolist() and found[1] == 1.0
