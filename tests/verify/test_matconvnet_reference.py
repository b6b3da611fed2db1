"""The stored graph as a witness: it agrees, it sees what was changed in it, and it names what it cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.checkpoint import Checkpoint
from convert.conversion import convert
from convert.readers import read_checkpoint
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import FERPLUS_HEAD, NO_HEAD, Head, architecture
from tests.conftest import run_ferplus
from tests.mat_files import Builder, Rows, imported, row, save_level5, save_level73
from tests.seeded import seeded_arrays, seeded_checkpoint
from verify.images import natural_images
from verify.metrics import difference
from verify.parity import ParityOptions, check_parity
from verify.references.matconvnet import RULES, MatConvNetReference
from verify.references.torch_reference import TorchReference

Root = dict[str, Any]


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return natural_images(1, seed=5).numpy().transpose(0, 2, 3, 1).astype(np.float64)


@pytest.fixture(scope="module")
def patch(image: np.ndarray) -> np.ndarray:
    """A small image for a network without its head, which takes any size: a twelfth of the work."""
    return image[:, 80:144, 80:144]


def calm(network: str, head: Head = FERPLUS_HEAD) -> Any:
    """Seeded arrays under which activations stay in range: blocks add little to what they are given."""
    made = seeded_arrays(network, head)
    for layer, roles in made.items():
        if layer.endswith("_1x1_increase_bn"):
            roles["gamma"] = roles["gamma"] * np.float32(0.2)
        if layer.endswith("_1x1_up"):  # a sigmoid far from zero magnifies rounding without end
            roles["kernel"] = roles["kernel"] * np.float32(0.01)
    return made


def worst(reference: Any, exact: dict[str, np.ndarray], image: np.ndarray) -> tuple[str, float, int]:
    """(the first layer over 1e-12 or "", the largest relative difference, layers compared)."""
    outputs = reference.run(image)
    found = [difference(name, exact[name], outputs[name]) for name in exact if name in outputs]
    first = next((each.layer for each in found if not each.finite or each.relative > 1e-12), "")
    return first, max(each.relative for each in found), len(found)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "save"), [("resnet50", save_level5), ("senet50", save_level73)])
def test_the_stored_graph_is_the_same_function_as_our_module(
    network: str, save: Any, image: np.ndarray, tmp_path: Path
) -> None:
    """The stand-in has Axpy, Reshape, in-place names, a projection first, dropout and losses; ours has none of them."""
    path = save(tmp_path / "x.mat", imported(calm(network), dropout=0.5, loss=True))
    checkpoint = read_checkpoint(path)
    exact = TorchReference(checkpoint, "float64").run(image)
    first, largest, compared = worst(MatConvNetReference(checkpoint, "float64", path), exact, image)
    names = {layer.name for layer in checkpoint.architecture.layers[1:]}
    absent = {name for name in names if name.endswith("_scale")}  # Axpy multiplies and adds at once
    assert first == "" and largest < 1e-13 and compared == len(names) - len(absent)
    single = MatConvNetReference(checkpoint, "float32", path).run(image.astype(np.float32))
    head = checkpoint.architecture.output
    assert single[head].dtype == np.float32
    assert difference(head, exact[head], single[head].astype(np.float64)).relative < 5e-5


@pytest.mark.slow
def test_the_squeeze_and_excitation_of_the_stored_graph(patch: np.ndarray, tmp_path: Path) -> None:
    path = save_level5(tmp_path / "x.mat", imported(calm("senet50", NO_HEAD), dropout=0.5))
    checkpoint = read_checkpoint(path)
    exact = TorchReference(checkpoint, "float64").run(patch)
    first, largest, compared = worst(MatConvNetReference(checkpoint, "float64", path), exact, patch)
    assert first == "" and largest < 1e-13 and compared > 200


def test_a_file_with_strange_names_is_run_and_compared_layer_by_layer(patch: np.ndarray, tmp_path: Path) -> None:
    root = imported(calm("resnet50", NO_HEAD))
    order = np.random.default_rng(0).permutation(len(root["layers"]))
    root["layers"] = Rows(root["layers"][index] | {"name": f"l{index}"} for index in order)
    path = save_level5(tmp_path / "x.mat", root)
    checkpoint = read_checkpoint(path)
    exact = TorchReference(checkpoint, "float64").run(patch)
    first, _, compared = worst(MatConvNetReference(checkpoint, "float64", path), exact, patch)
    assert first == "" and compared == len(checkpoint.architecture.layers) - 1


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Checkpoint]:
    arrays = calm("resnet50", NO_HEAD)
    return arrays, read_checkpoint(save_level5(tmp_path_factory.mktemp("good") / "x.mat", imported(arrays)))


def stride_on_the_3x3(root: Root) -> None:
    layer_named(root, "conv3_1_1x1_reduce")["block"]["stride"] = row(1, 1)
    layer_named(root, "conv3_1_3x3")["block"]["stride"] = row(2, 2)


def padded_on_all_sides(root: Root) -> None:
    layer_named(root, "pool1_3x3_s2")["block"]["pad"] = row(1, 1, 1, 1)


def like_keras_same(root: Root) -> None:
    layer_named(root, "conv1_7x7_s2")["block"]["pad"] = row(2, 3, 2, 3)


def before_the_relu(root: Root) -> None:
    layer = layer_named(root, "conv2_2")
    layer["inputs"] = [name.removesuffix("x") if name == "conv2_1x" else name for name in layer["inputs"]]


def leaky(root: Root) -> None:
    layer_named(root, "conv1_relu_7x7_s2")["block"]["leak"] = 0.01


def other_moments(root: Root) -> None:
    """The file changes after its checkpoint was read: the stored sigma counts, not the checkpoint's variance."""
    param = next(each for each in root["params"] if each["name"] == "conv1_7x7_s2_bn_moments")
    param["value"] = param["value"] * np.array([1, 1 + 1e-5], np.float32)


def layer_named(root: Root, name: str) -> Any:
    return next(layer for layer in root["layers"] if layer["name"] == name)


@pytest.mark.parametrize(
    ("fault", "layer"),
    [(stride_on_the_3x3, "conv3_1_1x1_reduce"), (padded_on_all_sides, "pool1_3x3_s2"),
     (like_keras_same, "conv1_7x7_s2"), (before_the_relu, "conv2_2"), (leaky, "conv1_relu_7x7_s2"),
     (other_moments, "conv1_7x7_s2_bn")],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_what_differs_in_the_graph_is_seen_at_its_layer(
    fault: Any, layer: str, good: tuple[Any, Checkpoint], patch: np.ndarray, tmp_path: Path
) -> None:
    """The arrays are the same throughout: only a witness that runs the stored graph can tell these apart."""
    arrays, checkpoint = good
    root = imported(arrays)
    fault(root)
    path = save_level5(tmp_path / "x.mat", root)
    exact = TorchReference(checkpoint, "float64").run(patch)
    first, _, _ = worst(MatConvNetReference(checkpoint, "float64", path), exact, patch)
    assert first == layer


# --- what cannot be run ---------------------------------------------------------------------------------------------


class Tiny:
    """A graph of a few layers around the network's last one, so that each kind can be tried by itself."""

    def __init__(self, folder: Path) -> None:
        self.build = Builder({"classifier": {"kernel": np.ones((4, 8), np.float32), "bias": np.zeros(8, np.float32)}})
        self.folder = folder

    def reference(self, top: str, checkpoint: Checkpoint, dtype: str = "float64") -> MatConvNetReference:
        self.build.conv("classifier", top)
        root = {"layers": self.build.layers, "params": self.build.params}
        return MatConvNetReference(checkpoint, dtype, save_level5(self.folder / "x.mat", root))


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return seeded_checkpoint("resnet50")


def test_an_unknown_kind_of_layer_is_named_and_not_guessed(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    top = tiny.build.add("LRN", "norm1", ["data"], "norm1", {"param": row(5, 1, 0.0001, 0.75)})
    with pytest.raises(BadInputError, match="not known here \\(LRN; the first is norm1\\)"):
        tiny.reference(top, checkpoint)


def test_an_unknown_kind_that_the_output_does_not_need_is_no_matter(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    tiny.build.add("SomethingNew", "aside", ["data", "label"], "aside", {})
    tiny.reference("data", checkpoint).run(np.ones((1, 1, 1, 4)))


def test_a_circle_is_told(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    tiny.build.add("Sum", "a", ["data", "c"], "b", {})
    tiny.build.add("ReLU", "again", ["b"], "c", {})
    with pytest.raises(BadInputError, match="has a cycle"):
        tiny.reference("b", checkpoint)


def test_a_graph_with_two_images_is_told(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    tiny.build.add("Sum", "a", ["left", "right"], "b", {})
    with pytest.raises(BadInputError, match="it has left, right"):
        tiny.reference("b", checkpoint)


@pytest.mark.parametrize(
    ("kind", "block"),
    [("Pooling", {"method": "median", "poolSize": row(1, 1)}), ("Pooling", {"poolSize": row(9, 9)}),
     ("Pooling", {"poolSize": row(1, 1), "pad": row(1, 0, 0, 0)}), ("Pooling", {"poolSize": row(0, 1)}),
     ("Sum", {}), ("Conv", {"size": row(1, 1, 3, 3)}), ("BatchNorm", {}), ("Axpy", {})],
)  # fmt: skip
def test_a_layer_that_cannot_be_run_is_named(kind: str, block: Any, checkpoint: Checkpoint, tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    inputs = ["data", "data"] if kind == "Axpy" else ["data"]
    if kind == "Sum":
        inputs = ["data", tiny.build.pool("half", "data", "max", 2, 2, (0, 0, 0, 0))]
    top = tiny.build.add(kind, "the_culprit", inputs, "top", block)
    reference = tiny.reference(top, checkpoint)
    with pytest.raises(BadInputError, match="cannot be run: the_culprit"):
        reference.run(np.ones((1, 4, 4, 4)))


def test_every_rule_is_a_method_and_runs(checkpoint: Checkpoint, tmp_path: Path) -> None:
    assert all(map(callable, RULES.values()))
    tiny = Tiny(tmp_path)
    build = tiny.build
    size = {"pad": row(0, 0, 0, 0), "stride": row(1, 1)}
    top = build.add("ReLU", "old", ["data"], "old", {"opts": ["leak", 0.5]})
    top = build.add(
        "Scale",
        "scaled",
        [top],
        "scaled",
        {"hasBias": True},
        mult=np.full((1, 1, 4), 2, np.float32),
        bias=np.ones((1, 1, 4), np.float32),
    )
    top = build.add("Concat", "doubled", [top, top], "doubled", {"dim": 3.0})
    top = build.add(
        "Conv",
        "grouped",
        [top],
        "grouped",
        size | {"size": row(1, 1, 4, 4), "hasBias": False},
        filter=np.ones((1, 1, 4, 4), np.float32),
    )
    top = build.add("GlobalPooling", "squeeze", [top], "squeeze", {"method": "max"})
    top = build.add("SoftMax", "soft", [top], "soft", {})
    top = build.add("Flatten", "flat", [top], "flat", {"axis": 3.0})
    top = build.add("DropOut", "drop", [top], "drop", {"rate": 0.5})
    outputs = tiny.reference(top, checkpoint).run(-np.ones((1, 2, 2, 4)))
    # -1 -> -0.5 by the leak -> 0 by scale and bias -> 0 -> equal shares of four -> times ones
    assert np.allclose(outputs["classifier"], np.ones((1, 1, 1, 8)))


#: Tiny graphs share nothing with it but the name of the last layer.
ANY = Checkpoint(architecture("resnet50"), {}, None)  # type: ignore[arg-type]

JUNK = [
    row(np.nan), row(np.inf), row(-1, 2), row(1e9, 1e9), row(0.5), row(*range(9)), "text", "", [], ["a", row(1)], {},
    {"x": row(1)}, np.zeros((0, 0)), True, np.ones((2, 2, 2), np.float32), Rows([{"name": "a"}]),
]  # fmt: skip


@settings(max_examples=120)
@given(data=st.data())
def test_junk_in_a_layers_options_ends_in_a_sentence_or_in_a_run(data: st.DataObject, tmp_path_factory: Any) -> None:
    tiny = Tiny(tmp_path_factory.getbasetemp())
    kind = data.draw(st.sampled_from([name for name in RULES if name != "Sum"]))
    keys = ("pad", "stride", "dilate", "size", "hasBias", "poolSize", "method", "leak", "opts", "dim", "shape", "axis")
    block = data.draw(st.dictionaries(st.sampled_from(keys), st.sampled_from(JUNK), max_size=4))
    top = tiny.build.add(kind, "junk", ["data"], "junk", block, filter=np.ones((1, 1, 4, 4), np.float32))
    try:
        tiny.reference(top, ANY).run(np.ones((1, 3, 3, 4)))
    except BadInputError as error:
        assert "x.mat" in str(error) and "\n" not in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet50"], indirect=True)
def test_both_references_are_brought_and_it_is_told_who_disagrees(
    standin_pth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mat = tmp_path / standin_pth.with_suffix(".mat").name
    model = mat.with_suffix(".h5")
    convert(standin_pth, [mat])
    convert(mat, [model])
    net = {name: value for name, value in scipy.io.loadmat(mat).items() if not name.startswith("__")}
    for layer in net["layers"][0]:
        if layer["block"].dtype.names is None:
            layer["block"] = {}
        if layer["name"][0] == "conv1_7x7_s2":
            layer["block"]["pad"][0, 0][:] = [2, 3, 2, 3]
    scipy.io.savemat(mat, net, long_field_names=True)
    refused = run_ferplus("verify", "parity", model, "--against", mat, "--n", 1, "--no-onnx")
    assert (
        refused.returncode == 2
        and "conv1_7x7_s2 has padding 2 above" in refused.stderr
        and "Traceback" not in refused.stderr
    )
    # Should the reader ever overlook such a graph, the reference that runs it does not.
    monkeypatch.setattr("convert.readers.graph_problem", lambda _found: "")
    result = check_parity(model, mat, ParityOptions(images=1))
    assert not result.passed and result.diagnosis is not None
    assert {"matconvnet", "torch"} <= {run.reference for run in result.runs}
    assert "at conv1_7x7_s2, the reference matconvnet computes something else" in result.diagnosis.cause
