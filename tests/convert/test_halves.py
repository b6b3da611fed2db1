"""The two threads: each item once, in order, as many bytes for one as for the other, and no error lost."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.halves import in_halves, split


@given(st.lists(st.integers(0, 1000)))
def test_each_item_is_in_one_half_and_neither_is_larger_than_half_and_one_item(sizes: list[int]) -> None:
    items = list(enumerate(sizes))
    first, second = split(items, lambda item: item[1])
    assert [*first, *second] == items
    largest = max(sizes, default=0)
    for half in (first, second):
        assert sum(size for _, size in half) <= sum(sizes) / 2 + largest


def test_many_small_ones_weigh_as_much_as_one_large_one() -> None:
    """A kernel and five arrays of its batch normalisation: every second array would be all of the kernels."""
    assert split([1] * 100 + [100], lambda size: size) == ([1] * 100, [100])


def test_the_halves_are_worked_on_at_once() -> None:
    both_are_here = threading.Barrier(2, timeout=20)

    def work(some: object) -> int:
        both_are_here.wait()
        return threading.get_ident()

    one, other = in_halves(work, ["a", "b"], len)
    assert one != other


@pytest.mark.parametrize("bad", ["first", "second"])
def test_what_goes_wrong_in_either_half_is_raised(bad: str) -> None:
    def work(some: list[str]) -> None:
        if bad in some:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        in_halves(work, ["first", "second"], len)
