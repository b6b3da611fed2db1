"""ONNX files of others: what exporters make of these networks is read; what is not them is refused in a sentence."""

from __future__ import annotations

import io
import mmap
import tracemalloc
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from convert.checkpoint import Checkpoint
from convert.readers import read_checkpoint, read_named
from convert.readers.onnx_file import IDENTITY, paired_layers
from convert.writers import write
from ferplus_keras.errors import BadInputError, DamagedError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.onnx_graph import OnnxFile, OnnxNode, read_graph
from ferplus_keras.files.protobuf import Message, Span
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON, FERPLUS_HEAD, BatchNorm
from tests.conftest import typed
from tests.seeded import seeded_checkpoint
from verify.references.torch_reference import reference_module

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(seeded_checkpoint("resnet50"), tmp_path_factory.mktemp("onnx") / "x.onnx").path


def exported(checkpoint: Checkpoint, path: Path, **options: Any) -> Path:
    """The network as PyTorch exports it."""
    module = reference_module(checkpoint, "float32")
    with redirect_stdout(io.StringIO()):  # the exporter tells its progress
        torch.onnx.export(module, (torch.zeros(1, 3, 224, 224),), str(path), **options)
    return path


KEPT = {"dynamo": False, "do_constant_folding": False}
OPTIONS = [KEPT, {"dynamo": False}, {"dynamo": True, "external_data": False},
           {"dynamo": True, "external_data": False, "optimize": False}]  # fmt: skip


@pytest.mark.parametrize("network", ["resnet50", pytest.param("senet50", marks=pytest.mark.slow)])
def test_what_pytorch_exports_with_batchnorm_reads_bit_for_bit(network: str, tmp_path: Path) -> None:
    found = read_checkpoint(exported(seeded_checkpoint(network), tmp_path / "x.onnx", **KEPT))
    assert found.architecture.network == network and not found.provenance.notes
    assert found.provenance.output == "logits"
    for layer, roles in seeded_checkpoint(network).arrays.items():
        for role, array in roles.items():
            np.testing.assert_array_equal(found.arrays[layer][role], array)


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS[1:], ids=str)
def test_every_way_of_exporting_gives_the_same_function(standin_pth: Path, options: Any, tmp_path: Path) -> None:
    """Folded or not: the head's weights bit for bit, and in float64 the function to what rounding left of it.

    The stand-in, because its activations are sane: seeded numbers alone would magnify the folded weights' rounding.
    """
    from verify.metrics import difference
    from verify.references.torch_reference import TorchReference
    from verify.same import TOLERANCE

    pytest.importorskip("onnxscript")
    wanted = read_checkpoint(standin_pth)
    found = read_checkpoint(exported(wanted, tmp_path / "x-standin.onnx", **options))
    norms = sum(isinstance(layer, BatchNorm) for layer in wanted.architecture.layers)
    folded = any(f"{norms} batch normalisations were folded" in note for note in found.provenance.notes)
    assert folded == ("optimize" not in options)
    np.testing.assert_array_equal(found.arrays["classifier"]["kernel"], wanted.arrays["classifier"]["kernel"])
    image = np.random.default_rng(0).normal(0, 50, (1, 224, 224, 3))
    one, other = (TorchReference(each, "float64").run(image) for each in (wanted, found))
    for layer in ("conv1_7x7_s2_bn", "conv3_1_1x1_proj_bn", "conv5_3_relu", "classifier"):
        assert difference(layer, one[layer], other[layer]).relative < (TOLERANCE if folded else 1e-12), layer


def test_the_batchnorm_that_does_nothing_does_nothing() -> None:
    gamma, variance = (np.float32(IDENTITY[role]) for role in ("gamma", "moving_variance"))
    assert float(gamma) == IDENTITY["gamma"] and float(variance) == IDENTITY["moving_variance"]
    assert gamma / np.sqrt(variance + np.float32(BATCHNORM_EPSILON)) == np.float32(1)
    assert abs(float(gamma) / np.sqrt(float(variance) + BATCHNORM_EPSILON) - 1) < 2e-15


# --- the same, written in other ways ----------------------------------------------------------------------------------


def inserted(model: onnx.ModelProto, behind: str, *nodes: onnx.NodeProto, **tensors: Any) -> None:
    """``nodes`` between the tensor ``behind`` and all that takes it; the first takes it, the last yields "changed"."""
    for each in model.graph.node:
        for place, name in enumerate(each.input):
            if name == behind:
                each.input[place] = "changed"
    place = next((at for at, each in enumerate(model.graph.node) if behind in each.output), -1) + 1
    for new in reversed(nodes):
        model.graph.node.insert(place, new)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items())


def viewed(model: onnx.ModelProto) -> None:
    """x.view(x.size(0), -1), with any number of images."""
    flat = node(model, "pool5_7x7_s1_flat")
    model.graph.node.remove(flat)
    make = helper.make_node
    inserted(
        model, "pool5_7x7_s1",
        make("Shape", ["pool5_7x7_s1"], ["shape"]), make("Gather", ["shape", "zero"], ["images"], axis=0),
        make("Unsqueeze", ["images", "axes"], ["row"]), make("Concat", ["row", "rest"], ["target"], axis=0),
        make("Reshape", ["pool5_7x7_s1", "target"], ["changed"]), zero=0, axes=[0], rest=[-1],
    )  # fmt: skip
    node(model, "classifier").input[0] = "changed"


def averaged_in_two_steps(model: onnx.ModelProto) -> None:
    """x.mean(3).mean(2)"""
    found = node(model, "pool5_7x7_s1")
    found.op_type = "ReduceMean"
    found.output[0] = "rows"
    found.attribute.extend([helper.make_attribute("axes", [3]), helper.make_attribute("keepdims", 0)])
    model.graph.node.remove(node(model, "pool5_7x7_s1_flat"))
    mean = helper.make_node("ReduceMean", ["rows"], ["changed"], "second", axes=[2], keepdims=0)
    model.graph.node.insert(len(model.graph.node) - 2, mean)
    node(model, "classifier").input[0] = "changed"


def multiplied_and_added(model: onnx.ModelProto) -> None:
    """The head as MatMul and Add, its kernel through a Transpose."""
    gemm = node(model, "classifier")
    place, source = list(model.graph.node).index(gemm), gemm.input[0]
    model.graph.node.remove(gemm)
    for new in (
        helper.make_node("Add", ["classifier.bias", "product"], ["classifier"], "classifier"),
        helper.make_node("MatMul", [source, "turned"], ["product"], "product"),
        helper.make_node("Transpose", ["classifier.weight"], ["turned"], "turned"),
    ):
        model.graph.node.insert(place, new)


def flattened_kernel(model: onnx.ModelProto) -> None:
    """A 1 x 1 kernel passed through Flatten to a dense head."""
    weight = next(each for each in model.graph.initializer if each.name == "classifier.weight")
    array = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(array.reshape(*array.shape, 1, 1), weight.name))
    place = list(model.graph.node).index(node(model, "classifier"))
    model.graph.node.insert(place, helper.make_node("Flatten", [weight.name], ["flat"], "kernel", axis=1))
    node(model, "classifier").input[1] = "flat"


def features_first(model: onnx.ModelProto) -> None:
    """The pooled features as a further output."""
    model.graph.output.insert(0, helper.make_tensor_value_info("pool5_7x7_s1", TensorProto.FLOAT, None))


WRITTEN_OTHERWISE = [features_first, viewed, averaged_in_two_steps, multiplied_and_added, flattened_kernel]


@pytest.mark.parametrize("change", WRITTEN_OTHERWISE, ids=lambda change: change.__name__)
def test_what_is_written_in_another_way_reads_bit_for_bit(
    change: Callable[[onnx.ModelProto], None], loaded: onnx.ModelProto, tmp_path: Path
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(loaded)
    change(model)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    found = read_checkpoint(tmp_path / "x.onnx")
    assert found.architecture.head == FERPLUS_HEAD and found.provenance.output == "probabilities"
    beside = ["of its 2 outputs only prob is used, not pool5_7x7_s1"] if change is features_first else []
    assert [note for note in found.provenance.notes if "outputs" in note] == beside
    for role, array in seeded_checkpoint("resnet50").arrays["classifier"].items():
        np.testing.assert_array_equal(found.arrays["classifier"][role], array)


# --- what is refused -------------------------------------------------------------------------------------------------


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(each for each in model.graph.node if each.name == name)


def set_attribute(name: str, attribute: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        found = node(model, name)
        kept = [each for each in found.attribute if each.name != attribute]
        found.ClearField("attribute")
        found.attribute.extend([*kept, helper.make_attribute(attribute, value)])

    return change


def another_kind(name: str, kind: str) -> Callable[[onnx.ModelProto], None]:
    return lambda model: setattr(node(model, name), "op_type", kind)


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"


def short_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def huge_claim(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 60


def twice(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[1])


def not_a_number(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, np.nan, np.float32), tensor.name))


def functions(model: onnx.ModelProto) -> None:
    model.functions.add().name = "mine"


def padded(mode: str, value: float) -> Callable[[onnx.ModelProto], None]:
    """Lays conv1's padding by a Pad of its own, as exporters from Keras do."""

    def change(model: onnx.ModelProto) -> None:
        set_attribute("conv1_7x7_s2", "pads", [0, 0, 0, 0])(model)
        convolution = node(model, "conv1_7x7_s2")
        pads = numpy_helper.from_array(np.array([0, 0, 3, 3, 0, 0, 3, 3], np.int64), "pads")
        filling = numpy_helper.from_array(np.array(value, np.float32), "filling")
        model.graph.initializer.extend([pads, filling])
        pad = helper.make_node("Pad", [convolution.input[0], "pads", "filling"], ["padded"], name="pad", mode=mode)
        model.graph.node.insert(0, pad)
        convolution.input[0] = "padded"

    return change


def pooled(kind: str, **options: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        found = node(model, "pool5_7x7_s1")
        found.op_type = kind
        found.ClearField("attribute")
        found.attribute.extend(helper.make_attribute(name, value) for name, value in options.items())

    return change


def turned(model: onnx.ModelProto) -> None:
    output = model.graph.output[0]
    model.graph.node.append(helper.make_node("Transpose", [output.name], ["turned"]))
    output.name = "turned"


def between(behind: str, kind: str, constant: Any, **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    """A node of another's own behind the tensor ``behind``."""

    def change(model: onnx.ModelProto) -> None:
        inputs = [behind, *(["constant"] if constant is not None else [])]
        tensors = {} if constant is None else {"constant": constant}
        inserted(model, behind, helper.make_node(kind, inputs, ["changed"], "mine", **attributes), **tensors)

    return change


REFUSED = {
    "a temperature": (between("classifier", "Mul", np.float32(0.5)), "mine, a Mul, has no place"),
    "classes in another order": (between("classifier", "Gather", [4, 5, 6, 1, 3, 2, 0, 7], axis=1), "mine, a Gather"),
    "another softmax": (between("classifier", "Softmax", None, axis=0), "mine, a Softmax"),
    "features scaled": (between("pool5_7x7_s1", "Mul", np.float32(0.5)), "stands mine, a Mul"),
    "features clipped": (between("pool5_7x7_s1_flat", "Clip", None), "stands mine, a Clip"),
    "images scaled": (between("data", "Mul", np.float32(1 / 255)), "stands mine, a Mul"),
    "another mean": (between("data", "Sub", np.ones((3, 1, 1), np.float32)), "stands mine, a Sub"),
    "rows averaged twice": (pooled("ReduceMean", axes=[2, 2]), "pool5_7x7_s1"),
    "cast to half": (between("conv1_7x7_s2", "Cast", None, to=10), "stands mine, a Cast"),
    "reflected padding": (padded("reflect", 0.0), "conv1_7x7_s2"),
    "padding by ones": (padded("constant", 1.0), "conv1_7x7_s2"),
    "an average over a part": (pooled("AveragePool", kernel_shape=[5, 5]), "pool5_7x7_s1"),
    "an average over a padded map": (pooled("AveragePool", kernel_shape=[7, 7], pads=[1, 1, 1, 1]), "pool5_7x7_s1"),
    "an average over channels": (pooled("ReduceMean", axes=[1, 3]), "pool5_7x7_s1"),
    "an average over everything": (pooled("ReduceMean"), "pool5_7x7_s1"),
    "batch statistics": (set_attribute("conv4_2_3x3_bn", "training_mode", 1), "training_mode"),
    "two pads": (set_attribute("conv2_1_3x3", "pads", [1, 1]), "conv2_1_3x3"),
    "six pads": (set_attribute("pool1_3x3_s2", "pads", [0, 0, 0, 1, 1, 1]), "pool1_3x3_s2"),
    "automatic padding at stride 2": (set_attribute("conv1_7x7_s2", "auto_pad", "SAME_UPPER"), "conv1_7x7_s2"),
    "stride on another layer": (set_attribute("conv3_1_1x1_reduce", "strides", [1, 1]), "conv3_1_1x1_reduce"),
    "unpadded": (set_attribute("conv2_1_3x3", "pads", [0, 0, 0, 0]), "conv2_1_3x3"),
    "padded as Keras does": (set_attribute("conv1_7x7_s2", "pads", [2, 2, 3, 3]), "conv1_7x7_s2"),
    "pool padded all round": (set_attribute("pool1_3x3_s2", "pads", [1, 1, 1, 1]), "pool1_3x3_s2"),
    "pool rounds down": (set_attribute("pool1_3x3_s2", "pads", [0, 0, 0, 0]), "pool1_3x3_s2"),
    "epsilon": (set_attribute("conv4_2_3x3_bn", "epsilon", 1e-3), "conv4_2_3x3_bn has epsilon 0.001"),
    "another activation": (another_kind("conv2_3_3x3_relu", "Tanh"), "conv2_3_3x3_relu"),
    "quantised": (another_kind("conv1_7x7_s2", "ConvInteger"), "ConvInteger"),
    "numbers in another file": (external, "external data"),
    "a tensor without its end": (short_tensor, "bytes, not"),
    "a tensor that claims much": (huge_claim, "conv1_7x7_s2.weight"),
    "a tensor twice": (twice, "twice"),
    "NaN": (not_a_number, "NaN"),
    "functions": (functions, "inlined"),
    "classes down, images across": (turned, "has a column, not a row, for each image"),
}


@pytest.fixture(scope="module")
def loaded(ours: Path) -> onnx.ModelProto:
    return onnx.load(ours)


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_not_these_networks_is_refused(fault: str, loaded: onnx.ModelProto, tmp_path: Path) -> None:
    change, told = REFUSED[fault]
    model = onnx.ModelProto()
    model.CopyFrom(loaded)
    change(model)
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadInputError) as error:
        read_checkpoint(tmp_path / "x.onnx")
    assert told in f"{error.value}{error.value.details}"


def test_a_file_written_again_by_the_onnx_library_still_reads(loaded: onnx.ModelProto, tmp_path: Path) -> None:
    """The tool of the test above: without a fault there is nothing to refuse. Old typed fields are read too."""
    model = onnx.ModelProto()
    model.CopyFrom(loaded)
    for number, tensor in enumerate(model.graph.initializer):
        if number % 2:
            array = numpy_helper.to_array(tensor)
            tensor.ClearField("raw_data")
            tensor.float_data.extend(array.reshape(-1).tolist())
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    found = read_checkpoint(tmp_path / "x.onnx")
    for layer, roles in seeded_checkpoint("resnet50").arrays.items():
        for role, array in roles.items():
            np.testing.assert_array_equal(found.arrays[layer][role], array)


def test_another_network_gets_a_sentence_and_exit_code_2(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    torch.onnx.export(module, (torch.zeros(1, 3, 8, 8),), str(tmp_path / "x.onnx"), dynamo=False)
    for command in (["inspect"], ["convert"]):
        run = typed(*command, tmp_path / "x.onnx")
        assert run.returncode == 2 and "Traceback" not in run.stderr
        assert "not one of Albanie's networks" in run.stderr and "conv1_7x7_s2" in run.stderr


def test_a_file_cut_short_gets_a_sentence_and_exit_code_2(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(ours.read_bytes()[:200_000])
    run = typed("inspect", tmp_path / "x.onnx")
    assert run.returncode == 2 and "cut short" in run.stderr and "Traceback" not in run.stderr


# --- fuzzing ---------------------------------------------------------------------------------------------------------


class Changed(MappedFile):
    """A file whose bytes are ours to change, in memory that is shared with nothing."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as stream:
            self.view = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)


@pytest.fixture(scope="module")
def shared(ours: Path) -> Changed:
    return Changed(ours)


@settings(max_examples=80)
@given(changes=st.lists(st.tuples(st.integers(0, 120_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_are_read_or_refused_and_nothing_else(shared: Changed, changes: list[tuple[int, int]]) -> None:
    """The graph comes first in our files: these bytes are nodes, names, shapes and lengths."""
    kept = [(place, shared.view[place]) for place, _ in changes]
    try:
        for place, value in changes:
            shared.view[place] = value  # type: ignore[index]
        try:
            read_named(shared)
        except BadInputError as error:
            assert len(str(error)) < 1000
    finally:
        for place, value in reversed(kept):
            shared.view[place] = value  # type: ignore[index]


VALUES = [
    [], [1, 1], [0, 0, 0], [3, 3, 3, 3, 3, 3], [-1] * 4, [1 << 62] * 4, [0] * 8, 0, 1, -1, 1 << 62, float("nan"),
    float("inf"), "", "SAME_UPPER", "reflect", np.array([np.nan] * 8, np.float32), np.zeros(0, np.uint8),
    np.zeros((2, 3, 4), np.float32),
]  # fmt: skip
NAMES = ("pads", "strides", "kernel_shape", "dilations", "group", "auto_pad", "epsilon", "mode", "value", "axes",
         "transA", "transB", "alpha", "ceil_mode", "training_mode")  # fmt: skip
KINDS = ("Identity", "Pad", "Reshape", "Dropout", "ReduceMean", "AveragePool", "Conv", "Gemm", "MatMul", "Add", "Mul",
         "BatchNormalization", "Constant", "Expand")  # fmt: skip
INPUTS: list[list[str]] = [
    [],
    [""],
    ["data"],
    ["data"] * 9,
    ["nowhere"],
    ["", "", ""],
    ["strange", "strange", "strange"],
]


@st.composite
def changes_of_a_node(draw: st.DrawFn) -> Callable[[OnnxNode], OnnxNode]:
    what = draw(st.sampled_from(["attribute", "inputs", "last inputs", "outputs", "kind"]))
    if what == "attribute":
        entry = {draw(st.sampled_from(NAMES)): draw(st.sampled_from(VALUES))}
        return lambda node: replace(node, attributes=node.attributes | entry)
    if what == "kind":
        kind = draw(st.sampled_from(KINDS))
        return lambda node: replace(node, kind=kind)
    if what == "outputs":
        return lambda node: replace(node, outputs=[])
    names = draw(st.sampled_from(INPUTS))
    return lambda node: replace(node, inputs=names if what == "inputs" else [*node.inputs[:1], *names])


@pytest.fixture(scope="module")
def graph(ours: Path) -> OnnxFile:
    return read_graph(MappedFile(ours))


@settings(max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0, 170), changes_of_a_node()), min_size=1, max_size=3),
       strange=st.sampled_from([value for value in VALUES if isinstance(value, np.ndarray)]))  # fmt: skip
def test_changed_nodes_are_paired_or_told_and_nothing_else(
    changes: Any, strange: np.ndarray, graph: OnnxFile, ours: Path
) -> None:
    """Not bytes, of which few changes make sense, but what a damaged or a hostile exporter might have meant."""
    nodes = list(graph.nodes)
    for place, change in changes:
        nodes[place % len(nodes)] = change(nodes[place % len(nodes)])
    tensors = graph.tensors | {"strange": strange}
    try:
        paired_layers(replace(graph, nodes=nodes, tensors=tensors), MappedFile(ours))
    except BadInputError as error:
        assert len(str(error)) < 1000 and "\n" not in str(error)


@pytest.mark.parametrize("value", [np.array([np.nan] * 8, np.float32), [1, 1], 1, "", "SAME"])
def test_an_attribute_of_the_wrong_kind_departs(value: Any, graph: OnnxFile, ours: Path) -> None:
    first = next(place for place, node in enumerate(graph.nodes) if node.kind == "Conv")
    nodes = list(graph.nodes)
    nodes[first] = replace(nodes[first], attributes=nodes[first].attributes | {"auto_pad": value})
    with pytest.raises(BadInputError, match="auto_pad"):
        paired_layers(replace(graph, nodes=nodes), MappedFile(ours))


def test_a_large_tensor_for_pads_is_not_turned_into_a_list(graph: OnnxFile, ours: Path) -> None:
    pad = OnnxNode("Pad", "pad", ["data", "large"], ["padded"])
    tensors = graph.tensors | {"large": np.zeros(20 << 20, np.uint8)}
    tracemalloc.start()
    paired_layers(replace(graph, nodes=[pad, *graph.nodes], tensors=tensors), MappedFile(ours))
    assert tracemalloc.get_traced_memory()[1] < 20 << 20
    tracemalloc.stop()


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_damage(data: bytes) -> None:
    message = Message(data)
    try:
        for _, value in message.fields(Span(0, len(data))):
            if isinstance(value, Span):
                assert 0 <= value.start <= value.end <= len(data)
                list(message.fields(value))
    except DamagedError:
        pass


def test_a_file_of_nothing_but_entries_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07\x12\x00" + b"\x08\x01" * 2_000_000)
    with pytest.raises(BadInputError, match="far too many entries"):
        read_named(MappedFile(tmp_path / "x.onnx"))
