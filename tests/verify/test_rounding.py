"""The bound of what rounding can do: above what float32 really does, and not far above."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.readers import read_checkpoint
from verify.images import natural_inputs
from verify.metrics import difference
from verify.references.torch_reference import TorchReference
from verify.rounding import UNIT_ROUNDOFF, rounding_units

pytestmark = pytest.mark.usefixtures("small")


def test_float32_stays_below_the_bound_and_not_far_below(standin_pth: Path) -> None:
    checkpoint = read_checkpoint(standin_pth)
    image = natural_inputs(1, seed=21)
    exact = TorchReference(checkpoint, "float64")
    outputs = exact.run(image.astype("float64"))
    units = rounding_units(exact.module, image, outputs)
    rounded = TorchReference(checkpoint, "float32").run(image)
    ratios = []
    for name, value in outputs.items():
        seen = difference(name, value, rounded[name].astype(np.float64)).relative
        bound = units[name] * UNIT_ROUNDOFF["float32"]
        assert seen <= bound, (name, seen, bound)
        if seen:
            ratios.append(bound / seen)
    assert 1 < np.median(ratios) < 30, "a bound a hundred times too high would excuse anything"


def test_the_same_seed_gives_the_same_bound(standin_pth: Path) -> None:
    checkpoint = read_checkpoint(standin_pth)
    image = natural_inputs(1, seed=3)
    exact = TorchReference(checkpoint, "float64")
    outputs = exact.run(image.astype("float64"))
    first, second = (rounding_units(exact.module, image, outputs, seed=5) for _ in range(2))
    assert first == second
