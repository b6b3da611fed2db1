"""Figures read the same in every report, and do not claim more than they know."""

from __future__ import annotations

import pytest

from verify.report import numbers


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.relative(None), numbers.NONE),
        (numbers.relative(0.0), "equal"),
        (numbers.relative(1.4177e-14), "1.4e-14"),
        (numbers.of_entry({"finite": False, "relative": None, "problem": "shape (1, 7)"}), "shape (1, 7)"),
        (numbers.plain(0.0), "0"),
        (numbers.ratio(0.1349), "0.13"),
        (numbers.ratio(8600.4), "8,600"),
        (numbers.ratio(2.1e10), "2e+10"),
        (numbers.size(None), numbers.NONE),
        (numbers.size(94_886_040), "94.9 MB"),
        (numbers.size(812), "812 bytes"),
        (numbers.moment("2026-11-04T09:07:34+00:00"), "4 November 2026, 09:07:34 UTC"),
        (numbers.share(1.0), "100%"),
        (numbers.share(0.9999), "below 100%"),
        (numbers.share(0.75), "75%"),
    ],
)
def test_a_figure_is_shown_as(shown: str, expected: str) -> None:
    assert shown == expected
