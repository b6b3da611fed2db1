"""Durations: precise where they are short, and never sixty seconds or ten with a tenth."""

from __future__ import annotations

import pytest

from ferplus_keras.durations import duration


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0.0 s"), (0.24, "0.2 s"), (9.94, "9.9 s"), (9.96, "10 s"), (12.4, "12 s"), (59.6, "1 min 00 s"),
        (65, "1 min 05 s"), (119.7, "2 min 00 s"), (3599.7, "1 h 00 min"), (7261, "2 h 01 min"),
    ],
)  # fmt: skip
def test_a_duration_as_people_say_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said
