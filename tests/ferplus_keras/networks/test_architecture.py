"""The table against what is published of the networks: sizes, names, strides, dropout."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferplus_keras.networks import architecture as module
from ferplus_keras.networks.architecture import (
    FERPLUS_HEAD,
    NETWORKS,
    NO_HEAD,
    Add,
    Architecture,
    AveragePool,
    BatchNorm,
    Conv,
    Dropout,
    GlobalPool,
    Head,
    Input,
    Linear,
    MaxPool,
    ReLU,
    Scale,
    Sigmoid,
    architecture,
    classifier,
    embedding,
    torch_name,
)
from tests.small import small_networks

HEADS = {
    "8": FERPLUS_HEAD,
    "8631": classifier(8631),
    "128-D": embedding(128),
    "256-D": embedding(256),
    "none": NO_HEAD,
}

STRIDED = [f"conv{stage}_1_1x1_{part}" for stage in (3, 4, 5) for part in ("reduce", "proj")]


def of_type(table: Architecture, *kinds: type) -> list[str]:
    return [layer.name for layer in table.layers if isinstance(layer, kinds)]


# --- sizes and names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parameters", "entries"), [
    ("resnet50", 23_524_424, 320),
    ("senet50", 26_055_416, 384),
])  # fmt: skip
def test_the_published_sizes(name: str, parameters: int, entries: int) -> None:
    table = architecture(name)

    arrays = sum(len(roles) for roles in table.parameters.values())
    step_counters = len(of_type(table, BatchNorm))

    assert table.parameter_count == parameters
    assert arrays + step_counters == entries


@pytest.mark.parametrize(("head", "units_and_bias"), [
    (FERPLUS_HEAD, 2048 * 8 + 8),
    (classifier(8631), 2048 * 8631 + 8631),
    (embedding(128), 2048 * 128),
    (embedding(256), 2048 * 256),
    (NO_HEAD, 0),
], ids=list(HEADS))  # fmt: skip
@pytest.mark.parametrize("name", NETWORKS)
def test_a_head_adds_its_own_parameters_and_no_others(name: str, head: Head, units_and_bias: int) -> None:
    table, bare = architecture(name, head), architecture(name, NO_HEAD)

    assert table.parameter_count - bare.parameter_count == units_and_bias
    assert table.layers[: len(bare.layers)] == bare.layers


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("head", HEADS.values(), ids=list(HEADS))
@pytest.mark.parametrize("name", NETWORKS)
def test_names_are_unique_and_layers_come_after_their_inputs(name: str, head: Head, dropout: float) -> None:
    table = architecture(name, head, dropout)
    seen: set[str] = set()
    for layer in table.layers:
        assert layer.name not in seen
        assert set(layer.inputs) <= seen, f"{layer.name} stands before one of its inputs"
        seen.add(layer.name)
    consumed = {source for layer in table.layers for source in layer.inputs}
    assert seen - consumed == {table.output}, "a layer leads nowhere"
    assert table.by_name.keys() == seen


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_names_are_unique_and_albanies(name: str) -> None:
    table = architecture(name)
    names = [torch_name(layer, role) for layer, roles in table.parameters.items() for role in roles]

    assert len(set(names)) == len(names)
    expected = {
        "conv1_7x7_s2.weight",
        "conv1_7x7_s2_bn.running_mean",
        "conv1_7x7_s2_bn.running_var",
        "conv2_1_1x1_proj_bn.bias",
        "conv4_6_3x3.weight",
        "conv5_3_1x1_increase_bn.weight",
        "classifier.weight",
        "classifier.bias",
    }
    assert expected <= set(names)
    assert ({"conv2_1_1x1_down.bias", "conv5_3_1x1_up.weight"} <= set(names)) == (name == "senet50")
    assert not [each for each in names if each.endswith(("_reduce.bias", "_3x3.bias", "_increase.bias", "_proj.bias"))]


# --- geometry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_strides_sit_on_the_first_1x1_of_a_stage_and_on_its_projection(name: str) -> None:
    table = architecture(name)
    strided = {layer.name: layer.stride for layer in table.layers if isinstance(layer, Conv) and layer.stride != 1}

    assert strided == {"conv1_7x7_s2": 2, **dict.fromkeys(STRIDED, 2)}
    assert of_type(table, MaxPool) == ["pool1_3x3_s2"]
    assert table.by_name["pool1_3x3_s2"] == MaxPool("pool1_3x3_s2", ("conv1_relu_7x7_s2",), kernel=3, stride=2)


@pytest.mark.parametrize("name", NETWORKS)
def test_kernels_paddings_and_biases(name: str) -> None:
    for layer in architecture(name).layers:
        if isinstance(layer, Conv):
            kernel, padding = {"conv1_7x7_s2": (7, 3)}.get(layer.name, (3, 1) if layer.name.endswith("3x3") else (1, 0))
            assert (layer.kernel, layer.padding) == (kernel, padding), layer.name
            assert layer.bias == layer.name.endswith(("_1x1_down", "_1x1_up")), layer.name


def test_blocks_and_widths() -> None:
    table = architecture("resnet50")
    blocks = [3, 4, 6, 3]
    expected = [f"conv{stage}_{block}" for stage, count in enumerate(blocks, 2) for block in range(1, count + 1)]

    assert of_type(table, Add) == expected
    for stage, (mid, out) in enumerate([(64, 256), (128, 512), (256, 1024), (512, 2048)], 2):
        assert table.parameters[f"conv{stage}_2_1x1_reduce"]["kernel"] == (1, 1, out, mid)
        assert table.parameters[f"conv{stage}_2_3x3"]["kernel"] == (3, 3, mid, mid)
        assert table.parameters[f"conv{stage}_2_1x1_increase"]["kernel"] == (1, 1, mid, out)
    assert [each for each in table.parameters if each.endswith("_proj")] == [
        f"conv{s}_1_1x1_proj" for s in (2, 3, 4, 5)
    ]


def test_a_resnet_block_in_full() -> None:
    by_name = architecture("resnet50").by_name

    assert by_name["conv3_1_1x1_reduce"].inputs == ("conv2_3_relu",)
    assert by_name["conv3_1_1x1_proj"].inputs == ("conv2_3_relu",)
    assert by_name["conv3_1"] == Add("conv3_1", ("conv3_1_1x1_increase_bn", "conv3_1_1x1_proj_bn"))
    assert by_name["conv3_1_relu"] == ReLU("conv3_1_relu", ("conv3_1",))
    assert by_name["conv3_2"] == Add("conv3_2", ("conv3_2_1x1_increase_bn", "conv3_1_relu"))


def test_squeeze_and_excitation_scales_the_last_batchnorm_before_the_sum() -> None:
    table = architecture("senet50")

    assert len(of_type(table, Scale)) == len(of_type(table, Sigmoid)) == len(of_type(table, GlobalPool)) == 16
    assert table.by_name["conv2_1_global_pool"].inputs == ("conv2_1_1x1_increase_bn",)
    assert table.by_name["conv2_1_scale"].inputs == ("conv2_1_1x1_increase_bn", "conv2_1_prob")
    assert table.by_name["conv2_1"].inputs == ("conv2_1_scale", "conv2_1_1x1_proj_bn")
    assert table.parameters["conv5_1_1x1_down"] == {"kernel": (1, 1, 2048, 128), "bias": (128,)}
    assert table.parameters["conv5_1_1x1_up"] == {"kernel": (1, 1, 128, 2048), "bias": (2048,)}
    assert not of_type(architecture("resnet50"), Scale, Sigmoid, GlobalPool)


# --- heads and dropout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_heads(name: str) -> None:
    for units in (8, 8631):
        last = architecture(name, classifier(units)).layers[-1]
        assert last == Linear("classifier", ("pool5_7x7_s1",), 2048, units, bias=True)
    for units in (128, 256):
        last = architecture(name, embedding(units)).layers[-1]
        assert last == Linear("feat_extract", ("pool5_7x7_s1",), 2048, units, bias=False)
        assert "bias" not in last.parameters
    bare = architecture(name, NO_HEAD)
    assert bare.output == "conv5_3_relu"
    assert not of_type(bare, Linear, AveragePool)


@pytest.mark.parametrize(("name", "after"), [
    ("resnet50", {"conv5_3_3x3": "conv5_3_3x3_bn", "conv5_3_1x1_increase": "conv5_3_1x1_increase_bn"}),
    ("senet50", {"conv5_3_1x1_down": "conv5_3_1x1_down_relu", "conv5_3_1x1_up": "conv5_3_prob"}),
])  # fmt: skip
def test_dropout_stands_where_the_published_models_had_it(name: str, after: dict[str, str]) -> None:
    with_dropout, without = architecture(name, dropout=0.5), architecture(name)

    drops = [layer for layer in with_dropout.layers if isinstance(layer, Dropout)]
    assert {drop.inputs: drop.rate for drop in drops} == {(source,): 0.5 for source in after}
    for drop, consumer in zip(drops, after.values(), strict=True):
        assert with_dropout.by_name[consumer].inputs == (drop.name,)
        assert [each.name for each in with_dropout.layers if drop.inputs[0] in each.inputs] == [drop.name]
    assert with_dropout.parameters == without.parameters
    assert not of_type(without, Dropout)
    assert [each.name for each in with_dropout.layers if not isinstance(each, Dropout)] == list(without.by_name)


# --- any head, any dropout ----------------------------------------------------------------------------------------


def channels_and_side(table: Architecture) -> dict[str, tuple[int, int]]:
    """Layer -> (channels, side), from the image on by the layers' own numbers; fails where two do not fit."""
    flow: dict[str, tuple[int, int]] = {}
    for layer in table.layers:
        sources = [flow[name] for name in layer.inputs]
        match layer:
            case Input():
                flow[layer.name] = (3, module.INPUT_SIZE)
                continue
            case Conv():
                assert sources[0][0] == layer.in_channels, layer.name
                side = (sources[0][1] + 2 * layer.padding - layer.kernel) // layer.stride + 1
                flow[layer.name] = (layer.out_channels, side)
            case Linear():
                assert sources[0] == (layer.in_channels, 1), layer.name
                flow[layer.name] = (layer.units, 1)
            case BatchNorm():
                assert sources[0][0] == layer.channels, layer.name
                flow[layer.name] = sources[0]
            case MaxPool():
                flow[layer.name] = (sources[0][0], -(-(sources[0][1] - layer.kernel) // layer.stride) + 1)
            case AveragePool():
                flow[layer.name] = (sources[0][0], sources[0][1] - layer.kernel + 1)
            case GlobalPool():
                assert sources[0][0] == layer.channels, layer.name
                flow[layer.name] = (layer.channels, 1)
            case Scale():
                assert sources[1] == (sources[0][0], 1), layer.name
                flow[layer.name] = sources[0]
            case Add():
                assert sources[0] == sources[1], layer.name
                flow[layer.name] = sources[0]
            case _:
                assert len(sources) == 1, layer.name
                flow[layer.name] = sources[0]
    return flow


@settings(max_examples=40)
@given(
    network=st.sampled_from(NETWORKS),
    head=st.just(NO_HEAD) | st.builds(classifier, st.integers(1, 10**6)) | st.builds(embedding, st.integers(1, 10**6)),
    dropout=st.floats(0.0, 1.0, exclude_max=True),
)  # fmt: skip
def test_consecutive_layers_fit_whatever_the_head_and_the_dropout(network: str, head: Head, dropout: float) -> None:
    table = architecture(network, head, dropout)
    flow = channels_and_side(table)

    assert flow["conv1_7x7_s2"] == (64, 112)
    assert flow["pool1_3x3_s2"] == (64, 56)
    assert [flow[f"conv{stage}_1_relu"] for stage in (2, 3, 4, 5)] == [(256, 56), (512, 28), (1024, 14), (2048, 7)]
    assert flow[table.output] == ((2048, 7) if head.kind == "none" else (head.units, 1))
    assert len(of_type(table, Dropout)) == (2 if dropout else 0)
    for name, roles in table.parameters.items():
        assert all(extent > 0 for shape in roles.values() for extent in shape), name


# --- the module itself --------------------------------------------------------------------------------------------


def test_the_module_imports_the_standard_library_only() -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import is one of ours"
            imported.append(str(node.module))

    assert imported, "nothing was found, so nothing was checked"
    assert [name for name in imported if name.split(".")[0] not in sys.stdlib_module_names] == []


@pytest.mark.parametrize("name", ["", "resnet", "ResNet50", "vgg16", "senet50_ferplus"])
def test_an_unknown_network_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="choose from resnet50, senet50"):
        architecture(name)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_a_dropout_that_is_no_rate_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        architecture("resnet50", dropout=dropout)


@pytest.mark.parametrize("units", [0, -1])
def test_a_head_without_outputs_is_refused(units: int) -> None:
    with pytest.raises(ValueError, match="at least one class"):
        classifier(units)
    with pytest.raises(ValueError, match="at least one dimension"):
        embedding(units)


def test_tables_say_what_they_are() -> None:
    assert str(architecture("resnet50")) == "resnet50, 8 classes"
    assert str(architecture("senet50", embedding(128))) == "senet50, 128-D embedding"
    assert str(architecture("senet50", NO_HEAD)) == "senet50, no head"


@pytest.mark.parametrize("name", NETWORKS)
def test_another_body_is_another_table_under_the_same_names(name: str) -> None:
    published = architecture(name)
    with small_networks():
        table = architecture(name)
        assert table.parameters.keys() < published.parameters.keys() and table.parameter_count < 110_000
        assert {type(layer) for layer in table.layers} == {type(layer) for layer in published.layers}
        assert table.features == table.parameters["classifier"]["kernel"][0] == 128
    assert architecture(name) is published
