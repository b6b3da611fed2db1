"""Models of other hands: paired without their names, judged like ours, and refused when they are another network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from convert.readers import read_checkpoint
from ferplus_keras.errors import BadInputError
from tests.conftest import run_python
from tests.seeded import save_state, seeded_state
from tests.verify.handmade import KERAS2_VGGFACE, as_npz, port
from verify.keras_side import open_side
from verify.parity import ParityOptions, check_parity
from verify.result import as_result
from verify.text import as_text

pytestmark = pytest.mark.usefixtures("small")

ONE = pytest.mark.parametrize("network", ["resnet50"], indirect=True)
SE = pytest.mark.parametrize("network", ["senet50"], indirect=True)


def saved(model: keras.Model, path: Path) -> Path:
    model.save(path)
    return path


@pytest.mark.parametrize("suffix", [".keras", pytest.param(".h5", marks=pytest.mark.slow)])
@SE
def test_a_hand_made_port_is_paired_without_a_guess_and_passes(standin_pth: Path, tmp_path: Path, suffix: str) -> None:
    # Keras 3 writes `x + y` into a .h5 in a way that it cannot read again.
    model = port(read_checkpoint(standin_pth), operators=suffix == ".keras")
    path = saved(model, tmp_path / f"by-hand-standin{suffix}")
    result = check_parity(path, standin_pth, ParityOptions(images=1, dtypes=("float64",)))
    assert result.passed, as_text(as_result(result, standin_pth, ""))
    told = result.pairing.as_dict()
    assert told["sure"] and set(told["by"]) == {"structure"}
    # Every layer of ours was compared but the sums before a fused ReLU and sigmoid.
    table = result.checkpoint.architecture
    compared = {each.layer for each in result.runs[0].layers}
    expected = {layer.name for layer in table.layers[1:]}
    assert expected - compared == {name for name in expected if name.endswith(("_1x1_down", "_1x1_up"))}
    assert "paired: " in as_text(as_result(result, standin_pth, ""))


@SE
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"fused": False},
        {"dense_excitation": False, "operators": False},
        {"projection_first": True, "operators": False},
        {"nested": True},
    ],
    ids=lambda options: " ".join(options),
)
def test_however_it_is_written(standin_pth: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    path = saved(port(read_checkpoint(standin_pth), **options), tmp_path / "by-hand-standin.keras")
    result = check_parity(path, standin_pth, ParityOptions(images=1, dtypes=("float64",)))
    assert result.passed and result.pairing.as_dict()["sure"], result.pairing.summary


@ONE
@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "layer", "fault"),
    [
        ({"epsilon": 1e-3}, "conv1_7x7_s2_bn", "batchnorm-epsilon"),
        ({"stem_padding": ((2, 3), (2, 3))}, "conv1_7x7_s2", "same-padding"),
    ],
    ids=["Keras's epsilon", "Keras's padding"],
)
def test_the_usual_mistakes_of_a_port_are_named(
    standin_pth: Path, tmp_path: Path, options: dict[str, Any], layer: str, fault: str
) -> None:
    path = saved(port(read_checkpoint(standin_pth), **options), tmp_path / "by-hand-standin.keras")
    result = check_parity(path, standin_pth, ParityOptions(images=1, dtypes=("float64",)))
    assert not result.passed and result.tensors.passed and result.runs[0].first_over == layer
    assert result.diagnosis is not None
    assert (result.diagnosis.fault, result.diagnosis.confidence) == (fault, "certain")


@pytest.mark.slow
@ONE
def test_kernels_in_each_others_place_are_found_by_the_place(standin_pth: Path, tmp_path: Path) -> None:
    # Pairing by the numbers first would follow the numbers to the wrong place and call the rest of the graph wrong.
    model = port(read_checkpoint(standin_pth))
    convs = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3)]
    first, second = convs[1], convs[2]  # conv2_2_3x3 and conv2_3_3x3
    kernels = first.get_weights(), second.get_weights()
    first.set_weights(kernels[1])
    second.set_weights(kernels[0])
    result = check_parity(
        saved(model, tmp_path / "p-standin.keras"), standin_pth, ParityOptions(images=1, dtypes=("float64",))
    )
    assert result.diagnosis is not None
    assert (result.diagnosis.layer, result.diagnosis.fault) == ("conv2_2_3x3", "layers-exchanged")
    assert result.pairing.as_dict()["sure"]


@ONE
@pytest.mark.slow
def test_a_bias_that_ours_has_not_is_seen_unless_it_is_zero(standin_pth: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(standin_pth)
    checkpoint.arrays["conv2_1_3x3"] = checkpoint.arrays["conv2_1_3x3"] | {"bias": np.zeros(4, np.float32)}
    model = port(checkpoint)
    path = saved(model, tmp_path / "zero-standin.keras")
    source = read_checkpoint(standin_pth)
    assert open_side(path, source).arrays["conv2_1_3x3"]["bias"].shape == (4,)
    from verify.tensors import compare_tensors

    assert compare_tensors(source.arrays, open_side(path, source).arrays).passed
    biased = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D) and layer.use_bias)
    biased.set_weights([biased.get_weights()[0], np.full(4, 1e-3, np.float32)])
    result = check_parity(
        saved(model, tmp_path / "one-standin.keras"), standin_pth, ParityOptions(images=1, dtypes=("float64",))
    )
    assert result.tensors.extra == ["conv2_1_3x3/bias"] and not result.passed


@ONE
@pytest.mark.slow
def test_a_model_of_keras_2_with_slashes_in_its_names(standin_pth: Path, tmp_path: Path, keras2: Path) -> None:
    arrays = as_npz(read_checkpoint(standin_pth).arrays, tmp_path / "arrays.npz")
    right, wrong = tmp_path / "right-standin.h5", tmp_path / "wrong-standin.h5"
    run_python(KERAS2_VGGFACE, arrays, right, "1e-5", python=keras2)
    run_python(KERAS2_VGGFACE, arrays, wrong, "1e-3", python=keras2)
    result = check_parity(right, standin_pth, ParityOptions(images=1, dtypes=("float64",)))
    assert result.passed and result.pairing.as_dict()["sure"]
    assert result.pairing.names["conv1_7x7_s2"] == "conv1_7x7_s2"  # by the name, the slash replaced
    result = check_parity(wrong, standin_pth, ParityOptions(images=1, dtypes=("float64",)))
    assert not result.passed
    assert result.diagnosis is not None and result.diagnosis.fault == "batchnorm-epsilon"


@pytest.mark.slow
@ONE
def test_what_the_file_has_in_training_is_run_in_training(standin_pth: Path, standin_h5: Path, tmp_path: Path) -> None:
    """Keras 2's `predict` does, too; `convert` refuses such a file, and sends people here."""
    import json
    import shutil

    import h5py

    path = Path(shutil.copyfile(standin_h5, tmp_path / "trains-standin.h5"))
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        (norm,) = (each for each in config["config"]["layers"] if each["config"]["name"] == "conv2_1_3x3_bn")
        norm["inbound_nodes"][0][0][3] = {"training": True}
        file.attrs["model_config"] = json.dumps(config)
    result = check_parity(path, standin_pth, ParityOptions(images=1, dtypes=("float64",)))
    assert not result.passed and result.runs[0].first_over == "conv2_1_3x3_bn"
    assert result.diagnosis is not None and "as in training" in result.diagnosis.cause


@pytest.mark.slow
@ONE
def test_a_head_of_other_classes_is_the_cause_and_no_crash(standin_pth: Path, tmp_path: Path) -> None:
    model = port(read_checkpoint(standin_pth), operators=False)
    other = keras.layers.Dense(7, activation="softmax", name="theirs")(model.layers[-1].input)
    path = saved(keras.Model(model.input, other), tmp_path / "seven-standin.keras")
    result = check_parity(path, standin_pth, ParityOptions(images=1, dtypes=("float64",)))
    assert not result.passed and result.diagnosis is not None and result.diagnosis.layer == "classifier"


# --- refused --------------------------------------------------------------------------------------------------------


@ONE
def test_another_network_is_refused(standin_pth: Path, tmp_path: Path) -> None:
    x = image = keras.Input((224, 224, 3))
    for width in (8, 16):
        x = keras.layers.Conv2D(width, 3, activation="relu")(x)
    model = keras.Model(image, keras.layers.Dense(8)(keras.layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(BadInputError, match="another network"):
        check_parity(saved(model, tmp_path / "small.keras"), standin_pth)


@pytest.mark.slow
@pytest.mark.usefixtures("full_size")
def test_resnet50_of_keras_applications_is_red_and_not_taken_for_ours(tmp_path: Path) -> None:
    # Its shapes are nearly the same: the stride and the biases are where it is another network.
    model = keras.applications.ResNet50(weights=None, classes=8)
    source = save_state(seeded_state("resnet50"), tmp_path / "ours.pth")
    result = check_parity(
        saved(model, tmp_path / "applications.keras"), source, ParityOptions(images=1, dtypes=("float64",))
    )
    assert not result.passed and not result.tensors.passed


@ONE
def test_weights_without_a_graph_and_with_strange_names_are_refused(standin_pth: Path, tmp_path: Path) -> None:
    from tests.verify.handmade import port as by_hand

    path = tmp_path / "standin.h5"
    model = by_hand(read_checkpoint(standin_pth))
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model)
    with pytest.raises(BadInputError, match="give the whole model"):
        check_parity(path, standin_pth)


@ONE
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_lambda_is_refused_and_not_run(standin_pth: Path, tmp_path: Path, suffix: str) -> None:
    ran = tmp_path / "ran"
    image = keras.Input((224, 224, 3))
    x = keras.layers.Lambda(lambda x, ran=str(ran): (open(ran, "w").close(), x)[1], output_shape=(224, 224, 3))(image)  # noqa: PTH123
    model = keras.Model(image, keras.layers.Conv2D(8, 3)(x))
    path = saved(model, tmp_path / f"lambda{suffix}")
    ran.unlink(missing_ok=True)
    with pytest.raises(BadInputError, match="cannot open") as error:
        check_parity(path, standin_pth)
    assert not ran.exists() and "\n" not in str(error.value)


@ONE
def test_a_file_of_a_newer_keras_says_so(standin_pth: Path, tmp_path: Path) -> None:
    import json
    import zipfile

    model = keras.Sequential([keras.Input((224, 224, 3)), keras.layers.Conv2D(8, 3)])
    old, path = saved(model, tmp_path / "old.keras"), tmp_path / "new.keras"
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            text = source.read(name)
            if name == "metadata.json":
                text = json.dumps(json.loads(text) | {"keras_version": "99.1.0"}).encode()
            if name == "config.json":
                text = text.replace(b"Conv2D", b"Conv2DOfTomorrow")
            target.writestr(name, text)
    with pytest.raises(BadInputError, match=r"written by Keras 99\.1\.0: install that version"):
        check_parity(path, standin_pth)
