"""The measure: what a difference is, and that nothing can hide in it."""

from __future__ import annotations

import numpy as np
import pytest

from verify.metrics import Difference, difference, in_words, ulps, worst


def test_a_difference_is_relative_to_the_references_largest_magnitude() -> None:
    reference, ours = np.array([1.0, -4.0, 2.0]), np.array([1.0, -4.0, 2.5])
    assert difference("x", reference, ours) == Difference(
        "x", 0.5, 0.125, np.sqrt(0.25 / 3), float(reference @ ours / np.linalg.norm(reference) / np.linalg.norm(ours))
    )
    assert difference("x", reference, reference).relative == 0.0
    assert difference("x", np.zeros(3), np.full(3, 0.25)).relative == 0.25, "over nothing, the difference itself"


def test_float32_is_not_rounded_once_more() -> None:
    reference = np.array([1.0], np.float32)
    ours = np.nextafter(reference, np.float32(2))
    assert difference("x", reference, ours).relative == 2.0**-23


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "ours", "both"])
def test_what_is_no_number_is_an_infinite_difference(bad: float, side: str) -> None:
    good, spoilt = np.array([1.0, 2.0]), np.array([1.0, bad])
    reference = good if side == "ours" else spoilt
    ours = good if side == "reference" else spoilt
    result = difference("x", reference, ours)
    assert (result.absolute, result.relative, result.rms, result.finite) == (np.inf, np.inf, np.inf, False)
    assert result.as_dict()["relative"] is None and "not finite" in result.problem


@pytest.mark.parametrize(("theirs", "ours"), [((2, 3), (3, 2)), ((1, 4), (4,)), ((1, 4), (2, 4)), ((3,), (0,))])
def test_another_shape_is_an_infinite_difference(theirs: tuple[int, ...], ours: tuple[int, ...]) -> None:
    # numpy would stretch some of these over each other without a word.
    result = difference("x", np.zeros(theirs), np.zeros(ours))
    assert (result.relative, result.finite) == (np.inf, False)


def test_another_type_is_a_difference_too() -> None:
    result = difference("x", np.zeros(3, np.float64), np.zeros(3, np.float32))
    assert not result.finite and "float32 where the reference has float64" in result.problem


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.0, "less than a billionth"), (5e-5, "0.005 %"), (1e-2, "1 %"), (0.0321, "3.2 %"), (2.5, "250 %")],
)
def test_a_share_is_said_plainly(share: float, said: str) -> None:
    assert in_words(share) == said


def test_errors_do_not_cancel() -> None:
    reference = np.zeros(1000)
    ours = np.where(np.arange(1000) % 2, 1.0, -1.0)
    result = difference("x", reference, ours)
    assert (result.absolute, result.rms) == (1.0, 1.0)


def test_the_worst_is_the_one_without_a_number() -> None:
    good, spoilt = difference("a", np.ones(2), np.full(2, 1e9)), difference("b", np.ones(2), np.full(2, np.nan))
    assert worst([good, spoilt, good]).layer == "b"


def test_ulps_count_the_numbers_in_between() -> None:
    one = np.array([1.0, -1.0, 0.0, 0.0, 1.0], np.float32)
    other = np.array(
        [np.nextafter(np.float32(1), np.float32(2)), -1.0, -0.0, np.nextafter(np.float32(0), np.float32(-1)), 2.0],
        np.float32,
    )
    assert ulps(one, other).tolist() == [1, 0, 0, 1, 1 << 23]
