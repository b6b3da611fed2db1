"""Faults planted in a converted file, one at a time: the parity check must turn red, and name the layer.

A check that has never failed proves nothing. Each fault here is one that converters make, or a smaller one; most
leave every shape as it was, so that nothing but the numbers can tell.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.preprocessing import PUBLISHED
from verify.faults import IMAGENET_MEAN
from verify.parity import ParityOptions, check_parity

pytestmark = pytest.mark.usefixtures("small")

Config = dict[str, Any]


class Converted:
    """A converted file, open for damage: its arrays and the configs of its layers."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.model = json.loads(file.attrs["model_config"])
        self.layers: dict[str, Config] = {layer["name"]: layer for layer in self.model["config"]["layers"]}

    def array(self, layer: str, role: str) -> h5py.Dataset:
        return self.file[f"model_weights/{layer}/{layer}/{role}:0"]

    def change(self, layer: str, role: str, function: Callable[[np.ndarray], np.ndarray]) -> None:
        """Replace an array by ``function`` of it: other numbers, same shape."""
        dataset = self.array(layer, role)
        old = dataset[()]
        new = function(old.copy())
        assert new.shape == old.shape
        assert not np.array_equal(new, old), "the fault changes nothing"
        dataset[...] = new

    def swap(self, first: tuple[str, str], second: tuple[str, str], where: np.ndarray | None = None) -> None:
        """Exchange two arrays (layer, role), or only their elements ``where`` it is true."""
        one, other = self.array(*first)[()], self.array(*second)[()]
        mask = np.ones(one.shape, bool) if where is None else where
        assert mask.any()
        self.change(*first, lambda _: np.where(mask, other, one))
        self.change(*second, lambda _: np.where(mask, one, other))

    def configure(self, layer: str, **config: Any) -> None:
        """Replace arguments of a layer in the graph."""
        old = self.layers[layer]["config"]
        assert all(old[key] != value for key, value in config.items()), "the fault changes nothing"
        old.update(config)

    def rewire(self, layer: str, old: str, new: str) -> None:
        """Feed ``layer`` from ``new`` in place of ``old``."""
        sources = [node for node in self.layers[layer]["inbound_nodes"][0] if node[0] == old]
        assert sources
        for node in sources:
            node[0] = new

    def close(self) -> None:
        self.file.attrs["model_config"] = json.dumps(self.model).encode()


@dataclass(frozen=True)
class Fault:
    """``plant`` does the damage; ``first`` is the layer where the two functions part, ``cause`` the word for why."""

    plant: Callable[[Converted], None]
    first: str
    cause: str
    network: str = "resnet50"
    #: Runs by `make test-all` only: a kin of another fault.
    slow: bool = False
    #: Faults so small that float32's rounding hides them, which is why the float64 figure is the proof.
    hidden_in_float32: bool = False


# --- the faults -----------------------------------------------------------------------------------------------------


def swap_mean_and_variance(file: Converted) -> None:
    # Where both are positive, so that the file stays legal; the other case has a test of its own.
    mean = ("conv2_2_1x1_reduce_bn", "moving_mean")
    file.swap(mean, ("conv2_2_1x1_reduce_bn", "moving_variance"), where=file.array(*mean)[()] > 0)


def exchange_two_layers(file: Converted) -> None:
    file.swap(("conv2_2_3x3", "kernel"), ("conv2_3_3x3", "kernel"))


def permute_the_head(file: Converted) -> None:
    file.change("classifier", "kernel", lambda kernel: np.roll(kernel, 1, axis=1))
    file.change("classifier", "bias", lambda bias: np.roll(bias, 1))


def move_the_stride(file: Converted) -> None:
    # As in torchvision and in keras.applications: the block's output has the right shape.
    file.configure("conv3_1_1x1_reduce", strides=[1, 1])
    file.configure("conv3_1_3x3", strides=[2, 2])


def one_number(relative: float) -> Callable[[Converted], None]:
    def plant(file: Converted) -> None:
        def change(kernel: np.ndarray) -> np.ndarray:
            kernel[1, 1, 3, 5] *= 1 + relative
            return kernel

        file.change("conv4_2_3x3", "kernel", change)

    return plant


def rescale(scale: float, offset: float | list[float]) -> Callable[[Converted], None]:
    """Put a Rescaling layer before the first convolution: preprocessing of somebody's own inside the model."""

    def plant(file: Converted) -> None:
        config = {"name": "rescaling", "trainable": True, "dtype": "float32", "scale": scale, "offset": offset}
        layer = {
            "class_name": "Rescaling", "config": config, "name": "rescaling", "inbound_nodes": [[["data", 0, 0, {}]]],
        }  # fmt: skip
        file.model["config"]["layers"].insert(1, layer)
        file.rewire("conv1_7x7_s2_pad", "data", "rescaling")

    return plant


def forget_all_but_the_head(file: Converted) -> None:
    """What by-name loading leaves when the names do not match: fresh layers."""
    generator = np.random.default_rng(1)
    for layer in file.layers:
        group = file.file[f"model_weights/{layer}"]
        if layer == "classifier" or layer not in group:
            continue
        for name, dataset in group[layer].items():
            if name.startswith(("gamma", "moving_variance")):
                dataset[...] = 1
            elif name.startswith("kernel"):
                dataset[...] = generator.normal(0, np.sqrt(2 / np.prod(dataset.shape[:-1])), dataset.shape)
            else:
                dataset[...] = 0


def exchange_two_norms(file: Converted) -> None:
    for role in ("gamma", "beta", "moving_mean", "moving_variance"):
        file.swap(("conv5_2_3x3_bn", role), ("conv5_3_3x3_bn", role))


FAULTS = {
    "epsilon of one BatchNorm": Fault(
        lambda file: file.configure("conv4_2_3x3_bn", epsilon=1e-3),
        "conv4_2_3x3_bn",
        "batchnorm-epsilon",
    ),
    "epsilon nearly right": Fault(
        lambda file: file.configure("conv4_2_3x3_bn", epsilon=1.001e-5),
        "conv4_2_3x3_bn",
        "batchnorm-epsilon",
        hidden_in_float32=True,
        slow=True,
    ),
    "mean and variance swapped": Fault(swap_mean_and_variance, "conv2_2_1x1_reduce_bn", "mean-variance-swapped"),
    "gamma and beta swapped": Fault(
        lambda file: file.swap(("conv5_1_3x3_bn", "gamma"), ("conv5_1_3x3_bn", "beta")),
        "conv5_1_3x3_bn",
        "gamma-beta-swapped",
        slow=True,
    ),
    "kernel transposed": Fault(
        lambda file: file.change("conv2_2_3x3", "kernel", lambda kernel: kernel.transpose(1, 0, 2, 3)),
        "conv2_2_3x3",
        "kernel-transposed",
        slow=True,
    ),
    "kernel flipped": Fault(
        lambda file: file.change("conv4_2_3x3", "kernel", lambda kernel: kernel[::-1, ::-1]),
        "conv4_2_3x3",
        "kernel-flipped",
        slow=True,
    ),
    "input and output channels swapped": Fault(
        lambda file: file.change("conv5_2_3x3", "kernel", lambda kernel: kernel.swapaxes(2, 3)),
        "conv5_2_3x3",
        "channels-swapped",
        slow=True,
    ),
    "two layers exchanged": Fault(exchange_two_layers, "conv2_2_3x3", "layers-exchanged", slow=True),
    "head's classes permuted": Fault(permute_the_head, "classifier", "label-order", slow=True),
    "conv1 padded like Keras's same": Fault(
        lambda file: file.configure("conv1_7x7_s2_pad", padding=[[2, 3], [2, 3]]),
        "conv1_7x7_s2",
        "same-padding",
    ),
    "pool1 padded on all sides": Fault(
        lambda file: file.configure("pool1_3x3_s2_pad", padding=[[1, 1], [1, 1]]),
        "pool1_3x3_s2",
        "pool-padding-symmetric",
    ),
    "stride on the 3x3": Fault(move_the_stride, "conv3_1_1x1_reduce", "stride-on-3x3"),
    "BGR": Fault(
        lambda file: file.change("conv1_7x7_s2", "kernel", lambda kernel: kernel[:, :, ::-1]),
        "conv1_7x7_s2",
        "bgr",
    ),
    "one number by a millionth": Fault(one_number(1e-6), "conv4_2_3x3", "other-numbers", hidden_in_float32=True),
    "a ReLU left out": Fault(
        lambda file: file.configure("conv3_2_3x3_relu", activation="linear"),
        "conv3_2_3x3_relu",
        "activation-missing",
        slow=True,
    ),
    "shortcut taken before the ReLU": Fault(
        lambda file: file.rewire("conv2_3", "conv2_2_relu", "conv2_2"),
        "conv2_3",
        "wired-wrong",
        slow=True,
    ),
    "SE: a bias forgotten": Fault(
        lambda file: file.change("conv4_2_1x1_up", "bias", np.zeros_like),
        "conv4_2_1x1_up",
        "bias-missing",
        "senet50",
    ),
    "SE: hard sigmoid": Fault(
        lambda file: file.configure("conv5_2_prob", activation="hard_sigmoid"),
        "conv5_2_prob",
        "activation",
        "senet50",
        slow=True,
    ),
    "pool1 not padded": Fault(
        lambda file: file.configure("pool1_3x3_s2_pad", padding=[[0, 0], [0, 0]]),
        "pool1_3x3_s2",
        "pool-padding-missing",
        slow=True,
    ),
    "pool1 padded before": Fault(
        lambda file: file.configure("pool1_3x3_s2_pad", padding=[[1, 0], [1, 0]]),
        "pool1_3x3_s2",
        "pool-padding-symmetric",
        slow=True,
    ),
    "conv1 not padded": Fault(
        lambda file: file.configure("conv1_7x7_s2_pad", padding=[[0, 0], [0, 0]]),
        "conv1_7x7_s2",
        "no-padding",
        slow=True,
    ),
    "0..1 for 0..255": Fault(rescale(1 / 255, 0.0), "conv1_7x7_s2", "scale-0-1", slow=True),
    "ImageNet's mean": Fault(
        rescale(1.0, [float(ours - theirs) for ours, theirs in zip(PUBLISHED.mean, IMAGENET_MEAN, strict=True)]),
        "conv1_7x7_s2",
        "imagenet-mean",
        slow=True,
    ),
    "no mean": Fault(rescale(1.0, list(PUBLISHED.mean)), "conv1_7x7_s2", "no-mean", slow=True),
    "half-loaded": Fault(forget_all_but_the_head, "conv1_7x7_s2", "half-loaded", slow=True),
    "standard deviation for variance": Fault(
        lambda file: file.change("conv3_2_3x3_bn", "moving_variance", lambda variance: np.sqrt(variance + 1e-5)),
        "conv3_2_3x3_bn",
        "sigma-as-variance",
        slow=True,
    ),
    "two BatchNorms exchanged": Fault(
        exchange_two_norms,
        "conv5_2_3x3_bn",
        "layers-exchanged",
        slow=True,
    ),
}


#: Faults of which the sentence speaks without naming the layer at which they show.
ABOUT_THE_INPUT = ("bgr", "scale-0-1", "imagenet-mean", "no-mean", "half-loaded")


# --- the checks -----------------------------------------------------------------------------------------------------


def damaged(source: Path, target: Path, plant: Callable[[Converted], None]) -> Path:
    shutil.copyfile(source, target)
    with h5py.File(target, "r+") as file:
        converted = Converted(file)
        plant(converted)
        converted.close()
    return target


@pytest.mark.parametrize(
    ("network", "fault"),
    [
        pytest.param(fault.network, fault, id=name, marks=[pytest.mark.slow] if fault.slow else [])
        for name, fault in FAULTS.items()
    ],
    indirect=["network"],
)
def test_a_planted_fault_turns_the_check_red(fault: Fault, standin_h5: Path, standin_pth: Path, tmp_path: Path) -> None:
    path = damaged(standin_h5, tmp_path / "damaged-standin.h5", fault.plant)

    result = check_parity(path, standin_pth, ParityOptions(images=1, dtypes=("float64",)))

    path.unlink()
    float64 = result.runs[0]
    assert not result.passed
    assert not float64.passed
    assert float64.first_over == fault.first
    # Not by the layer alone: the logits themselves are beyond the tolerance.
    assert float64.logits.relative > float64.tolerance
    found = result.diagnosis
    assert found is not None and (found.layer, found.fault) == (fault.first, fault.cause), found
    assert found.confidence == ("likely" if fault.cause == "other-numbers" else "certain")
    assert fault.first in found.cause or fault.cause in ABOUT_THE_INPUT


#: The smallest faults, and two gross ones, that float32 is tried on too.
IN_FLOAT32 = (*(name for name in FAULTS if FAULTS[name].hidden_in_float32), "pool1 padded on all sides", "BGR")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "fault"),
    [pytest.param(FAULTS[name].network, FAULTS[name], id=name) for name in IN_FLOAT32],
    indirect=["network"],
)
def test_float32_sees_the_gross_faults_only(fault: Fault, standin_h5: Path, standin_pth: Path, tmp_path: Path) -> None:
    path = damaged(standin_h5, tmp_path / "damaged-standin.h5", fault.plant)
    result = check_parity(path, standin_pth, ParityOptions(images=1, dtypes=("float32",)))
    path.unlink()
    assert result.runs[0].passed == fault.hidden_in_float32
    # Whatever float32's rounding hides of the arrays, the first level of proof holds them bit for bit.
    assert not (result.passed and fault.cause == "other-numbers")


@pytest.mark.parametrize("network", ["resnet50"], indirect=True)
def test_no_fault_no_red(standin_h5: Path, standin_pth: Path, tmp_path: Path) -> None:
    # The tool of these tests changes nothing by itself: a file that was opened, rewritten and closed passes.
    path = damaged(standin_h5, tmp_path / "rewritten-standin.h5", lambda _: None)
    result = check_parity(path, standin_pth, ParityOptions(images=1, dtypes=("float64",)))
    path.unlink()
    assert result.passed


@pytest.mark.parametrize("network", ["resnet50"], indirect=True)
def test_a_negative_variance_is_refused_when_the_file_is_read(
    standin_h5: Path, standin_pth: Path, tmp_path: Path
) -> None:
    # Mean and variance swapped throughout: some variances are negative, and there is no square root to compute.
    bn = "conv2_2_1x1_reduce_bn"
    path = damaged(
        standin_h5,
        tmp_path / "damaged-standin.h5",
        lambda file: file.swap((bn, "moving_mean"), (bn, "moving_variance")),
    )
    with pytest.raises(BadInputError) as caught:
        check_parity(path, standin_pth)
    path.unlink()
    assert bn in f"{caught.value}\n{caught.value.details}"
    assert "variance + epsilon is not positive" in f"{caught.value}\n{caught.value.details}"


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet50"], indirect=True)
def test_a_source_that_was_changed_is_seen_too(standin_h5: Path, standin_pth: Path, tmp_path: Path) -> None:
    # The other way round: the model is right, and the checkpoint it is held against is not its source.
    import torch

    state = torch.load(standin_pth, weights_only=True)
    state["conv5_3_1x1_increase_bn.running_mean"][17] += 1e-4
    torch.save(state, tmp_path / "other-standin.pth")

    result = check_parity(standin_h5, tmp_path / "other-standin.pth", ParityOptions(images=1, dtypes=("float64",)))

    assert not result.passed
    assert result.runs[0].first_over == "conv5_3_1x1_increase_bn"
