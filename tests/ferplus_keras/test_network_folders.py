"""A network is named by its folder, or its file, in every command that reads one; and what is none is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convert.checkpoint import Checkpoint
from convert.conversion import convert, default_target
from convert.exporters import Recipe, export_path
from convert.readers import own_provenance, read_checkpoint
from convert.targets import FORMATS
from convert.writers import write
from ferplus_keras import EmotionClassifier
from ferplus_keras.cli import main
from ferplus_keras.cli.requirements import may_be_network
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.network_folder import network_file, network_name
from ferplus_keras.files.shipped import shipped
from ferplus_keras.networks.architecture import COMPACT
from ferplus_keras.networks.emotions import EMOTIONS
from tests.ferplus_files import small, write_pair

TRAINED = shipped()[COMPACT]

#: Its folder in the package.
FOLDER = TRAINED.path.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    convert(FOLDER, folder / "best.h5")
    return folder


def same_numbers(found: Checkpoint) -> bool:
    return all(
        np.array_equal(array, found.arrays[layer][role])
        for layer, roles in TRAINED.arrays().items() for role, array in roles.items()
    )  # fmt: skip


def said(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """The result of a command that succeeds."""
    assert main([*map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command says that refuses its input: one sentence, or two."""
    assert main([*map(str, words), "--json"]) == 2
    message: str = json.loads(capsys.readouterr().out)["error"]["message"]
    return message


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "mat"])
def test_the_compact_network_is_converted_and_read_back(
    format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"x{FORMATS[format].suffix}"
    said(capsys, "convert", FOLDER, target)
    found = read_checkpoint(target)
    assert found.architecture == TRAINED.table and same_numbers(found)
    assert found.provenance.labels == EMOTIONS and found.provenance.side == TRAINED.size
    assert found.provenance.origin.sha256 == TRAINED.sha256 and own_provenance(target) is not None
    assert said(capsys, "verify", "same", FOLDER, target)["tensors"]["passed"]


def test_a_converted_compact_network_predicts_what_the_shipped_one_does(tmp_path: Path) -> None:
    faces = np.random.default_rng(0).integers(0, 256, (4, 48, 48, 3), np.uint8)
    written = convert(FOLDER, [tmp_path / "a.h5", tmp_path / "a.onnx"]).written
    wanted, *found = (
        [list(each.probabilities.values()) for each in EmotionClassifier(path).predict(list(faces))]
        for path in (TRAINED.path, *(each.path for each in written))
    )
    for each in found:
        np.testing.assert_allclose(each, wanted, atol=1e-5)


@pytest.mark.parametrize("against", ["folder", "run"])
@pytest.mark.parametrize("model", ["a.onnx", pytest.param("run", marks=pytest.mark.slow)])
def test_parity_takes_folders_on_both_sides(
    model: str, against: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    if model != "run":
        convert(run, tmp_path / model)
    words = ("--against", run if against == "run" else FOLDER, "--n", 1, "--no-onnx")
    assert said(capsys, "verify", "parity", run if model == "run" else tmp_path / model, *words)["passed"]


def test_inspect_and_roundtrip_take_a_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, file in ((FOLDER, TRAINED.path), (run, run / "best.h5")):
        found = said(capsys, "inspect", folder)
        assert (found["file"], found["network"], found["input_size"]) == (str(file), COMPACT, [48, 48])
        assert not found["problems"]
    walked = said(capsys, "roundtrip", FOLDER, "--to", "h5", "--to", "pth")
    assert walked["passed"] and walked["home"] == "safetensors"


def test_an_export_of_a_folder_is_checked_and_lies_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    folder = tmp_path / COMPACT
    shutil.copytree(FOLDER, folder)
    found = said(capsys, "export", folder, "--to", "onnx", "--n", 1)
    assert found["path"] == str(tmp_path / f"{COMPACT}.onnx") and found["layers"]["passed"]
    assert same_numbers(read_checkpoint(tmp_path / f"{COMPACT}.onnx"))


def test_a_folder_may_be_the_one_that_a_command_is_typed_in(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    assert default_target(".", "h5") == run.with_name("mine.h5")
    assert export_path(".", Recipe("tflite"), None, standin=False) == run.with_name("mine.tflite")


def test_a_report_is_made_of_a_folder() -> None:
    from verify.gallery import open_network

    found = open_network(FOLDER)
    assert (found.takes.side, found.sha256, found.forward.architecture) == (48, TRAINED.sha256, TRAINED.table)


def test_what_the_compact_network_cannot_be_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["x.mat"], "x.mat: .mat files are for images of 224 x 224, and the compact network's are 48 x 48. Choose "
                    "another format."),
        (["x.h5", "--layout", "keras-vggface"], "keras_vggface has ResNet50 and SE-ResNet50, and"),
        (["x.h5", "--dropout", "0.5"], "and so has no published dropout: leave out --dropout."),
    ):  # fmt: skip
        assert told in refusal(capsys, "convert", FOLDER, tmp_path / words[0], *words[1:])
    assert not list(tmp_path.iterdir())


#: What is made in a folder -> what is said of it.
NO_NETWORKS = {
    "x.tflite": "x.tflite is not a checkpoint: it is a TensorFlow Lite file, an export format, which cannot be "
    "converted back. Name the checkpoint that it was made from.",
    "saved_model.pb": "is not a checkpoint: it is a SavedModel, an export format, which cannot be converted back. Name "
    "the checkpoint that it was made from.",
    "run.json": "is the folder of a training that has no network to run",
    "notes.txt": "is a folder, neither a SavedModel nor a finished training. Name a file in it.",
    "state.safetensors": "is a state of a training and does not name its classes. Name the training's folder, once it "
    "is finished.",
}

READERS = (
    "convert {} out/x.h5", "export {} out/x.onnx --to onnx", "roundtrip {}", "verify same {} {}",
    "verify parity x.h5 --against {}", "webpage {} --out out/x.html", "report {} --data out --out out/x.html",
)  # fmt: skip


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("made", NO_NETWORKS)
def test_what_is_no_checkpoint_is_said_by_every_command(
    made: str, command: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from safetensors.numpy import save_file

    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    Path("folder").mkdir()
    shutil.copy(run / "best.h5", "x.h5")
    write_pair(small(), Path("out"))  # read before the network is opened
    path = Path("folder", made)
    if made == "state.safetensors":
        save_file({"a/kernel": np.zeros(3, np.float32)}, path, {"ferplus_keras_run": "{}"})
    else:
        path.write_bytes(b"\x1c\0\0\0TFL3")
    named = path if made in ("x.tflite", "state.safetensors") else path.parent
    assert NO_NETWORKS[made] in refusal(capsys, *command.format(*[named] * command.count("{}")).split())
    assert {each.name for each in Path("out").iterdir()} == {"fer2013.csv", "fer2013new.csv"}


@pytest.mark.parametrize("name", ["best.h5", "model.safetensors", "saved_model.pb", "run.json", "notes.txt"])
def test_predict_takes_a_folder_for_a_network_exactly_when_it_is_one(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert may_be_network(str(tmp_path), alone=True) == (name != "notes.txt")
    if name in ("best.h5", "model.safetensors"):
        assert network_file(tmp_path) == tmp_path / name
    elif name == "saved_model.pb":
        assert network_file(tmp_path) == tmp_path
    else:
        with pytest.raises(BadInputError, match=r"Name a file in it|not finished"):
            network_file(tmp_path)


def test_a_network_of_another_name_is_not_taken_for_the_compact_one(tmp_path: Path) -> None:
    """Its tensors say which one it is, whatever is asked for."""
    write(read_checkpoint(FOLDER), tmp_path / "x.pth")
    assert read_checkpoint(tmp_path / "x.pth", network=COMPACT).architecture == TRAINED.table
    with pytest.raises(BadInputError, match="not a complete resnet50"):
        read_checkpoint(tmp_path / "x.pth", network="resnet50")


@pytest.mark.parametrize("name", ["best.h5", "model.safetensors"])
def test_a_network_is_called_by_its_folder_where_its_file_says_nothing(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / name).touch()
    assert network_name(folder / name) == name  # anybody's file may be called that
    (folder / "run.json").touch()
    assert network_name(folder / name) == network_name(folder) == "mine"
    assert network_name(folder / name, 1) == f"{tmp_path.name}/mine"
    assert network_name(folder / "last.h5") == "last.h5" and network_name(folder / "last.h5", 1) == "mine/last.h5"


def test_the_rows_of_predict_name_the_network_that_comes_with_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("keras")
    Image.new("L", (48, 48), 99).save(tmp_path / "x.png")
    for model in ([], [FOLDER], [TRAINED.path]):
        assert main(["predict", *map(str, model), str(tmp_path / "x.png"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["model"] == COMPACT
    assert repr(EmotionClassifier(FOLDER)).startswith("<EmotionClassifier compact: ")
