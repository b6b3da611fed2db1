"""Keras files of other hands, before Keras runs them."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest

from ferplus_keras.engines import open_engine
from ferplus_keras.errors import BadInputError


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
