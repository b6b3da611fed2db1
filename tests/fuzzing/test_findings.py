"""Every target: its good files, those with some bytes changed, and all that the fuzzer ever found."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferplus_keras.errors import BadInputError
from tests.fuzzing.targets import TARGETS

FINDINGS = sorted((Path(__file__).parent / "findings").glob("*-*"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[bytes]]:
    return {name: target.seeds(tmp_path_factory.mktemp("seeds")) for name, target in TARGETS.items()}


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_what_was_found_is_a_sentence_or_a_reading(path: Path, tmp_path: Path) -> None:
    with suppress(BadInputError):
        name = max((each for each in TARGETS if path.name.startswith(f"{each}-")), key=len)
        TARGETS[name].read(path.read_bytes(), tmp_path / "x")


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=100)
@given(data=st.data())
def test_changed_bytes_end_in_a_sentence_or_in_a_reading(
    name: str, data: st.DataObject, good: dict[str, list[bytes]], tmp_path_factory: Any
) -> None:
    content = bytearray(data.draw(st.sampled_from(good[name])))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    try:
        TARGETS[name].read(bytes(content[:cut]), tmp_path_factory.getbasetemp() / f"changed-{name}")
    except BadInputError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 2000
