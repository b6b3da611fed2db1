"""The neutral checkpoint: its arrays stand in the architecture's order, whatever order a file has them in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.checkpoint import Checkpoint
from convert.readers import read_checkpoint
from convert.writers import write
from tests.seeded import seeded_checkpoint

pytestmark = pytest.mark.usefixtures("small")


def test_arrays_stand_in_the_architecture_s_order() -> None:
    given = seeded_checkpoint("resnet50")
    backwards = {layer: dict(reversed(roles.items())) for layer, roles in reversed(given.arrays.items())}
    found = Checkpoint(given.architecture, backwards, given.provenance)
    assert [(layer, list(roles)) for layer, roles in found.arrays.items()] == [
        (layer, list(roles)) for layer, roles in given.architecture.parameters.items()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_keras_gets_each_array_in_its_place(suffix: str, tmp_path: Path) -> None:
    """As a run's state has them, by alphabet: beta before gamma, of the same shape, and no error from Keras."""
    given = seeded_checkpoint("resnet50")
    by_alphabet = {layer: dict(sorted(roles.items())) for layer, roles in given.arrays.items()}
    path = write(Checkpoint(given.architecture, by_alphabet, given.provenance), tmp_path / f"x{suffix}").path
    for layer, roles in read_checkpoint(path).arrays.items():
        for role, array in roles.items():
            np.testing.assert_array_equal(array, given.arrays[layer][role], err_msg=f"{layer} {role}")
