"""Exports made, run by what runs them, and held against their source; and exports that must be refused.

TensorFlow's converter takes some ten seconds and 4 GB for a file, so that each is made once.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convert.exporters import Recipe, checked, export, export_path
from convert.inspection import inspect
from convert.readers import read_checkpoint
from ferplus_keras.engines import open_engine
from ferplus_keras.errors import BadInputError
from tests.conftest import run_ferplus, run_python, standin_of, typed
from tests.ferplus_files import Small, write_pair
from tests.verify.oracles import painted
from verify.exporting import Checks, draw_calibration_images, export_checked
from verify.images import Images, natural_pixels
from verify.outputs import compare_outputs, reference_outputs
from verify.predictors import open_predictor

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture(scope="module")
def resnet_pth(networks_folder: Path) -> Path:
    """The stand-in ResNet50 alone: most of what is exported is the same for both networks."""
    return standin_of("resnet50", networks_folder)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 images."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("faces")
    for number, pixels in enumerate(natural_pixels(24, seed=9)):
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


# --- what needs no converter ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "calibrated", "words"),
    [
        (Recipe("tflite", "int8"), False, "give --calibrate"),
        (Recipe("onnx", "int8"), True, "is for --to tflite"),
        (Recipe("saved_model", "float16"), False, "is for --to tflite"),
        (Recipe("tflite"), True, "only for --quantize int8"),
        (Recipe("tflite", channels_first=True), False, "leave out --channels first"),
        (Recipe("coreml"), False, "no target coreml"),
        (Recipe("tflite", "int4"), False, "no quantisation int4"),
    ],
)
def test_what_does_not_go_together_is_said_first(recipe: Recipe, calibrated: bool, words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        checked(recipe, calibrated)


def test_names_say_what_the_export_is() -> None:
    recipe = Recipe("tflite", "int8", folded=True, pixels=True)
    assert export_path("a/x.h5", recipe, None, standin=False) == Path("a/x-folded-int8-pixels.tflite")
    assert export_path("a/x.pth", Recipe("saved_model"), None, standin=False) == Path("a/x.saved_model")
    with pytest.raises(BadInputError, match=r"call the target y-standin\.onnx"):
        export_path("x.pth", Recipe("onnx"), "y.onnx", standin=True)
    with pytest.raises(BadInputError, match=r"end in \.tflite"):
        export_path("x.pth", Recipe("tflite"), "y.onnx", standin=False)
    with pytest.raises(BadInputError, match="both source and target"):
        export_path("x.onnx", Recipe("onnx"), "x.onnx", standin=False)


def test_calibration_takes_ferplus_train_images_or_a_folder(tmp_path: Path, faces: Path) -> None:
    data = painted([0, 1, 2, 3], [0, 1, 2, 2])
    write_pair(Small.of(data), tmp_path / "fer2013")
    checks, found = draw_calibration_images(tmp_path / "fer2013", 16, 100)
    assert "val" in checks.origin and "train" in found.origin
    assert found.pixels.dtype == np.uint8 and found.pixels.shape[1:] == (224, 224, 3)
    assert 1 <= found.count < len(data.images)
    assert draw_calibration_images(faces, 1, 5)[1].count == 5
    with pytest.raises(BadInputError, match="no image"):
        draw_calibration_images(tmp_path_empty(tmp_path), 1, 5)
    with pytest.raises(BadInputError, match="a folder of images or FERPlus"):
        draw_calibration_images(tmp_path / "nothing", 1, 5)


@pytest.mark.parametrize(("checked", "both"), [(2, (2, 3)), (16, (2, 3)), (1, (1, 4))])
def test_what_is_calibrated_on_is_not_checked_on(checked: int, both: tuple[int, int], tmp_path: Path) -> None:
    from PIL import Image

    for level in range(5):
        Image.new("L", (8, 8), 50 * level).save(tmp_path / f"{level}.png")
    checks, calibration = draw_calibration_images(tmp_path, checked, 100, size=32)
    assert (checks.count, calibration.count) == both
    assert not {int(each.mean()) for each in checks.pixels} & {int(each.mean()) for each in calibration.pixels}


def tmp_path_empty(tmp_path: Path) -> Path:
    folder = tmp_path / "deep" / "empty"
    folder.mkdir(parents=True)
    return folder


def test_the_command_line_says_what_is_wrong_and_writes_nothing(seeded_pth: Path, tmp_path: Path) -> None:
    tries = {
        ("--to", "tflite", "--quantize", "int8"): "give --calibrate",
        ("--to", "onnx", "--quantize", "float16"): "is for --to tflite",
        ("--to", "tflite", "--channels", "first"): "leave out --channels first",
    }
    for options, words in tries.items():
        run = run_ferplus("export", seeded_pth, tmp_path / "x.tflite", *options)
        assert run.returncode == 2 and words in run.stderr and "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


# --- ONNX: fast enough for every run -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("onnx", pixels=True, folded=True),
        Recipe("onnx", pixels=True, channels_first=True, batch=2, logits=True),
    ],
    ids=str,
)
def test_onnx_takes_bytes_and_gives_the_same(recipe: Recipe, resnet_pth: Path, tmp_path: Path) -> None:
    """Run by ONNX Runtime itself on bytes, not through anything of ours."""
    import onnxruntime

    path = tmp_path / "x-standin.onnx"
    outcome = export_checked(resnet_pth, recipe, path, Checks(images=2))
    assert outcome.passed and path.exists() and outcome.outputs.changed == 0 and outcome.sha256
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert entry.type == "tensor(uint8)" and entry.shape[0] == (recipe.batch or "N")
    images = Images.of(2)
    batch = images.pixels.transpose(0, 3, 1, 2) if recipe.channels_first else images.pixels
    (found,) = session.run(None, {entry.name: np.ascontiguousarray(batch)})
    logits = reference_outputs(read_checkpoint(resnet_pth), images.inputs)
    wanted = logits if recipe.logits else np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(found - wanted).max() < 5e-5 * np.abs(wanted).max()
    again = read_checkpoint(path)  # the reader sees through the preprocessing
    assert again.architecture.folded == recipe.folded
    assert open_predictor(path).probabilities(images.pixels).argmax(axis=1).tolist() == wanted.argmax(axis=1).tolist()


def test_an_option_that_says_nothing_of_an_output_is_refused(resnet_pth: Path, tmp_path: Path) -> None:
    """A network with its preprocessing inside is compared by its output; ``--key`` chooses what it is compared with."""
    path = tmp_path / "inside-standin.onnx"
    export(read_checkpoint(resnet_pth), Recipe("onnx", pixels=True), path)
    command = ("verify", "parity", path, "--against", resnet_pth, "--n", 1)
    for option, value in (("--float32", "1e-3"), ("--reference-code", resnet_pth)):
        told = typed(*command, option, value)
        assert told.returncode == 2 and f"there is no {option}" in told.stderr
    assert typed(*command, "--key", "model_ema").returncode == 2


def test_another_mean_inside_an_onnx_file_is_not_taken_for_ours(seeded_pth: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    path = tmp_path / "x.onnx"
    export(read_checkpoint(seeded_pth), Recipe("onnx", pixels=True), path)
    model = onnx.load(path)
    (mean,) = (node for node in model.graph.node if node.op_type == "Constant")
    mean.attribute[0].t.CopyFrom(numpy_helper.from_array(np.array([103.9, 116.8, 123.7], np.float32), "mean"))
    onnx.save(model, path)
    with pytest.raises(BadInputError, match="Sub"):
        read_checkpoint(path)


def test_a_wrong_export_gets_no_name(resnet_pth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault planted in the writer: the mean is subtracted in the order blue, green, red."""
    from convert.writers import onnx_file
    from ferplus_keras.networks.preprocessing import PUBLISHED

    path = tmp_path / "x-standin.onnx"
    path.write_text("what was there before")
    monkeypatch.setattr(onnx_file, "PUBLISHED", replace(PUBLISHED, mean=PUBLISHED.mean[::-1]))
    monkeypatch.setattr("ferplus_keras.graph.matcher.PUBLISHED", replace(PUBLISHED, mean=PUBLISHED.mean[::-1]))
    outcome = export_checked(resnet_pth, Recipe("onnx", pixels=True), path, Checks(images=2))
    assert not outcome.passed and not outcome.outputs.near and outcome.as_dict()["path"] is None
    assert path.read_text() == "what was there before" and len(list(tmp_path.iterdir())) == 1


# --- TensorFlow: slow ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def int8(resnet_pth: Path, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "int8-standin.tflite"
    recipe = Recipe("tflite", "int8", folded=True, pixels=True)
    outcome = export_checked(
        resnet_pth, recipe, path, Checks(calibrate=faces, calibration_images=24, images=8, max_changed=60)
    )
    assert outcome.passed and outcome.outputs.kind == "int8" and outcome.outputs.limit is None
    assert "faces" in outcome.calibration and outcome.outputs.as_dict()["changed"] == outcome.outputs.changed
    return path


@pytest.mark.slow
def test_int8_runs_as_bytes_and_says_what_it_lost(int8: Path, resnet_pth: Path) -> None:
    found = inspect(int8)
    assert found["folded"] and found["dtypes"]["int8"] > 80 and found["inputs"] == ["uint8 any x 224 x 224 x 3"]
    assert int8.stat().st_size < resnet_pth.stat().st_size / 2.5  # a quarter of the weights; the graph is not smaller
    images = Images.of(5, seed=3)
    compared = compare_outputs(open_engine(int8), read_checkpoint(resnet_pth), images, max_changed=60)
    assert compared.passed and compared.apart.relative > 1e-3
    rows = open_predictor(int8).probabilities(images.pixels)
    assert rows.shape == (5, 8) and np.allclose(rows.sum(axis=1), 1)


@pytest.mark.slow
def test_int8_calibrated_on_zeros_is_reported_with_what_it_changes(resnet_pth: Path, tmp_path: Path) -> None:
    from PIL import Image

    black = tmp_path / "black"
    black.mkdir()
    Image.new("RGB", (224, 224)).save(black / "0.png")
    path, images = tmp_path / "zeros-standin.tflite", tmp_path / "images"
    images.mkdir()
    for number, pixels in enumerate(natural_pixels(8, seed=9)):
        Image.fromarray(pixels).save(images / f"{number}.png")
    recipe = Recipe("tflite", "int8", folded=True, pixels=True)
    outcome = export_checked(resnet_pth, recipe, path, Checks(calibrate=black, folder=images, images=8))
    assert not outcome.passed and outcome.outputs.changed > 0.1 * 8 and not path.exists()
    assert any(not passed and f"{outcome.outputs.changed} of 8 changed" in said for passed, said in outcome.sentences)


@pytest.mark.slow
def test_se_net_in_float16_is_near_and_said_to_be_off(networks_folder: Path, tmp_path: Path) -> None:
    source = standin_of("senet50", networks_folder)
    path = tmp_path / "half-standin.tflite"
    outcome = export_checked(source, Recipe("tflite", "float16", folded=True), path, Checks(images=4))
    assert outcome.passed and outcome.outputs.kind == "float16"
    assert 5e-5 < outcome.outputs.apart.relative < 1e-2 and path.stat().st_size < source.stat().st_size * 0.6


@pytest.mark.slow
def test_a_saved_model_serves_by_name_in_old_tensorflow_too(resnet_pth: Path, tmp_path: Path, keras2: Path) -> None:
    path = tmp_path / "net-standin.saved_model"
    outcome = export_checked(resnet_pth, Recipe("saved_model", pixels=True), path, Checks(images=3))
    assert outcome.passed and outcome.outputs.kind == "float32" and inspect(path)["network"] == "resnet50"
    images = Images.of(2)
    np.save(tmp_path / "pixels.npy", images.pixels)
    code = """if True:
        import json, sys, numpy, tensorflow as tf
        serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
        print(json.dumps(serve(images=tf.constant(numpy.load(sys.argv[2])))["probabilities"].numpy().tolist()))
    """
    found = np.array(json.loads(run_python(code, path, tmp_path / "pixels.npy", python=keras2).splitlines()[-1]))
    wanted = open_predictor(resnet_pth).probabilities(images.pixels)
    assert np.abs(found - wanted).max() < 5e-5
    run = run_ferplus("verify", "parity", path, "--against", resnet_pth, "--n", 2)
    assert run.returncode == 0 and "the output alone is compared" in run.stdout, run.stderr


@pytest.mark.slow
def test_a_saved_model_that_would_write_a_file_is_not_run(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.io.write_file(str(tmp_path / "taken"), "over")]):
            return {"probabilities": tf.zeros((tf.shape(images)[0], 8))}

    signature = [tf.TensorSpec([None, 224, 224, 3], tf.float32, name="images")]
    module.serve = tf.function(serve, input_signature=signature)
    tf.saved_model.save(module, str(tmp_path / "evil"), signatures=module.serve)
    with pytest.raises(BadInputError, match="WriteFile"):
        open_engine(tmp_path / "evil")
    assert not (tmp_path / "taken").exists()


@pytest.mark.slow
def test_accuracy_and_parity_take_a_tflite_file(int8: Path, resnet_pth: Path, tmp_path: Path) -> None:
    data = painted([0, 1, 2, 3], [0, 1, 2, 2])
    write_pair(Small.of(data), tmp_path / "fer2013")
    run = run_ferplus("verify", "accuracy", int8, "--data", tmp_path / "fer2013", "--json")
    assert run.returncode == 0, run.stderr
    assert "TensorFlow Lite" in json.loads(run.stdout)["model"]["run_by"]
    parity = run_ferplus("verify", "parity", int8, "--against", resnet_pth, "--n", 4, "--json")
    told = json.loads(parity.stdout)
    assert told["numbers"] == "int8" and told["compared"].startswith("the output alone") and told["images"] == 4
