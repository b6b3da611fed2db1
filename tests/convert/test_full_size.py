"""Both networks at their published size in every format; all else that is asserted of files is, of small networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.inspection import inspect
from convert.readers import read_checkpoint
from convert.targets import FORMATS
from convert.writers import write
from tests.seeded import seeded_checkpoint

pytestmark = pytest.mark.slow

#: Parameters, arrays, and megabytes in float32.
SIZES = {"resnet50": (23_524_424, 267, 94), "senet50": (26_055_416, 331, 104)}


@pytest.mark.parametrize("network", SIZES)
@pytest.mark.parametrize("name", FORMATS)
def test_a_published_network_goes_through_every_format(name: str, network: str, tmp_path: Path) -> None:
    checkpoint = seeded_checkpoint(network, steps=12)
    written = write(checkpoint, tmp_path / f"x{FORMATS[name].suffix}")
    again = read_checkpoint(written.path)
    assert again.architecture == checkpoint.architecture and again.provenance.num_batches_tracked == 12
    for layer, roles in checkpoint.arrays.items():
        for role, array in roles.items():
            assert np.array_equal(array, again.arrays[layer][role]), f"{layer}/{role}"
    parameters, arrays, megabytes = SIZES[network]
    told = inspect(written.path)
    assert (told["problems"], told["parameters"]) == ("", parameters)
    assert sum(map(len, again.arrays.values())) == arrays and megabytes <= written.size / 1e6 < megabytes + 3
