"""Stand-ins: the published size, names and format, sane activations, and a name that says what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convert.manifest import read_manifest
from convert.readers import read_checkpoint
from convert.standin import standin_path, write_standin
from ferplus_keras.networks.architecture import BatchNorm, architecture
from tests.conftest import SECOND_SLOW


@pytest.mark.slow  # the full size
def test_it_is_as_large_as_the_published_file_and_in_its_format(standin_pth: Path, network: str) -> None:
    """The format before PyTorch 1.6 (a bare pickle, no zip), float32, and step counters at zero."""
    import torch

    from ferplus_keras.networks.torch_module import ReferenceNetwork

    assert standin_pth.read_bytes()[:2] == b"\x80\x02"
    assert abs(standin_pth.stat().st_size - {"resnet50": 94.3e6, "senet50": 104.4e6}[network]) < 0.3e6
    checkpoint = read_checkpoint(standin_pth)
    assert checkpoint.provenance.source.format == "torch-legacy"
    assert checkpoint.architecture == architecture(network)
    state = torch.load(standin_pth, weights_only=True)
    assert len(state) == {"resnet50": 320, "senet50": 384}[network]
    assert {tensor.dtype for key, tensor in state.items() if "tracked" not in key} == {torch.float32}
    assert {int(tensor) for key, tensor in state.items() if "tracked" in key} == {0}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    ReferenceNetwork(architecture(network)).load_state_dict(state, strict=True)


@pytest.mark.parametrize("network", SECOND_SLOW, indirect=True)
def test_it_says_what_it_is_under_any_name(standin_pth: Path, tmp_path: Path) -> None:
    assert "standin" in standin_pth.name
    renamed = tmp_path / "genuine.pth"
    renamed.write_bytes(standin_pth.read_bytes())
    assert read_checkpoint(renamed).provenance.standin


@pytest.mark.parametrize("network", SECOND_SLOW, indirect=True)
def test_the_statistics_are_those_of_a_real_forward_pass(standin_pth: Path, network: str) -> None:
    """Every BatchNorm sees normalised maps: mean near 0, deviation near 1 over other images of the same kind."""
    import torch

    from verify.images import natural_inputs
    from verify.references.torch_reference import reference_module

    module = reference_module(read_checkpoint(standin_pth), "float32")
    images = torch.from_numpy(natural_inputs(4, seed=99).transpose(0, 3, 1, 2).copy())
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        logits = module(images, observe=lambda name, value: seen.__setitem__(name, value.clone()))
    for layer in architecture(network).layers:
        if isinstance(layer, BatchNorm):
            bn = module.get_submodule(layer.name)
            normal = (seen[layer.inputs[0]] - bn.running_mean[:, None, None]) / bn.running_var.sqrt()[:, None, None]
            assert 0.3 < float(normal.std()) < 3.0 and abs(float(normal.mean())) < 1.0, layer.name
    assert 0.3 < float(logits.std()) < 10 and len(set(logits.argmax(1).tolist())) > 1


@pytest.mark.slow
def test_the_same_seed_gives_the_same_kernels(standin_pth: Path, network: str, tmp_path: Path) -> None:
    known = read_manifest()[f"{network}_ferplus"]
    path = standin_path(known, tmp_path)
    write_standin(known, path, legacy=False)
    one, other = read_checkpoint(standin_pth), read_checkpoint(path)
    assert other.provenance.source.format == "torch-zip"
    np.testing.assert_array_equal(one.arrays["conv3_1_3x3"]["kernel"], other.arrays["conv3_1_3x3"]["kernel"])
    np.testing.assert_allclose(
        one.arrays["conv5_3_1x1_increase_bn"]["moving_variance"],
        other.arrays["conv5_3_1x1_increase_bn"]["moving_variance"], rtol=1e-3,
    )  # fmt: skip
