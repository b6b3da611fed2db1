"""ONNX Runtime as a reference and as what runs a file: every layer, both precisions, and faults that it must show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from convert.checkpoint import Checkpoint
from convert.readers import read_checkpoint
from convert.writers import write
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import architecture
from tests.seeded import seeded_checkpoint
from verify import onnx_side
from verify.images import Images
from verify.metrics import difference
from verify.references.onnx_runtime import OnnxRuntimeReference
from verify.references.torch_reference import TorchReference
from verify.runs import TOLERANCES

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return Images.of(1, seed=3, folder=None).inputs


@pytest.fixture
def checkpoint(standin_pth: Path) -> Checkpoint:
    return read_checkpoint(standin_pth)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_layer_is_pytorchs(checkpoint: Checkpoint, dtype: str, image: np.ndarray) -> None:
    theirs = TorchReference(checkpoint, dtype).run(image.astype(dtype))
    ours = OnnxRuntimeReference(checkpoint, dtype).run(image.astype(dtype))
    assert theirs.keys() == ours.keys() | {"data"}
    for name, values in ours.items():
        assert difference(name, theirs[name], values).relative <= TOLERANCES[dtype], name
    assert ours["classifier"].shape == (1, 1, 1, 8)


@pytest.mark.slow
def test_it_shows_where_one_number_is_off(standin_pth: Path, network: str, image: np.ndarray) -> None:
    if network != "resnet50":
        pytest.skip("one network shows it")
    right, wrong = read_checkpoint(standin_pth), read_checkpoint(standin_pth)
    kernel = np.array(wrong.arrays["conv3_2_3x3"]["kernel"])
    kernel[0, 1, 2, 3] *= np.float32(1 + 1e-6)
    wrong.arrays["conv3_2_3x3"]["kernel"] = kernel
    theirs = TorchReference(right, "float64").run(image.astype("float64"))
    ours = OnnxRuntimeReference(wrong, "float64").run(image.astype("float64"))
    parted = [name for name in ours if difference(name, theirs[name], ours[name]).relative > TOLERANCES["float64"]]
    assert parted[0] == "conv3_2_3x3"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_file_of_ours_shows_every_layer(
    checkpoint: Checkpoint, dtype: str, channels_last: bool, image: np.ndarray, tmp_path: Path
) -> None:
    with_dropout = replace(checkpoint, architecture=architecture(checkpoint.architecture.network, dropout=0.5))
    path = write(with_dropout, tmp_path / "x-standin.onnx", channels_last=channels_last).path
    names = [layer.name for layer in with_dropout.architecture.layers[1:]]
    outputs = onnx_side.layer_outputs(onnx_side.open_model(path, with_dropout), names, dtype)(image)
    theirs = TorchReference(with_dropout, dtype).run(image.astype(dtype))
    assert list(outputs) == names
    for name in names:
        assert difference(name, theirs[name], outputs[name]).relative <= TOLERANCES[dtype], name


def changed(tmp_path: Path, change: object) -> Path:
    path = write(seeded_checkpoint("resnet50"), tmp_path / "x.onnx").path
    model = onnx.load(path)
    change(model)  # type: ignore[operator]
    path.write_bytes(model.SerializeToString())
    return path


def test_nodes_that_no_layer_depends_on_are_not_run(tmp_path: Path, image: np.ndarray) -> None:
    """A stranger's file may ask for 4 TB beside its network."""

    def bomb(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 40], np.int64), "huge"))
        model.graph.node.append(helper.make_node("ConstantOfShape", ["huge"], ["bomb"]))
        model.graph.output.append(helper.make_tensor_value_info("bomb", TensorProto.FLOAT, [None]))

    path = changed(tmp_path, bomb)
    opened = onnx_side.open_model(path, read_checkpoint(path))
    assert onnx_side.layer_outputs(opened, ["classifier"], "float32")(image)["classifier"].shape == (1, 1, 1, 8)


def test_an_operator_that_no_layer_has_is_not_run(tmp_path: Path) -> None:
    def noise(model: onnx.ModelProto) -> None:
        place = next(i for i, each in enumerate(model.graph.node) if each.name == "conv2_1")
        model.graph.node.insert(
            place, helper.make_node("RandomNormalLike", ["conv2_1_1x1_proj_bn"], ["noise"], name="n")
        )
        model.graph.node.insert(place + 1, helper.make_node("Add", ["conv2_1_1x1_increase_bn", "noise"], ["noisy"]))
        model.graph.node[place + 2].input[0] = "noisy"

    path = changed(tmp_path, noise)
    with pytest.raises(BadInputError, match="conv2_1"):
        read_checkpoint(path)  # what the sum takes is no layer's output
    opened = onnx_side.OnnxModel(path, {"conv2_1": "conv2_1"})
    with pytest.raises(BadInputError, match="RandomNormalLike"):
        onnx_side.layer_outputs(opened, ["conv2_1"], "float32")


@pytest.mark.slow
def test_parity_of_an_onnx_file(standin_pth: Path, tmp_path: Path, network: str) -> None:
    import json

    from tests.conftest import run_ferplus

    path = write(read_checkpoint(standin_pth), tmp_path / "x-standin.onnx").path
    run = run_ferplus("verify", "parity", path, "--against", standin_pth, "--n", 1, "--json")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["passed"] and {run["backend"] for run in result["runs"]} == {"onnxruntime"}
    assert {run["dtype"] for run in result["runs"]} == {"float64", "float32"}
    computed = len(architecture(network).layers) - 1  # all but the input
    assert all(len(run["layers"]) == computed for run in result["runs"])
