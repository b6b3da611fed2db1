"""The plan's order and weights against what Keras itself makes of it, in Keras 3 and in Keras 2.15.

Keras sorts ``model.layers`` by rules of its own, and loading by position goes by that order: the plan must foresee
it to the last layer.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import keras
import pytest

from convert.writers import write
from convert.writers.keras_h5 import functional_config
from ferplus_keras.networks import keras_plan as keras_plan_module
from ferplus_keras.networks.architecture import FERPLUS_HEAD, NETWORKS, NO_HEAD, Head, architecture, embedding
from ferplus_keras.networks.keras_plan import KerasLayer, in_keras_order, keras_plan
from ferplus_keras.networks.models import model_from_architecture
from tests.conftest import run_python
from tests.seeded import seeded_checkpoint
from tests.small import small_networks

#: (head, what stands behind it): every tail that a graph can have.
TAILS: dict[str, tuple[Head, dict[str, str | None]]] = {
    "probabilities": (FERPLUS_HEAD, {}),
    "logits": (FERPLUS_HEAD, {"activation": None}),
    "embedding": (embedding(128), {}),
    "features": (NO_HEAD, {}),
    "avg": (NO_HEAD, {"pooling": "avg"}),
    "max": (NO_HEAD, {"pooling": "max"}),
}

INPUT = KerasLayer("data", "InputLayer", config={"batch_input_shape": (None, 4)})


def names(plan: tuple[KerasLayer, ...] | list[KerasLayer]) -> list[str]:
    return [layer.name for layer in plan]


# --- the order ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_plan_is_keras_3s_own_list_of_layers(
    network: str, tail: str, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras_plan_module, "HE_NORMAL", "zeros")  # random numbers take longer than all the rest
    head, options = TAILS[tail]
    with nullcontext() if tail == "probabilities" else small_networks():  # the whole body once
        table = architecture(network, head, dropout)
    plan = keras_plan(table, **options)

    model = model_from_architecture(table, **options)

    assert [layer.name for layer in model.layers] == names(plan)
    assert [type(layer).__name__ for layer in model.layers] == [layer.class_name for layer in plan]
    for layer, planned in zip(model.layers, plan, strict=True):
        assert [tuple(weight.shape) for weight in layer.weights] == list(planned.weights.values()), layer.name
        roles = [weight.name.split("/")[-1] for weight in layer.weights]
        assert roles == list(planned.weights), layer.name


#: Prints, as JSON, the layer names of whole-model files (arguments that end in .h5) and of configs (the others).
KERAS2_NAMES = """
import json, sys
import keras
assert keras.__version__.startswith("2."), keras.__version__
found = {}
for path in sys.argv[1:]:
    if path.endswith(".h5"):
        model = keras.models.load_model(path, compile=False)
    else:
        model = keras.models.model_from_json(open(path).read())
    found[path] = [[layer.name, type(layer).__name__] for layer in model.layers]
    keras.backend.clear_session()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_plan_is_keras_2s_own_list_of_layers(keras2: Path, tmp_path: Path) -> None:
    expected: dict[str, tuple[KerasLayer, ...]] = {}
    for network in NETWORKS:
        # The file as it is written, and the graph alone for the other tails, with dropout.
        checkpoint, path = seeded_checkpoint(network), tmp_path / f"{network}.h5"
        write(checkpoint, path)
        expected[str(path)] = keras_plan(checkpoint.architecture)
        for tail in ("probabilities", "max"):
            head, options = TAILS[tail]
            plan = keras_plan(architecture(network, head, 0.5), **options)
            config = tmp_path / f"{network}-{tail}.json"
            config.write_text(json.dumps({"class_name": "Functional", "config": functional_config(plan, "any")}))
            expected[str(config)] = plan

    found = json.loads(run_python(KERAS2_NAMES, *expected, python=keras2).splitlines()[-1])

    assert found.keys() == expected.keys()
    for path, plan in expected.items():
        assert found[path] == [[layer.name, layer.class_name] for layer in plan], path


def test_order_does_not_follow_the_table_where_keras_does_not() -> None:
    # Keras lists a projection beside the convolution of the same depth, not at the block's end: were the two orders
    # the same, the tests above would hold for a plan that sorts nothing.
    plan, table = names(keras_plan(architecture("resnet50"))), list(architecture("resnet50").by_name)
    assert [name for name in plan if name in table] != table
    assert plan.index("conv2_1_1x1_proj") < plan.index("conv2_1_1x1_increase_bn")


@pytest.mark.parametrize("flipped", [False, True])
def test_ties_in_depth_go_by_the_order_of_the_inputs(flipped: bool) -> None:
    branches = ("right", "left") if flipped else ("left", "right")
    layers = [
        INPUT,
        KerasLayer("left", "Activation", ("data",), {"activation": "relu"}),
        KerasLayer("right", "Activation", ("data",), {"activation": "relu"}),
        KerasLayer("deep", "Activation", ("right",), {"activation": "relu"}),
        KerasLayer("sum", "Add", branches),
        KerasLayer("end", "Add", ("sum", "deep")),
    ]
    tensors = {"data": keras.Input((4,), name="data")}
    for layer in layers[1:]:
        inputs = [tensors[name] for name in layer.inputs]
        live = getattr(keras.layers, layer.class_name)(**layer.config, name=layer.name)
        tensors[layer.name] = live(inputs if len(inputs) > 1 else inputs[0])

    model = keras.Model(tensors["data"], tensors["end"])

    assert names(in_keras_order(layers)) == [layer.name for layer in model.layers]


# --- the contents -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_of_the_table_stands_in_the_plan_with_its_arrays(network: str) -> None:
    table = architecture(network, dropout=0.5)
    plan = {layer.name: layer for layer in keras_plan(table)}

    assert set(table.by_name) <= set(plan)
    assert {name: layer.weights for name, layer in plan.items() if layer.weights} == table.parameters
    helpers = set(plan) - set(table.by_name)
    squeezes = {f"{name}_flat" for name in table.by_name if name.endswith("_global_pool")}
    assert helpers == {"conv1_7x7_s2_pad", "pool1_3x3_s2_pad", "prob"} | squeezes
    assert len(squeezes) == (16 if network == "senet50" else 0)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_spatial_layer_says_channels_last_itself(network: str) -> None:
    for layer in keras_plan(architecture(network, NO_HEAD), pooling="max"):
        if layer.class_name.endswith("2D"):
            assert layer.config["data_format"] == "channels_last", layer.name
        if layer.class_name == "BatchNormalization":
            assert layer.config["axis"] == -1


@pytest.mark.parametrize("pooling", ["sum", "", "AVG", True])
def test_an_unknown_pooling_is_refused(pooling: str) -> None:
    with pytest.raises(ValueError, match="None, 'avg' or 'max'"):
        keras_plan(architecture("resnet50", NO_HEAD), pooling=pooling)
