"""What ``import ferplus_keras`` offers."""

from __future__ import annotations

from pathlib import Path

import pytest

import ferplus_keras
from ferplus_keras.errors import BadInputError
from tests.conftest import run_python


def test_the_public_names_are_seen_before_they_are_used() -> None:
    said = run_python("import sys, ferplus_keras\nprint(*dir(ferplus_keras))\nprint('numpy' in sys.modules)")
    names, numpy = said.splitlines()
    assert names.split() == sorted(ferplus_keras.__all__) and numpy == "False"


def test_every_public_name_is_there_and_says_what_it_does() -> None:
    for name in set(ferplus_keras.__all__) - {"__version__", "EMOTIONS"}:
        assert getattr(ferplus_keras, name).__doc__, name


#: Imports blocked, and a call; what it raises is printed.
CALL = """
import sys
sys.modules |= dict.fromkeys(sys.argv[1].split(), None)
import numpy as np
import ferplus_keras
grey = np.full((48, 48), 9, np.uint8)
try:
    eval(sys.argv[2])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("blocked", "call", "told"),
    [
        ("keras tensorflow", "ferplus_keras.ResNet50",
         "needs keras and tensorflow, which are not installed here: pip install 'ferplus-keras[predict]'"),
        ("PIL", "ferplus_keras.load_image('README.md')", "pip install 'ferplus-keras[predict]'"),
        ("h5py", "ferplus_keras.EmotionClassifier()", "h5py, which is not installed here: pip install h5py"),
        ("h5py", "ferplus_keras.convert('README.md', ['x.h5'])", "pip install h5py"),
        ("safetensors", "ferplus_keras.EmotionClassifier()", "pip install safetensors"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (  # import Keras
            ("PIL", "ferplus_keras.EmotionClassifier().predict('README.md')", "pip install 'ferplus-keras[predict]'"),
            ("PIL", "ferplus_keras.EmotionClassifier().predict(grey)", "pip install 'ferplus-keras[predict]'"),
            ("h5py", "ferplus_keras.load_weights", "pip install h5py"),
            ("safetensors", "ferplus_keras.ResNet50(weights='ferplus')", "pip install safetensors"),
        )),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_with_what_installs_it(blocked: str, call: str, told: str) -> None:
    said = run_python(CALL, blocked, call)
    assert said.startswith("ModuleNotFoundError This needs ") and told in said


@pytest.mark.parametrize("call", ["EmotionClassifier", "load_ferplus", "load_image", "convert", "ResNet50"])
@pytest.mark.parametrize("kind", [str, Path])
def test_a_web_address_is_to_be_downloaded_first(call: str, kind: type) -> None:
    address = kind("https://example.org/a.png")
    more = {"convert": {"targets": ["x.h5"]}, "ResNet50": {"weights": address}}.get(call, {})
    with pytest.raises(BadInputError, match=r"^https://example.org/a.png is a web address; download it first"):
        getattr(ferplus_keras, call)(*[address] * (call != "ResNet50"), **more)


@pytest.mark.parametrize(
    "call", ["ferplus_keras.ResNet50()", "ferplus_keras.EmotionClassifier()",
             "__import__('ferplus_keras.compat').compat.VGGFace(model='resnet50', weights=None)"]
)  # fmt: skip
def test_a_misspelt_backend_is_named(call: str) -> None:
    said = run_python(CALL, "", call, KERAS_BACKEND="nump")
    assert said.startswith('BadInputError KERAS_BACKEND is "nump": these networks run on tensorflow, jax, torch.')
