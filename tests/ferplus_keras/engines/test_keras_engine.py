"""Keras files of other hands, before Keras runs them."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest

from ferplus_keras.engines import open_engine
from ferplus_keras.errors import BadInputError
from tests.conftest import run_python


@pytest.mark.parametrize("times", [2, 200])
def test_a_layer_that_makes_more_than_any_network_is_refused_before_it_runs(times: int, tmp_path: Path) -> None:
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), layers.UpSampling2D(times, name="vast"), layers.GlobalAveragePooling2D(),
         layers.Dense(8, activation="softmax")]
    )  # fmt: skip
    model.save(tmp_path / "x.keras")
    if times == 2:
        assert open_engine(tmp_path / "x.keras").takes.side == 32
        return
    with pytest.raises(BadInputError, match="its layer vast makes 6400 x 6400 x 3 numbers of one image of 32 x 32"):
        open_engine(tmp_path / "x.keras")


@pytest.mark.slow
def test_many_networks_are_run_without_a_word_of_tensorflows(tmp_path: Path) -> None:
    """Each model's functions are traced for the first time, which TensorFlow takes for the same one, traced again."""
    layers = [keras.Input((32, 32, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(8)]
    keras.Sequential(layers).save(tmp_path / "x.keras")
    code = """
import logging, sys
import numpy as np
from ferplus_keras.engines import open_engine
heard = logging.Handler()
heard.emit = lambda record: print(record.getMessage())
for _ in range(7):
    open_engine(sys.argv[1]).run(np.zeros((2, 32, 32, 3), np.uint8))
    logging.getLogger("tensorflow").addHandler(heard)
"""
    assert run_python(code, tmp_path / "x.keras") == ""
