"""A Keras file whose graph computes something else is refused; one that computes the same is read by any names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from convert.conversion import convert
from convert.inspection import inspect
from convert.readers import read_checkpoint
from convert.writers import write
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import architecture
from tests.ferplus_keras.graph.configs import Model, appended, configured, every_epsilon, inserted, renamed
from tests.seeded import seeded_checkpoint

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(seeded_checkpoint("resnet50"), tmp_path_factory.mktemp("right") / "x.h5").path


def changed(right: Path, path: Path, change: Callable[[Model], object]) -> Path:
    """The file with its graph changed, its arrays as they were."""
    shutil.copy(right, path)
    with h5py.File(path, "r+") as file:
        model = json.loads(file.attrs["model_config"])
        result = change(model)
        file.attrs["model_config"] = json.dumps(result or model).encode()
        if isinstance(result, dict):  # layers called otherwise: their groups, too
            names = [name.decode() for name in file["model_weights"].attrs["layer_names"]]
            for name in names:
                file.move(f"model_weights/{name}", f"model_weights/{STRANGE.get(name, name)}")
            file["model_weights"].attrs["layer_names"] = np.array(
                [STRANGE.get(name, name) for name in names], np.bytes_
            )
    return path


STRANGE = {
    name: f"layer_{place}"
    for place, name in enumerate(architecture("resnet50").by_name)
    if name not in ("data", "prob")
}


def multiplied(name: str) -> Callable[[Model], None]:
    """The branches of the block ``name``, or of all blocks, multiplied and not added."""

    def change(model: Model) -> None:
        for layer in model["config"]["layers"]:
            if layer["class_name"] == "Add" and layer["config"]["name"].startswith(name):
                layer["class_name"] = "Multiply"

    return change


def test_a_damaged_file_is_refused_and_can_still_be_opened_for_the_proof(right: Path, tmp_path: Path) -> None:
    path = changed(right, tmp_path / "x.h5", every_epsilon)
    with pytest.raises(BadInputError, match=r"conv1_7x7_s2_bn has epsilon 0\.001, and 1e-05 in .*parity"):
        convert(path, [tmp_path / "y.safetensors"])
    assert not (tmp_path / "y.safetensors").exists()
    assert "conv1_7x7_s2_bn has epsilon" in inspect(path)["problems"]
    assert read_checkpoint(path, check_graph=False).architecture == architecture("resnet50")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (configured("conv3_1_1x1_reduce", strides=[1, 1]), "conv3_1_1x1_reduce has strides 1 x 1"),
        (inserted("Rescaling", "data", "conv1_7x7_s2_pad", scale=1 / 255), "stands extra, a Rescaling"),
        (appended("Lambda"), "extra, a Lambda, has no place"),
        (multiplied("conv3_2"), "conv3_2, an Add, is not there: .* is conv3_2, a Multiply"),
        (multiplied(""), "conv2_1, an Add, is not there|conv2_1_global_pool, .* is not there"),
        (
            configured("conv3_1_1x1_reduce", strides="two"),
            "cannot be followed: conv3_1_1x1_reduce, a Conv2D, has two for",
        ),
    ],
)
def test_a_damaged_file_is_not_the_same_network(
    change: Callable[[Model], object], told: str, right: Path, tmp_path: Path
) -> None:
    from verify.same import check_same

    wrong = changed(right, tmp_path / "wrong.h5", change)
    with pytest.raises(BadInputError, match=told):
        check_same(right, wrong)


def test_a_file_of_other_names_is_read_by_its_graph(right: Path, tmp_path: Path) -> None:
    path = changed(right, tmp_path / "x.h5", lambda model: renamed(model, STRANGE))
    found = read_checkpoint(path)
    for layer, roles in seeded_checkpoint("resnet50").arrays.items():
        for role, array in roles.items():
            np.testing.assert_array_equal(found.arrays[layer][role], array)
    body, head = found.provenance.notes
    count = len(architecture("resnet50").parameters) - 1  # all but the head
    assert f"{count} layers have other names than published (layer_1 is conv1_7x7_s2, " in body
    assert "was used as the classifier" in head
    with pytest.raises(BadInputError, match=r"layer_2 \(which is conv1_7x7_s2_bn\) has epsilon 0\.001"):
        read_checkpoint(changed(path, tmp_path / "wrong.h5", every_epsilon))


def test_the_mean_may_be_taken_off_inside(right: Path, tmp_path: Path) -> None:
    mean = inserted("Rescaling", "data", "conv1_7x7_s2_pad", scale=1, offset=[-131.0912, -103.8827, -91.4953])
    found = read_checkpoint(changed(right, tmp_path / "x.h5", mean))
    assert any("subtracts the published mean;" in note for note in found.provenance.notes)


def test_a_bias_of_zeros_does_nothing(right: Path, tmp_path: Path) -> None:
    path = changed(right, tmp_path / "x.h5", configured("conv2_1_3x3", use_bias=True))
    with h5py.File(path, "r+") as file:
        group = file["model_weights/conv2_1_3x3"]
        group["conv2_1_3x3/bias:0"] = np.zeros(group["conv2_1_3x3/kernel:0"].shape[-1], np.float32)
        group.attrs["weight_names"] = np.array(["conv2_1_3x3/kernel:0", "conv2_1_3x3/bias:0"], np.bytes_)
    found = read_checkpoint(path)
    assert "bias" not in found.arrays["conv2_1_3x3"] and "conv2_1_3x3/bias" in found.provenance.notes[0]
    with h5py.File(path, "r+") as file:
        file["model_weights/conv2_1_3x3/conv2_1_3x3/bias:0"][3] = 1e-3
    with pytest.raises(BadInputError, match="1 unexpected"):
        read_checkpoint(path)
