"""Each kind of layer, as the plan has it, against PyTorch's function of that name, in float64.

The Keras side are live layers of the real plan; the PyTorch side is written out with the published numbers, so that
a wrong number in the architecture table cannot be wrong on both sides. The last section plants the well-known
mistakes and asserts that they are seen: without it, agreement would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import keras
import numpy as np
import pytest
import torch
from torch.nn import functional as torch_f

from ferplus_keras.networks.architecture import NETWORKS, architecture
from ferplus_keras.networks.keras_plan import KerasLayer, keras_plan

#: Rounding alone: a handful of units in the last place of float64, in units of the largest output.
TOLERANCE = 1e-12

Arrays = dict[str, list[np.ndarray]]


@pytest.fixture(autouse=True)
def _float64_backend() -> None:
    assert keras.backend.backend() == "tensorflow", "Keras computes in float64 on TensorFlow only"


# --- the two sides ------------------------------------------------------------------------------------------------


def planned(names: Iterable[str], network: str = "resnet50") -> list[KerasLayer]:
    """The real plan's layers of those names, with the helpers (``_pad``, ``_flat``) that belong to them."""
    wanted = set(names)
    found = [
        each
        for each in keras_plan(architecture(network))
        if each.name.removesuffix("_pad").removesuffix("_flat") in wanted
    ]
    assert {each.name for each in found} >= wanted, "the plan lacks a layer of that name"
    return found


def keras_run(layers: list[KerasLayer], arrays: Arrays, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The output of the last of ``layers`` made live in float64, given the outputs of layers that stand before."""
    tensors = {name: keras.ops.convert_to_tensor(value, dtype="float64") for name, value in inputs.items()}
    for layer in layers:
        instance = getattr(keras.layers, layer.class_name)(**layer.config, name=layer.name, dtype="float64")
        sources = [tensors[name] for name in layer.inputs]
        tensors[layer.name] = instance(sources if len(sources) > 1 else sources[0])
        if instance.weights:
            instance.set_weights(arrays[layer.name])
            tensors[layer.name] = instance(sources[0])
    result = keras.ops.convert_to_numpy(tensors[layers[-1].name])
    assert result.dtype == np.float64, "the check would be one of float32"
    return result


def to_torch(array: np.ndarray) -> torch.Tensor:
    """A map in PyTorch's layout."""
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def to_keras(tensor: torch.Tensor) -> np.ndarray:
    return tensor.numpy().transpose(0, 2, 3, 1)


def kernel_of(arrays: Arrays, layer: str) -> torch.Tensor:
    """height x width x in x out, as Keras has it -> out x in x height x width."""
    return torch.from_numpy(np.ascontiguousarray(arrays[layer][0].transpose(3, 2, 0, 1)))


def torch_conv(x: torch.Tensor, arrays: Arrays, layer: str, stride: int = 1, padding: int = 0) -> torch.Tensor:
    bias = torch.from_numpy(arrays[layer][1]) if len(arrays[layer]) > 1 else None
    return torch_f.conv2d(x, kernel_of(arrays, layer), bias, stride, padding)


def torch_bn(x: torch.Tensor, arrays: Arrays, layer: str, eps: float = 1e-5) -> torch.Tensor:
    gamma, beta, mean, variance = map(torch.from_numpy, arrays[layer])
    return torch_f.batch_norm(x, mean, variance, gamma, beta, training=False, eps=eps)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def arrays_for(layers: list[KerasLayer], seed: int = 0, variances: tuple[float, float] = (-4, 1)) -> Arrays:
    """Numbers for every layer that owns some; the variances span 1e-4 to 10, where epsilon counts and where not."""
    generator = np.random.default_rng(seed)
    arrays: Arrays = {}
    for layer in layers:
        if layer.weights:
            arrays[layer.name] = [
                10.0 ** generator.uniform(*variances, shape)
                if role == "moving_variance"
                else generator.normal(size=shape) * (np.sqrt(2 / np.prod(shape[:-1])) if role == "kernel" else 1.0)
                for role, shape in layer.weights.items()
            ]
    return arrays


def apart(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference over the reference's largest magnitude; infinite for another shape."""
    if ours.shape != reference.shape:
        return np.inf
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def changed(layers: list[KerasLayer], name: str, **config: object) -> list[KerasLayer]:
    """``layers`` with arguments of the one called ``name`` replaced: a planted mistake."""
    assert name in {layer.name for layer in layers}
    return [replace(each, config=each.config | config) if each.name == name else each for each in layers]


# --- one layer at a time ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(224, 224), (225, 223), (64, 64), (37, 50), (7, 8), (1, 1)])
def test_conv1_pads_three_on_every_side(height: int, width: int) -> None:
    layers = planned(["conv1_7x7_s2"])
    arrays, x = arrays_for(layers), random(2, height, width, 3, seed=1)

    ours = keras_run(layers, arrays, {"data": x})

    assert apart(ours, to_keras(torch_conv(to_torch(x), arrays, "conv1_7x7_s2", 2, 3))) <= TOLERANCE
    if height == 224:
        assert ours.shape == (2, 112, 112, 64)


@pytest.mark.parametrize(("height", "width"), [(112, 112), (113, 111), (56, 57), (16, 18), (8, 7), (4, 3), (2, 2)])
def test_pool1_rounds_its_size_up(height: int, width: int) -> None:
    x = np.maximum(random(2, height, width, 5), 0.0)  # as it comes from the ReLU before

    ours = keras_run(planned(["pool1_3x3_s2"]), {}, {"conv1_relu_7x7_s2": x})

    reference = to_keras(torch_f.max_pool2d(to_torch(x), 3, 2, 0, ceil_mode=True))
    np.testing.assert_array_equal(ours, reference)
    if height == 112:
        assert ours.shape == (2, 56, 56, 5)


@pytest.mark.parametrize("name", NETWORKS)
def test_pool1_is_given_no_negative_numbers(name: str) -> None:
    # Its padding is made of zeros where PyTorch has minus infinity: the same only behind a ReLU.
    by_name = {layer.name: layer for layer in keras_plan(architecture(name))}
    source = by_name[by_name["pool1_3x3_s2_pad"].inputs[0]]
    assert source.config == {"activation": "relu"}


@pytest.mark.parametrize(
    "layer", ["conv3_1_1x1_reduce", "conv4_1_1x1_reduce", "conv5_1_1x1_reduce", "conv3_1_1x1_proj"]
)
@pytest.mark.parametrize("side", [56, 13])
def test_the_strided_1x1_takes_every_other_pixel_from_the_first(layer: str, side: int) -> None:
    layers = planned([layer])
    arrays = arrays_for(layers)
    x = random(1, side, side, arrays[layer][0].shape[2], seed=2)

    ours = keras_run(layers, arrays, {layers[0].inputs[0]: x})

    assert ours.shape[1] == -(-side // 2)
    assert apart(ours, to_keras(torch_conv(to_torch(x), arrays, layer, stride=2))) <= TOLERANCE


@pytest.mark.parametrize("layer", ["conv2_1_3x3", "conv3_1_3x3", "conv5_3_3x3"])
@pytest.mark.parametrize("side", [14, 7, 1])
def test_the_3x3_has_stride_one_and_keeps_the_size(layer: str, side: int) -> None:
    layers = planned([layer])
    arrays = arrays_for(layers)
    x = random(1, side, side, arrays[layer][0].shape[2], seed=3)

    ours = keras_run(layers, arrays, {layers[0].inputs[0]: x})

    assert ours.shape[1:3] == (side, side)
    assert apart(ours, to_keras(torch_conv(to_torch(x), arrays, layer, padding=1))) <= TOLERANCE


def test_batchnorm_has_pytorchs_epsilon() -> None:
    layers = planned(["conv2_1_3x3_bn"])
    arrays, x = arrays_for(layers), random(2, 5, 5, 64, seed=4)

    ours = keras_run(layers, arrays, {"conv2_1_3x3": x})

    reference = to_keras(torch_bn(to_torch(x), arrays, "conv2_1_3x3_bn"))
    # Channel by channel: a wrong epsilon shows in the small variances and would drown in the largest output.
    channels = [apart(ours[..., channel], reference[..., channel]) for channel in range(64)]
    assert max(channels) <= TOLERANCE


def test_batchnorm_with_matconvnets_small_negative_variance() -> None:
    layers = planned(["conv2_1_3x3_bn"])
    arrays, x = arrays_for(layers), random(1, 3, 3, 64, seed=5)
    arrays["conv2_1_3x3_bn"][3][7] = -5e-6

    ours = keras_run(layers, arrays, {"conv2_1_3x3": x})

    assert np.isfinite(ours).all()
    assert apart(ours, to_keras(torch_bn(to_torch(x), arrays, "conv2_1_3x3_bn"))) <= TOLERANCE


def test_batchnorm_learns_its_mean_at_pytorchs_pace() -> None:
    (planned_layer,) = planned(["conv2_1_3x3_bn"])
    arrays, x = arrays_for([planned_layer]), random(4, 6, 6, 64, seed=6)
    layer = keras.layers.BatchNormalization(**planned_layer.config, dtype="float64")
    layer.build(x.shape)
    layer.set_weights(arrays[planned_layer.name])
    gamma, beta, mean, variance = (torch.from_numpy(each.copy()) for each in arrays[planned_layer.name])

    ours = keras.ops.convert_to_numpy(layer(x, training=True))
    reference = torch_f.batch_norm(to_torch(x), mean, variance, gamma, beta, training=True, momentum=0.1, eps=1e-5)

    assert apart(ours, to_keras(reference)) <= TOLERANCE
    moving_mean, moving_variance = (keras.ops.convert_to_numpy(each) for each in layer.non_trainable_variables)
    np.testing.assert_allclose(moving_mean, mean.numpy(), rtol=TOLERANCE, atol=TOLERANCE)
    # The running variance alone differs in training, by n / (n - 1): PyTorch's is the unbiased one.
    biased = 0.9 * arrays[planned_layer.name][3] + 0.1 * x.var(axis=(0, 1, 2))
    np.testing.assert_allclose(moving_variance, biased, rtol=TOLERANCE)


@pytest.mark.parametrize("side", [7, 5])
def test_the_head_is_average_pooling_and_a_1x1_convolution(side: int) -> None:
    layers = planned(["pool5_7x7_s1", "classifier"])
    arrays, x = arrays_for(layers), np.maximum(random(3, side, side, 2048, seed=7), 0.0)

    ours = keras_run(layers, arrays, {"conv5_3_relu": x})

    kernel, bias = map(torch.from_numpy, arrays["classifier"])
    pooled = torch_f.avg_pool2d(to_torch(x), side, stride=1)
    reference = torch_f.conv2d(pooled, kernel.T[:, :, None, None], bias).flatten(1).numpy()
    assert ours.shape == (3, 8)
    assert apart(ours, reference) <= TOLERANCE


def test_the_softmax_behind_the_head() -> None:
    (softmax,) = (each for each in keras_plan(architecture("resnet50")) if each.name == "prob")
    logits = random(4, 8, seed=8) * 5

    ours = keras_run([softmax], {}, {"classifier": logits})

    assert apart(ours, torch_f.softmax(torch.from_numpy(logits), dim=1).numpy()) <= TOLERANCE


# --- a block at a time --------------------------------------------------------------------------------------------


#: Powers of ten of the variances inside a block. Were they small, the sigmoid would stand at 0 or 1 throughout, and
#: whatever came before it would not matter.
MODERATE = (-0.3, 0.3)


def block_layers(network: str, block: str) -> list[KerasLayer]:
    plan = keras_plan(architecture(network))
    return [each for each in plan if each.name == block or each.name.startswith(f"{block}_")]


def torch_block(x: torch.Tensor, arrays: Arrays, block: str, stride: int, excitation: bool) -> torch.Tensor:
    y = torch_conv(x, arrays, f"{block}_1x1_reduce", stride)
    y = torch_f.relu(torch_bn(y, arrays, f"{block}_1x1_reduce_bn"))
    y = torch_f.relu(torch_bn(torch_conv(y, arrays, f"{block}_3x3", padding=1), arrays, f"{block}_3x3_bn"))
    y = torch_bn(torch_conv(y, arrays, f"{block}_1x1_increase"), arrays, f"{block}_1x1_increase_bn")
    if excitation:
        squeezed = torch_f.adaptive_avg_pool2d(y, 1)
        squeezed = torch_f.relu(torch_conv(squeezed, arrays, f"{block}_1x1_down"))
        y = y * torch.sigmoid(torch_conv(squeezed, arrays, f"{block}_1x1_up"))
    shortcut = x
    if f"{block}_1x1_proj" in arrays:
        shortcut = torch_bn(torch_conv(x, arrays, f"{block}_1x1_proj", stride), arrays, f"{block}_1x1_proj_bn")
    return torch_f.relu(y + shortcut)


@pytest.mark.parametrize(("block", "source", "channels", "stride", "side"), [
    ("conv2_1", "pool1_3x3_s2", 64, 1, 14),
    ("conv2_2", "conv2_1_relu", 256, 1, 14),
    ("conv3_1", "conv2_3_relu", 256, 2, 14),
    ("conv3_1", "conv2_3_relu", 256, 2, 9),
    ("conv5_1", "conv4_6_relu", 1024, 2, 14),
    ("conv5_3", "conv5_2_relu", 2048, 1, 7),
])  # fmt: skip
@pytest.mark.parametrize("network", NETWORKS)
def test_a_whole_block(network: str, block: str, source: str, channels: int, stride: int, side: int) -> None:
    layers = block_layers(network, block)
    arrays, x = arrays_for(layers, variances=MODERATE), np.maximum(random(2, side, side, channels, seed=9), 0.0)
    assert layers[-1].name == f"{block}_relu"

    ours = keras_run(layers, arrays, {source: x})

    reference = to_keras(torch_block(to_torch(x), arrays, block, stride, excitation=network == "senet50"))
    assert apart(ours, reference) <= TOLERANCE


# --- the well-known mistakes are seen -----------------------------------------------------------------------------

#: What a check must see at the least: nine decimal digits above the tolerance.
VISIBLE = 1e-3


def conv1_reference(x: np.ndarray, arrays: Arrays) -> np.ndarray:
    return to_keras(torch_conv(to_torch(x), arrays, "conv1_7x7_s2", 2, 3))


def test_keras_same_at_stride_two_is_seen() -> None:
    layers = planned(["conv1_7x7_s2"])
    arrays, x = arrays_for(layers), random(1, 224, 224, 3, seed=1)
    mistake = [replace(changed(layers[1:], "conv1_7x7_s2", padding="same")[0], inputs=("data",))]

    ours = keras_run(mistake, arrays, {"data": x})

    assert ours.shape == (1, 112, 112, 64), "the shape does not tell"
    assert apart(ours, conv1_reference(x, arrays)) > VISIBLE
    by_hand = changed(layers, "conv1_7x7_s2_pad", padding=((2, 3), (2, 3)))
    assert apart(ours, keras_run(by_hand, arrays, {"data": x})) <= TOLERANCE, "Keras pads (2, 3), as the plan says"


@pytest.mark.parametrize(
    ("side", "padding"), [(112, ((1, 1), (1, 1))), (112, ((1, 0), (1, 0))), (112, ((0, 0), (0, 0)))]
)
def test_another_padding_of_pool1_is_seen(side: int, padding: tuple[tuple[int, int], ...]) -> None:
    x = np.maximum(random(1, side, side, 4), 0.0)
    mistake = changed(planned(["pool1_3x3_s2"]), "pool1_3x3_s2_pad", padding=padding)

    ours = keras_run(mistake, {}, {"conv1_relu_7x7_s2": x})

    assert apart(ours, to_keras(torch_f.max_pool2d(to_torch(x), 3, 2, 0, ceil_mode=True))) > VISIBLE
    assert (ours.shape[1] == 56) == (padding != ((0, 0), (0, 0)))


@pytest.mark.parametrize(("side", "same"), [(112, True), (113, False)])
def test_keras_same_pooling_is_right_on_even_sizes_only(side: int, same: bool) -> None:
    x = np.maximum(random(1, side, side, 4), 0.0)
    (_, pool) = planned(["pool1_3x3_s2"])
    pool = replace(pool, inputs=("conv1_relu_7x7_s2",), config=pool.config | {"padding": "same"})

    ours = keras_run([pool], {}, {"conv1_relu_7x7_s2": x})

    reference = to_keras(torch_f.max_pool2d(to_torch(x), 3, 2, 0, ceil_mode=True))
    assert (apart(ours, reference) <= TOLERANCE) == same


def test_zero_padding_before_the_pool_would_be_wrong_without_the_relu() -> None:
    x = -1.0 - np.abs(random(1, 112, 112, 4))
    ours = keras_run(planned(["pool1_3x3_s2"]), {}, {"conv1_relu_7x7_s2": x})
    assert apart(ours, to_keras(torch_f.max_pool2d(to_torch(x), 3, 2, 0, ceil_mode=True))) > VISIBLE


@pytest.mark.parametrize("epsilon", [1e-3, 1e-4, 1.1e-5])
def test_another_epsilon_is_seen(epsilon: float) -> None:
    layers = planned(["conv2_1_3x3_bn"])
    arrays, x = arrays_for(layers), random(2, 5, 5, 64, seed=4)

    ours = keras_run(changed(layers, "conv2_1_3x3_bn", epsilon=epsilon), arrays, {"conv2_1_3x3": x})

    assert apart(ours, to_keras(torch_bn(to_torch(x), arrays, "conv2_1_3x3_bn"))) > (
        VISIBLE if epsilon > 2e-5 else 1e-6
    )


def block_with(network: str, mistake: Callable[[list[KerasLayer], Arrays], tuple[list[KerasLayer], Arrays]]) -> float:
    """How far the strided block is off after ``mistake``."""
    layers = block_layers(network, "conv3_1")
    arrays, x = arrays_for(layers, variances=MODERATE), np.maximum(random(1, 14, 14, 256, seed=9), 0.0)
    reference = to_keras(torch_block(to_torch(x), arrays, "conv3_1", 2, excitation=network == "senet50"))
    return apart(keras_run(*mistake(layers, arrays), {"conv2_3_relu": x}), reference)


def test_mistakes_in_a_block_are_seen() -> None:
    def nothing(layers: list[KerasLayer], arrays: Arrays) -> tuple[list[KerasLayer], Arrays]:
        return layers, arrays

    def stride_on_the_3x3(layers: list[KerasLayer], arrays: Arrays) -> tuple[list[KerasLayer], Arrays]:
        moved = changed(layers, "conv3_1_1x1_reduce", strides=(1, 1))
        return changed(moved, "conv3_1_3x3", strides=(2, 2)), arrays

    def transposed(layers: list[KerasLayer], arrays: Arrays) -> tuple[list[KerasLayer], Arrays]:
        (kernel,) = arrays["conv3_1_3x3"]
        return layers, arrays | {"conv3_1_3x3": [kernel.transpose(1, 0, 2, 3)]}

    def swapped_statistics(layers: list[KerasLayer], arrays: Arrays) -> tuple[list[KerasLayer], Arrays]:
        gamma, beta, mean, variance = arrays["conv3_1_3x3_bn"]
        return layers, arrays | {"conv3_1_3x3_bn": [gamma, beta, variance, np.abs(mean)]}

    def no_relu(layers: list[KerasLayer], arrays: Arrays) -> tuple[list[KerasLayer], Arrays]:
        return changed(layers, "conv3_1_3x3_relu", activation="linear"), arrays

    def no_bias(layers: list[KerasLayer], arrays: Arrays) -> tuple[list[KerasLayer], Arrays]:
        kernel, bias = arrays["conv3_1_1x1_up"]
        return layers, arrays | {"conv3_1_1x1_up": [kernel, np.zeros_like(bias)]}

    def unscaled(layers: list[KerasLayer], arrays: Arrays) -> tuple[list[KerasLayer], Arrays]:
        inputs = ("conv3_1_1x1_increase_bn", "conv3_1_1x1_proj_bn")
        return [replace(each, inputs=inputs) if each.name == "conv3_1" else each for each in layers], arrays

    assert block_with("resnet50", nothing) <= TOLERANCE
    for mistake in (stride_on_the_3x3, transposed, swapped_statistics, no_relu):
        assert block_with("resnet50", mistake) > VISIBLE, mistake.__name__
    for mistake in (no_bias, unscaled):
        assert block_with("senet50", mistake) > VISIBLE, mistake.__name__
