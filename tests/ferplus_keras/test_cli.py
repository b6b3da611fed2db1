"""Every command as a user types it, in a process of its own: results, messages, exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ferplus_keras import cli
from ferplus_keras.cli.endings import UNEXPECTED
from ferplus_keras.errors import DownloadError
from tests.conftest import ROOT, run_ferplus, run_python, typed
from tests.seeded import save_state, seeded_state

pytestmark = pytest.mark.usefixtures("small")

COMMANDS = ("convert", "convert-all", "inspect", "fetch", "roundtrip", "export", "predict", "report", "finetune",
            "verify all", "verify parity", "verify same", "verify accuracy")  # fmt: skip


def refused(run: subprocess.CompletedProcess[str], code: int, *told: str) -> None:
    """One error line with every word of ``told``, that exit code, no traceback."""
    assert run.returncode == code, run.stderr
    assert code != UNEXPECTED
    assert "Traceback" not in run.stderr and run.stdout == ""
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), run.stderr
    for word in told:
        assert word in run.stderr, run.stderr


@pytest.mark.parametrize("command", ["", "verify", *COMMANDS])
def test_help_has_an_example_and_the_exit_codes(command: str) -> None:
    run = typed(*command.split(), "--help")
    assert run.returncode == 0 and f"example:\n  ferplus {command}" in run.stdout
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "130 "):
        assert f"\n  {code}" in run.stdout


def test_the_examples_name_options_that_exist() -> None:
    for command in COMMANDS:
        text = typed(*command.split(), "--help").stdout
        example = re.search(r"example:\n  ferplus (.*)", text)
        assert example
        cli.build_parser().parse_args(example.group(1).split())


def test_nothing_heavy_is_imported_for_help() -> None:
    code = "import sys, ferplus_keras.cli as c\nc.main(['--help'])\n"
    code += "assert not {'numpy', 'h5py', 'torch', 'keras', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_modules_of_one_command_alone_say_the_same_of_it(command: str) -> None:
    words = command.split()
    told = []
    for parser in (cli.build_parser(), cli.build_parser(words)):
        for word in words:
            (level,) = [action for action in parser._actions if isinstance(action.choices, dict)]
            parser = level.choices[word]
        told.append(parser.format_help())
    assert told[0] == told[1]


def test_one_command_does_not_import_the_others() -> None:
    run_python(
        "import sys, ferplus_keras.cli as c\nc.build_parser(['inspect', 'x.pth'])\n"
        "families = {name for name in c.MODULES if f'ferplus_keras.cli.{name}' in sys.modules}\n"
        "assert families == {'converting'}, families"
    )


@pytest.mark.parametrize("as_module", [False, True])
def test_convert(seeded_pth: Path, tmp_path: Path, as_module: bool) -> None:
    target = tmp_path / "new folder" / "x.h5"
    if as_module:
        said = run_python("import runpy\nrunpy.run_module('convert', run_name='__main__')", seeded_pth, target)
    else:
        said = typed("convert", seeded_pth, target).stdout
    assert target.stat().st_size > 300_000 and str(target) in said and "bit for bit" in said
    assert "resnet50, 1 file in" in said


def test_convert_to_formats_beside_the_source_as_json(seeded_pth: Path, tmp_path: Path) -> None:
    source = tmp_path / "mine.pth"
    shutil.copy(seeded_pth, source)
    run = typed("convert", source, "--to", "h5", "--to", "safetensors", "--json")
    result = json.loads(run.stdout)
    assert [Path(each["path"]).name for each in result["written"]] == ["mine.h5", "mine.safetensors"]
    assert all(len(each["sha256"]) == 64 for each in result["written"])
    assert result["provenance"]["network"] == "resnet50" and run.stderr == ""


def test_convert_with_options(seeded_pth: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.h5"
    run = typed("convert", seeded_pth, target, "--output", "logits", "--dropout", "0.5", "--arch", "resnet50")
    assert run.returncode == 0
    told = json.loads(typed("inspect", target, "--json").stdout)
    assert told["output"] == "logits" and told["provenance"]["dropout"] == 0.5


def test_convert_refuses_another_architecture(seeded_pth: Path, tmp_path: Path) -> None:
    refused(typed("convert", seeded_pth, tmp_path / "x.h5", "--arch", "senet50"), 2, "missing", "1x1_down")


def test_exceptions_must_be_named(tmp_path: Path) -> None:
    state = seeded_state("resnet50")
    state["ema.decay"] = state["classifier.bias"].clone()
    source, target = save_state(state, tmp_path / "x.pth"), tmp_path / "x.h5"
    refused(typed("convert", source, target), 2, "1 unexpected", "ema.decay", "--allow-unexpected")
    assert not target.exists()
    run = typed("convert", source, target, "--allow-unexpected", "ema.*")
    assert run.returncode == 0 and "ema.decay" in run.stdout


BAD_INPUTS = {
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
    "empty": (b"", "empty"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(600), "gzip"),
    "noise": (bytes(range(1, 255)) * 5, "not PyTorch"),
    "matlab": (b"MATLAB 5.0 MAT-file" + bytes(600), "MATLAB"),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_what_is_no_checkpoint_gets_one_sentence(kind: str, tmp_path: Path) -> None:
    content, told = BAD_INPUTS[kind]
    (tmp_path / "x.pth").write_bytes(content)
    target = tmp_path / "x.h5"
    target.write_bytes(b"old")
    refused(typed("convert", tmp_path / "x.pth", target), 2, told)
    refused(typed("inspect", tmp_path / "x.pth"), 2, told)
    assert target.read_bytes() == b"old"


def test_a_pickled_module_is_refused_and_not_run(tmp_path: Path) -> None:
    import torch

    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1)), tmp_path / "x.pth")
    refused(typed("convert", tmp_path / "x.pth", tmp_path / "x.h5"), 2, "torch.save(model.state_dict()")


def test_a_truncated_checkpoint_is_refused(seeded_pth: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(seeded_pth.read_bytes()[:200_000])
    refused(typed("convert", tmp_path / "x.pth", tmp_path / "x.h5"), 2, "cut short")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_an_output_error(seeded_pth: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    refused(typed("convert", seeded_pth, tmp_path / "x.h5"), 3, "Permission denied")


def test_inspect_says_what_is_wrong_with_its_exit_code(tmp_path: Path, seeded_pth: Path) -> None:
    assert typed("inspect", seeded_pth).returncode == 0
    state = seeded_state("resnet50")
    del state["classifier.bias"]
    run = typed("inspect", save_state(state, tmp_path / "x.pth"))
    assert run.returncode == 2 and "classifier.bias" in run.stdout and run.stderr == ""


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m ferplus_keras finetune --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0 and run.stderr == ""


def test_fetch_says_where_to_put_the_file_by_hand(tmp_path: Path) -> None:
    manifest = (ROOT / "weights" / "manifest.toml").read_text()
    dead = re.sub(r"http://www\.robots\.ox\.ac\.uk/\S+?(?=\")", "http://127.0.0.1:9/x.pth", manifest)
    (tmp_path / "manifest.toml").write_text(dead)
    run = typed("fetch", "resnet50_ferplus", FERPLUS_WEIGHTS=str(tmp_path))
    refused(run, 4, str(tmp_path / "downloads" / "resnet50_ferplus_dag.pth"), "127.0.0.1:9")


def test_fetch_finds_what_is_there(tmp_path: Path, seeded_pth: Path) -> None:
    shutil.copy(ROOT / "weights" / "manifest.toml", tmp_path)
    place = tmp_path / "downloads" / "resnet50_ferplus_dag.pth"
    place.parent.mkdir()
    shutil.copy(seeded_pth, place)
    run = typed("fetch", "resnet50_ferplus", "--json", FERPLUS_WEIGHTS=str(tmp_path))
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)["fetched"][0]
    assert told["status"] == "present" and told["path"] == str(place)
    assert told["sha256"] in (tmp_path / "seen.toml").read_text()
    save_state(seeded_state("resnet50", seed=1), place)
    refused(typed("fetch", "resnet50_ferplus", FERPLUS_WEIGHTS=str(tmp_path)), 4, told["sha256"])


def test_a_failed_download_is_an_error_as_of_any_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise DownloadError("nobody answers.")

    monkeypatch.setattr("convert.fetch.fetch", fail)
    names = ("resnet50_ferplus", "senet50_ferplus")
    run = typed("fetch", *names, "--json", FERPLUS_WEIGHTS=str(tmp_path))
    assert run.returncode == 4 and json.loads(run.stdout) == {
        "error": {"code": 4, "message": f"{names[1]}: nobody answers.",
                  "details": [f"error: {names[0]}: nobody answers."]}
    }  # fmt: skip


@pytest.mark.slow
def test_verify_parity(standin_h5: Path, standin_pth: Path, network: str) -> None:
    run = run_ferplus("verify", "parity", standin_h5, "--against", standin_pth, "--n", 1, "--json")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["passed"] and result["network"] == network and result["standin"]
    assert {entry["dtype"] for entry in result["runs"]} == {"float64", "float32"}


@pytest.mark.slow
def test_verify_parity_fails_with_exit_code_1(standin_h5: Path, standin_pth: Path) -> None:
    few = ("--n", 1, "--no-onnx")
    run = typed("verify", "parity", standin_h5, "--against", standin_pth, *few, "--float64", 1e-30)
    assert run.returncode == 1 and "FAIL  Every layer" in run.stdout
    assert f"error: {standin_h5.name} is not the same function as {standin_pth.name}." in run.stderr


def test_verify_all_without_a_file_says_what_to_do(tmp_path: Path) -> None:
    shutil.copy(ROOT / "weights" / "manifest.toml", tmp_path)
    refused(typed("verify", "all", FERPLUS_WEIGHTS=str(tmp_path)), 2, "make convert")
