"""The graph in a Keras file is held against the network's: what computes something else is named, the rest passes."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.conversion import convert
from convert.inspection import inspect
from convert.readers import read_checkpoint
from convert.readers.keras_graph import Graph, departure
from convert.writers import write
from convert.writers.keras_h5 import functional_config
from ferplus_keras.errors import BadInputError
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
from tests.seeded import seeded_checkpoint

Model = dict[str, Any]


def keras2(network: str = "resnet50", head: Head = FERPLUS_HEAD, dropout: float = 0.0, **options: Any) -> Model:
    """The graph as our own writer puts it into a file, in Keras 2's style."""
    plan = keras_plan(architecture(network, head, dropout), **options)
    return {"class_name": "Functional", "config": functional_config(plan, network)}


def keras3(network: str = "resnet50", **options: Any) -> Model:
    """The graph as Keras 3 saves it."""
    import ferplus_keras

    model = {"resnet50": ferplus_keras.ResNet50, "senet50": ferplus_keras.SeNet50}[network](weights=None, **options)
    parsed: Model = json.loads(model.to_json())
    return parsed


@pytest.fixture(scope="module")
def saved() -> dict[str, Model]:
    """Both networks in both styles; copy before changing."""
    return {f"{network}-{make.__name__}": make(network) for network in NETWORKS for make in (keras2, keras3)}


def layer_of(model: Model, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(layer for layer in model["config"]["layers"] if layer["config"]["name"] == name)
    return found


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("head", [FERPLUS_HEAD, classifier(3), embedding(128), NO_HEAD], ids=str)
def test_our_own_graphs_pass(network: str, head: Head, dropout: float) -> None:
    for activation in ("softmax", None):
        model = keras2(network, head, dropout, activation=activation, input_shape=(None, None, 3))
        # The arrays do not tell of dropout; a table without it must do.
        assert departure(Graph(model), architecture(network, head)) == ""
        assert departure(Graph(model), architecture(network, head, dropout)) == ""


def test_what_keras_3_saves_passes(network: str) -> None:
    full, bare = architecture(network), architecture(network, NO_HEAD)
    assert departure(Graph(keras3(network)), full) == ""
    assert departure(Graph(keras3(network, classifier_activation=None, dropout=0.5)), full) == ""
    assert departure(Graph(keras3(network, include_top=False, input_shape=(None, None, 3))), bare) == ""
    assert departure(Graph(keras3(network, include_top=False, pooling="max", input_shape=(96, 96, 3))), bare) == ""


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
        assert departure(Graph(model), architecture("resnet50")) == ""


def configured(name: str, **config: Any) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        old = layer_of(model, name)["config"]
        assert all(old.get(key) != value for key, value in config.items()), "the fault changes nothing"
        old.update(config)

    return change


def every_epsilon(model: Model) -> None:
    for layer in model["config"]["layers"]:
        if layer["class_name"] == "BatchNormalization":
            layer["config"]["epsilon"] = 1e-3


def another_class(model: Model) -> None:
    layer_of(model, "pool1_3x3_s2")["class_name"] = "AveragePooling2D"


FAULTS: dict[str, tuple[Callable[[Model], None], str]] = {
    "every epsilon": (every_epsilon, r"conv1_7x7_s2_bn has epsilon 0\.001, and 1e-05"),
    "epsilon nearly right": (configured("conv4_2_3x3_bn", epsilon=1.001e-5), "conv4_2_3x3_bn has epsilon 1.001e-05"),
    "stride": (configured("conv3_1_1x1_reduce", strides=[1, 1]), r"conv3_1_1x1_reduce has strides \(1, 1\), and \(2"),
    "dilation": (configured("conv3_1_3x3", dilation_rate=[2, 2]), "conv3_1_3x3 has dilation_rate"),
    "same padding": (configured("conv1_7x7_s2", padding="same"), "conv1_7x7_s2 has padding same, and valid"),
    "zeros of conv1": (configured("conv1_7x7_s2_pad", padding=[[2, 3], [2, 3]]), "conv1_7x7_s2_pad has padding"),
    "zeros of pool1": (configured("pool1_3x3_s2_pad", padding=[[1, 1], [1, 1]]), "pool1_3x3_s2_pad has padding"),
    "pool size": (configured("pool1_3x3_s2", pool_size=[2, 2]), r"pool1_3x3_s2 has pool_size \(2, 2\)"),
    "another class": (another_class, "pool1_3x3_s2 is a AveragePooling2D, and a MaxPooling2D"),
    "no ReLU": (configured("conv3_2_3x3_relu", activation="linear"), "conv3_2_3x3_relu has activation linear"),
    "ReLU too many": (configured("conv3_2_3x3", activation="relu"), "conv3_2_3x3 has activation relu, and linear"),
    "head squashed": (configured("classifier", activation="tanh"), "classifier has activation tanh"),
}  # fmt: skip


@pytest.mark.parametrize("style", ["resnet50-keras2", "resnet50-keras3"])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_computes_something_else_is_named(fault: str, style: str, saved: dict[str, Model]) -> None:
    plant, told = FAULTS[fault]
    model = copy.deepcopy(saved[style])
    plant(model)
    assert re.match(told, departure(Graph(model), architecture("resnet50")))


def rewired(model: Model, layer: str, old: str, new: str) -> Model:
    """``layer`` fed by ``new`` in place of ``old``, in either style."""
    nodes = json.dumps(layer_of(model, layer)["inbound_nodes"])
    assert f'"{old}"' in nodes
    layer_of(model, layer)["inbound_nodes"] = json.loads(nodes.replace(f'"{old}"', f'"{new}"'))
    return model


@pytest.mark.parametrize("style", ["resnet50-keras2", "resnet50-keras3"])
def test_another_wiring_is_named(style: str, saved: dict[str, Model]) -> None:
    model = rewired(copy.deepcopy(saved[style]), "conv3_3", "conv3_2_relu", "conv3_2")
    assert departure(Graph(model), architecture("resnet50")).startswith("conv3_3 is fed by ")
    skipped = rewired(copy.deepcopy(saved[style]), "conv4_1_3x3", "conv4_1_1x1_reduce_relu", "conv4_1_1x1_reduce_bn")
    assert "conv4_1_3x3 is fed by conv4_1_1x1_reduce_bn" in departure(Graph(skipped), architecture("resnet50"))


def test_the_gates_of_senet_are_held_too(saved: dict[str, Model]) -> None:
    for style in ("senet50-keras2", "senet50-keras3"):
        model = copy.deepcopy(saved[style])
        layer_of(model, "conv5_2_prob")["config"]["activation"] = "hard_sigmoid"
        problem = departure(Graph(model), architecture("senet50"))
        assert problem == "conv5_2_prob has activation hard_sigmoid, and sigmoid in these networks"


@pytest.mark.parametrize(
    ("class_name", "config", "passes"),
    [
        ("Dropout", {"rate": 0.5}, True), ("RandomFlip", {"mode": "horizontal"}, True),
        ("Rescaling", {"scale": 1.0, "offset": 0.0}, True), ("Rescaling", {"scale": 1, "offset": [0, 0, 0]}, True),
        ("Rescaling", {"scale": 1 / 255, "offset": 0.0}, False), ("Rescaling", {"scale": 1.0, "offset": -1.0}, False),
        ("Lambda", {}, False),
    ],
)  # fmt: skip
def test_a_further_layer_passes_when_it_changes_nothing(
    class_name: str, config: dict[str, Any], passes: bool, saved: dict[str, Model]
) -> None:
    model = rewired(copy.deepcopy(saved["resnet50-keras2"]), "conv1_7x7_s2_pad", "data", "extra")
    extra = {"class_name": class_name, "name": "extra", "config": {"name": "extra", **config}}
    model["config"]["layers"].insert(1, extra | {"inbound_nodes": [[["data", 0, 0, {}]]]})
    problem = departure(Graph(model), architecture("resnet50"))
    assert problem == ("" if passes else "conv1_7x7_s2_pad is fed by extra, and by data in these networks")


def test_a_port_by_another_hand_is_held_to_what_cannot_differ(saved: dict[str, Model]) -> None:
    """Layers that own arrays are called as ours are, all others not: its ways are its own, its strides are not."""
    text = json.dumps(saved["resnet50-keras2"])
    for name in ("conv1_7x7_s2_pad", "pool1_3x3_s2_pad", "conv3_2", "conv3_2_relu", "pool1_3x3_s2"):
        text = text.replace(f'"{name}"', f'"theirs_{name}"')
    model = json.loads(text)
    layer_of(model, "conv3_1_3x3")["config"]["padding"] = "valid"  # and zeros by a layer of its own
    assert departure(Graph(model), architecture("resnet50")) == ""
    every_epsilon(model)
    assert "epsilon 0.001" in departure(Graph(model), architecture("resnet50"))


def test_a_damaged_file_is_refused_and_can_still_be_opened_for_the_proof(tmp_path: Path) -> None:
    path = write(seeded_checkpoint("resnet50"), tmp_path / "x.h5").path
    with h5py.File(path, "r+") as file:
        model = json.loads(file.attrs["model_config"])
        every_epsilon(model)
        file.attrs["model_config"] = json.dumps(model).encode()
    with pytest.raises(BadInputError, match=r"conv1_7x7_s2_bn has epsilon 0\.001, and 1e-05 in .*parity"):
        convert(path, [tmp_path / "y.safetensors"])
    assert not (tmp_path / "y.safetensors").exists()
    assert "conv1_7x7_s2_bn has epsilon" in inspect(path)["problems"]
    assert read_checkpoint(path, check_graph=False).architecture == architecture("resnet50")


def test_a_damaged_file_is_not_the_same_network(tmp_path: Path) -> None:
    from verify.same import check_same

    right = write(seeded_checkpoint("resnet50"), tmp_path / "x.h5").path
    wrong = Path(shutil.copy(right, tmp_path / "wrong.h5"))
    with h5py.File(wrong, "r+") as file:
        model = json.loads(file.attrs["model_config"])
        configured("conv3_1_1x1_reduce", strides=[1, 1])(model)
        file.attrs["model_config"] = json.dumps(model).encode()
    with pytest.raises(BadInputError, match="conv3_1_1x1_reduce has strides"):
        check_same(right, wrong)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150)
@given(
    name=st.sampled_from(["conv1_7x7_s2", "conv1_7x7_s2_bn", "conv1_7x7_s2_pad", "pool1_3x3_s2", "data", "conv2_1"]),
    key=st.sampled_from(["config", "inbound_nodes", "class_name", "name", "strides", "padding", "epsilon"]),
    value=JSON,
)
def test_whatever_stands_in_a_graph_ends_in_a_sentence_or_in_nothing(name: str, key: str, value: Any) -> None:
    model = keras2()
    layer = layer_of(model, name)
    (layer if key in layer else layer["config"])[key] = value
    assert isinstance(departure(Graph(model), architecture("resnet50")), str)
    assert isinstance(Graph({"class_name": "Sequential", "config": value}).nodes, dict)


def test_a_graph_of_endless_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 10,000 layers"):
        Graph({"config": [{"class_name": "Dropout", "config": {}, "name": str(number)} for number in range(10_001)]})
