"""The proof for both networks at their published size; how it is made and what it refuses is tried on small ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from verify.parity import ParityOptions, check_parity


@pytest.mark.slow
def test_a_published_network_is_the_same_function_in_both_precisions(
    network: str, standin_h5: Path, standin_pth: Path
) -> None:
    result = check_parity(standin_h5, standin_pth, ParityOptions(images=2))
    assert result.passed and [each.dtype for each in result.runs] == ["float64", "float32"]
    for each, tolerance in zip(result.runs, (1e-12, 5e-5), strict=True):
        assert len(each.layers) == {"resnet50": 175 - 1, "senet50": 271 - 1}[network]
        assert each.logits.relative <= each.tolerance == tolerance and each.top1_agreement == 1.0
        assert all(layer.relative <= each.bounds[layer.layer] for layer in each.layers)
        assert 0 < each.bounds["classifier"] < each.tolerance * 10
