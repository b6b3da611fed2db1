"""The graph in a Keras file is held against the network's: what computes something else is named, the rest passes."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.writers.keras_h5 import functional_config
from ferplus_keras.graph.form import GraphError
from ferplus_keras.graph.keras_config import keras_graph, plan_graph, vggface_graph
from ferplus_keras.graph.matcher import match
from ferplus_keras.graph.recognise import recognised
from ferplus_keras.graph.table import table_graph
from ferplus_keras.networks.architecture import (
    FERPLUS_HEAD,
    NETWORKS,
    NO_HEAD,
    Head,
    architecture,
    classifier,
    embedding,
)
from ferplus_keras.networks.keras_plan import keras_plan
from ferplus_keras.networks.keras_vggface import same_name, vggface_plan
from tests.ferplus_keras.graph.configs import (
    Model,
    appended,
    configured,
    departure,
    every_epsilon,
    graph_of,
    held,
    inserted,
    keras2,
    keras3,
    layer_of,
    renamed,
    rewired,
)

RESNET = architecture("resnet50")
BOTH_STYLES = pytest.mark.parametrize(
    "style", [pytest.param("resnet50-keras2", marks=pytest.mark.slow), "resnet50-keras3"]
)


@pytest.fixture(scope="module")
def saved() -> dict[str, Model]:
    """Both networks in both styles; copy before changing."""
    return {f"{network}-{make.__name__}": make(network) for network in NETWORKS for make in (keras2, keras3)}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("head", [FERPLUS_HEAD, classifier(3), embedding(128), NO_HEAD], ids=str)
def test_our_own_graphs_pass(network: str, head: Head, dropout: float) -> None:
    for activation in ("softmax", None):
        model = keras2(network, head, dropout, activation=activation, input_shape=(None, None, 3))
        table = architecture(network, head)
        assert departure(model, table) == departure(model, architecture(network, head, dropout)) == ""
        assert recognised(graph_of(model, table))[0] == table
        assert held(model, table).probabilities == (activation == "softmax" and head.kind == "classifier")


@BOTH_STYLES
@pytest.mark.parametrize(
    ("beside", "names"),
    [(["pool5_7x7_s1"], ("pool5_7x7_s1",)), (["prob"], ()), (["classifier", "conv4_1"], ("classifier", "conv4_1"))],
    ids=str,
)
def test_further_outputs_are_named(style: str, beside: list[str], names: tuple[str, ...], saved: Any) -> None:
    model = copy.deepcopy(saved[style])
    model["config"]["output_layers"] = [[each, 0, 0] for each in [*beside, "prob"]]
    found = held(model, RESNET)
    said = f"of its {len(names) + 1} outputs only prob is used, not {' and '.join(names)}" if names else ""
    assert not found.departures and (found.output, found.note) == ("prob", said)
    assert found.theirs.outputs[found.place] == "prob"


@pytest.mark.parametrize("side", [32, 33, 64, 224])
@pytest.mark.parametrize("folded", [False, True])
def test_a_network_for_images_of_another_size_passes(network: str, folded: bool, side: int) -> None:
    table = architecture(network, folded=folded)
    plan = keras_plan(table, input_shape=(side, side, 3))
    model = {"class_name": "Functional", "config": functional_config(plan, network)}
    assert departure(model, table) == "" and recognised(graph_of(model, table))[0] == table


@pytest.mark.parametrize("folded", [False, True])
def test_the_plan_is_the_table(network: str, folded: bool) -> None:
    table = architecture(network, folded=folded)
    graph = plan_graph(keras_plan(table))
    found, matched = recognised(graph)
    assert found == table and not matched.departures
    assert matched.pairs.keys() == table_graph(table).nodes.keys() and set(matched.by.values()) <= {"name", "structure"}


@pytest.mark.slow
def test_what_keras_3_saves_passes(network: str) -> None:
    full, bare = architecture(network), architecture(network, NO_HEAD)
    assert departure(keras3(network), full) == ""
    assert departure(keras3(network, classifier_activation=None, dropout=0.5), full) == ""
    assert departure(keras3(network, include_top=False, input_shape=(None, None, 3)), bare) == ""
    assert departure(keras3(network, include_top=False, pooling="max", input_shape=(96, 96, 3)), bare) == ""


def test_keras_vggfaces_graph_is_told_from_ours_by_its_padding(network: str) -> None:
    table = architecture(network)
    assert recognised(plan_graph(vggface_plan(table, exact=True, rename=same_name)))[1].departure is None
    theirs = vggface_graph(table, 1e-5)
    told = match(table_graph(table), theirs).departures
    assert [(each.node, each.attribute) for each in told] == [("conv1_7x7_s2", "padding"), ("pool1_3x3_s2", "padding")]


def test_traces_of_training_pass(saved: dict[str, Model]) -> None:
    for style in ("resnet50-keras2", "resnet50-keras3"):
        model = copy.deepcopy(saved[style])
        for layer in model["config"]["layers"]:
            config = layer["config"]
            config["trainable"], config["dtype"] = False, {"class_name": "DTypePolicy", "config": "mixed_float16"}
            if layer["class_name"] == "BatchNormalization":
                config |= {"momentum": 0.99, "epsilon": 1.0000000474974513e-05}
            if layer["class_name"] == "Conv2D":
                config["kernel_regularizer"] = {"class_name": "L2", "config": {"l2": 1e-4}}
        assert departure(model, RESNET) == ""


def classed(name: str, class_name: str, **config: Any) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        layer_of(model, name)["class_name"] = class_name
        layer_of(model, name)["config"].update(config)

    return change


def foreign_module(model: Model) -> None:
    layer_of(model, "conv3_2_3x3_relu")["module"] = "their.layers"


FAULTS: dict[str, tuple[Callable[[Model], None], str]] = {
    "every epsilon": (every_epsilon, r"conv1_7x7_s2_bn has epsilon 0\.001, and 1e-05 in these networks"),
    "epsilon nearly right": (configured("conv4_2_3x3_bn", epsilon=1.001e-5), "conv4_2_3x3_bn has epsilon 1.001e-05"),
    "stride": (configured("conv3_1_1x1_reduce", strides=[1, 1]), "conv3_1_1x1_reduce has strides 1 x 1, and 2 x 2"),
    "dilation": (configured("conv3_1_3x3", dilation_rate=[2, 2]), "conv3_1_3x3 has padding 2 on each side"),
    "groups": (configured("conv3_1_3x3", groups=2), "conv3_1_3x3 has groups 2, and 1"),
    "same padding": (configured("conv1_7x7_s2", padding="same"), "conv1_7x7_s2 has padding 5 above, 6 below"),
    "zeros of conv1": (configured("conv1_7x7_s2_pad", padding=[[2, 3], [2, 3]]), "conv1_7x7_s2 has padding 2 above"),
    "zeros of pool1": (configured("pool1_3x3_s2_pad", padding=[[1, 1], [1, 1]]), "pool1_3x3_s2 has padding 1 on each"),
    "pool size": (configured("pool1_3x3_s2", pool_size=[2, 2]), "pool1_3x3_s2 has size 2 x 2, and 3 x 3"),
    "another class": (classed("pool1_3x3_s2", "AveragePooling2D"), "where pool1_3x3_s2, .* stands .*AveragePooling2D"),
    "no ReLU": (configured("conv3_2_3x3_relu", activation="linear"), "conv3_2_3x3_relu, a ReLU, is not there: what fol"
                                                                     "lows conv3_2_3x3_bn is conv3_2_1x1_increase, a"),
    "another ReLU": (classed("conv3_2_3x3_relu", "LeakyReLU"), "where conv3_2_3x3_relu, .* stands .*a LeakyReLU"),
    "a ReLU with a bound": (classed("conv3_2_3x3_relu", "ReLU", max_value=6.0), ".*stands .*a ReLU with max_value 6"),
    "a ReLU of their own": (foreign_module, "where conv3_2_3x3_relu, .* stands .*their.layers.Activation"),
    "ReLU too many": (configured("conv3_2_3x3", activation="relu"), "where conv3_2_3x3_bn, .* stands|conv3_2_3x3_bn, "),
    "no scale": (configured("conv3_2_3x3_bn", scale=False), "conv3_2_3x3_bn has scale False"),
    "another axis": (configured("conv3_2_3x3_bn", axis=[1]), "conv3_2_3x3_bn has axis 1"),
    "channels first": (configured("conv3_2_3x3", data_format="channels_first"), "where conv3_2_3x3, .* stands"),
    "head squashed": (configured("classifier", activation="tanh"), "classifier, a tanh, has no place"),
    "no residual": (rewired("conv3_3_relu", "conv3_3", "conv3_3_1x1_increase_bn"), "conv3_3, an Add, is not there"),
    "another wiring": (rewired("conv3_3", "conv3_2_relu", "conv3_2"), "conv3_3 is fed by .*conv3_2 ?.*, and by "),
    "a ReLU passed by": (rewired("conv4_1_3x3", "conv4_1_1x1_reduce_relu", "conv4_1_1x1_reduce_bn"),
                         "conv4_1_1x1_reduce_relu, a ReLU, is not there: what follows .* is conv4_1_3x3"),
}  # fmt: skip


@BOTH_STYLES
@pytest.mark.parametrize("fault", FAULTS)
def test_what_computes_something_else_is_named(fault: str, style: str, saved: dict[str, Model]) -> None:
    plant, told = FAULTS[fault]
    model = copy.deepcopy(saved[style])
    plant(model)
    assert re.match(told, departure(model, RESNET))


def test_the_gates_of_senet_are_held_too(saved: dict[str, Model]) -> None:
    for style in ("senet50-keras2", "senet50-keras3"):
        model = copy.deepcopy(saved[style])
        layer_of(model, "conv5_2_prob")["config"]["activation"] = "hard_sigmoid"
        problem = departure(model, architecture("senet50"))
        assert problem == "where conv5_2_prob, a Sigmoid, belongs stands conv5_2_prob, a hard_sigmoid"


IN_FRONT = "where conv1_7x7_s2, a convolution, belongs stands extra, a "
MEAN = [-131.0912, -103.8827, -91.4953]


@pytest.mark.parametrize(
    ("class_name", "config", "told"),
    [
        ("Dropout", {"rate": 0.5}, ""), ("RandomFlip", {"mode": "horizontal"}, ""),
        ("Rescaling", {"scale": 1.0, "offset": 0.0}, ""), ("Rescaling", {"scale": 1, "offset": [0, 0, 0]}, ""),
        ("Rescaling", {"scale": 1.0, "offset": MEAN}, ""),
        ("Rescaling", {"scale": 1 / 255, "offset": 0.0}, IN_FRONT + "Rescaling"),
        ("Rescaling", {"scale": 1.0, "offset": MEAN[::-1]}, IN_FRONT + "Rescaling"),
        ("Rescaling", {"scale": 1.0, "offset": -1.0}, IN_FRONT + "Rescaling"),
        ("Resizing", {"height": 224, "width": 224}, ""), ("CenterCrop", {"height": 224, "width": 224}, ""),
        ("Resizing", {"height": 192, "width": 192}, IN_FRONT + "Resizing"),
        ("Lambda", {}, IN_FRONT + "Lambda"), ("Normalization", {}, IN_FRONT + "Normalization"),
    ],
)  # fmt: skip
def test_a_layer_in_front_passes_when_it_changes_nothing(
    class_name: str, config: dict[str, Any], told: str, saved: dict[str, Model]
) -> None:
    model = copy.deepcopy(saved["resnet50-keras2"])
    inserted(class_name, "data", "conv1_7x7_s2_pad", **config)(model)
    if class_name == "CenterCrop":  # as Keras 3 saves it
        layer_of(model, "extra")["inbound_nodes"] = [[["data", 0, 0, {"training": True}]]]
    assert departure(model, RESNET) == told
    assert held(model, RESNET).preprocessed == (config.get("offset") is MEAN)


def test_images_of_any_size_may_be_resized(saved: dict[str, Model]) -> None:
    model = copy.deepcopy(saved["resnet50-keras2"])
    inserted("Resizing", "data", "conv1_7x7_s2_pad", height=224, width=224)(model)
    layer_of(model, "data")["config"]["batch_input_shape"] = [None, None, None, 3]
    assert departure(model, RESNET) == f"{IN_FRONT}Resizing"


def test_a_single_pixel_has_nothing_to_dilate(saved: dict[str, Model]) -> None:
    model = copy.deepcopy(saved["resnet50-keras2"])
    configured("conv3_2_1x1_reduce", dilation_rate=[2, 2])(model)
    assert departure(model, RESNET) == ""


@pytest.mark.parametrize(
    ("behind", "before", "class_name"),
    [("pool1_3x3_s2", "conv2_1_1x1_reduce", "LayerNormalization"), ("pool5_7x7_s1", "classifier", "UnitNormalization")],
)
def test_a_layer_between_is_named_and_the_rest_is_paired(
    behind: str, before: str, class_name: str, saved: dict[str, Model]
) -> None:
    model = copy.deepcopy(saved["resnet50-keras2"])
    inserted(class_name, behind, before)(model)
    found = held(model, RESNET)
    assert str(found.departure).endswith(f"stands extra, a {class_name}")
    assert found.pairs.keys() >= RESNET.parameters.keys()


def test_what_stands_behind_the_head_is_named(saved: dict[str, Model]) -> None:
    for class_name, config in (("Rescaling", {"scale": 0.5}), ("Lambda", {}), ("Dense", {"units": 8})):
        model = copy.deepcopy(saved["resnet50-keras2"])
        appended(class_name, **config)(model)
        found = held(model, RESNET)
        assert str(found.departure) == f"extra, a {class_name}, has no place in these networks: it takes prob"
        assert found.departure is not None and found.departure.where == "behind"


def test_a_softmax_of_features_is_named() -> None:
    """A dense layer without bias gives an embedding, of which nobody takes a softmax."""
    table = architecture("resnet50", embedding(8))
    model = keras2("resnet50", embedding(8), 0.0, activation=None, input_shape=(None, None, 3))
    assert departure(model, table) == ""
    appended("Softmax")(model)
    assert departure(model, table) == "extra, a Softmax, has no place in these networks: it takes feat_extract"


def test_a_port_by_another_hand_is_taken_for_what_it_does(saved: dict[str, Model]) -> None:
    """No name is ours, zeros are laid by layers of its own, the softmax is in the head, the average a window of 7."""
    model = copy.deepcopy(saved["resnet50-keras2"])
    layer_of(model, "pool5_7x7_s1").update(class_name="AveragePooling2D")
    layer_of(model, "pool5_7x7_s1")["config"].update(pool_size=7, strides=None, padding="valid")
    inserted("Flatten", "pool5_7x7_s1", "classifier")(model)
    inserted_pad = {"class_name": "ZeroPadding2D", "name": "zeros", "config": {"name": "zeros", "padding": 1}}
    rewired("conv3_1_3x3", "conv3_1_1x1_reduce_relu", "zeros")(model)
    model["config"]["layers"].append(inserted_pad | {"inbound_nodes": [[["conv3_1_1x1_reduce_relu", 0, 0, {}]]]})
    configured("conv3_1_3x3", padding="valid")(model)
    configured("classifier", activation="softmax")(model)
    model["config"]["output_layers"] = [["classifier", 0, 0]]
    assert departure(model, RESNET) == ""
    names = {layer["config"]["name"]: f"theirs_{place}" for place, layer in enumerate(model["config"]["layers"])}
    stranger = renamed(model, names)
    places = graph_of(model, RESNET)
    arrays = {names[node.name]: node.arrays for node in places.nodes.values() if node.arrays}
    table, found = recognised(keras_graph(stranger, arrays))
    assert table == RESNET and not found.departures and found.probabilities
    assert {layer: found.owner(layer) for layer in RESNET.parameters} == {e: names[e] for e in RESNET.parameters}
    every_epsilon(stranger)
    told = str(recognised(keras_graph(stranger, arrays))[1].departure)
    assert told.startswith("theirs_") and "(which is conv1_7x7_s2_bn) has epsilon 0.001" in told


def test_a_model_in_the_model_is_laid_open(saved: dict[str, Model]) -> None:
    for style in ("resnet50-keras2", "resnet50-keras3"):
        inner = {**copy.deepcopy(saved[style]), "name": "base"}
        image = {"class_name": "InputLayer", "config": {"name": "image", "batch_input_shape": [None, 224, 224, 3]}}
        drop = {"class_name": "Dropout", "config": {"name": "drop", "rate": 0.5}}
        outer = {"class_name": "Sequential", "config": {"name": "outer", "layers": [image, inner, drop]}}
        assert departure(outer, RESNET) == ""
        without = {"class_name": "Sequential", "config": [inner]}
        assert departure(without, RESNET) == ""
        twice = {"class_name": "Sequential", "config": [inner, {**inner, "name": "again"}]}
        assert departure(twice, RESNET) != ""


def functional(inner: Model, *, number: int, **said: Any) -> Model:
    """A model that calls ``inner`` and takes its call ``number``, in Keras 2's style."""
    image = {"class_name": "InputLayer", "name": "image", "inbound_nodes": [],
             "config": {"name": "image", "batch_input_shape": [None, 224, 224, 3]}}  # fmt: skip
    base = {**inner, "name": "base", "inbound_nodes": [[["image", 0, 0, said]]]}
    drop = {"class_name": "Dropout", "name": "drop", "config": {"name": "drop", "rate": 0.5},
            "inbound_nodes": [[["base", number, 0, {}]]]}  # fmt: skip
    return {"class_name": "Functional", "config": {
        "name": "outer", "layers": [image, base, drop], "input_layers": [["image", 0, 0]],
        "output_layers": [["drop", 0, 0]],
    }}  # fmt: skip


@BOTH_STYLES
def test_the_first_call_of_a_model_in_the_model_is_number_1_in_keras_2(style: str, saved: dict[str, Model]) -> None:
    for number in (0, 1):
        assert departure(functional(saved[style], number=number, training=False), RESNET) == ""


@BOTH_STYLES
@pytest.mark.parametrize("said", [True, 1])
def test_a_model_that_is_called_in_training_is_named(style: str, said: Any, saved: dict[str, Model]) -> None:
    """``base(x, training=True)``: its batch normalisations take the batch's statistics, whoever calls the whole."""
    told = departure(functional(saved[style], number=0, training=said), RESNET)
    assert re.search("conv1_7x7_s2_bn.* a BatchNormalization in training", told), told


def test_a_layer_that_is_called_in_training_is_named(saved: dict[str, Model]) -> None:
    """Keras 2 writes 1 as readily as true."""
    for said in (True, 1):
        model = copy.deepcopy(saved["resnet50-keras2"])
        layer_of(model, "conv2_1_3x3_bn")["inbound_nodes"][0][0][3] = {"training": said}
        assert "conv2_1_3x3_bn, a BatchNormalization in training" in departure(model, RESNET)


@pytest.mark.parametrize(("said", "told"), [({}, ""), ({"axis": -1}, ""), ({"axis": 0}, "a Softmax with further argu")])
def test_a_softmax_over_the_images_is_named(said: dict[str, int], told: str, saved: dict[str, Model]) -> None:
    """``tf.nn.softmax(logits, axis=0)``, as Keras 2 writes it."""
    model = copy.deepcopy(saved["resnet50-keras2"])
    layer = layer_of(model, "prob")
    layer.update(class_name="TFOpLambda", inbound_nodes=[["classifier", 0, 0, said]])
    layer["config"] = {"name": "prob", "function": "nn.softmax"}
    found = departure(model, RESNET)
    assert told in found and bool(told) == bool(found)


def test_a_product_with_minus_one_is_named(saved: dict[str, Model]) -> None:
    model = copy.deepcopy(saved["resnet50-keras2"])
    appended("TFOpLambda", function="math.multiply")(model)
    model["config"]["layers"][-1]["inbound_nodes"] = [["prob", 0, 0, {"y": -1}]]
    assert departure(model, RESNET) != ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=150)
@given(
    name=st.sampled_from(["conv1_7x7_s2", "conv1_7x7_s2_bn", "conv1_7x7_s2_pad", "pool1_3x3_s2", "data", "conv2_1",
                          "conv2_1_relu", "classifier"]),
    key=st.sampled_from(["config", "inbound_nodes", "class_name", "name", "strides", "padding", "epsilon", "axis",
                         "activation", "batch_input_shape", "module"]),
    value=JSON,
)  # fmt: skip
def test_whatever_stands_in_a_graph_ends_in_a_sentence_or_in_nothing(name: str, key: str, value: Any) -> None:
    model = copy.deepcopy(FUZZED)
    layer = layer_of(model, name)
    (layer if key in layer else layer["config"])[key] = value
    for each in (model, {"class_name": "Sequential", "config": value}, {"config": {"layers": value}}, value):
        try:
            assert len(departure(each, RESNET)) <= 300
        except GraphError as error:
            assert len(str(error)) < 400


FUZZED = keras2()


def test_a_graph_of_endless_layers_is_refused() -> None:
    layers = [{"class_name": "Dropout", "config": {}, "name": str(number)} for number in range(10_001)]
    with pytest.raises(GraphError, match="more than 10,000 layers"):
        keras_graph({"class_name": "Sequential", "config": layers}, {})
    nested: Any = [{"class_name": "Dropout", "config": {}}] * 12
    for _ in range(3):
        nested = [{"class_name": "Sequential", "config": nested, "name": "m"}] * 12
    with pytest.raises(GraphError, match="more than 10,000 layers"):
        keras_graph({"class_name": "Sequential", "config": nested}, {})


def test_a_circle_is_refused() -> None:
    model = keras2()
    rewired("conv2_1_3x3", "conv2_1_1x1_reduce_relu", "conv3_1")(model)
    with pytest.raises(GraphError, match="runs in a circle"):
        graph_of(model, RESNET)
