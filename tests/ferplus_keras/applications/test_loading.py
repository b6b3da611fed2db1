"""Loading by name that never fails in silence: what matched is said, and a file of another kind is sent elsewhere.

Models are stand-ins with layers, names and weights: that is all that the loader looks at, in every Keras.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.writers import write
from convert.writers.keras_h5 import functional_config
from ferplus_keras.applications.loading import LoadReport, load_weights
from ferplus_keras.errors import BadInputError, StandInWarning
from ferplus_keras.networks.architecture import NO_HEAD, architecture
from ferplus_keras.networks.keras_plan import KerasLayer, keras_plan
from ferplus_keras.networks.keras_vggface import ZEROS, keras3_name, same_name, their_name, vggface_plan
from tests.seeded import save_state, seeded_checkpoint, seeded_state

pytestmark = pytest.mark.usefixtures("small")


@dataclass
class Layer:
    name: str
    weights: list[np.ndarray] = field(default_factory=list)
    set: bool = False

    def set_weights(self, arrays: list[np.ndarray]) -> None:
        assert [a.shape for a in arrays] == [w.shape for w in self.weights]
        self.weights, self.set = arrays, True


@dataclass
class Model:
    layers: list[Any]
    name: str = "mine"


def model(rename: Any = same_name, network: str = "resnet50", *, head: bool = True, zeros: bool = False) -> Model:
    layers = [
        Layer(rename(name), [np.zeros(shape, np.float32) for shape in roles.values()])
        for name, roles in architecture(network).parameters.items()
        if head or name != "classifier"
    ]
    return Model([*layers, *(Layer(rename(name)) for name in ZEROS if zeros)])


class Graphed(Model):
    """A model whose graph can be seen, as Keras writes it."""

    def __init__(self, plan: tuple[KerasLayer, ...]) -> None:
        weights = {each.name: [Named(np.zeros(shape, np.float32), f"{each.name}/{role}:0")
                               for role, shape in each.weights.items()] for each in plan}  # fmt: skip
        super().__init__([Layer(name, arrays) for name, arrays in weights.items()])  # type: ignore[arg-type]
        self.plan = plan

    def to_json(self) -> str:
        return json.dumps({"class_name": "Functional", "config": functional_config(self.plan, "mine")})


@dataclass
class Named:
    value: np.ndarray
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape


def with_config(plan: tuple[KerasLayer, ...], layer: str, **config: Any) -> tuple[KerasLayer, ...]:
    return tuple(replace(each, config=each.config | config) if each.name == layer else each for each in plan)


@pytest.mark.parametrize(
    ("layer", "config", "told"),
    [
        ("conv4_2_3x3_bn", {"epsilon": 1e-3}, r"conv4_2_3x3_bn has epsilon 0\.001, and 1e-05"),
        ("conv1_7x7_s2", {"padding": "same"}, "conv1_7x7_s2 has padding"),
        ("conv3_2_3x3_relu", {"activation": "linear"}, "conv3_2_3x3_relu, a ReLU, is not there"),
    ],
)
def test_a_model_that_computes_something_else_is_refused(
    layer: str, config: dict[str, Any], told: str, files: dict[str, Path]
) -> None:
    plan = keras_plan(architecture("resnet50"))
    assert len(load_weights(Graphed(plan), files["ours"]).matched) == len(architecture("resnet50").parameters)
    mine = Graphed(with_config(plan, layer, **config))
    with pytest.raises(BadInputError, match=rf"{told}.*nothing was loaded"):
        load_weights(mine, files["ours"])
    assert not any(each.set for each in mine.layers)


def test_what_stands_behind_the_network_is_the_users_affair(files: dict[str, Path]) -> None:
    plan = with_config(keras_plan(architecture("resnet50")), "prob", activation="sigmoid")
    assert len(load_weights(Graphed(plan), files["ours"]).matched) == len(architecture("resnet50").parameters)


def test_of_some_layers_only_their_own_arguments_are_looked_at(files: dict[str, Path]) -> None:
    plan = with_config(keras_plan(architecture("resnet50")), "conv3_2_3x3_relu", activation="linear")
    parts = {each.name for each in plan if each.name.startswith("conv2")}
    with pytest.raises(BadInputError, match="is not in the model"):  # what the file has more, by name: as ever
        load_weights(Graphed(plan), files["ours"], layers=parts)
    with pytest.raises(BadInputError, match="conv2_1_3x3_bn has epsilon"):
        load_weights(Graphed(with_config(plan, "conv2_1_3x3_bn", epsilon=0.1)), files["ours"], layers=parts)


def test_keras_vggfaces_own_graph_has_its_own_epsilon(files: dict[str, Path]) -> None:
    plan = vggface_plan(architecture("resnet50"), exact=False, rename=their_name)
    assert len(load_weights(Graphed(plan), files["keras-vggface"]).matched) == len(architecture("resnet50").parameters)
    wrong = with_config(plan, "conv1/7x7_s2/bn", epsilon=1e-5)
    with pytest.raises(BadInputError, match=r"has epsilon 1e-05, and 0\.001"):
        load_weights(Graphed(wrong), files["keras-vggface"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    checkpoint = seeded_checkpoint("resnet50")
    found = {"ours": write(checkpoint, folder / "ours.h5").path}
    found["senet50"] = write(seeded_checkpoint("senet50"), folder / "senet50.h5").path
    found["keras-vggface"] = write(checkpoint, folder / "theirs.h5", layout="keras-vggface").path
    return found


def test_the_report_says_what_matched(files: dict[str, Path]) -> None:
    mine = model()
    report = load_weights(mine, files["ours"])
    assert report.matched == tuple(layer.name for layer in mine.layers) and not report.missing + report.left_over
    assert str(report) == f"ours.h5: {len(mine.layers)} layers matched"
    assert repr(report) == f"<LoadReport {report}>"
    assert str(LoadReport(Path("a.h5"), ("prob",))) == "a.h5: 1 layer matched"
    assert all(layer.set for layer in mine.layers)
    np.testing.assert_array_equal(
        mine.layers[0].weights[0], seeded_checkpoint("resnet50").arrays["conv1_7x7_s2"]["kernel"]
    )


def test_a_head_may_be_left_over_when_asked(files: dict[str, Path]) -> None:
    report = load_weights(model(head=False), files["ours"], skip_head=True)
    assert report.left_over == ("classifier",) and "1 left over in the file: classifier" in str(report)
    with pytest.raises(BadInputError, match="classifier is not in the model"):
        load_weights(model(head=False), files["ours"])


def test_models_within_the_model_count(files: dict[str, Path]) -> None:
    inner = model(head=False)
    top = next(layer for layer in model().layers if layer.name == "classifier")
    report = load_weights(Model([inner, top]), files["ours"])
    assert len(report.matched) == len(inner.layers) + 1 and top.set and inner.layers[0].set


def test_what_does_not_match_is_listed_and_nothing_is_loaded(files: dict[str, Path]) -> None:
    mine = model()
    mine.layers[3].name = "conv2_1_1x1_reduce_bm"
    mine.layers[5].weights = mine.layers[5].weights[:1]
    with pytest.raises(BadInputError, match=r"does not fit the model 'mine'.*nothing was loaded") as caught:
        load_weights(mine, files["ours"])
    assert "2 missing in the file: conv2_1_1x1_reduce_bm" in caught.value.details
    assert "left over in the file: conv2_1_1x1_reduce_bn" in caught.value.details
    assert not any(layer.set for layer in mine.layers)


@pytest.mark.parametrize(("file", "network"), [("ours", "senet50"), ("senet50", "resnet50")])
def test_the_other_network_is_called_by_its_name(file: str, network: str, files: dict[str, Path]) -> None:
    built, other = ("SeNet50", "ResNet50") if network == "senet50" else ("ResNet50", "SeNet50")
    with pytest.raises(BadInputError, match=rf"the weights of {other}, and the model mine is {built}: build {other}"):
        load_weights(model(network=network), files[file])


def test_a_stand_in_is_warned_of(tmp_path: Path) -> None:
    checkpoint = seeded_checkpoint("resnet50")
    told = replace(checkpoint.provenance, standin=True)
    path = write(replace(checkpoint, provenance=told), tmp_path / "x-standin.h5").path
    with pytest.warns(StandInWarning, match="x-standin.h5 is a STAND-IN") as caught:
        load_weights(model(), path)
    assert caught[0].filename == __file__


def test_nothing_in_common_is_said(files: dict[str, Path]) -> None:
    with pytest.raises(BadInputError, match="not one layer has a counterpart"):
        load_weights(Model([Layer("dense", [np.zeros((2, 2), np.float32)])]), files["ours"])
    with pytest.raises(BadInputError, match="not one layer"):
        load_weights(Model([]), files["ours"])


@pytest.mark.parametrize(
    ("kind", "rename", "zeros", "call"),
    [
        ("keras-vggface", same_name, False, "ferplus convert .* new.h5` makes a file for this model"),
        ("keras-vggface", their_name, True, r"VGGFace\(weights="),
        ("keras-vggface", keras3_name, True, r"VGGFace\(weights="),
        ("ours", their_name, False, "--layout keras-vggface"),
        ("ours", their_name, True, r"VGGFace\(weights="),
        ("ours", keras3_name, True, r"VGGFace\(weights="),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_sent_where_it_belongs(
    kind: str, rename: Any, zeros: bool, call: str, files: dict[str, Path]
) -> None:
    """All names and shapes would fit; red and blue would be exchanged, or the epsilon another."""
    mine = model(rename, zeros=zeros)
    with pytest.raises(BadInputError, match=call):
        load_weights(mine, files[kind])
    assert not any(layer.set for layer in mine.layers)


def test_a_checkpoint_of_pytorchs_is_sent_to_the_converter(tmp_path: Path) -> None:
    for legacy in (False, True):
        path = save_state(seeded_state("resnet50", NO_HEAD), tmp_path / "x.pth", legacy=legacy)
        with pytest.raises(BadInputError, match="ferplus convert"):
            load_weights(model(), path)


def test_a_damaged_file_of_the_old_layout_is_refused_and_no_more(files: dict[str, Path], tmp_path: Path) -> None:
    """A kernel that is none, and a gamma without its variance: what the translation stumbles over first."""
    import h5py

    from ferplus_keras.compat.vggface import load

    path = tmp_path / "cut.h5"
    path.write_bytes(files["keras-vggface"].read_bytes())
    with h5py.File(path, "r+") as file:
        del file["conv1/7x7_s2/conv1/7x7_s2/kernel:0"]
        file["conv1/7x7_s2/conv1/7x7_s2/kernel:0"] = np.zeros(64, np.float32)
        names = [name for name in file["conv2_1_3x3/bn"].attrs["weight_names"] if b"variance" not in name]
        del file["conv2_1_3x3/bn"].attrs["weight_names"]
        file["conv2_1_3x3/bn"].attrs["weight_names"] = np.array(names, np.bytes_)
    mine = model(their_name, zeros=True)
    with pytest.raises(BadInputError, match="conv1/7x7_s2 has the shapes") as caught:
        load(mine, path, {layer.name for layer in mine.layers}, skip_head=False)
    assert "2 missing in the file: conv1/7x7_s2, conv2_1_3x3/bn" in caught.value.details
    assert not any(layer.set for layer in mine.layers)
