"""State dicts under other names than the published ones: heads of one's own, and torchvision's names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convert.layouts import LAYOUTS
from convert.matching import NamedArrays, match
from convert.readers import under_published_names, with_head
from convert.torchvision_names import published_name
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import NO_HEAD, architecture

#: Arrays of full shapes that take no memory.
ONE = np.ones(1, np.float32)


def headless(network: str = "resnet50") -> dict[str, np.ndarray]:
    slots = LAYOUTS["torch"](architecture(network, NO_HEAD))
    return {name: np.broadcast_to(ONE, slot.shape) for name, slot in slots.items()}


def linear(name: str, units: int = 8, features: int = 2048) -> dict[str, np.ndarray]:
    return {f"{name}.weight": np.full((units, features), 2, np.float32), f"{name}.bias": np.zeros(units, np.float32)}


def named(arrays: dict[str, np.ndarray]) -> NamedArrays:
    return NamedArrays("torch-zip", "torch", arrays, dict.fromkeys(arrays, "float32"))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("network", "name"), [("resnet50", "fc"), ("senet50", "classifier.1"), ("resnet50", "last_linear")]
)
def test_a_head_of_another_name_is_the_classifier(network: str, name: str, prefix: str) -> None:
    arrays = {prefix + key: array for key, array in (headless(network) | linear(name, 7)).items()}
    found = with_head(named(arrays))
    result = match(found, "x")
    assert found.adopted == name and str(result.architecture) == f"{network}, 7 classes"
    assert any(f"layer {name} (7 units on the features)" in note for note in result.notes)
    assert (result.arrays["classifier"]["kernel"] == 2).all()


@pytest.mark.parametrize(
    "head",
    [
        linear("fc", features=512),
        {"fc.weight": np.ones((8, 2048), np.float32)},
        linear("fc1") | linear("fc2"),
        linear("fc") | {"extra.weight": np.ones((3, 3), np.float32)},
        linear("classifier"),
    ],
    ids=["other features", "no bias", "two", "something else", "the published name"],
)
def test_what_may_be_no_classifier_is_not_taken_for_one(head: dict[str, Any]) -> None:
    assert with_head(named(headless() | head)).adopted is None


def in_torchvisions(name: str) -> str:
    """The inverse of :func:`published_name`, by search."""
    return TORCHVISION[name]


BLOCKS = (3, 4, 6, 3)
PARTS = [*(f"{kind}{number}" for kind in ("conv", "bn") for number in (1, 2, 3)), "downsample.0", "downsample.1"]
TORCHVISION = {
    published_name(f"{layer}.{role}"): f"{layer}.{role}"
    for layer in ("conv1", "bn1", *(f"layer{s}.{b}.{part}" for s, count in enumerate(BLOCKS, 1) for b in range(count)
                                    for part in PARTS))
    for role in ("weight", "bias", "running_mean", "running_var")
}  # fmt: skip


@pytest.mark.parametrize("change", [lambda name: name, lambda name: f"module.{name}"], ids=["plain", "prefixed"])
def test_torchvisions_names_are_read_when_the_geometry_is_said(change: Callable[[str], str]) -> None:
    arrays = {change(in_torchvisions(name)): array for name, array in headless().items()}
    arrays |= {change(name): array for name, array in linear("fc").items()}
    with pytest.raises(
        BadInputError, match=r"which do not determine the geometry.*--geometry published.*--reference-code"
    ):
        match(with_head(named(arrays)), "x")
    result = match(with_head(under_published_names(named(arrays))), "x")
    assert str(result.architecture) == "resnet50, 8 classes"
    assert any("the user confirmed" in note for note in result.notes)
