"""What ``import ferplus_keras`` offers."""

from __future__ import annotations

import ferplus_keras
from tests.conftest import run_python


def test_the_public_names_are_seen_before_they_are_used() -> None:
    said = run_python("import sys, ferplus_keras\nprint(*dir(ferplus_keras))\nprint('numpy' in sys.modules)")
    names, numpy = said.splitlines()
    assert names.split() == sorted(ferplus_keras.__all__) and numpy == "False"


def test_every_public_name_is_there_and_says_what_it_does() -> None:
    for name in set(ferplus_keras.__all__) - {"__version__", "EMOTIONS"}:
        assert getattr(ferplus_keras, name).__doc__, name
