"""What ``import ferplus_keras`` offers."""

from __future__ import annotations

import sys

import pytest

import ferplus_keras
from tests.conftest import run_python


def test_the_public_names_are_seen_before_they_are_used() -> None:
    said = run_python("import sys, ferplus_keras\nprint(*dir(ferplus_keras))\nprint('numpy' in sys.modules)")
    names, numpy = said.splitlines()
    assert names.split() == sorted(ferplus_keras.__all__) and numpy == "False"


def test_every_public_name_is_there_and_says_what_it_does() -> None:
    for name in set(ferplus_keras.__all__) - {"__version__", "EMOTIONS"}:
        assert getattr(ferplus_keras, name).__doc__, name


def test_what_is_missing_is_named_at_once_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("keras", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "ferplus_keras.applications.models", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"ResNet50 needs keras and tensorflow.*'ferplus-keras\[predict\]'"):
        _ = ferplus_keras.ResNet50
