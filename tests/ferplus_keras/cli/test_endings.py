"""Whatever is raised becomes an exit code and a sentence."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ferplus_keras import cli
from ferplus_keras.cli.endings import UNEXPECTED, Terminated
from ferplus_keras.errors import BadInputError, CheckFailedError, DownloadError, OutputError
from tests.conftest import typed
from tests.ferplus_keras.engines.small_onnx import small_onnx


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """``inspect`` raises what it is told to; reports go to ``tmp_path``."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "x").touch()

    def inspected(error: BaseException, *options: str) -> object:
        def fail(_path: str, **_options: object) -> None:
            raise error

        monkeypatch.setattr("convert.inspection.inspect", fail)
        return typed("inspect", tmp_path / "x", *options)

    return inspected


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (CheckFailedError("They differ."), 1, "error: They differ."),
        (BadInputError("It is\nno \x1b file.", "table\nof two"), 2, "of two\nerror: It is\\nno \\x1b file."),
        (OutputError("It is full."), 3, "error: It is full."),
        (DownloadError("It is gone."), 4, "error: It is gone."),
        (MemoryError(), 3, "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 3, "/x/y could not be written: No space left"),
        (OSError(errno.EFBIG, "File too large"), 3, "File too large"),
        (ModuleNotFoundError("x", name="jinja2.nodes"), 2, "needs jinja2"),
        (KeyboardInterrupt(), 130, "interrupted: unfinished files"),
        (Terminated(), 143, "terminated: unfinished files"),
        (BrokenPipeError(), 0, ""),
    ],
)  # fmt: skip
def test_what_is_known_has_its_code_and_sentence(raising: object, error: BaseException, code: int, told: str) -> None:
    run = raising(error)  # type: ignore[operator]
    assert run.returncode == code and told in run.stderr and run.stdout == ""
    run = raising(error, "--json")  # type: ignore[operator]
    assert run.returncode == code
    if code:
        found = json.loads(run.stdout)["error"]
        assert found["code"] == code and found["message"] in run.stderr.replace("\\n", "\n").replace("\\x1b", "\x1b")


@pytest.mark.parametrize(
    ("stop", "code", "told"), [(signal.SIGINT, 130, "interrupted: "), (signal.SIGTERM, 143, "terminated: ")]
)
def test_a_stop_that_a_library_turns_into_an_error_is_still_one(
    stop: signal.Signals, code: int, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As h5py does where it is raised inside a callback of HDF5's."""
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def fail(_path: str, **_options: object) -> None:
        try:
            os.kill(os.getpid(), stop)
            time.sleep(10)
        except BaseException:
            raise TypeError("no conversion path") from None

    monkeypatch.setattr("convert.inspection.inspect", fail)
    (tmp_path / "x").touch()
    run = typed("inspect", tmp_path / "x")
    assert run.returncode == code and run.stderr.startswith(told) and run.stdout == ""
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize(
    "error", [ValueError("two\nlines"), AttributeError("\x1b[31m"), RecursionError("deep."), KeyError(), OSError("?")]
)
def test_what_is_left_is_a_fault_of_ours_with_a_report(raising: object, error: Exception, tmp_path: Path) -> None:
    run = raising(error)  # type: ignore[operator]
    assert run.returncode == UNEXPECTED and run.stdout == "" and "Traceback" not in run.stderr
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"error: This is a bug in ferplus: {type(error).__name__}") and "\x1b" not in line
    (report,) = tmp_path.glob("ferplus-crash-*.txt")
    assert str(report) in line
    text = report.read_text()
    assert "Traceback" in text and f"{type(error).__name__}" in text and "'inspect'" in text and "numpy " in text


def test_a_report_says_nothing_of_the_environment_but_settings_of_ours(
    raising: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret-value")
    monkeypatch.setenv("FERPLUS_DATA", "/data/here")
    raising(ValueError("x"))  # type: ignore[operator]
    (report,) = tmp_path.glob("ferplus-crash-*.txt")
    assert "secret-value" not in report.read_text() and "/data/here" in report.read_text()


def test_where_no_report_can_be_written_the_sentence_stands(
    raising: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    run = raising(ValueError("x"))  # type: ignore[operator]
    assert run.returncode == UNEXPECTED and "No report could be written" in run.stderr


def test_the_modules_of_commands_are_within_the_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.MODULES, "broken", ("broken",))
    monkeypatch.setitem(sys.modules, "ferplus_keras.cli.broken", None)
    assert cli.main(["broken"]) == 2


# --- inputs that once ended in a traceback ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "environment", "told"),
    [
        ("predict {tmp}/net.h5 {tmp}/face.png", {"KERAS_BACKEND": "nonsense"}, 'KERAS_BACKEND is "nonsense"'),
        ("report {tmp}/net.h5 --data {tmp}/none", {"KERAS_BACKEND": "nonsense"}, "nothing at"),
        ("verify parity {tmp}/net.h5 --against {tmp}/net.h5", {"KERAS_BACKEND": "numpy"}, 'KERAS_BACKEND is "numpy"'),
        ("fetch", {"FERPLUS_WEIGHTS": "{tmp}/net.h5"}, "which is not a folder"),
        ("convert-all --offline", {"FERPLUS_WEIGHTS": "{tmp}/net.h5"}, "which is not a folder"),
        ("verify all", {"FERPLUS_WEIGHTS": "{tmp}/net.h5"}, "which is not a folder"),
        ("predict {tmp}/net.h5 {tmp}/face.png --annotate {tmp}/net.h5", {}, "net.h5 is a file. Choose another place"),
        ("predict {tmp}/net.h5 {tmp}/face.png --annotate {tmp}/net.h5/x", {}, "net.h5 is a file. Choose another place"),
        ("inspect " + "n" * 300, {}, "is not a file name: File name too long"),
        ("convert " + "n" * 300 + ".pth", {}, "is not a file name: File name too long"),
        ("predict {tmp}/net.h5 {tmp}/face.png --csv {tmp}/" + "n" * 300, {}, "its name is too long"),
        ("predict {tmp}/net.h5 {tmp}/face.png --annotate {tmp}/" + "n" * 300, {}, "its name is too long"),
        ("finetune --data {tmp} --out {tmp}/r --recipe " + "n" * 300, {}, "There is no recipe"),
        ("finetune --data {tmp} --out {tmp}/r --weights " + "n" * 300, {}, "is not a file name: File name too long"),
        ("finetune --data {tmp} --out {tmp}/r --teacher {tmp}/none", {}, "There is no file"),
        ("finetune --resume " + "n" * 300, {}, "There is no run"),
        ("finetune --data {tmp} --out {tmp}/r --formats ,", {}, "--formats takes"),
        ("verify compare {tmp}/net.h5 {tmp}/loop --data {tmp}", {}, "{tmp}"),
        ("predict {tmp}/net.h5 {tmp}/face.png --margin nan --faces", {}, "a share from 0 to 2"),
        ("predict {tmp}/net.h5 {tmp} --annotate {tmp}", {}, "is to be read, and writing would replace it"),
        ("report {tmp}/net.h5 --data {tmp} --out {tmp}/net.h5", {}, "is to be read, and writing would replace it"),
        ("report {tmp}/net.h5 --data {tmp} --out {tmp}/fer2013.csv", {}, "give it a name that ends in .html"),
        ("webpage --out {tmp}/net.h5", {}, "give it a name that ends in .html"),
        ("verify compare {tmp}/net.h5 {tmp}/net.h5 --html {tmp}/net.h5", {}, "is to be read, and writing would"),
        ("verify compare {tmp}/net.h5 {tmp}/net.h5 --html {tmp}/face.png", {}, "give it a name that ends in .html"),
        ("export {tmp}/loop --to onnx", {}, "Too many levels of symbolic links"),
        ("export {tmp}/net.h5 --to onnx --seed " + "9" * 5000, {}, "is not a number"),
    ],
)
def test_no_known_input_reaches_the_last_resort(
    words: str, environment: dict[str, str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.ferplus_keras.predict.conftest import Brightness, drawing

    monkeypatch.setattr("ferplus_keras.predict.classifier.EmotionClassifier", Brightness)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    (tmp_path / "net.h5").write_bytes(b"a network")
    drawing(0).save(tmp_path / "face.png")
    (tmp_path / "loop").symlink_to("loop")
    settings = {name: value.format(tmp=tmp_path) for name, value in environment.items()}
    run = typed(*words.format(tmp=tmp_path).split(), **settings)
    assert run.returncode in (2, 3) and told.format(tmp=tmp_path) in run.stderr, run.stderr
    assert os.environ.get("KERAS_BACKEND") is None


def sequential_without_input(path: Path) -> None:
    """A Sequential .keras file that says nowhere what it takes."""
    import keras

    layers = [keras.Input((224, 224, 3)), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(8, "softmax")]
    keras.Sequential(layers).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    config.pop("build_config", None)
    config["config"].pop("build_input_shape", None)
    config["config"]["layers"] = config["config"]["layers"][1:]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, json.dumps(config) if name == "config.json" else data)


def onnx_without_output(path: Path) -> None:
    import onnx

    model = onnx.load(small_onnx(path, [onnx.helper.make_node("Relu", ["x"], ["y"])]))
    del model.graph.output[:]
    onnx.save(model, path)


def onnx_with_record(path: Path, record: str) -> None:
    import onnx

    model = onnx.load(small_onnx(path, [onnx.helper.make_node("Relu", ["x"], ["y"])]))
    onnx.helper.set_model_props(model, {"ferplus_keras": record})
    onnx.save(model, path)


def record(**preprocessing: object) -> Callable[[Path], None]:
    return lambda path: onnx_with_record(path, json.dumps({"preprocessing": preprocessing}))


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "Sequential without input": (sequential_without_input, "takes nothing recognisable"),
    "ONNX without output": (onnx_without_output, "and 0 outputs"),
    "huge mean": (record(mean=[10**400] * 3), "not valid JSON"),
    "infinite mean": (record(mean=[float("inf")] * 3), "three numbers"),
    "huge size": (record(size=[10**99, 1]), "not valid JSON"),
}


@pytest.mark.parametrize("name", FILES)
def test_no_known_file_reaches_it(name: str, tmp_path: Path) -> None:
    from tests.ferplus_keras.predict.conftest import drawing

    make, told = FILES[name]
    path = tmp_path / "x.keras"  # Keras itself goes by the name; the others do not
    make(path)
    drawing(0).save(tmp_path / "face.png")
    run = typed("predict", path, tmp_path / "face.png")
    assert run.returncode == 2 and told in run.stderr, run.stderr
