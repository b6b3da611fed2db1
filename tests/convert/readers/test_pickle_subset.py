"""The interpreter of pickles: plain data comes out as Python would have it, everything else as one of two errors."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.readers.pickle_subset import MalformedPickleError, UnsafePickleError, load

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(-5, 5), inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_is_what_python_reads(protocol: int) -> None:
    @settings(max_examples=150)
    @given(PLAIN)
    def check(value: Any) -> None:
        assert load(io.BytesIO(pickle.dumps(value, protocol))) == value

    check()


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_value_or_in_one_of_two_errors(data: bytes) -> None:
    try:
        load(io.BytesIO(b"\x80\x02" + data))
    except (UnsafePickleError, MalformedPickleError) as error:
        assert str(error)


def test_the_stream_stands_behind_the_pickle() -> None:
    stream = io.BytesIO(pickle.dumps([1], 2) + pickle.dumps({"a": 2}, 2) + b"rest")
    assert (load(stream), load(stream), stream.read()) == ([1], {"a": 2}, b"rest")
