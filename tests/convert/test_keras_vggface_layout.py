"""Weights for keras_vggface's own graphs, out and in again: names, channel order, epsilon."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.conversion import convert
from convert.folding import fold
from convert.inspection import as_text, inspect
from convert.readers import own_provenance, read_checkpoint
from convert.writers import keras_vggface as writer
from convert.writers import write
from convert.writers.keras_h5 import fill, functional_config, reserve_layers
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import FERPLUS_HEAD, NETWORKS, NO_HEAD, architecture, classifier, embedding
from ferplus_keras.networks.keras_plan import CLASSIFIER_NORMAL, KerasLayer, in_keras_order
from ferplus_keras.networks.keras_vggface import (
    EPSILON,
    absorbed,
    keras3_name,
    layer_of_weight,
    our_name,
    their_name,
    vggface_plan,
    with_epsilon,
)
from tests.seeded import seeded_checkpoint
from verify.metrics import ulps

pytestmark = pytest.mark.usefixtures("small")


def ulps_apart(one: dict[str, dict[str, np.ndarray]], other: dict[str, dict[str, np.ndarray]]) -> dict[str, int]:
    """Role -> the largest distance of any array of that role. The layers must be the same."""
    assert one.keys() == other.keys()
    found: dict[str, int] = {}
    for layer, roles in one.items():
        assert roles.keys() == other[layer].keys()
        for role, array in roles.items():
            found[role] = max(found.get(role, 0), int(ulps(array, other[layer][role]).max()))
    return found


def test_a_folded_network_has_no_place_there(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="folded"):
        write(fold(seeded_checkpoint("resnet50")), tmp_path / "x.h5", layout="keras-vggface")
    assert not list(tmp_path.iterdir())


# --- names and numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_every_name_goes_there_and_back(network: str) -> None:
    layers = architecture(network).parameters
    for rename in (their_name, keras3_name):
        there = [rename(layer) for layer in layers]
        assert len(set(there)) == len(there)
        assert [our_name(name) for name in there] == list(layers)
    assert not any("/" in keras3_name(layer) for layer in layers)
    assert their_name("conv1_7x7_s2_bn") == "conv1/7x7_s2/bn" and their_name("pool5_7x7_s1") == "avg_pool"
    assert keras3_name("conv1_7x7_s2") not in layers  # a BGR kernel is never under an RGB kernel's name


def test_a_weights_owner_is_told_with_and_without_models_around_it() -> None:
    for owner in ("conv1/7x7_s2", "conv1/7x7_s2/bn", "conv2_1_3x3", "conv2_1_3x3/bn", "dense"):
        assert layer_of_weight(owner) == layer_of_weight(f"vggface_resnet50/{owner}") == owner


def test_the_numbers_that_tensorflow_1_puts_behind_names_are_taken_off() -> None:
    layers = architecture("senet50").parameters
    for layer in set(layers) - {"classifier"}:
        for name in (layer, their_name(layer)):
            assert layer_of_weight(name) == layer_of_weight(f"{name}_1") == layer_of_weight(f"base/{name}_12") == name
    assert layer_of_weight("conv1/7x7_s2_1/bn_1") == "conv1/7x7_s2/bn"
    assert layer_of_weight("dense_1") == "dense_1"  # a layer's own name, and none of the network's


gammas = st.floats(-128, 128, width=32, allow_subnormal=False)
positive = st.floats(2.0**-20, 2.0**20, width=32)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(gammas, positive), min_size=1, max_size=20), st.sampled_from([1e-3, 1e-4]))
def test_gamma_takes_up_the_epsilon_with_one_rounding(pairs: list[tuple[float, float]], epsilon: float) -> None:
    gamma, variance = (np.array(column, np.float32) for column in zip(*pairs, strict=True))
    made = absorbed(gamma, variance, 1e-5, epsilon)
    wide = variance.astype(np.float64)
    wanted, found = gamma / np.sqrt(wide + 1e-5), made / np.sqrt(wide + epsilon)
    assert made.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=2.0**-24 * 1.001, atol=1e-42)
    assert ulps(absorbed(made, variance, epsilon, 1e-5), gamma).max() <= 1 or np.abs(gamma).min() < 1e-35


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_written_and_what_comes_back(network: str, tmp_path: Path) -> None:
    checkpoint = seeded_checkpoint(network)
    path = write(checkpoint, tmp_path / "v.h5", layout="keras-vggface").path
    epsilon = EPSILON[network]
    with h5py.File(path) as file:
        names = [name.decode() for name in file.attrs["layer_names"]]
        kernel = file["conv1/7x7_s2/conv1/7x7_s2/kernel:0"][()]
        gamma = file["conv2_1_3x3/bn/conv2_1_3x3/bn/gamma:0"][()]
    assert names == [layer.name for layer in vggface_plan(architecture(network), exact=False, rename=their_name)
                     if layer.weights]  # fmt: skip
    np.testing.assert_array_equal(kernel, checkpoint.arrays["conv1_7x7_s2"]["kernel"][:, :, [2, 1, 0]])
    norm = checkpoint.arrays["conv2_1_3x3_bn"]
    scale = np.sqrt(
        (norm["moving_variance"].astype(np.float64) + epsilon) / (norm["moving_variance"] + np.float64(1e-5))
    )
    np.testing.assert_array_equal(gamma, (norm["gamma"] * scale).astype(np.float32))

    told = own_provenance(path)
    assert told is not None and told.layout == "keras-vggface" and told.output == "probabilities"
    assert told.preprocessing["channel_order"] == "BGR" and told.preprocessing["mean"] == (91.4953, 103.8827, 131.0912)
    assert any("not exact" in note and "55" in note for note in told.notes)

    back = read_checkpoint(path)
    apart = ulps_apart(checkpoint.arrays, back.arrays)
    assert apart.pop("gamma") <= 1 and set(apart.values()) == {0}
    assert back.provenance.preprocessing["channel_order"] == "RGB" and back.provenance.layout == "albanie"
    assert back.provenance.labels == checkpoint.provenance.labels and back.provenance.network == network
    assert any("BGR" in note for note in back.provenance.notes)
    result = inspect(path)
    assert not result["problems"] and "NOT EXACT" in as_text(result)


def test_an_epsilon_that_was_not_taken_up_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = seeded_checkpoint("resnet50")
    monkeypatch.setattr(writer, "with_epsilon", lambda arrays, _source, _target: arrays)
    path = write(checkpoint, tmp_path / "v.h5", layout="keras-vggface").path
    assert ulps_apart(checkpoint.arrays, read_checkpoint(path).arrays)["gamma"] > 1000


def test_a_kernel_that_was_not_turned_is_seen(tmp_path: Path) -> None:
    checkpoint = seeded_checkpoint("resnet50")
    path = write(checkpoint, tmp_path / "v.h5", layout="keras-vggface").path
    with h5py.File(path, "r+") as file:
        file["conv1/7x7_s2/conv1/7x7_s2/kernel:0"][...] = checkpoint.arrays["conv1_7x7_s2"]["kernel"]
    assert ulps_apart(checkpoint.arrays, read_checkpoint(path).arrays)["kernel"] > 1000


def test_without_a_top_and_with_other_classes(tmp_path: Path) -> None:
    for head in (NO_HEAD, classifier(5)):
        path = write(seeded_checkpoint("resnet50", head), tmp_path / "v.h5", layout="keras-vggface").path
        assert read_checkpoint(path).architecture.head == head


def test_what_the_layout_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no embeddings.*--no-top"):
        write(seeded_checkpoint("resnet50", embedding(128)), tmp_path / "v.h5", layout="keras-vggface")
    for name in ("v.keras", "v.weights.h5", "v.pth"):
        with pytest.raises(BadInputError, match=r"\.h5 or \.hdf5"):
            write(seeded_checkpoint("resnet50"), tmp_path / name, layout="keras-vggface")
    assert not list(tmp_path.iterdir())


# --- files of other hands -------------------------------------------------------------------------------------------


def old_work(path: Path, *, head: str = "dense", epsilon: float | None = None, stride: int | None = None) -> Any:
    """A whole model as a fine-tuning script upon keras_vggface leaves it; returns the arrays that it should become."""
    checkpoint = seeded_checkpoint("resnet50")
    plan = list(vggface_plan(architecture("resnet50", NO_HEAD), exact=False, rename=their_name, pooling="avg"))
    config = {"units": 8, "activation": "softmax", "use_bias": True, "kernel_initializer": CLASSIFIER_NORMAL}
    plan.append(KerasLayer("dropout", "Dropout", ("pool",), {"rate": 0.3}))
    plan.append(KerasLayer(head, "Dense", ("dropout",), config, architecture("resnet50").parameters["classifier"]))
    auto = {layer.name: f"activation_{n}" for n, layer in enumerate(plan) if layer.class_name == "Activation"}
    plan = [replace(layer, name=auto.get(layer.name, layer.name), inputs=tuple(auto.get(n, n) for n in layer.inputs))
            for layer in plan]  # fmt: skip
    for number, layer in enumerate(plan):
        if layer.class_name == "BatchNormalization" and epsilon:
            plan[number] = replace(layer, config={**layer.config, "epsilon": epsilon})
        if layer.name == "conv3_1_3x3" and stride:
            plan[number] = replace(layer, config={**layer.config, "strides": (stride, stride)})
    plan = in_keras_order(plan)
    own = with_epsilon(checkpoint.arrays, 1e-5, epsilon or EPSILON["resnet50"])
    arrays = {their_name(layer): dict(roles) for layer, roles in own.items()}
    arrays[head] = arrays.pop("classifier")
    arrays["conv1/7x7_s2"]["kernel"] = arrays["conv1/7x7_s2"]["kernel"][:, :, ::-1]
    with h5py.File(path, "w") as file:
        model = {"class_name": "Functional", "config": functional_config(tuple(plan), "tuned")}
        file.attrs["model_config"] = json.dumps(model).encode()
        places = reserve_layers(file.create_group("model_weights"), tuple(plan), arrays)
    fill(path, places)
    return checkpoint.arrays


@pytest.mark.parametrize("epsilon", [None, 1e-5, 0.0010000000474974513])
def test_a_head_upon_keras_vggface_is_read_by_what_its_graph_says(epsilon: float | None, tmp_path: Path) -> None:
    wanted = old_work(tmp_path / "tuned.hdf5", epsilon=epsilon)
    found = read_checkpoint(tmp_path / "tuned.hdf5")
    assert found.architecture.head == FERPLUS_HEAD
    apart = ulps_apart(wanted, found.arrays)
    assert apart.pop("gamma") <= 1 and set(apart.values()) == {0}
    told = found.provenance
    assert told.labels is None and told.output == "probabilities"
    assert any("dense" in note for note in told.notes) and any(
        "the result differs slightly" in note for note in told.notes
    )


def test_a_file_of_keras_2_2_from_a_cell_that_ran_twice_is_read(tmp_path: Path) -> None:
    wanted = old_work(tmp_path / "tuned.h5")
    with h5py.File(tmp_path / "tuned.h5", "r+") as file:
        model = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps({**model, "class_name": "Model"}).encode()
        weights = file["model_weights"]
        file.attrs["keras_version"] = weights.attrs["keras_version"] = b"2.2.4"
        for layer in weights.attrs["layer_names"]:
            group = weights[layer]
            renamed = [re.sub(rb"/(?=[^/]+$)", b"_1/", name) for name in group.attrs["weight_names"]]
            for old, new in zip(group.attrs["weight_names"], renamed, strict=True):
                group.move(old, new)
            group.attrs["weight_names"] = np.array(renamed, np.bytes_)
    found = read_checkpoint(tmp_path / "tuned.h5").arrays
    assert max(ulps_apart(wanted, found).values()) <= 1


def test_old_work_moves_to_pytorch_and_to_keras_3s_file(tmp_path: Path) -> None:
    wanted = old_work(tmp_path / "tuned.h5")
    convert(tmp_path / "tuned.h5", [tmp_path / "tuned.pth", tmp_path / "new.h5"])
    for name in ("tuned.pth", "new.h5"):
        assert max(ulps_apart(wanted, read_checkpoint(tmp_path / name).arrays).values()) <= 1


def test_a_graph_that_is_another_network_is_refused_all_the_same(tmp_path: Path) -> None:
    old_work(tmp_path / "tuned.h5", stride=2)
    with pytest.raises(BadInputError, match="conv3_1_3x3 has strides"):
        read_checkpoint(tmp_path / "tuned.h5")


def test_a_layer_under_both_names_is_no_layer_lost(tmp_path: Path) -> None:
    path = write(seeded_checkpoint("resnet50"), tmp_path / "v.h5", layout="keras-vggface").path
    with h5py.File(path, "r+") as file:
        names = [*file.attrs["layer_names"], b"conv2_1_3x3_bn"]
        file.copy(file["conv2_1_3x3/bn"], file, "conv2_1_3x3_bn")
        del file.attrs["layer_names"]
        file.attrs["layer_names"] = np.array(names, np.bytes_)
    with pytest.raises(BadInputError, match="unexpected"):
        read_checkpoint(path)
