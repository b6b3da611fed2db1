"""The table of a mismatch: short, complete, counted."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from convert.match_report import Mismatch, fold
from ferplus_keras.networks.architecture import architecture, torch_name

ALL_NAMES = [torch_name(layer, role) for layer, roles in architecture("senet50").parameters.items() for role in roles]


def count(entry: str) -> int:
    found = re.search(r" \((\d+)\)$", entry)
    return int(found.group(1)) if found else 1


@settings(max_examples=100)
@given(st.lists(st.sampled_from(ALL_NAMES) | st.text("ab._/0123456789", max_size=15), unique=True))
def test_folding_loses_no_name(names: list[str]) -> None:
    assert sum(map(count, fold(names))) == len(names)


def test_regular_names_fold_into_one() -> None:
    names = [name for name in ALL_NAMES if name.endswith("_3x3_bn.weight") and name.startswith("conv4")]
    assert fold(names) == ["conv4_{1,2,3,4,5,6}_3x3_bn.weight (6)"]


def test_a_long_table_is_cut_and_says_so() -> None:
    mismatch = Mismatch(missing=[f"{'abcdefghij'[i // 10]}{'klmnopqrst'[i % 10]}" for i in range(60)])
    lines = mismatch.table(limit=40).splitlines()
    assert len(lines) == 42 and lines[-1].strip() == "... and 20 more rows"


def test_a_complete_match_is_falsy() -> None:
    assert not Mismatch()
    assert Mismatch(missing=["x"])
