"""MatConvNet networks from files as other tools leave them: bound by place, named by graph, refused in a sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convert.checkpoint import Arrays
from convert.matching import match
from convert.readers import graph_problem, read_checkpoint, read_named, with_head
from convert.readers.dagnn import DagLayer, DagNN
from convert.readers.mat_file import named_arrays
from convert.writers import write
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON, FERPLUS_HEAD, NO_HEAD, Head, classifier, embedding
from ferplus_keras.networks.emotions import EMOTIONS
from tests.conftest import run_ferplus
from tests.mat_files import Rows, imported, row, save_level5, save_level73
from tests.seeded import seeded_arrays

pytestmark = pytest.mark.usefixtures("small")

Root = dict[str, Any]


@pytest.fixture(scope="module")
def resnet() -> Arrays:
    return seeded_arrays("resnet50")


@pytest.fixture(scope="module")
def senet() -> Arrays:
    return seeded_arrays("senet50")


def through_sigma(variance: np.ndarray) -> np.ndarray:
    """What a float32 standard deviation leaves of a variance: the reader's formula, once more by hand."""
    sigma = np.sqrt(variance.astype(np.float64) + 1e-5).astype(np.float32)
    return (sigma.astype(np.float64) ** 2 - 1e-5).astype(np.float32)


def beginning(root: Root) -> Root:
    """The first four layers and their parameters: enough where no complete network is needed, and quick to write."""
    return root | {"layers": Rows(root["layers"][:4]), "params": Rows(root["params"][:4])}


def holds(path: Path, arrays: Arrays) -> Any:
    """Asserts that the file has these arrays, variances as far as a sigma can hold them; returns the checkpoint."""
    checkpoint = read_checkpoint(path)
    assert checkpoint.arrays.keys() == arrays.keys()
    for layer, roles in arrays.items():
        for role, array in roles.items():
            wanted = through_sigma(array) if role == "moving_variance" else array
            assert np.array_equal(checkpoint.arrays[layer][role], wanted), f"{layer}/{role}"
    return checkpoint


FORMS: dict[str, Callable[[Path, Root], Path]] = {
    "5": save_level5,
    "5 compressed": lambda path, root: save_level5(path, root, compress=True),
    "7.3": save_level73,
}


@pytest.mark.parametrize(
    ("network", "form"),
    [
        ("resnet50", "5 compressed"),
        ("resnet50", "5"),
        pytest.param("senet50", "7.3", marks=pytest.mark.slow),
    ],
)
def test_networks_as_imported_and_fine_tuned(network: str, form: str, request: Any, tmp_path: Path) -> None:
    arrays = request.getfixturevalue(network.removesuffix("50"))
    checkpoint = holds(FORMS[form](tmp_path / "x.mat", imported(arrays, dropout=0.5, loss=True)), arrays)
    told = checkpoint.provenance
    assert (told.network, told.head, told.units, told.dropout) == (network, "classifier", 8, 0.5)
    assert told.source.format == ("matconvnet-7.3" if form == "7.3" else "matconvnet") and told.notes == ()


@pytest.mark.parametrize("name", ["net", "netStruct", "anything"])
def test_the_network_may_stand_under_a_variable(name: str, resnet: Arrays, tmp_path: Path) -> None:
    root = imported(resnet)
    holds(save_level5(tmp_path / "x.mat", {"stats": {"train": row(1, 2)}, name: root}), resnet)


def test_two_networks_in_one_file_are_not_guessed_at(resnet: Arrays, tmp_path: Path) -> None:
    tiny = {"layers": Rows([{"name": "a"}]), "params": Rows([{"name": "b", "value": row(1)}])}
    with pytest.raises(BadInputError, match="several networks \\(one, two\\)"):
        read_named(MappedFile(save_level5(tmp_path / "x.mat", {"one": tiny, "two": tiny})))


def squeezed(root: Root) -> None:
    """Careless tools drop every dimension of 1, not only those at the end."""
    for param in root["params"]:
        param["value"] = np.squeeze(param["value"])


def rows_for_columns(root: Root) -> None:
    for param in root["params"]:
        if param["value"].shape[1:] == (1,):
            param["value"] = param["value"].T


def without_sizes(root: Root) -> None:
    for layer in root["layers"]:
        layer["block"].pop("size", None)


def char_for_cells(root: Root) -> None:
    for layer in root["layers"]:
        for key in ("inputs", "outputs", "params"):
            if len(layer[key]) == 1:
                layer[key] = layer[key][0]


def cells_of_structs(root: Root) -> None:
    root["layers"], root["params"] = list(root["layers"]), list(root["params"])
    root["meta"]["classes"]["name"] = np.array(root["meta"]["classes"]["name"])  # a char matrix, blanks at the ends


def slashes(root: Root) -> None:
    """Caffe's own names, which MatConvNet cannot index and its importer may leave."""
    for layer in root["layers"]:
        layer["name"] = layer["name"].replace("_1x1", "/1x1").replace("_bn", "/bn").replace("conv1_", "conv1/")


def meaningless_parameter_names(root: Root) -> None:
    renamed = {param["name"]: f"p{index}_bias" for index, param in enumerate(root["params"])}
    for param in root["params"]:
        param["name"] = renamed[param["name"]]
    for layer in root["layers"]:
        layer["params"] = [renamed[name] for name in layer["params"]]


def older_release(root: Root) -> None:
    """No hasBias, no epsilon, no vars, no meta, scalar strides: what the first releases saved."""
    root.pop("vars"), root.pop("meta")
    for layer in root["layers"]:
        for key in ("hasBias", "epsilon", "opts", "dilate"):
            layer["block"].pop(key, None)


def foreign_names(root: Root) -> None:
    for index, layer in enumerate(root["layers"]):
        layer["name"] = f"layer{index}"


def foreign_head(root: Root) -> None:
    root["layers"][-1]["name"] = "fc8_new"


def any_order(root: Root) -> None:
    foreign_names(root)
    order = np.random.default_rng(3).permutation(len(root["layers"]))
    root["layers"] = Rows(root["layers"][index] for index in order)


def swapped_sums(root: Root) -> None:
    foreign_names(root)
    for layer in root["layers"]:
        if layer["type"] == "dagnn.Sum":
            layer["inputs"] = layer["inputs"][::-1]


QUIRKS = [
    squeezed, rows_for_columns, without_sizes, char_for_cells, cells_of_structs, slashes, meaningless_parameter_names,
    older_release, foreign_names, foreign_head, any_order, swapped_sums,
]  # fmt: skip


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: str(quirk.__name__))
def test_what_real_files_show_is_survived(quirk: Callable[[Root], None], resnet: Arrays, tmp_path: Path) -> None:
    root = imported(resnet)
    quirk(root)
    notes = holds(save_level5(tmp_path / "x.mat", root), resnet).provenance.notes
    renamed = quirk in (foreign_names, foreign_head, any_order, swapped_sums)
    assert any("position in the graph" in note for note in notes) == renamed


@pytest.mark.parametrize("quirk", [any_order, squeezed], ids=lambda quirk: str(quirk.__name__))
def test_and_in_the_squeeze_and_excitation_network(quirk: Any, senet: Arrays, tmp_path: Path) -> None:
    root = imported(senet, dropout=0.5)
    quirk(root)
    holds(save_level5(tmp_path / "x.mat", root), senet)


@pytest.mark.parametrize(
    ("network", "form", "head"),
    [*(("resnet50", "5", head) for head in (classifier(8631), embedding(128), embedding(256), NO_HEAD)),
     pytest.param("senet50", "7.3", embedding(128), marks=pytest.mark.slow)],
    ids=str,
)  # fmt: skip
def test_the_rest_of_the_family(network: str, form: str, head: Head, tmp_path: Path) -> None:
    arrays = seeded_arrays(network, head)
    assert holds(FORMS[form](tmp_path / "x.mat", imported(arrays)), arrays).architecture.head == head


def test_a_graph_that_is_not_ours_is_not_forced_into_our_names(resnet: Arrays, tmp_path: Path) -> None:
    root = imported(resnet)
    foreign_names(root)
    relu = next(layer for layer in root["layers"] if layer["type"] == "dagnn.ReLU")
    relu["type"] = "dagnn.Sigmoid"  # one layer of another kind, in the right place
    path = save_level5(tmp_path / "x.mat", root)
    with pytest.raises(BadInputError, match="not one of Albanie's networks"):
        read_checkpoint(path)


# --- the same arrays, another function ------------------------------------------------------------------------------


def option(name: str, key: str, value: Any) -> Callable[[Root], None]:
    """Sets one option of one layer."""

    def change(root: Root) -> None:
        layer = next(layer for layer in root["layers"] if layer["name"] == name)
        layer["block"] = layer["block"] | {key: value}

    return change


def rewired(name: str, old: str, new: str) -> Callable[[Root], None]:
    def change(root: Root) -> None:
        layer = next(layer for layer in root["layers"] if layer["name"] == name)
        assert old in layer["inputs"]
        layer["inputs"] = [new if each == old else each for each in layer["inputs"]]

    return change


def other_options_everywhere(root: Root) -> None:
    others = {"Conv": {"stride": row(1, 1), "pad": row(0, 0, 0, 0)}, "Pooling": {"poolSize": row(5, 5)},
              "ReLU": {"leak": 0.3}}  # fmt: skip
    for layer in root["layers"]:
        layer["block"] = layer["block"] | others.get(layer["type"].removeprefix("dagnn."), {})


GRAPHS: dict[str, tuple[Callable[[Root], None], str]] = {
    "everything": (other_options_everywhere, "conv1_7x7_s2 has strides 1 x 1, and 2 x 2"),
    "stride": (option("conv3_1_1x1_reduce", "stride", row(1, 1)), "conv3_1_1x1_reduce has strides 1 x 1, and 2 x 2"),
    "no padding": (option("conv2_1_3x3", "pad", row(0, 0, 0, 0)), "conv2_1_3x3 has padding 0 on each side, and 1"),
    "padding as Keras has it": (option("conv1_7x7_s2", "pad", row(2, 3, 2, 3)), "conv1_7x7_s2 has padding 2 above"),
    "dilation": (option("conv5_1_3x3", "dilate", row(2, 2)), "conv5_1_3x3 has dilation 2 x 2, and 1 x 1"),
    "padded on all sides": (option("pool1_3x3_s2", "pad", row(1, 1, 1, 1)), "pool1_3x3_s2 has padding 1"),
    "not rounded up": (option("pool1_3x3_s2", "pad", row(0, 0, 0, 0)), "pool1_3x3_s2 has padding 0 on each side"),
    "larger window": (option("pool1_3x3_s2", "poolSize", row(5, 5)), "pool1_3x3_s2 has size 5 x 5, and 3 x 3"),
    "average": (option("pool1_3x3_s2", "method", "avg"), "pool1_3x3_s2"),
    "maximum at the end": (option("pool5_7x7_s1", "method", "max"), "pool5_7x7_s1"),
    "part of the map": (option("pool5_7x7_s1", "poolSize", row(5, 5)), "pool5_7x7_s1"),
    "leak": (option("conv4_2_relu", "leak", 0.3), "conv4_2_relu"),
    "leak, as older releases have it": (option("conv4_2_relu", "opts", ["leak", 0.3]), "conv4_2_relu"),
    "junk": (option("conv2_1_3x3", "pad", row(np.nan)), "the options of conv2_1_3x3 cannot be read"),
    "three paddings": (option("conv2_1_3x3", "pad", row(1, 1, 1)), "3 numbers for the padding of four sides"),
    "three strides": (option("conv2_1_3x3", "stride", row(1, 1, 1)), "3 numbers for a stride or size"),
    "shortcut before the ReLU": (rewired("conv2_2", "conv2_1x", "conv2_1"), "conv2_2 is fed by"),
    "a block left out": (rewired("conv2_3_1x1_reduce", "conv2_2x", "conv2_1x"), "conv2_"),
}


@pytest.mark.parametrize("names", ["published", "foreign"])
@pytest.mark.parametrize("fault", GRAPHS)
def test_another_geometry_with_the_same_arrays_is_refused(fault: str, names: str, resnet: Arrays) -> None:
    change, said = GRAPHS[fault]
    root = copy.deepcopy(imported(resnet))
    change(root)
    if names == "foreign":
        foreign_names(root)
    net = network_in_memory(root)
    found = with_head(named_arrays(MappedFile(__file__), net))
    problem = graph_problem(found)
    assert problem and "\n" not in problem
    assert names == "foreign" or said in problem


def network_in_memory(root: Root) -> DagNN:
    params = {param["name"]: param["value"] for param in root["params"]}
    return DagNN("5", [in_memory(layer) for layer in root["layers"]], params)


def in_memory(layer: Any) -> DagLayer:
    """What the reader makes of one of the records in :mod:`tests.mat_files`."""
    block = {key: np.array([[value]]) if isinstance(value, float) else value for key, value in layer["block"].items()}
    block["opts"] = [np.array([[each]]) if isinstance(each, float) else each for each in block.get("opts", [])]
    kind = layer["type"].removeprefix("dagnn.")
    return DagLayer(layer["name"], kind, tuple(layer["inputs"]), tuple(layer["outputs"]), tuple(layer["params"]), block)


def test_a_refused_geometry_is_a_sentence_on_the_command_line(resnet: Arrays, tmp_path: Path) -> None:
    root = imported(resnet)
    other_options_everywhere(root)
    save_level5(tmp_path / "x.mat", root)
    run = run_ferplus("convert", "x.mat", "out.h5", cwd=tmp_path)
    assert run.returncode == 2 and "conv1_7x7_s2 has strides 1 x 1" in run.stderr and "Traceback" not in run.stderr
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("form", ["7 x 7 strides", "global", "two numbers", "one number"])
def test_other_ways_to_write_the_same_geometry_are_the_same(form: str, resnet: Arrays) -> None:
    root = copy.deepcopy(imported(resnet))
    by_name = {layer["name"]: layer for layer in root["layers"]}
    if form == "7 x 7 strides":
        by_name["pool5_7x7_s1"]["block"]["stride"] = row(7, 7)
    elif form == "global":
        by_name["pool5_7x7_s1"] |= {"type": "dagnn.GlobalPooling", "block": {}}
    else:
        count = 2 if form == "two numbers" else 1
        for layer in root["layers"]:
            if layer["type"] == "dagnn.Conv":
                layer["block"] |= {key: layer["block"][key][:, :count] for key in ("pad", "stride")}
    net = network_in_memory(root)
    found = with_head(named_arrays(MappedFile(__file__), net))
    assert not graph_problem(found) and match(found, "x.mat").architecture.head == FERPLUS_HEAD


# --- moments --------------------------------------------------------------------------------------------------------


def with_moments(arrays: Arrays, change: Callable[[np.ndarray], Any], path: Path, *, whole: bool = False) -> Path:
    root = imported(arrays) if whole else beginning(imported(arrays))
    moments = next(param for param in root["params"] if param["name"] == "conv1_7x7_s2_bn_moments")
    moments["value"] = moments["value"].copy()
    replaced = change(moments["value"])
    if replaced is not None:
        moments["value"] = replaced
    return save_level5(path, root)


def test_negative_variances_are_kept(resnet: Arrays, tmp_path: Path) -> None:
    sigma = np.float32(2e-3)  # sigma^2 = 4e-6 < epsilon

    def change(moments: np.ndarray) -> None:
        moments[:3, 1] = sigma

    checkpoint = read_checkpoint(with_moments(resnet, change, tmp_path / "x.mat", whole=True))
    variance = checkpoint.arrays["conv1_7x7_s2_bn"]["moving_variance"][:3]
    assert (variance == np.float32(float(sigma) ** 2 - 1e-5)).all() and (variance < 0).all()
    assert np.allclose(np.sqrt(variance + np.float32(BATCHNORM_EPSILON)), sigma, rtol=1e-6)


def nothing(moments: np.ndarray) -> None:
    moments[0, 1] = 0.0


def negative(moments: np.ndarray) -> None:
    moments[0, 1] = -0.1


def not_a_number(moments: np.ndarray) -> None:
    moments[0, 1] = np.nan


def transposed(moments: np.ndarray) -> np.ndarray:
    return moments.T.copy()


def short(moments: np.ndarray) -> np.ndarray:
    return moments[:-1]


@pytest.mark.parametrize(
    ("change", "said"),
    [(nothing, "variance + epsilon is not positive"), (negative, "negative standard deviation"),
     (not_a_number, "1 NaN"), (transposed, "channels x 2"), (short, "wrong shape")],
)  # fmt: skip
def test_impossible_moments_are_refused(change: Any, said: str, resnet: Arrays, tmp_path: Path) -> None:
    path = with_moments(resnet, change, tmp_path / "x.mat", whole=change in (nothing, not_a_number))
    with pytest.raises(BadInputError) as caught:
        read_checkpoint(path)
    assert said in f"{caught.value}\n{caught.value.details}"


def test_another_epsilon_is_absorbed_so_that_the_function_is_the_same(resnet: Arrays, tmp_path: Path) -> None:
    """MatConvNet divides by the stored sigma alone; what our layer adds to the variance must give that sigma."""
    root = beginning(imported(resnet, epsilon=1e-3))
    found = read_named(MappedFile(save_level5(tmp_path / "x.mat", root)))
    moments = next(param["value"] for param in root["params"] if param["name"] == "conv1_7x7_s2_bn_moments")
    variance = found.arrays["conv1_7x7_s2_bn/moving_variance"].astype(np.float64)
    assert np.allclose(np.sqrt(variance + 1e-5), moments[:, 1], rtol=6e-8, atol=0)
    assert any("epsilon 0.001" in note and "same function" in note for note in found.notes)


# --- what the file says of itself -----------------------------------------------------------------------------------


def bgr(meta: Any) -> None:
    meta["normalization"]["averageImage"] = meta["normalization"]["averageImage"][..., ::-1].copy()


def full_image(meta: Any) -> None:
    meta["normalization"]["averageImage"] = np.tile(meta["normalization"]["averageImage"], (224, 224, 1))


def imagenet(meta: Any) -> None:
    meta["normalization"]["averageImage"] = np.array([123.68, 116.779, 103.939]).reshape(1, 1, 3)


def size(meta: Any) -> None:
    meta["normalization"]["imageSize"] = row(227, 227, 3)


def aspect(meta: Any) -> None:
    meta["normalization"]["keepAspect"] = True


def classes(meta: Any) -> None:
    meta["classes"] = {"name": sorted(meta["classes"]["name"])}


@pytest.mark.parametrize(
    ("change", "said"),
    [(bgr, "BGR"), (full_image, None), (imagenet, "123.6800"), (size, "227 x 227"), (aspect, "keepAspect"),
     (classes, "not the published order")],
)  # fmt: skip
def test_a_difference_in_preprocessing_is_noted(change: Any, said: str | None, resnet: Arrays, tmp_path: Path) -> None:
    root = beginning(imported(resnet))
    root["meta"] = copy.deepcopy(root["meta"])
    change(root["meta"])
    notes = read_named(MappedFile(save_level5(tmp_path / "x.mat", root))).notes
    assert notes == [] if said is None else (len(notes) == 1 and said in notes[0]), notes


def test_labels_in_another_order_are_the_files_own(resnet: Arrays, tmp_path: Path) -> None:
    root = imported(resnet)
    classes(root["meta"])
    checkpoint = read_checkpoint(save_level5(tmp_path / "x.mat", root))
    assert checkpoint.provenance.labels == tuple(sorted(EMOTIONS)) != EMOTIONS
    back = read_checkpoint(write(checkpoint, tmp_path / "back.mat").path)
    assert back.provenance.labels == checkpoint.provenance.labels


def test_labels_that_are_not_the_emotions_in_their_order_are_kept(resnet: Arrays, tmp_path: Path) -> None:
    root = beginning(imported(resnet))
    root["meta"] = root["meta"] | {"classes": {"name": [*EMOTIONS[:7], "boredom"]}}
    found = read_named(MappedFile(save_level5(tmp_path / "x.mat", root)))
    assert found.labels == (*EMOTIONS[:7], "boredom") and any("boredom" in note for note in found.notes)
    root["meta"] = root["meta"] | {"classes": {"name": ["Neutral", "happy", "angry", *EMOTIONS[2:4], *EMOTIONS[5:]]}}
    path = save_level5(tmp_path / "y.mat", root)
    in_its_order = ("neutral", "happiness", "anger", *EMOTIONS[2:4], *EMOTIONS[5:])
    assert read_named(MappedFile(path)).labels == in_its_order


def test_a_network_that_was_passed_over_is_noted(resnet: Arrays, tmp_path: Path) -> None:
    root = beginning(imported(resnet))
    found = read_named(MappedFile(save_level5(tmp_path / "x.mat", {"netStruct": root, "net": root})))
    assert any("net was read, and netStruct ignored" in note for note in found.notes)


def test_unknown_fields_are_noted_and_left_alone(resnet: Arrays, tmp_path: Path) -> None:
    root = beginning(imported(resnet)) | {"trainingLog": row(1, 2, 3)}
    root["params"].append({**root["params"][0], "name": "momentum"})
    found = read_named(MappedFile(save_level5(tmp_path / "x.mat", root)))
    assert len(found.arrays) == 5 and any("trainingLog" in note for note in found.notes)
    assert any("1 parameter of no layer ignored: momentum" in note for note in found.notes)


# --- what is no network of ours -------------------------------------------------------------------------------------


def no_network(_: Root) -> Root:
    return {"x": row(1, 2, 3), "y": "text"}


def simple_nn(_: Root) -> Root:
    layers = [{"type": "conv", "weights": [row(1, 2), row(3)]}, {"type": "relu"}]
    return {"layers": layers, "meta": {"classes": {}}}


def no_layer(root: Root) -> Root:
    return root | {"layers": Rows()}


def lost_parameter(root: Root) -> Root:
    return root | {"params": Rows(root["params"][1:])}


def parameter_of_text(root: Root) -> Root:
    return root | {"params": Rows([root["params"][0] | {"value": "text"}, *root["params"][1:]])}


def twice(root: Root) -> Root:
    return root | {"layers": Rows([root["layers"][0], *root["layers"]])}


def one_name_for_two(root: Root) -> Root:
    again = root["layers"][0] | {"name": "conv1/7x7_s2"}
    return root | {"layers": Rows([again, *root["layers"]])}


def no_names(root: Root) -> Root:
    return root | {"layers": Rows({"type": layer["type"]} for layer in root["layers"])}


def too_many(root: Root) -> Root:
    owned = [param["name"] for param in root["params"][:4]]
    return root | {"layers": Rows([root["layers"][0], root["layers"][1] | {"params": owned}, *root["layers"][2:]])}


def without_a_block(root: Root) -> Root:
    kept = Rows(layer for layer in root["layers"] if not layer["name"].startswith("conv5_3"))
    return root | {"layers": kept}


@pytest.mark.parametrize(
    ("make", "said"),
    [(no_network, "not a MatConvNet network: it holds x, y"), (simple_nn, "SimpleNN"), (no_layer, "without layers"),
     (lost_parameter, "conv1_7x7_s2_filter of conv1_7x7_s2 is missing"), (parameter_of_text, ", not numbers"),
     (twice, "two layers called conv1_7x7_s2"), (one_name_for_two, "both be called conv1_7x7_s2"),
     (no_names, "no field name"), (too_many, "too many"),
     (without_a_block, "not a complete resnet50 checkpoint: 15 missing")],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_other_files_are_refused_in_a_sentence(make: Any, said: str, resnet: Arrays, tmp_path: Path) -> None:
    whole = imported(resnet)
    path = save_level5(tmp_path / "x.mat", make(whole if make is without_a_block else beginning(whole)))
    with pytest.raises(BadInputError) as caught:
        read_checkpoint(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@cache
def small() -> Root:
    root = beginning(imported(seeded_arrays("resnet50", NO_HEAD)))
    root["meta"]["ferplus_keras"] = {"provenance": "{}", "moving_variance": {"conv1_7x7_s2_bn": row(1)}}
    return root


JUNK = [
    row(np.nan), row(np.inf), row(-1, 2), np.zeros((0, 0)), "text", "", [], ["a", row(1)], [[["deep"]]], {}, True,
    {"x": row(1)}, np.ones((2, 2, 2), np.float32), Rows([{"name": "a"}, {"name": "b"}]), np.array([["ab"], ["cd"]]),
]  # fmt: skip

PLACES = [
    ("layers",), ("params",), ("meta",), ("vars",), ("layers", 1), ("params", 3, "value"), ("params", 0, "value"),
    ("params", 0, "name"), ("meta", "normalization"), ("meta", "normalization", "averageImage"), ("meta", "classes"),
    ("meta", "normalization", "imageSize"), ("meta", "normalization", "keepAspect"), ("meta", "classes", "name"),
    *[("layers", 0, "block", key) for key in ("pad", "stride", "dilate")], ("layers", 2, "block", "leak"),
    ("layers", 2, "block", "opts"), *[("layers", 3, "block", key) for key in ("method", "poolSize", "pad")],
    ("layers", 1, "block", "epsilon"), ("layers", 0, "block", "size"), ("layers", 0, "block", "hasBias"),
    ("meta", "ferplus_keras"), ("meta", "ferplus_keras", "provenance"), ("meta", "ferplus_keras", "moving_variance"),
    *[("layers", number, field) for number in (0, 1, 3) for field in ("name", "type", "inputs", "params", "block")],
]  # fmt: skip


@pytest.mark.slow
@settings(max_examples=150)
@given(changes=st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(JUNK)), min_size=1, max_size=3))
def test_junk_anywhere_ends_in_a_sentence_or_in_a_reading(changes: Any, tmp_path_factory: Any) -> None:
    root = copy.deepcopy(small())
    for place, junk in changes:
        inside: Any = root
        for key in place[:-1]:
            try:
                inside = inside[key]
            except (KeyError, IndexError, TypeError):
                inside = None
        if isinstance(inside, dict) or (isinstance(inside, list) and isinstance(junk, dict)):
            inside[place[-1]] = junk
    path = tmp_path_factory.getbasetemp() / "junk.mat"
    try:
        save_level5(path, root)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError):
        return  # SciPy cannot write it
    try:
        read_named(MappedFile(path))
    except BadInputError as error:
        assert "junk.mat" in str(error) and "\n" not in str(error) and len(str(error)) < 1000


@pytest.mark.slow
def test_the_command_line_converts_and_inspects(senet: Arrays, tmp_path: Path) -> None:
    save_level5(tmp_path / "senet50-ferplus.mat", imported(senet, dropout=0.5, loss=True))
    run = run_ferplus("convert", "senet50-ferplus.mat", "out.h5", "back.mat", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    for name, format in (("senet50-ferplus.mat", "matconvnet"), ("back.mat", "matconvnet"), ("out.h5", "h5-model")):
        told = run_ferplus("inspect", name, cwd=tmp_path)
        assert told.returncode == 0 and f"format      {format}\n" in told.stdout and "senet50" in told.stdout
    original, back = read_checkpoint(tmp_path / "out.h5"), read_checkpoint(tmp_path / "back.mat")
    assert all(
        np.array_equal(a, back.arrays[layer][role])
        for layer, roles in original.arrays.items()
        for role, a in roles.items()
    )
    (tmp_path / "bad.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(128) + b"\1")
    bad = run_ferplus("convert", "bad.mat", "bad.h5", cwd=tmp_path)
    assert bad.returncode == 2 and bad.stderr.count("error:") == 1 and "Traceback" not in bad.stderr
    assert original.architecture.head == FERPLUS_HEAD
