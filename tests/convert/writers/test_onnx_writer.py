"""ONNX files as the world's own tools see them: checked, loaded and run by libraries that know nothing of ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, checker, helper, numpy_helper

from convert.readers import read_checkpoint
from convert.writers import write
from convert.writers.onnx_file import IR_VERSION, OPSET, onnx_arrays, onnx_model
from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.networks.architecture import FERPLUS_HEAD, NO_HEAD, BatchNorm, Conv, Head, architecture, embedding
from tests.conftest import run_python, typed
from tests.seeded import seeded_checkpoint, seeded_state

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(seeded_checkpoint("resnet50"), tmp_path_factory.mktemp("onnx") / "x.onnx").path


def run(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"data": images})[0]
    return result


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-120, 130, (count, 3, 224, 224)).astype(np.float32)


def test_onnx_runtime_merges_whatever_can_be_merged(written: Path, tmp_path: Path) -> None:
    """Normalisation, ReLU and sum go into the convolutions: what is run is what is run of PyTorch's own export."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "merged.onnx")
    onnxruntime.InferenceSession(str(written), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "merged.onnx").graph.node]
    convolutions = sum(isinstance(layer, Conv) for layer in architecture("resnet50").layers)
    assert kinds.count("Conv") + kinds.count("FusedConv") == convolutions
    assert not {"BatchNormalization", "Relu", "Add"} & set(kinds)


@pytest.mark.parametrize("head", [FERPLUS_HEAD, embedding(128), NO_HEAD], ids=str)
@pytest.mark.parametrize("network", ["resnet50", "senet50"])
def test_the_graph_has_the_tables_layers_under_their_names(network: str, head: Head) -> None:
    table = architecture(network, head, dropout=0.5)
    model = onnx_model(table)
    outputs = {name for node in model.graph.node for name in node.output}
    assert {layer.name for layer in table.layers[1:]} <= outputs
    assert [each.version for each in model.opset_import] == [OPSET] and model.ir_version == IR_VERSION
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("BatchNormalization") == sum(isinstance(each, BatchNorm) for each in table.layers)
    assert kinds.count("Dropout") == 2
    last = {"classifier": "prob", "embedding": "feat_extract", "none": "conv5_3_relu"}[head.kind]
    assert [each.name for each in model.graph.output] == [last]


def test_the_onnx_library_finds_nothing_wrong_and_every_tensor(written: Path) -> None:
    checker.check_model(str(written), full_check=True)
    model = onnx.load(written)
    wanted = dict(onnx_arrays(seeded_checkpoint("resnet50")))
    assert [each.name for each in model.graph.initializer] == list(wanted)
    for each in model.graph.initializer:
        np.testing.assert_array_equal(numpy_helper.to_array(each), wanted[each.name])
    state = seeded_state("resnet50")
    assert set(wanted) == {name for name in state if not name.endswith("num_batches_tracked")}
    assert model.producer_name == "ferplus-keras"
    told = {each.key: each.value for each in model.metadata_props}
    assert json.loads(told[PROVENANCE_KEY])["network"] == "resnet50"


def test_a_batch_is_its_images_one_by_one_and_channels_may_come_last(written: Path, tmp_path: Path) -> None:
    batch = images(3)
    together = run(written, batch)
    assert together.shape == (3, 8)
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(run(written, batch[1:2])[0], together[1], rtol=1e-3, atol=1e-6)
    last = write(seeded_checkpoint("resnet50"), tmp_path / "last.onnx", channels_last=True).path
    checker.check_model(str(last), full_check=True)
    assert np.array_equal(run(last, batch.transpose(0, 2, 3, 1)), together)
    assert read_checkpoint(last).architecture == read_checkpoint(written).architecture


def test_logits_are_the_probabilities_before_the_softmax(written: Path, tmp_path: Path) -> None:
    logits = write(seeded_checkpoint("resnet50"), tmp_path / "logits.onnx", logits=True).path
    values = run(logits, images(1)).astype(np.float64)
    powers = np.exp(values - values.max())
    np.testing.assert_allclose(powers / powers.sum(), run(written, images(1)), rtol=1e-3, atol=1e-6)
    assert read_checkpoint(logits).provenance.output == "logits"
    assert read_checkpoint(written).provenance.output == "probabilities"


def test_explicit_pads_are_pytorchs_ceil_mode_at_every_size() -> None:
    """Negative numbers too: the padding is minus infinity, not zero."""
    pool = next(node for node in onnx_model(architecture("resnet50")).graph.node if node.op_type == "MaxPool")
    free = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, None, None]) for name in ("x", "y")]
    node = helper.make_node("MaxPool", ["x"], ["y"])
    node.attribute.extend(pool.attribute)
    model = helper.make_model(
        helper.make_graph([node], "pool", free[:1], free[1:]), opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    reference = torch.nn.MaxPool2d(3, 2, padding=0, ceil_mode=True)
    for side in range(3, 40):
        image = np.random.default_rng(side).normal(-5, 1, (1, 1, side, side + side % 3)).astype(np.float32)
        expected = reference(torch.from_numpy(image)).numpy()
        np.testing.assert_array_equal(session.run(None, {"x": image})[0], expected)


def test_converting_to_h5_does_not_import_onnx(seeded_pth: Path, tmp_path: Path) -> None:
    run_python(
        "import sys\nfrom convert.conversion import convert\nconvert(sys.argv[1], [sys.argv[2]])\n"
        "assert not {'onnx', 'onnxruntime', 'tensorflow'} & set(sys.modules)",
        seeded_pth, tmp_path / "x.h5",
    )  # fmt: skip


def test_channels_last_on_the_command_line(seeded_pth: Path, tmp_path: Path) -> None:
    assert typed("convert", seeded_pth, tmp_path / "x.onnx", "--channels", "last").returncode == 0
    assert [d.dim_value for d in onnx.load(tmp_path / "x.onnx").graph.input[0].type.tensor_type.shape.dim][1:] == [
        224,
        224,
        3,
    ]
