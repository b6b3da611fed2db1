"""The live models: the signature and behaviour of ``keras.applications``, and weights that land where they belong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import ferplus_keras
from convert.checkpoint import Arrays, Checkpoint
from convert.writers import write
from ferplus_keras.applications.models import ResNet50, SeNet50, build, load_weights
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import FERPLUS_HEAD, NETWORKS, NO_HEAD, Head, architecture, embedding
from tests.conftest import SECOND_SLOW
from tests.seeded import seeded_checkpoint
from tests.small import NARROWER

pytestmark = pytest.mark.usefixtures("small")

#: Channels of the last map.
FEATURES = 2048 // NARROWER

MAKERS: dict[str, Callable[..., keras.Model]] = {"resnet50": ResNet50, "senet50": SeNet50}

#: Made once: the numbers of a whole network take half a second.
checkpoint_of = lru_cache(maxsize=None)(seeded_checkpoint)

#: The smallest input, where only the graph and not the features matter: a forward pass costs next to nothing.
SMALL = (32, 32, 3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """``files(network, suffix, head)``: a file with seeded weights, written once and removed at the end."""
    folder = tmp_path_factory.mktemp("weights")
    made: list[Path] = []

    def file(network: str, suffix: str = ".h5", head: Head = FERPLUS_HEAD) -> Path:
        path = folder / f"{network}-{head.kind}{suffix}"
        if path not in made:
            write(checkpoint_of(network, head), path)
            made.append(path)
        return path

    yield file
    for path in made:
        path.unlink()


def small_images(count: int = 2, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, 60.0, (count, side, side, 3)).astype(np.float32)


def assert_holds(model: keras.Model, arrays: Arrays) -> None:
    """Every layer of ``model`` that owns weights has those of ``arrays``, bit for bit."""
    owners = [layer for layer in model.layers if layer.weights]
    assert owners
    for layer in owners:
        for weight, array in zip(layer.get_weights(), arrays[layer.name].values(), strict=True):
            np.testing.assert_array_equal(weight, array, err_msg=layer.name)


# --- the signature of keras.applications ----------------------------------------------------------------------------


@pytest.mark.parametrize("maker", MAKERS.values(), ids=NETWORKS)
def test_the_arguments_are_those_of_keras_applications(maker: Callable[..., keras.Model]) -> None:
    theirs = list(inspect.signature(keras.applications.ResNet50).parameters)
    ours = inspect.signature(maker).parameters

    assert list(ours)[: len(theirs)] == theirs
    assert [name for name, each in ours.items() if each.kind is each.KEYWORD_ONLY] == ["embedding_size", "dropout"]
    assert (ours["include_top"].default, ours["weights"].default, ours["classes"].default) == (True, None, 8)


@pytest.mark.usefixtures("full_size")
@pytest.mark.parametrize("network", NETWORKS)
def test_the_default_model_gives_eight_probabilities(network: str) -> None:
    model = MAKERS[network]()

    assert model.name == network
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 8)
    assert [layer.name for layer in model.layers[-2:]] == ["classifier", "prob"]
    assert (
        sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == architecture(network).parameter_count
    )
    assert model.layers[-1].get_config()["activation"] == "softmax"


@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_is_keras_own_and_none_runs_foreign_code(network: str) -> None:
    # A Lambda, a TFOpLambda or a class of ours would need this package, or trust in the file, to be loaded.
    model = MAKERS[network](input_shape=SMALL, dropout=0.5)
    for layer in model.layers:
        assert getattr(keras.layers, type(layer).__name__, None) is type(layer), layer.name
        assert not isinstance(layer, keras.layers.Lambda | keras.Model), layer.name


def test_the_package_offers_the_models_by_name() -> None:
    assert ferplus_keras.ResNet50 is ResNet50
    assert ferplus_keras.SeNet50 is SeNet50
    assert ferplus_keras.build is build
    assert ferplus_keras.load_weights is load_weights
    with pytest.raises(AttributeError, match="has no attribute 'VGG16'"):
        _ = ferplus_keras.VGG16


def test_classes_activation_and_name() -> None:
    def double(x: Any) -> Any:
        return 2.0 * x

    images = small_images()
    logits = ResNet50(input_shape=SMALL, classes=5, classifier_activation=None, name="mine")
    assert (logits.name, logits.layers[-1].name, logits.output_shape) == ("mine", "classifier", (None, 5))
    expected = {
        "softmax": keras.ops.softmax(logits(images)),
        double: 2.0 * logits(images),
    }
    for activation, value in expected.items():
        model = ResNet50(input_shape=SMALL, classes=5, classifier_activation=activation)
        model.set_weights(logits.get_weights())
        assert model.layers[-1].name == "prob"
        np.testing.assert_allclose(model(images), value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_pooling_ends_a_model_without_top() -> None:
    images = small_images(side=64)
    bare = SeNet50(include_top=False, input_shape=(64, 64, 3))
    features = keras.ops.convert_to_numpy(bare(images))

    assert bare.output_shape == (None, 2, 2, FEATURES)
    assert bare.layers[-1].name == "conv5_3_relu"
    for pooling, expected in (("avg", features.mean(axis=(1, 2))), ("max", features.max(axis=(1, 2)))):
        model = SeNet50(include_top=False, input_shape=(64, 64, 3), pooling=pooling)
        model.set_weights(bare.get_weights())
        assert model.output_shape == (None, FEATURES)
        np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("shape", "output"), [
    (None, (None, None, None, FEATURES)),
    ((197, 197, 3), (None, 7, 7, FEATURES)),
    ((64, 96, 3), (None, 2, 3, FEATURES)),
    ([32, None, 3], (None, 1, None, FEATURES)),
])  # fmt: skip
def test_without_top_any_size_will_do(shape: Any, output: tuple[int | None, ...]) -> None:
    model = ResNet50(include_top=False, input_shape=shape)
    assert model.input_shape == (None, *(shape or (None, None, 3)))
    assert model.output_shape == output


@pytest.mark.parametrize("network", NETWORKS)
def test_a_model_without_a_size_takes_images_of_several(network: str) -> None:
    model = MAKERS[network](include_top=False, pooling="avg")
    for side in (32, 45, 64):
        assert model(small_images(1, side)).shape == (1, FEATURES)


def test_with_a_top_another_size_is_pooled_as_a_whole() -> None:
    model = SeNet50(input_shape=(96, 64, 3))
    assert model.output_shape == (None, 8)
    assert model(np.zeros((1, 96, 64, 3), np.float32)).shape == (1, 8)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_embedding_in_place_of_the_classifier(network: str) -> None:
    model = MAKERS[network](embedding_size=128, input_shape=SMALL)
    assert model.output_shape == (None, 128)
    assert (model.layers[-1].name, len(model.layers[-1].weights)) == ("feat_extract", 1)


@pytest.mark.slow
def test_dropout_acts_in_training_alone() -> None:
    plain, dropped = (ResNet50(input_shape=SMALL, classifier_activation=None, dropout=rate) for rate in (0.0, 0.5))
    dropped.set_weights(plain.get_weights())
    images = small_images()

    drops = [layer for layer in dropped.layers if isinstance(layer, keras.layers.Dropout)]
    assert {layer.name: layer.rate for layer in drops} == {"conv5_3_3x3_drop": 0.5, "conv5_3_1x1_increase_drop": 0.5}
    np.testing.assert_array_equal(dropped(images, training=False), plain(images, training=False))
    assert not np.allclose(dropped(images, training=True), dropped(images, training=True))


# --- input_tensor ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [None, SMALL, list(SMALL)])
def test_a_model_upon_an_input(shape: Any) -> None:
    tensor = keras.Input(SMALL, name="face")
    model = ResNet50(input_tensor=tensor, input_shape=shape)
    assert model.layers[0].name == "face"
    assert model.input_shape == (None, *SMALL)


def test_a_model_upon_other_layers_and_with_weights_from_a_file(files: Callable[..., Path]) -> None:
    # A Normalization owns weights of its own, of which the file knows nothing: they stay, and ours are set.
    inputs = keras.Input((40, 40, 3))
    normalization = keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 4.0, 4.0])
    scale = keras.layers.Conv2D(3, 1, name="of_the_user")
    tensor = keras.layers.CenterCrop(32, 32)(scale(normalization(inputs)))
    before = scale.get_weights()

    model = ResNet50(weights=files("resnet50"), input_tensor=tensor)

    assert model.input_shape == (None, 40, 40, 3)
    np.testing.assert_array_equal(scale.get_weights()[0], before[0])
    checkpoint = checkpoint_of("resnet50")
    ours = [layer for layer in model.layers if layer.name in checkpoint.arrays]
    assert len(ours) == len(checkpoint.arrays)
    assert_holds(keras.Model(tensor, model.output), checkpoint.arrays)


@pytest.mark.parametrize(("tensor", "shape", "message"), [
    (np.zeros((1, 32, 32, 3)), None, "not a ndarray"),
    ("face", None, "not a str"),
    (SMALL, None, "not a tuple"),
])  # fmt: skip
def test_what_is_no_keras_tensor_is_refused(tensor: Any, shape: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ResNet50(input_tensor=tensor, input_shape=shape)
    assert len(str(caught.value)) < 200, "the array itself does not belong into the message"


@pytest.mark.parametrize(("own", "shape", "message"), [
    ((64, 64, 1), None, "RGB"),
    ((64, 64, 1), (64, 64, 3), "not the shape of input_tensor"),
    ((64, 64, 3), (224, 224, 3), "not the shape of input_tensor"),
    ((64, 64, 3), 64, "not the shape of input_tensor"),
    ((16, 16, 3), None, "at least 32 x 32"),
    ((None, None, 3), None, "must be given in full"),
    ((64, 3), None, "channels last"),
])  # fmt: skip
def test_a_tensor_of_another_shape_is_refused(own: tuple[int, ...], shape: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet50(input_tensor=keras.Input(own), input_shape=shape)


# --- arguments that do not go together --------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "message"), [
    ({"weights": "imagenet"}, "there is no file 'imagenet'"),
    ({"weights": "/nowhere/model.h5"}, "there is no file"),
    ({"weights": "."}, "there is no file"),
    ({"include_top": False, "embedding_size": 128}, "choose one"),
    ({"pooling": "avg"}, "pooling is for include_top=False"),
    ({"include_top": False, "pooling": "sum"}, "None, 'avg' or 'max'"),
    ({"classes": 0}, "at least one class"),
    ({"classes": -8}, "at least one class"),
    ({"embedding_size": 0}, "at least one dimension"),
    ({"dropout": 1.0}, "below 1"),
    ({"dropout": -0.5}, "at least 0"),
    ({"classifier_activation": "nonsense"}, "nonsense"),
    ({"input_shape": (31, 224, 3)}, "at least 32 x 32"),
    ({"input_shape": (224, 16, 3)}, "at least 32 x 32"),
    ({"input_shape": (3, 224, 224)}, "channels last"),
    ({"input_shape": (224, 224, 1)}, "RGB"),
    ({"input_shape": (224, 224)}, "channels last"),
    ({"input_shape": 224}, "channels last"),
    ({"input_shape": (None, None, 3)}, "must be given in full"),
    ({"input_shape": (224, None, 3)}, "must be given in full"),
])  # fmt: skip
def test_bad_arguments_are_refused_with_a_reason(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResNet50(**arguments)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ValueError, match="choose from resnet50, senet50"):
        build("vgg16")


# --- weights from files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "suffix", [".h5", *(pytest.param(suffix, marks=pytest.mark.slow) for suffix in (".weights.h5", ".keras"))]
)
@pytest.mark.parametrize("network", SECOND_SLOW)
def test_every_weight_comes_from_the_file_and_the_head_where_there_is_a_top(
    network: str, suffix: str, files: Callable[..., Path]
) -> None:
    for top in (True, False):
        model = MAKERS[network](top, weights=str(files(network, suffix)), input_shape=SMALL)
        assert ({"classifier", "prob"} <= {layer.name for layer in model.layers}) == top
        assert_holds(model, checkpoint_of(network).arrays)


@pytest.mark.slow
def test_a_headless_file_fits_a_model_without_top_and_no_other(files: Callable[..., Path]) -> None:
    path = files("senet50", head=NO_HEAD)

    assert_holds(SeNet50(include_top=False, weights=path), checkpoint_of("senet50", NO_HEAD).arrays)
    with pytest.raises(BadInputError, match="classifier is not in the file"):
        SeNet50(weights=path)


def test_an_embedding_files_weights(files: Callable[..., Path]) -> None:
    head = embedding(128)
    path, arrays = files("resnet50", head=head), checkpoint_of("resnet50", head).arrays

    assert_holds(ResNet50(weights=path, embedding_size=128, input_shape=SMALL), arrays)
    with pytest.raises(BadInputError, match="feat_extract is not in the model"):
        ResNet50(weights=path, input_shape=SMALL)


def test_dropout_in_the_file_or_in_the_model_does_not_matter(files: Callable[..., Path], tmp_path: Path) -> None:
    plain = checkpoint_of("resnet50")
    table = architecture("resnet50", FERPLUS_HEAD, 0.5)
    path = tmp_path / "dropout.h5"
    write(Checkpoint(table, plain.arrays, replace(plain.provenance, dropout=0.5)), path)

    assert_holds(ResNet50(weights=path, input_shape=SMALL), plain.arrays)
    assert_holds(ResNet50(weights=files("resnet50"), input_shape=SMALL, dropout=0.3), plain.arrays)
    path.unlink()


@pytest.mark.parametrize(("network", "arguments", "message"), [
    ("senet50", {}, "holds the weights of ResNet50, .*: build ResNet50 for them"),
    ("senet50", {"include_top": False}, "holds the weights of ResNet50, .*: build ResNet50 for them"),
    ("resnet50", {"classes": 7}, rf"classifier has the shapes \[\({FEATURES}, 8\), \(8,\)\] in the file and \[\("),
    ("resnet50", {"embedding_size": 8}, "feat_extract is not in the file; classifier is not in the model"),
])  # fmt: skip
def test_a_file_of_another_network_is_refused(
    network: str, arguments: dict[str, Any], message: str, files: Callable[..., Path]
) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        MAKERS[network](weights=files("resnet50"), input_shape=SMALL, **arguments)
    assert "nothing was loaded" in str(caught.value).lower()


@pytest.mark.parametrize("case", ["another network", "another head", "damaged"])
def test_a_refused_file_changes_no_weight(case: str, files: Callable[..., Path], tmp_path: Path) -> None:
    model = ResNet50(input_shape=SMALL)
    if case == "another network":  # most layers have the same names and shapes in both networks
        path = files("senet50")
    elif case == "another head":  # everything but the last layer fits
        path = files("resnet50", head=embedding(128))
    else:  # the last tenth of a good file is missing
        path = tmp_path / "cut.h5"
        content = files("resnet50").read_bytes()
        path.write_bytes(content[: len(content) * 9 // 10])
    before = [weight.copy() for weight in model.get_weights()]

    with pytest.raises(BadInputError):
        load_weights(model, path)

    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_files_of_another_kind_are_refused(seeded_pth: Path, tmp_path: Path) -> None:
    text = tmp_path / "model.h5"
    text.write_text("<!DOCTYPE html>")
    for path in (seeded_pth, text):
        with pytest.raises(BadInputError, match=path.name):
            ResNet50(weights=path, input_shape=SMALL)


# --- what people do with a model --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_saving_and_loading_gives_the_same_model(tmp_path: Path, files: Callable[..., Path]) -> None:
    images = small_images()
    model = SeNet50(weights=files("senet50"), input_shape=SMALL)
    for suffix in (".keras", ".h5"):
        path = tmp_path / f"saved{suffix}"
        model.save(path)
        loaded = keras.models.load_model(path)  # no custom_objects, and safe_mode as it is by default
        path.unlink()
        assert [layer.name for layer in loaded.layers] == [layer.name for layer in model.layers]
        for ours, theirs in zip(model.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(loaded(images), model(images))


@pytest.mark.slow
def test_our_loader_reads_what_keras_saved(tmp_path: Path) -> None:
    # After fine-tuning, the user's own files come back through weights=...
    model, other = (ResNet50(input_shape=SMALL, classes=3) for _ in range(2))
    arrays = {layer.name: {str(n): array for n, array in enumerate(layer.get_weights())} for layer in model.layers}
    for suffix in (".keras", ".h5", ".weights.h5"):
        path = tmp_path / f"tuned{suffix}"
        (model.save_weights if suffix == ".weights.h5" else model.save)(path)
        other.set_weights([np.full_like(weight, 7.0) for weight in other.get_weights()])
        load_weights(other, path)
        path.unlink()
        assert_holds(other, arrays)


def fine_tuning(network: str, side: int = 48) -> tuple[keras.Model, keras.Model, np.ndarray, np.ndarray]:
    """A base without top, a model of three classes upon it, and a handful of images that differ in brightness."""
    keras.utils.set_random_seed(0)
    base = MAKERS[network](include_top=False, pooling="avg", input_shape=(side, side, 3))
    model = keras.Sequential([base, keras.layers.Dense(3, activation="softmax")])
    model.compile(keras.optimizers.SGD(0.001), "sparse_categorical_crossentropy")
    labels = np.arange(6) % 3
    images = small_images(6, side) + 50.0 * (labels[:, None, None, None] - 1.0)
    return base, model, images.astype(np.float32), labels


@pytest.mark.slow  # trains for several epochs
@pytest.mark.parametrize("network", SECOND_SLOW)
def test_fine_tuning_learns_and_moves_the_statistics(network: str) -> None:
    base, model, images, labels = fine_tuning(network)
    before = {layer.name: layer.get_weights() for layer in base.layers if layer.weights}

    history = model.fit(images, labels, batch_size=6, epochs=4, verbose=0).history["loss"]

    assert np.isfinite(history).all()
    assert history[-1] < 0.9 * history[0]
    assert len(before) == len(architecture(network, NO_HEAD).parameters)
    for name, old in before.items():
        moved = [
            not np.array_equal(ours, theirs)
            for ours, theirs in zip(base.get_layer(name).get_weights(), old, strict=True)
        ]
        assert all(moved), f"{name}: {moved}"


@pytest.mark.slow
def test_frozen_layers_stay_as_they_are() -> None:
    base, model, images, labels = fine_tuning("resnet50")
    for layer in base.layers:
        layer.trainable = layer.name.startswith("conv5_3")
    model.compile(keras.optimizers.SGD(0.001), "sparse_categorical_crossentropy")
    before = {layer.name: layer.get_weights() for layer in base.layers if layer.weights}

    model.fit(images, labels, batch_size=6, epochs=2, verbose=0)

    trainable = {weight.path.split("/")[-2] for weight in base.trainable_weights}
    assert trainable == {name for name in before if name.startswith("conv5_3")}
    for name, old in before.items():
        same = [
            np.array_equal(ours, theirs) for ours, theirs in zip(base.get_layer(name).get_weights(), old, strict=True)
        ]
        # All or none: a frozen BatchNorm keeps its moving statistics too.
        assert set(same) == {name not in trainable}, name


# --- a keras.json that turns images around ----------------------------------------------------------------------------


@pytest.mark.slow  # imports Keras in a process of its own
def test_channels_first_in_keras_json_changes_nothing(files: Callable[..., Path]) -> None:
    images = small_images(side=64)

    def outcome() -> tuple[list[Any], list[np.ndarray]]:
        path = files("senet50")
        pooled = SeNet50(weights=path, include_top=False, pooling="max")
        loaded = keras.models.load_model(path, compile=False)
        inner = keras.Model(loaded.input, loaded.get_layer("pool1_3x3_s2").output)
        shapes = [model.input_shape + model.output_shape for model in (pooled, loaded, inner)]
        return shapes, [np.asarray(pooled(images))]

    assert keras.config.image_data_format() == "channels_last"
    shapes, values = outcome()
    keras.config.set_image_data_format("channels_first")  # what a keras.json does when Keras is imported
    try:
        turned = keras.layers.Conv2D(5, 1)
        assert turned.compute_output_shape((1, 3, 8, 8)) == (1, 5, 8, 8), "the setting has no effect, nor has this test"
        shapes_first, values_first = outcome()
    finally:
        keras.config.set_image_data_format("channels_last")

    assert shapes_first == shapes
    for ours, theirs in zip(values_first, values, strict=True):
        assert np.ptp(theirs) > 0
        np.testing.assert_array_equal(ours, theirs)
