"""The network as it is trained: what is frozen, what starts where, and which weights the averages are."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import keras
import numpy as np
import pytest

from convert.folding import fold
from convert.writers import write
from ferplus_keras.cli.finetuning import _start
from ferplus_keras.errors import BadInputError
from ferplus_keras.finetune.devices import cpu_has_bfloat16
from ferplus_keras.finetune.losses import Distilled
from ferplus_keras.finetune.network import (
    factor_of,
    freeze,
    get_arrays,
    regularize,
    set_arrays,
    training_network,
    training_table,
)
from ferplus_keras.finetune.normalization import FusedBatchNormalization
from ferplus_keras.finetune.recipe import Recipe, load_recipe
from ferplus_keras.finetune.start import Start
from ferplus_keras.networks import architecture as arch
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.gates import with_gates
from tests.seeded import seeded_arrays, seeded_checkpoint


def small(name: str, *overrides: str, network: str = "resnet50") -> Recipe:
    return load_recipe(name, ["size=32", *overrides], network=network)


@pytest.fixture(scope="module")
def wtomin() -> keras.Model:
    return training_network("resnet50", 8, small("wtomin"), Start(seeded_arrays("resnet50")))


@pytest.mark.slow
def test_wtomin_trains_from_the_layer_on_that_he_did(wtomin: keras.Model) -> None:
    names = [layer.name for layer in wtomin.layers]
    first = names.index("conv4_5_1x1_increase")
    assert [layer.trainable for layer in wtomin.layers] == [number >= first for number in range(len(names))]
    trained = {weight.path.split("/")[0] for weight in wtomin.trainable_weights}
    assert {"classifier", "conv4_5_1x1_increase", "conv5_1_1x1_reduce"} <= trained
    assert not trained & {"conv1_7x7_s2", "conv4_5_3x3", "conv4_4_1x1_increase"}


@pytest.mark.parametrize(("bias", "layers"), [("false", []), ("true", ["conv5_3_1x1_increase*", "classifier"])])
def test_the_penalty_is_on_what_learns(bias: str, layers: list[str], wtomin: keras.Model) -> None:
    """As wtomin's --reg_func l2 has it: kernels, gammas and betas of the layers that learn; biases with --reg_bias."""
    settings = small("wtomin", "regularizer=l2", f"regularizer_layers={layers}", f"regularize_bias={bias}").network
    wanted = 0.0
    try:
        regularize(wtomin, training_table("resnet50", 8, settings), settings)
        for weight in wtomin.trainable_weights:
            layer, role = weight.path.split("/")[-2:]
            if role in ("kernel", "gamma", "beta") or bias == "true":
                chosen = not layers or layer.startswith("conv5_3_1x1_increase") or layer == "classifier"
                wanted += chosen * 5e-4 * float((np.asarray(weight, np.float64) ** 2).sum())
        assert wanted > 0 and float(sum(wtomin.losses)) == pytest.approx(wanted, rel=1e-5)
    finally:
        for weight in wtomin.weights:
            weight.regularizer = None
    with pytest.raises(BadInputError, match='regularizer_layers: no layer with weights matches "dense"'):
        regularize(wtomin, training_table("resnet50", 8, small("wtomin").network),
                   small("wtomin", "regularizer_layers=['dense']").network)  # fmt: skip


def test_frozen_batchnorm_stays_and_the_others_move(wtomin: keras.Model) -> None:
    frozen, moving = wtomin.get_layer("conv2_1_3x3_bn"), wtomin.get_layer("conv5_3_3x3_bn")
    before = [np.array(layer.moving_mean) for layer in (frozen, moving)]
    wtomin(np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32"), training=True)
    np.testing.assert_array_equal(frozen.moving_mean, before[0])
    assert np.abs(np.array(moving.moving_mean) - before[1]).max() > 0
    freeze(wtomin, small("wtomin", "train_from=''", "batchnorm=frozen").network)
    assert not moving.trainable and wtomin.get_layer("conv1_7x7_s2").trainable
    with pytest.raises(BadInputError, match="Did you mean conv4_5_3x3"):
        freeze(wtomin, small("wtomin", "train_from=conv4_5_3x3_x").network)


def test_the_start_is_what_the_network_begins_with(wtomin: keras.Model) -> None:
    table = training_table("resnet50", 8, small("wtomin").network)
    wanted = seeded_arrays("resnet50")
    set_arrays(wtomin, table, wanted)
    found = get_arrays(wtomin, table)
    assert list(found) == list(wanted)
    for layer, roles in wanted.items():
        for role, array in roles.items():
            np.testing.assert_array_equal(found[layer][role], array, err_msg=f"{layer}/{role}")
    headless = {layer: roles for layer, roles in wanted.items() if layer != "classifier"}
    wtomin.get_layer("classifier").kernel.assign(np.ones((2048, 8), np.float32))
    set_arrays(wtomin, table, headless)
    assert (np.array(wtomin.get_layer("classifier").kernel) == 1).all()
    with pytest.raises(BadInputError, match="no conv1_7x7_s2"):
        set_arrays(wtomin, table, {"classifier": wanted["classifier"]})
    with pytest.raises(BadInputError, match="classifier is"):
        set_arrays(wtomin, table, wanted | {"classifier": {"kernel": np.ones((2048, 7)), "bias": np.ones(7)}})


@pytest.mark.parametrize(
    "network, name, places",
    [
        ("resnet50", "albanie", ["conv5_3_3x3_drop", "conv5_3_1x1_increase_drop"]),
        ("senet50", "albanie", ["conv5_3_1x1_down_drop", "conv5_3_1x1_up_drop"]),
        ("resnet50", "wtomin", ["pool5_7x7_s1_drop"]),
    ],
)
def test_dropout_stands_where_the_recipe_has_it(network: str, name: str, places: list[str]) -> None:
    table = training_table(network, 8, small(name, network=network).network)
    dropouts = [layer.name for layer in table.layers if isinstance(layer, arch.Dropout)]
    assert dropouts == places
    assert table.parameters == arch.architecture(network).parameters


@pytest.mark.slow
def test_from_nothing_each_block_starts_as_the_identity_and_rates_follow_the_recipe() -> None:
    recipe = small("scratch", "precision=mixed_bfloat16", "body_factor=0.1", "layer_factors={'conv5_*'=0.5}")
    network = training_network("resnet50", 7, recipe, Start())
    gammas = {name: np.array(network.get_layer(f"{name}_bn").gamma) for name in
              ("conv2_1_1x1_increase", "conv5_3_1x1_increase", "conv5_3_3x3", "conv2_1_1x1_proj")}  # fmt: skip
    assert [float(np.abs(each).max()) for each in gammas.values()] == [0.0, 0.0, 1.0, 1.0]
    assert network.output.shape == (None, 7) and network.get_layer("classifier").compute_dtype == "float32"
    table = training_table("resnet50", 7, recipe.network)
    rate = factor_of(network, table, recipe.optimizer)
    layers = ("classifier", "conv5_1_3x3", "conv4_1_3x3_bn")
    assert [rate(network.get_layer(name).trainable_weights[0]) for name in layers] == [1.0, 0.5, 0.1]
    with pytest.raises(BadInputError, match="conv9"):
        training_network("resnet50", 8, small("scratch", "layer_factors={'conv9*'=1}"), Start())


def test_layers_that_the_network_has_not_are_no_start() -> None:
    """A run of SE-ResNet50 as the start of ResNet50: without its gates, it is another network."""
    with pytest.raises(BadInputError, match="have conv2_1_1x1_down, which the network has not"):
        training_network("resnet50", 8, small("scratch"), Start(seeded_arrays("senet50")))
    with pytest.raises(BadInputError, match="compact was never published: use --set dropout_place=head"):
        training_network("compact", 8, small("albanie"), Start())


def test_a_folded_start_is_refused(tmp_path: Path) -> None:
    write(fold(seeded_checkpoint("resnet50")), tmp_path / "folded.h5")
    options = Namespace(weights=tmp_path / "folded.h5", arch="resnet50")
    with pytest.raises(BadInputError, match=r"folded\.h5 is folded.*folded from"):
        _start(options, EMOTIONS)


@pytest.mark.usefixtures("small")
def test_a_gated_network_starts_from_any_file_of_the_one_without_gates(tmp_path: Path) -> None:
    """A checkpoint, or the folder of a released network; the other way round is refused."""
    for network in ("resnet50", "senet50"):
        write(seeded_checkpoint(network), tmp_path / network / "model.safetensors")
    arrays = {
        (name, source): _start(Namespace(weights=tmp_path / source, arch=name), EMOTIONS).arrays
        for name, source in (("senet50", "resnet50"), ("senet50", "senet50"), ("resnet50", "resnet50"))
    }
    assert set(arrays["senet50", "resnet50"]) == set(arrays["resnet50", "resnet50"])
    assert "conv2_1_1x1_down" in arrays["senet50", "senet50"]
    as_file = Namespace(weights=tmp_path / "resnet50" / "model.safetensors", arch="senet50")
    assert set(_start(as_file, EMOTIONS).arrays) == set(arrays["senet50", "resnet50"])
    with pytest.raises(BadInputError, match=r"is a senet50 network .* resnet50 one: give --arch senet50"):
        _start(Namespace(weights=tmp_path / "senet50", arch="resnet50"), EMOTIONS)


def test_a_gated_network_begins_where_the_one_without_gates_ended() -> None:
    """SE-ResNet50 started from ResNet50 computes the same, and every gate moves in the first step."""
    recipe, arrays = small("scratch", "dropout=0", network="senet50"), seeded_arrays("resnet50")
    plain = training_network("resnet50", 8, recipe, Start(arrays))
    gated = training_network("senet50", 8, recipe, Start(arrays))
    images = np.random.default_rng(0).normal(0, 50, (2, 32, 32, 3)).astype("float32")
    wanted, found = np.array(plain(images)), np.array(gated(images))
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    table = training_table("senet50", 8, recipe.network)
    started = with_gates(arrays, table)
    assert all(np.abs(started[name]["kernel"]).max() > 0 for name in started if name.endswith("_1x1_down"))
    assert with_gates(started, table) is started  # a start that has gates keeps them


def test_the_fused_batch_normalisation_is_keras_own() -> None:
    images = np.random.default_rng(1).normal(3, 2, (16, 5, 5, 4)).astype("float32")
    made = {}
    for kind in (keras.layers.BatchNormalization, FusedBatchNormalization):
        layer = kind(momentum=0.9, epsilon=1e-5)
        layer(images[:1])
        outputs = [np.array(layer(images, training=True)), np.array(layer(images))]
        layer.trainable = False
        made[kind] = [*outputs, np.array(layer(images, training=True)), *map(np.array, layer.weights)]
    keras_own, fused = made.values()
    count = images.size / images.shape[-1]
    for index, (wanted, found) in enumerate(zip(keras_own, fused, strict=True)):
        # The moving variance takes in the unbiased variance, a 400th more here.
        close = 1e-5 if index in (0, 3, 4, 5) else 2 / count
        np.testing.assert_allclose(found, wanted, rtol=close, atol=close)


@pytest.mark.parametrize(
    ("flags", "has"), [("flags\t: fpu avx512_bf16 sse", True), ("flags: amx_bf16", True), ("flags: avx512f", False)]
)
def test_a_processor_that_computes_in_bfloat16_is_used_so(flags: str, has: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor: 0\n{flags}\n")
    assert cpu_has_bfloat16(tmp_path / "cpuinfo") is has
    assert not cpu_has_bfloat16(tmp_path / "nothing")


def test_a_student_with_its_whole_loss_from_the_teacher_ignores_the_target() -> None:
    student, teacher = np.random.default_rng(2).normal(size=(2, 5, 8)).astype("float32")
    target = np.eye(8, dtype="float32")[:5]
    both = np.concatenate([student, teacher], axis=1)
    likely = np.exp(teacher) / np.exp(teacher).sum(axis=1, keepdims=True)
    logs = student - np.log(np.exp(student).sum(axis=1, keepdims=True))
    own = keras.losses.CategoricalCrossentropy(True)
    for share in (0.0, 0.3, 1.0):
        wanted = -(((1 - share) * target + share * likely) * logs).sum(axis=1).mean()
        assert float(Distilled(own, share, 1.0)(target, both)) == pytest.approx(wanted, rel=1e-5)
