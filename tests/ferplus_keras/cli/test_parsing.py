"""Wrong words get a guess, the usage of the command that was meant, and no import; no words get help."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import h5py
import pytest
from PIL import Image

from ferplus_keras import packages
from ferplus_keras.cli import parsed
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.emotions import EMOTIONS
from tests.conftest import run_python, typed
from tests.ferplus_files import small, write_pair


@pytest.mark.parametrize(
    ("words", "command"),
    [("", ""), ("help", ""), ("--help", ""), ("help predict", " predict"), ("verify", " verify"),
     ("help verify parity", " verify parity"), ("help verify", " verify")],
)  # fmt: skip
def test_help(words: str, command: str) -> None:
    run = typed(*words.split())
    assert run.returncode == 0 and run.stdout.startswith(f"usage: ferplus{command} ") and not run.stderr


@pytest.mark.parametrize(
    ("words", "usage", "told"),
    [
        ("predct a b", "ferplus", 'no command "predct"; did you mean "predict"?'),
        ("nonsense", "ferplus", 'no command "nonsense"; there are convert,'),
        ("help predct", "ferplus", 'did you mean "predict"?'),
        ("verify parityy a", "ferplus verify", 'did you mean "parity"?'),
        ("predict a b --topp 3", "ferplus predict", 'no option --topp; did you mean "--top"?'),
        ("predict a b --anotate=x", "ferplus predict", 'did you mean "--annotate"?'),
        ("--verison", "ferplus", 'no option --verison; did you mean "--version"?'),
        ("-v", "ferplus", 'no option -v; did you mean "--version"?'),
        ("verify --halp", "ferplus verify", 'no option --halp; did you mean "--help"?'),
        ("predict a b -t 3", "ferplus predict", 'no option -t; did you mean "--top"?'),
        ("predict a b --top 3.5", "ferplus predict", '--top: a whole number is needed, not "3.5".'),
        ("inspect a b", "ferplus inspect", '"b" is one argument too many'),
        ("convert", "ferplus convert", "required: SOURCE"),
        ("convert a --to h6", "ferplus convert", '"h6" is none of h5, keras'),
        ("convert a --dropout much", "ferplus convert", '--dropout: "much" is not a number.'),
        ("convert a --dropout 1", "ferplus convert", "at least 0 and below 1, not 1"),
        ("predict a b --batch 0", "ferplus predict", "at least 1, not 0"),
        ("verify parity a --against b --float64 nan", "ferplus verify parity", "a number above 0, not nan"),
        ("verify parity a --against b --float64 inf", "ferplus verify parity", "a number above 0, not inf"),
        ("fetch resnet50_ferplu", "", 'did you mean "resnet50_ferplus"?'),
    ],
)
def test_wrong_words(words: str, usage: str, told: str) -> None:
    run = typed(*words.split())
    assert run.returncode == 2 and told in run.stderr and not run.stdout
    assert not usage or run.stderr.startswith(f"usage: {usage} [")
    found = json.loads(typed(*words.split(), "--json").stdout)["error"]
    assert found["code"] == 2 and found["message"] in run.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("predict face.png net.onnx", "face.png is an image and not a network; net.onnx looks like one"),
        ("predict net.onnx", "net.onnx is a network, and no image is named"),
        ("predict empty net.onnx", "empty is no network, and net.onnx looks like one"),
        ("predict net.onnx empty --csv a.csv --parquet a.csv", "name the same file"),
        ("convert new.h5 net.onnx", "the source comes first, `ferplus convert net.onnx new.h5`"),
        ("convert https://example.org/a.pth", "is a web address; download it first"),
        ("predict https://example.org/a.onnx face.png", "is a web address; download it first"),
        ("inspect nothing.pth", "There is no file nothing.pth"),
        ("inspect empty", "folder"),
        ("release nothing --out x", "nothing is not the folder of a training run: give one that `ferplus finetune"),
        ("release empty --out x", "empty is not the folder of a training run: give one that `ferplus finetune"),
        ("verify same net.onnx nothing.pth", "There is no file nothing.pth"),
        ("verify parity net.onnx --against nothing.pth", "There is no file nothing.pth"),
        ("verify parity net.onnx --against net.onnx --images nowhere", "There is no file nowhere"),
        ("verify accuracy nothing.h5", "There is no file nothing.h5"),
        ("verify accuracy net.h5 --data nowhere", "nothing at nowhere"),
        ("report nothing.h5", "There is no file nothing.h5"),
        ("report net.h5 --data nowhere", "nothing at nowhere"),
        ("report net.h5 --data https://example.org/fer.zip", "fer.zip is a web address; download it first"),
        ("export nothing.pth x.onnx --to onnx", "There is no file nothing.pth"),
        ("export net.h5 x.tflite --to onnx", "ONNX files end in .onnx"),
        ("export net.h5 --to onnx --data nowhere", "There is no file nowhere"),
        ("predict net.h5 empty", "There is no image to look at: empty: a folder without images."),
        ("predict net.h5 nothing/*.png", "no file matches this pattern"),
        ("predict net.h5 https://example.org/face.png", "a web address; download it first"),
        ("predict net.h5 https://example.org/face.png?a=b", "a web address; download it first"),
        ("predict net.h5 missing.png", "missing.png: no such file"),
        ("predict net.h5 empty --csv x.csv --json", "There is no image to look at"),
        ("predict net.h5 empty --engine ray --csv x.csv", "There is no image to look at"),
    ],
)
def test_what_can_be_seen_at_once_is_said_before_anything_large_is_imported(
    words: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said_at_once(words, 2, told, tmp_path, monkeypatch)


def said_at_once(words: str, code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("net.onnx", "net.h5"):
        (tmp_path / name).write_text("not looked at")
    for name in ("keras", "tensorflow", "torch", "jax", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)  # its import would be an error
    run = typed(*words.split())
    assert run.returncode == code and told in run.stderr, run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "net.h5", "net.onnx"]


A_FILE, AN_ADDRESS = "net.h5 is a file. Choose another place", "looks like a web address"
PROC = "/proc could not be written"  # nor by root, who has every permission there


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("predict net.h5 empty --csv net.h5/x.csv", A_FILE),
        ("predict net.h5 empty --csv x.csv --parquet net.h5/x.parquet", A_FILE),
        ("report net.h5 --out net.h5/x.html", A_FILE),
        ("webpage net.onnx --out net.h5/x.html", A_FILE),
        ("export net.h5 net.h5/x.onnx --to onnx", A_FILE),
        ("predict net.h5 empty --csv https://example.org/x.csv", AN_ADDRESS),
        ("predict net.h5 empty --annotate https://example.org/x", AN_ADDRESS),
        ("report net.h5 --out https://example.org/x.html", AN_ADDRESS),
        ("export net.h5 https://example.org/x.onnx --to onnx", AN_ADDRESS),
        ("convert net.h5 https://example.org/x.onnx", AN_ADDRESS),
        ("export net.h5 net.onnx --to saved_model", "is a file, but a folder is to be written"),
        ("export net.h5 /proc/x.onnx --to onnx", PROC),
        ("report net.h5 --out /proc/x/x.html", PROC),
        ("predict net.h5 net.h5 --csv /proc/x/a.csv", PROC),
        ("predict net.h5 net.h5 --annotate /proc/x", PROC),
    ],
)
def test_a_place_that_cannot_be_is_said_as_early(
    words: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told == PROC and not Path("/proc").is_dir():
        pytest.skip("only Linux has /proc")
    said_at_once(words, 3, told, tmp_path, monkeypatch)


def test_names_may_stand_behind_options() -> None:
    for words in ("net.h5 --top 2 a.png b.png", "net.h5 a.png --top 2 b.png", "--top 2 net.h5 a.png b.png"):
        found = parsed(["predict", *words.split()])
        assert (found.model, found.inputs, found.top) == ("net.h5", ["a.png", "b.png"], 2)
    assert parsed(["predict", "net.h5", "--top", "2", "-"]).inputs == ["-"]
    found = parsed(["convert", "a.h5", "--arch", "resnet50", "b.pth"])
    assert found.source == "a.h5" and [str(each) for each in found.targets] == ["b.pth"]


def test_the_folder_of_a_training_is_never_taken_for_images(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text("{}")
    face = tmp_path / "face.png"
    Image.new("L", (48, 48)).save(face)
    run = typed("predict", str(tmp_path / "run"), str(face))
    assert run.returncode == 2 and "a training that has no network to run" in run.stderr


def test_files_that_are_broken_are_told_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_text("not looked at")
    (tmp_path / "broken.png").write_text("no image")
    run = typed("predict", "net.onnx", "broken.png", "missing.png")
    assert run.returncode == 5 and "skipped: broken.png: not an image" in run.stderr and not run.stdout
    rows = [json.loads(line) for line in typed("predict", "net.onnx", "broken.png", "--json").stdout.splitlines()]
    assert [row["error"] for row in rows] == ["not an image that Pillow knows"]
    for name in ("keras", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    run = typed("predict", "broken.png", "--csv", "out.csv")  # the package's own network, whose columns are known
    assert run.returncode == 5 and "1 skipped: out.csv" in run.stderr, run.stderr
    (row,) = csv.DictReader((tmp_path / "out.csv").open())
    assert row["error"] == "not an image that Pillow knows" and {*EMOTIONS} < row.keys()


@pytest.mark.parametrize("network", ["resnet50"], scope="module")
def test_nothing_large_is_imported_by_these_checks(standin_pth: Path, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    model, out, bad = f"'{standin_pth}'", f"'{tmp_path}/x.tflite'", f"'{tmp_path}/a-file/x.html'"
    run_python(
        "import sys\nfrom ferplus_keras.cli import main\n"
        "assert main(['report', 'README.md', '--data', 'nowhere']) == 2\n"
        "assert main(['export', 'README.md', 'x.tflite', '--to', 'onnx']) == 2\n"
        f"assert main(['export', {model}, {out}, '--to', 'tflite']) == 2\n"  # its name does not say "standin"
        f"assert main(['export', 'README.md', {out}, '--to', 'tflite']) == 2\n"  # not a network
        f"assert main(['release', 'docs', '--out', {out}]) == 2\n"
        f"assert main(['verify', 'accuracy', {model}, '--expect', 'much']) == 2\n"
        f"assert main(['verify', 'compare', {model}, 'README.md', '--html', {bad}]) == 3\n"
        "large = {'keras', 'tensorflow', 'torch', 'jax', 'onnxruntime'} & set(sys.modules)\nassert not large, large"
    )


def test_what_is_no_network_is_refused_before_anything_large_is_imported(seeded_pth: Path, tmp_path: Path) -> None:
    data = write_pair(small(), tmp_path / "data")
    (tmp_path / "notes.txt").write_text("no network")
    Image.new("L", (48, 48)).save(tmp_path / "face.png")
    (tmp_path / "no-run").mkdir()
    with h5py.File(tmp_path / "net.h5", "w"):  # what may be a network, until it is opened
        pass
    (tmp_path / "net.pth").symlink_to(seeded_pth)
    commands = (
        "verify accuracy {}", "verify accuracy net.h5 --versus {}", "verify compare net.h5 {}", "report {}",
        "verify parity {} --against net.pth", "verify parity net.h5 --against {}",
    )  # fmt: skip
    asked = [(name, each.format(name)) for name in ("notes.txt", "face.png", "no-run") for each in commands]
    told = said_without_large_imports([command for _, command in asked], tmp_path, data)
    for (name, command), (code, error) in zip(asked, told, strict=True):
        assert code == 2 and f"{name} is " in error, (command, error)


def test_a_training_that_cannot_begin_is_refused_as_early(seeded_pth: Path, tmp_path: Path) -> None:
    for name in ("a-run", "no-run"):
        (tmp_path / name).mkdir()
    (tmp_path / "a-run" / "run.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("no network")
    (tmp_path / "net.pth").symlink_to(seeded_pth)
    refused = {
        "--out a-run": (2, "There is a run in a-run already"),
        "--out notes.txt": (3, "notes.txt is a file"),
        "--out new --weights notes.txt": (2, "notes.txt is not a checkpoint"),
        "--out new --weights no-run": (2, "no-run is not the folder of a run"),
        "--out new --weights net.pth --arch compact": (2, "net.pth is a resnet50 network and cannot start a compact"),
        "--out new --teacher notes.txt": (2, "notes.txt is not one"),
        "--out new --teacher no-run": (2, "no-run is not one"),
    }
    data = write_pair(small(64), tmp_path / "data")
    told = said_without_large_imports([f"finetune {options}" for options in refused], tmp_path, data)
    for (options, (code, sentence)), (ended, error) in zip(refused.items(), told, strict=True):
        assert ended == code and sentence in error, (options, error)
    assert not (tmp_path / "new").exists()


def said_without_large_imports(commands: list[str], folder: Path, data: Path) -> list[tuple[int, str]]:
    """The exit code of each, and what it said, in a new process in ``folder``, with the ``data`` at hand."""
    said: list[tuple[int, str]] = json.loads(run_python(
        "import json, os, sys\nfrom tests.conftest import typed\nos.chdir(sys.argv[1])\n"
        "runs = [typed(*command.split()) for command in sys.argv[2:]]\n"
        "large = {'keras', 'tensorflow', 'torch', 'jax', 'onnxruntime'} & set(sys.modules)\nassert not large, large\n"
        "print(json.dumps([[run.returncode, run.stderr] for run in runs]))",
        folder, *commands, FERPLUS_DATA=str(data), FERPLUS_CACHE="off",
    ))  # fmt: skip
    return said


def test_all_packages_that_are_missing_are_named_with_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"keras", "torch", "cv2", "strange", "scipy"}
    monkeypatch.setattr(packages, "installed", lambda name: name not in absent)
    with pytest.raises(BadInputError) as caught:
        packages.need("tensorflow", "scipy", "cv2", "strange")
    told = str(caught.value)
    assert "needs scipy, cv2, strange, keras and torch, which are not installed" in told
    assert told.endswith("pip install 'ferplus-keras[faces,verify]' strange")
    with pytest.raises(BadInputError, match=r"pip install 'ferplus-keras\[predict\]'$"):  # PyTorch has no part in it
        packages.need("tensorflow", "keras")


def test_a_file_of_a_packages_name_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ferplus_no_such_package.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not packages.installed("ferplus_no_such_package") and packages.installed("numpy")
