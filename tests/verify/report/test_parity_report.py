"""The four files of a parity report: what is in them, what they promise to programs, and how they are written."""

from __future__ import annotations

import json
import os
import re
import shlex
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ferplus_keras.errors import OutputError
from tests.conftest import ROOT, run_ferplus, typed
from tests.verify.report.results import difference, made_up, of_other_hands, several_backends
from verify.report import parity_page, write_report
from verify.result import SCHEMA, levels, merged

pytestmark = pytest.mark.usefixtures("small")

FILES = ["parity.json", "junit.xml", "report.md", "report.html"]
CONTRACT = json.loads((ROOT / "verify/report/parity.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(CONTRACT)


def test_four_files_and_the_page_for_people_last(tmp_path: Path) -> None:
    result = made_up()
    written = write_report(result, tmp_path / "new" / "folder")
    assert [path.name for path in written] == FILES
    assert sorted(path.name for path in written[0].parent.iterdir()) == sorted(FILES)
    text = written[0].read_text(encoding="utf-8")
    assert json.loads(text) == result
    assert "NaN" not in text and "Infinity" not in text
    for path in written[1:]:
        assert result["model"]["name"] in path.read_text(encoding="utf-8")


# --- the schema -----------------------------------------------------------------------------------------------------


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(CONTRACT)
    assert CONTRACT["properties"]["schema"]["const"] == SCHEMA and CONTRACT["$id"].endswith(f":{SCHEMA}")


@pytest.mark.parametrize(
    "result",
    [
        made_up(),
        made_up(fault="conv4_2_3x3_bn"),
        several_backends(),
        several_backends("classifier"),
        made_up(fault="classifier", problem="shape (1, 7) where the reference has (1, 8)"),
        made_up(network="senet50", standin=False, dtypes=("float32",), backend="jax"),
        of_other_hands(),
    ],
    ids=["pass", "fail", "backends", "backends, fail", "no number", "float32 alone", "other hands"],
)
def test_results_keep_to_the_schema(result: dict[str, Any]) -> None:
    VALIDATOR.validate(result)


def wrong(change: Any) -> dict[str, Any]:
    result = deepcopy(made_up(fault="conv4_2_3x3_bn"))
    change(result)
    return result


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(schema=1),
        lambda r: r.update(passed=True),  # while levels fail
        lambda r: r.update(runs=[]),
        lambda r: r.pop("levels"),
        lambda r: r["levels"].pop(),
        lambda r: [level.update(passed=True) for level in r["levels"]],  # red, and nothing is
        lambda r: r["runs"][0]["layers"][0].update(relative=None),  # finite, and no number
        lambda r: r["runs"][0]["layers"][0].update(finite=False, problem="NaN"),  # no number, and one given
        lambda r: r["runs"][0].update(dtype="float16"),
        lambda r: r["model"].update(sha256="abc"),
        lambda r: r["diagnosis"].update(confidence="sure"),
        lambda r: r.update(standin="yes"),
        lambda r: r["images"].update(count=0),
    ],
)
def test_the_schema_says_no(change: Any) -> None:
    assert list(VALIDATOR.iter_errors(wrong(change)))


def test_every_field_of_a_result_is_in_the_schema_and_the_other_way_round() -> None:
    result = several_backends("classifier")
    assert set(CONTRACT["properties"]) == set(CONTRACT["required"]) == set(result)
    for name, example in (
        ("run", result["runs"][0]),
        ("entry", result["runs"][0]["layers"][0]),
        ("level", result["levels"][0]),
        ("file", result["model"]),
    ):
        assert set(CONTRACT["$defs"][name]["properties"]) == set(example), name


def test_the_docs_name_every_field() -> None:
    page = (ROOT / "docs" / "parity.md").read_text()
    for field in CONTRACT["properties"]:
        assert f"`{field}`" in page, field


# --- the verdict is one -----------------------------------------------------------------------------------------------


def test_a_level_that_fails_fails_the_whole() -> None:
    """Two logits so close that rounding decides between them: no layer is off, and still not the same decisions."""
    result = made_up()
    result["runs"][1]["decisions"]["agreement"] = 0.75
    assert not levels(result)[-1]["passed"]
    assert not merged([result])["passed"]
    VALIDATOR.validate(merged([result]))


def test_a_layer_without_a_number_fails_even_in_float32() -> None:
    result = made_up(dtypes=("float32",))
    entry = difference("conv1_7x7_s2", 0, "3 numbers are not finite, the reference has 0").as_dict()
    result["runs"][0]["first_over"] = "conv1_7x7_s2"
    result["runs"][0]["worst_layer"] = entry | {"kind": "Conv", "bound": None, "passed": False}
    assert not merged([result])["passed"]


# --- writing ----------------------------------------------------------------------------------------------------------


def test_an_old_report_stays_whole_when_a_new_one_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in write_report(made_up(), tmp_path)}

    def fail(_result: Any) -> Any:
        raise RuntimeError("planted")

    monkeypatch.setattr(parity_page, "parity_page", fail)
    with pytest.raises(RuntimeError, match="planted"):
        write_report(made_up(fault="classifier"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("kind", ["file", "below a file", "a folder in a file's place"])
def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path, kind: str) -> None:
    (tmp_path / "taken").write_text("")
    target = tmp_path / "taken"
    if kind == "below a file":
        target = tmp_path / "taken" / "report"
    elif kind == "a folder in a file's place":
        target = tmp_path / "report"
        (target / "report.html").mkdir(parents=True)
    with pytest.raises(OutputError) as caught:
        write_report(made_up(), target)
    assert str(target) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_forbidden_folder_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        write_report(made_up(), tmp_path)


@pytest.mark.parametrize("command", [("parity", "Makefile", "--against", "Makefile"), ("all",)])
def test_the_command_line_says_so_before_any_work(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    run = run_ferplus("verify", *command, "--report", tmp_path / "taken", FERPLUS_WEIGHTS=str(tmp_path))
    assert run.returncode == 3, run.stderr
    taken = tmp_path / "taken"
    assert run.stderr.strip() == f"error: {taken} cannot be a folder: {taken} is a file. Choose another place."


def test_the_command_repeats_the_check_in_any_shell() -> None:
    from ferplus_keras.cli import verifying
    from ferplus_keras.cli.parsing import Parser
    from ferplus_keras.cli.shared import Commands

    parser = Parser()
    verifying.add(Commands(parser))
    typed = ["verify", "parity", "my model.h5", "--against", "it's.pth", "--n", "2", "--seed", "0", "--images",
             "my images", "--float64", "1e-13", "--no-onnx", "--backend", "jax", "--backend", "torch"]  # fmt: skip
    options = parser.parse_args(typed)
    command = verifying._command(options)
    assert shlex.split(command) == ["ferplus", *typed]
    assert verifying._command(parser.parse_args(shlex.split(command)[1:])) == command


# --- of a real check --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet50"], indirect=True)
@pytest.mark.parametrize("fault", [None, "pool1 padded on all sides"])
def test_a_real_check_leaves_its_report(standin_h5: Path, standin_pth: Path, tmp_path: Path, fault: str | None) -> None:
    """Green or red: the report is what a red check is needed for most."""
    from tests.mutations.test_parity_mutations import FAULTS, damaged

    model, report = standin_h5, tmp_path / "report"
    if fault:
        model = damaged(standin_h5, tmp_path / "damaged-standin.h5", FAULTS[fault].plant)
    run = typed("verify", "parity", model, "--against", standin_pth, "--n", 1, "--no-onnx", "--report", report)
    assert run.returncode == (1 if fault else 0), run.stderr
    for name in FILES:
        assert str(report / name) in run.stdout
    result = json.loads((report / "parity.json").read_text())
    VALIDATOR.validate(result)
    assert result["passed"] == (fault is None)
    page, said = (report / "report.html").read_text(), (report / "report.md").read_text()
    assert ("Not the same function" in page) == bool(fault)
    assert len(said.splitlines()) < 100 and "STAND-IN" in said
    if fault:
        assert "pool1_3x3_s2 is padded" in said.replace("\\", "") and "pool1_3x3_s2 is padded" in page
        assert re.search(r'failures="[1-9]', (report / "junit.xml").read_text())
