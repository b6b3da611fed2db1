"""The PyTorch reference: its state dict is that of the published files, so that their tensors load strictly."""

from __future__ import annotations

import pytest
import torch

from convert.layouts import torch_layout
from ferplus_keras.networks.architecture import (
    FERPLUS_HEAD,
    NETWORKS,
    NO_HEAD,
    BatchNorm,
    Head,
    architecture,
    classifier,
    embedding,
)
from ferplus_keras.networks.torch_module import ReferenceNetwork

HEADS = [FERPLUS_HEAD, classifier(8631), embedding(128), NO_HEAD]


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_state_dict_is_the_tables(name: str, head: Head) -> None:
    table = architecture(name, head)
    expected = {slot.name: slot.shape for slot in torch_layout(table).values()}
    expected |= {f"{layer.name}.num_batches_tracked": () for layer in table.layers if isinstance(layer, BatchNorm)}

    state = ReferenceNetwork(table).state_dict()

    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == expected


@pytest.mark.parametrize(("name", "entries"), [("resnet50", 320), ("senet50", 384)])
def test_the_state_dict_has_the_published_number_of_entries(name: str, entries: int) -> None:
    module = ReferenceNetwork(architecture(name))
    assert len(module.state_dict()) == entries
    assert sum(parameter.numel() for parameter in module.parameters()) == architecture(name).parameter_count


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_adds_no_entry(name: str) -> None:
    with_dropout, without = (ReferenceNetwork(architecture(name, dropout=rate)) for rate in (0.5, 0.0))
    assert with_dropout.state_dict().keys() == without.state_dict().keys()
    assert sum(isinstance(each, torch.nn.Dropout) for each in with_dropout.modules()) == 2


@pytest.mark.parametrize("name", NETWORKS)
def test_modules_have_the_published_numbers(name: str) -> None:
    module = ReferenceNetwork(architecture(name))
    conv1, pool1 = module.get_submodule("conv1_7x7_s2"), module.get_submodule("pool1_3x3_s2")

    assert isinstance(conv1, torch.nn.Conv2d)
    assert (conv1.kernel_size, conv1.stride, conv1.padding, conv1.bias) == ((7, 7), (2, 2), (3, 3), None)
    assert isinstance(pool1, torch.nn.MaxPool2d)
    assert (pool1.kernel_size, pool1.stride, pool1.padding, pool1.ceil_mode) == (3, 2, 0, True)
    norms = [each for each in module.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    assert len(norms) == 53
    assert {norm.eps for norm in norms} == {1e-5}
    assert {round(norm.momentum or 0.0, 12) for norm in norms} == {0.1}
    assert isinstance(module.get_submodule("classifier"), torch.nn.Conv2d)


@pytest.mark.parametrize(
    ("head", "shape"), [(FERPLUS_HEAD, (2, 8)), (embedding(128), (2, 128)), (NO_HEAD, (2, 2048, 7, 7))]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_the_order_of_observation(name: str, head: Head, shape: tuple[int, ...]) -> None:
    table = architecture(name, head)
    module = ReferenceNetwork(table).eval()
    seen: dict[str, tuple[int, ...]] = {}

    with torch.no_grad():
        output = module(torch.zeros(2, 3, 224, 224), observe=lambda key, value: seen.update({key: tuple(value.shape)}))

    assert tuple(output.shape) == shape
    assert list(seen) == [layer.name for layer in table.layers]
    assert seen["conv1_7x7_s2"] == (2, 64, 112, 112)
    assert seen["pool1_3x3_s2"] == (2, 64, 56, 56)
    assert [seen[f"conv{stage}_1"][1:] for stage in (2, 3, 4, 5)] == [
        (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7),
    ]  # fmt: skip


def test_layers_are_wired_as_the_table_says() -> None:
    # The forward pass once more by hand, on a block with a projection and on one without.
    module = ReferenceNetwork(architecture("senet50")).eval().double()
    kept: dict[str, torch.Tensor] = {}
    torch.manual_seed(0)
    with torch.no_grad():
        module(torch.randn(1, 3, 224, 224).double(), observe=lambda key, value: kept.update({key: value.clone()}))
        scaled = kept["conv3_1_1x1_increase_bn"] * torch.sigmoid(kept["conv3_1_1x1_up"])
        assert torch.equal(kept["conv3_1_relu"], torch.relu(scaled + kept["conv3_1_1x1_proj_bn"]))
        scaled = kept["conv3_2_1x1_increase_bn"] * kept["conv3_2_prob"]
        assert torch.equal(kept["conv3_2_relu"], torch.relu(scaled + kept["conv3_1_relu"]))
        squeezed = kept["conv3_2_1x1_increase_bn"].mean(dim=(2, 3), keepdim=True)
        torch.testing.assert_close(kept["conv3_2_global_pool"], squeezed, rtol=1e-12, atol=1e-14)
