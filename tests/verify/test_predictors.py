"""Files of every kind become the same thing, and what is no network of eight emotions is said to be none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.conversion import convert
from ferplus_keras.dataset import Dataset
from ferplus_keras.dataset.protocols import PROTOCOLS
from ferplus_keras.engines.card import Card
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import classifier, embedding
from ferplus_keras.networks.preprocessing import preprocess_input
from tests.seeded import save_state, seeded_state
from tests.verify.oracles import painted, seer
from verify.accuracy import agreement, evaluate, run_second_network
from verify.predictors import open_predictor

pytestmark = pytest.mark.usefixtures("small")

ALBANIE = PROTOCOLS["albanie"]


def pixels(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8)


def images(count: int = 3) -> np.ndarray:
    """The same as the networks take them."""
    return preprocess_input(pixels(count))


def test_a_torch_file_is_run_by_the_reference(seeded_pth: Path) -> None:
    import torch

    from convert.readers import read_checkpoint
    from verify.references.torch_reference import as_torch, reference_module

    predictor = open_predictor(seeded_pth)
    found = predictor.probabilities(pixels())
    assert found.shape == (3, 8) and np.allclose(found.sum(axis=1), 1)
    with torch.no_grad():
        logits = reference_module(read_checkpoint(seeded_pth), "float32")(as_torch(images(), "float32"))
    np.testing.assert_allclose(found, torch.softmax(logits.double(), dim=1).numpy(), atol=1e-5)
    assert (predictor.network, predictor.standin) == ("resnet50", False) and "PyTorch" in predictor.engine.by


@pytest.mark.parametrize("head", [classifier(7), embedding(128)])
def test_a_network_without_eight_emotions_is_refused(tmp_path: Path, head: Any) -> None:
    path = save_state(seeded_state("resnet50", head), tmp_path / "other.pth")
    with pytest.raises(BadInputError, match="a classifier of 8 classes"):
        open_predictor(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.pth", b"nothing"), ("a.onnx", b"nothing"), ("a.h5", b"nothing"), ("a.keras", b"PK\x03\x04"), ("a.pth", b""),
     ("a.mat", b"MATLAB 5.0 MAT-file" + bytes(200))],
)  # fmt: skip
def test_a_file_that_is_none_is_a_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        open_predictor(path)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(BadInputError, match="no file"):
        open_predictor(tmp_path / "absent.h5")


# --- ONNX: the file itself, whoever wrote it ------------------------------------------------------------------------


def tiny_onnx(path: Path, *, softmax: bool, channels_last: bool, batch: int | str = "N", classes: int = 8) -> Path:
    """Mean colour -> a linear head: all that the interface needs."""
    onnx = pytest.importorskip("onnx")
    helper, tensor = onnx.helper, onnx.TensorProto
    generator = np.random.default_rng(1)
    weights = {"w": generator.normal(size=(3, classes)).astype(np.float32) / 50, "b": np.zeros(classes, np.float32)}
    shape = [batch, 224, 224, 3] if channels_last else [batch, 3, 224, 224]
    axes = [1, 2] if channels_last else [2, 3]
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["pooled"], keepdims=0),
        helper.make_node("Gemm", ["pooled", "w", "b"], ["logits"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], ["prob"]))
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info("image", tensor.FLOAT, shape)],
        [helper.make_tensor_value_info("prob" if softmax else "logits", tensor.FLOAT, [batch, classes])],
        [*(onnx.numpy_helper.from_array(array, name) for name, array in weights.items()),
         onnx.numpy_helper.from_array(np.array(axes, np.int64), "axes")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", ["N", 4])
def test_an_onnx_file_is_run_whatever_its_layout_and_output(
    tmp_path: Path, softmax: bool, channels_last: bool, batch: int | str
) -> None:
    pytest.importorskip("onnxruntime")
    path = tiny_onnx(tmp_path / "t.onnx", softmax=softmax, channels_last=channels_last, batch=batch)
    predictor = open_predictor(path)
    means = images().mean(axis=(1, 2), dtype=np.float64) @ (
        np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32) / 50
    )
    powers = np.exp(means - means.max(axis=1, keepdims=True))
    wanted = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predictor.probabilities(pixels()), wanted, atol=5e-5)  # a sum of 50,000 in float32
    assert "ONNX Runtime" in predictor.engine.by and len(predictor.source.sha256) == 64
    assert evaluate(predictor, painted([0] * 6), ALBANIE).splits[0].rate.n == 6  # a batch that is not full


def test_an_onnx_file_with_other_classes_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    path = tiny_onnx(tmp_path / "t.onnx", softmax=False, channels_last=False, classes=7)
    with pytest.raises(BadInputError, match="gives 7 numbers"):
        evaluate(open_predictor(path), painted([0]), ALBANIE)


def test_a_strangers_keras_model_is_run_too(tmp_path: Path) -> None:
    import keras

    inputs = keras.Input((224, 224, 3))
    outputs = keras.layers.Dense(8, activation="softmax")(keras.layers.GlobalAveragePooling2D()(inputs))
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "mine.keras")
    predictor = open_predictor(tmp_path / "mine.keras")
    np.testing.assert_allclose(predictor.probabilities(pixels()), model(images()).numpy(), atol=1e-6)
    assert predictor.network == "" and "FERPlus's order" in predictor.notes[0]


def head_on_colours(*, size: tuple[int | None, int | None, int] = (224, 224, 3)) -> list[Any]:
    """The layers of the least network of eight classes, its input first."""
    import keras

    return [
        keras.Input(size),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(
            8, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(0, 0.01, seed=1)
        ),
    ]


def test_a_strangers_sequential_keras_model_is_run_too(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential(head_on_colours())
    model.save(tmp_path / "mine.keras")
    found = open_predictor(tmp_path / "mine.keras").probabilities(pixels())
    np.testing.assert_allclose(found, model(images()).numpy(), atol=1e-6)


def test_a_strangers_model_of_another_size_is_shown_images_of_it(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential(head_on_colours(size=(112, 112, 3)))
    model.save(tmp_path / "mine.keras")
    predictor = open_predictor(tmp_path / "mine.keras")
    small = pixels()[:, :112, :112]
    assert predictor.size == 112
    wanted = model(preprocess_input(small)).numpy()
    np.testing.assert_allclose(predictor.probabilities(small), wanted, atol=1e-6)


@pytest.mark.parametrize("size", [(48, 48, 1), (112, 100, 3), (16, 16, 3), (3, 224, 224)])
def test_a_keras_model_of_other_images_is_a_sentence(tmp_path: Path, size: tuple[int, int, int]) -> None:
    import keras

    keras.Sequential(head_on_colours(size=size)).save(tmp_path / "mine.keras")
    with pytest.raises(BadInputError, match="these networks take images of"):
        open_predictor(tmp_path / "mine.keras")


def test_a_strangers_network_is_run_as_was_said_and_its_classes_are_mapped(tmp_path: Path) -> None:
    """Seven classes by other names and one that is no emotion, on gray images of 48 x 48."""
    import keras

    layers = [keras.Input((48, 48, 1)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(8)]
    model = keras.Sequential([*layers, keras.layers.Softmax()])
    model.layers[1].set_weights([np.arange(8.0)[None], np.zeros(8)])
    model.save(tmp_path / "mine.keras")
    with pytest.raises(BadInputError, match="--input"):
        open_predictor(tmp_path / "mine.keras")
    card = Card.of("gray 0..1", "angry,disgust,NF,fear,happy,sad,surprise,neutral")
    predictor = open_predictor(tmp_path / "mine.keras", card)
    bright = np.full((1, 48, 48, 3), 255, np.uint8)
    powers = dict(zip(card.classes or (), np.exp(np.arange(8.0)), strict=True))
    total = sum(powers.values()) - powers["NF"]
    wanted = [powers[name] / total if name else 0 for name in
              ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "")]  # fmt: skip
    np.testing.assert_allclose(predictor.probabilities(bright)[0], wanted, rtol=1e-5)
    assert predictor.missing == ("contempt",) and predictor.size == 48
    assert any("no class for contempt" in note for note in predictor.notes)
    assert any("what it gives to NF" in note for note in predictor.notes)
    evaluation = evaluate(predictor, painted([7, 7, 0]), ALBANIE)
    assert evaluation.splits[0].among(predictor.missing).tolist() == [True, True, False]


@pytest.mark.parametrize("classes", ["cat,dog,a,b,c,d,e,f", "angry,anger,a,b,c,d,e,f", "angry,sad,happy"])
def test_classes_that_are_not_the_emotions_are_a_sentence(tmp_path: Path, classes: str) -> None:
    import keras

    keras.Sequential(head_on_colours()).save(tmp_path / "mine.keras")
    with pytest.raises(BadInputError, match="classes"):
        open_predictor(tmp_path / "mine.keras", Card.of(None, classes))


@pytest.mark.parametrize(("classes", "told"), [("angry,cat", "different FERPlus emotion"), ("angry,sad", "2 classes")])
def test_classes_that_cannot_be_right_are_refused_before_the_network_is_opened(
    standin_h5: Path, classes: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verify.predictors.open_engine", None)
    with pytest.raises(BadInputError, match=told):
        open_predictor(standin_h5, Card.of(None, classes))


def test_a_card_for_a_network_that_needs_none_is_refused(seeded_pth: Path) -> None:
    with pytest.raises(BadInputError, match="leave --input and --classes out"):
        open_predictor(seeded_pth, Card.of("gray", None))


def test_a_keras_model_that_fails_when_it_runs_is_a_sentence(tmp_path: Path) -> None:
    """It promises to take any size, and its head was made for another one."""
    import keras

    inputs = keras.Input((None, None, 3))
    outputs = keras.layers.Dense(8)(keras.layers.Reshape((48,))(keras.layers.AveragePooling2D(2)(inputs)))
    keras.Model(inputs, outputs).save(tmp_path / "mine.keras")
    with pytest.raises(BadInputError, match=r"mine\.keras cannot be run on images of 224 x 224 x 3") as caught:
        evaluate(open_predictor(tmp_path / "mine.keras"), painted([0]), ALBANIE)
    assert "\n" not in str(caught.value)


def test_a_keras_model_of_two_inputs_is_refused(tmp_path: Path) -> None:
    import keras

    one, two = keras.Input((224, 224, 3)), keras.Input((224, 224, 3))
    keras.Model([one, two], keras.layers.Add()([one, two])).save(tmp_path / "two.keras")
    with pytest.raises(BadInputError, match="takes 2 inputs"):
        open_predictor(tmp_path / "two.keras")


# --- what a file is, and what it gives ------------------------------------------------------------------------------


def test_files_are_told_by_their_content(tmp_path: Path, seeded_pth: Path) -> None:
    pytest.importorskip("onnxruntime")
    import keras

    onnx = tiny_onnx(tmp_path / "t.onnx", softmax=True, channels_last=False).rename(tmp_path / "t.bin")
    assert "ONNX Runtime" in open_predictor(onnx).engine.by
    keras.Sequential(head_on_colours()).save(tmp_path / "mine.keras")
    renamed = (tmp_path / "mine.keras").rename(tmp_path / "mine.onnx")
    with pytest.raises(BadInputError, match=r"Keras .* cannot open"):  # Keras itself goes by the name
        open_predictor(renamed)
    assert "PyTorch" in open_predictor(Path(shutil.copy(seeded_pth, tmp_path / "misnamed.h5"))).engine.by


def test_what_the_reader_noticed_is_in_the_report(tmp_path: Path) -> None:
    import torch

    state = torch.load(save_state(seeded_state("resnet50", classifier(8)), tmp_path / "a.pth"), weights_only=True)
    torch.save({"state_dict": state}, tmp_path / "wrapped.pth")
    assert any("found under state_dict" in note for note in open_predictor(tmp_path / "wrapped.pth").notes)


def test_logits_that_look_like_probabilities_are_logits_where_that_is_known() -> None:
    def run(images: np.ndarray) -> np.ndarray:
        return np.tile([0.225, 0.025, *[0.125] * 6], (len(images), 1))

    guessed, known = seer(call=run), seer(call=run, gives="logits")
    assert guessed.probabilities(pixels())[0, 0] == pytest.approx(0.225)
    assert known.probabilities(pixels())[0, 0] == pytest.approx(np.exp(0.1) / (np.exp(0.1) + np.exp(-0.1) + 6))
    with pytest.raises(BadInputError, match="not probabilities"):
        seer(call=lambda images: np.full((len(images), 8), 2.0), gives="probabilities").probabilities(pixels())


def test_what_the_networks_files_give_is_known(seeded_pth: Path) -> None:
    assert open_predictor(seeded_pth).engine.gives == "logits"


def outputs_of(path: Path, names: list[str]) -> Path:
    """``path`` with these outputs, in this order."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    shape = model.graph.output[0].type
    model.graph.ClearField("output")
    model.graph.output.extend(onnx.ValueInfoProto(name=name, type=shape) for name in names)
    path.write_bytes(model.SerializeToString())
    return path


def test_the_first_of_several_onnx_outputs_counts(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    one = open_predictor(tiny_onnx(tmp_path / "one.onnx", softmax=True, channels_last=False))
    several = tiny_onnx(tmp_path / "two.onnx", softmax=True, channels_last=False)
    predictor = open_predictor(outputs_of(several, ["prob", "pooled"]))
    np.testing.assert_array_equal(predictor.probabilities(pixels()), one.probabilities(pixels()))


def test_an_onnx_file_that_leads_elsewhere_never_reaches_onnx_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    monkeypatch.setattr(runtime, "InferenceSession", lambda *_, **__: pytest.fail("it was opened"))
    path = tiny_onnx(tmp_path / "t.onnx", softmax=True, channels_last=False)
    onnx.save(
        onnx.load(path), tmp_path / "out.onnx", save_as_external_data=True, location="passwords", size_threshold=0
    )
    with pytest.raises(BadInputError, match="external data"):
        open_predictor(tmp_path / "out.onnx")
    model = onnx.load(path)
    branch = onnx.helper.make_graph([], "branch", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["x"], then_branch=branch, else_branch=branch))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BadInputError, match="keeps a graph within a node"):
        open_predictor(path)


# --- real faces through full-size networks --------------------------------------------------------------------------


@pytest.mark.slow
def test_real_faces_get_the_same_decisions_from_keras_and_pytorch(
    standin_pth: Path, standin_h5: Path, ferplus: Dataset
) -> None:
    """ "The same accuracy" means the same decisions: a stand-in and its conversion, on real faces."""
    evaluation = evaluate(open_predictor(standin_h5), ferplus, ALBANIE, splits=("val",), limit=24)
    theirs = run_second_network(evaluation, open_predictor(standin_pth))["val"]
    found = agreement(evaluation.splits[0].predictions, theirs)
    assert (found.n, found.passed) == (24, True)
    np.testing.assert_allclose(evaluation.splits[0].predictions.probabilities, theirs.probabilities, atol=1e-4)
    assert evaluation.predictor.standin


@pytest.mark.slow
def test_weights_alone_and_logits_are_the_same_network(standin_h5: Path, tmp_path: Path) -> None:
    copy = shutil.copy(standin_h5, tmp_path / "copy-standin.h5")
    logits, weights = tmp_path / "logits-standin.h5", tmp_path / "w-standin.weights.h5"
    convert(copy, [logits], logits=True)
    convert(copy, [weights])
    expected = open_predictor(standin_h5).probabilities(pixels())
    for path in (logits, weights):
        predictor = open_predictor(path)
        assert predictor.engine.gives == "logits"  # of a graph that is known, the softmax is left out
        np.testing.assert_allclose(predictor.probabilities(pixels()), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".mat", ".safetensors"])
def test_every_other_format_is_the_same_network(standin_pth: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"other-standin{suffix}"
    convert(standin_pth, [path])
    predictor, original = open_predictor(path), open_predictor(standin_pth)
    np.testing.assert_allclose(predictor.probabilities(pixels(2)), original.probabilities(pixels(2)), atol=1e-5)
    assert predictor.standin and predictor.network == original.network
    if suffix == ".mat":
        assert "the file's own" in predictor.notes[-1]  # it is the stored graph that ran
