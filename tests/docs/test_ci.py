"""The workflows that we offer and use: valid, safe, documented, and run here step by step."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT
from tests.docs.test_docs import blocks
from tests.small import python_path

pytestmark = pytest.mark.usefixtures("small")

WORKFLOWS = ROOT / ".github" / "workflows"
PAGE = ROOT / "docs" / "ci.md"


def load(text: str) -> Any:
    return YAML(typ="safe").load(text)


VERIFY = load((WORKFLOWS / "verify.yml").read_text())
CI = load((WORKFLOWS / "ci.yml").read_text())
STEPS: list[dict[str, Any]] = VERIFY["jobs"]["verify"]["steps"]
INPUTS = (VERIFY.get("on") or VERIFY[True])["workflow_call"]["inputs"]


# --- as they stand ---------------------------------------------------------------------------------------------------


def check(schema: str, *files: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def test_github_takes_them() -> None:
    check("vendor.github-workflows", *WORKFLOWS.glob("*.yml"))
    check("custom.github-workflows-require-timeout", *WORKFLOWS.glob("*.yml"))


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.name)
def test_actions_are_pinned_and_may_do_no_more_than_read(path: Path) -> None:
    text, workflow = path.read_text(), load(path.read_text())
    for line in re.findall(r"uses: (.*)", text):
        assert line.startswith("./") or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"] == {"contents": "read"}
        for step in job.get("steps", []):
            # What a caller writes into an input must not become part of a script.
            assert "${{" not in step.get("run", ""), step["name"]
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
    assert "secrets." not in text and "pull_request_target" not in text


def test_the_tools_version_is_the_workflows_own() -> None:
    tool = next(step for step in STEPS if step.get("with", {}).get("path") == "ferplus-keras")
    assert tool["with"]["repository"].endswith("|| job.workflow_repository }}")
    assert tool["with"]["ref"].endswith("|| job.workflow_sha }}")


def test_the_report_is_uploaded_whatever_happened() -> None:
    *_, summary, upload = STEPS
    assert summary["if"] == upload["if"] == "always()"
    assert upload["uses"].startswith("actions/upload-artifact@") and upload["with"]["path"] == "report"


def test_our_own_ci_runs_the_tests_and_calls_the_offered_job() -> None:
    assert CI["jobs"]["test"]["strategy"]["matrix"]["python-version"] == ["3.11", "3.12", "3.13"]
    assert CI["jobs"]["parity"]["uses"] == "./.github/workflows/verify.yml"
    assert set(CI["jobs"]["parity"]["with"]) <= set(INPUTS)
    made = next(step for step in CI["jobs"]["standins"]["steps"] if "upload-artifact" in step.get("uses", ""))
    assert made["with"]["name"] == CI["jobs"]["parity"]["with"]["artifact"]
    for job in ("lint", "test"):
        target = re.match(r"make (\w+)", CI["jobs"][job]["steps"][-1]["run"])
        assert target and re.search(rf"^{target.group(1)}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


# --- the page about them ---------------------------------------------------------------------------------------------


def test_the_documented_files_are_valid_and_ask_for_what_there_is(tmp_path: Path) -> None:
    *github, gitlab = blocks(PAGE, "yaml")
    for number, text in enumerate(github):
        (tmp_path / f"{number}.yml").write_text(text)
        (job,) = load(text)["jobs"].values()
        assert job["uses"].split("@")[0] == "OWNER/ferplus-keras/.github/workflows/verify.yml"
        assert set(job["with"]) <= set(INPUTS)
        assert {name for name, told in INPUTS.items() if told.get("required")} <= set(job["with"])
    check("vendor.github-workflows", *tmp_path.glob("*.yml"))
    (tmp_path / "gitlab.yml").write_text(gitlab)
    check("vendor.gitlab-ci", tmp_path / "gitlab.yml")


def test_every_input_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|\s*([^|]*?)\s*\|", PAGE.read_text(), re.MULTILINE)
    documented = {name: default.strip("`") for names, default in rows for name in re.findall(r"`([\w-]+)`", names)}
    assert set(documented) == set(INPUTS)
    for name, told in INPUTS.items():
        default = told.get("default", "")
        if name not in ("tool-repository", "tool-ref"):
            assert documented[name] == (str(default).lower() if isinstance(default, bool) else str(default)), name


# --- run here --------------------------------------------------------------------------------------------------------


class Runner:
    """As much of GitHub's runner as these steps need: expressions, conditions, outputs, a shell for each step."""

    def __init__(self, workspace: Path, **inputs: object) -> None:
        self.workspace = workspace
        self.inputs = {name: told.get("default", "") for name, told in INPUTS.items()} | inputs
        self.outputs: dict[str, dict[str, str]] = {}
        self.summary = workspace / "summary.md"
        self.log = ""
        self.failed = False
        (workspace / "ferplus-keras").symlink_to(ROOT)
        tools = workspace / "bin"
        tools.mkdir()
        (tools / "ferplus").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ferplus_keras "$@"\n')
        (tools / "ferplus").chmod(0o755)

    def run(self, steps: list[dict[str, Any]]) -> Runner:
        for step in steps:
            condition = step.get("if", "success()")
            due = condition == "always()" or (not self.failed and self.truth(condition))
            # The environment is installed already, and what actions bring is put in place by the test.
            if due and "run" in step and step.get("id") != "install":
                self.shell(step)
        return self

    def shell(self, step: dict[str, Any]) -> None:
        written = self.workspace / "output"
        written.write_text("")
        environment = os.environ | {name: self.text(value) for name, value in step.get("env", {}).items()}
        environment |= {
            "GITHUB_OUTPUT": str(written), "GITHUB_STEP_SUMMARY": str(self.summary), "PYTHONPATH": python_path(),
            "GITHUB_WORKSPACE": str(self.workspace), "PATH": f"{self.workspace / 'bin'}:{os.environ['PATH']}",
        }  # fmt: skip
        # What GitHub runs for `shell: bash`.
        run = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]], cwd=self.workspace,
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
        self.log += run.stdout + run.stderr
        self.failed = self.failed or run.returncode != 0
        self.code = run.returncode
        for line in written.read_text().splitlines():
            name, value = line.split("=", 1)
            self.outputs.setdefault(step.get("id", ""), {})[name] = value

    def text(self, value: str) -> str:
        return re.sub(r"\$\{\{ (.*?) \}\}", lambda found: self.value(found.group(1)), str(value))

    def value(self, expression: str) -> str:
        if found := re.fullmatch(r"(.*) && '(\w+)' \|\| '(\w+)'", expression):
            return found.group(2) if self.truth(found.group(1)) else found.group(3)
        if found := re.fullmatch(r"steps\.(\w+)\.outputs\.(\w+)", expression):
            return self.outputs.get(found.group(1), {}).get(found.group(2), "")
        found = re.fullmatch(r"inputs\.([\w-]+)", expression)
        assert found, expression
        return str(self.inputs[found.group(1)])

    def truth(self, expression: str) -> bool:
        if expression == "success()":
            return not self.failed
        found = re.fullmatch(r"(inputs\.[\w-]+) (==|!=) ''", expression)
        assert found, expression
        return (self.value(found.group(1)) == "") == (found.group(2) == "==")


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet50"], indirect=True)
def test_the_job_converts_verifies_and_reports(standin_pth: Path, tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / standin_pth.name).symlink_to(standin_pth)
    runner = Runner(tmp_path, artifact="standins", checkpoint=standin_pth.name, images=1).run(STEPS)
    assert not runner.failed, runner.log
    assert runner.outputs["verify"]["passed"] == "true"
    assert runner.summary.read_text().startswith("# PASS: the same function of STAND-IN weights")
    (folder,) = (tmp_path / "report").iterdir()
    assert folder.name == f"{standin_pth.stem}.h5"
    assert {path.name for path in folder.iterdir()} == {"parity.json", "junit.xml", "report.md", "report.html"}


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet50"], indirect=True)
def test_the_job_is_red_for_a_wrong_file_and_still_reports(standin_pth: Path, standin_h5: Path, tmp_path: Path) -> None:
    from ferplus_keras.files.hashing import sha256_of
    from tests.mutations.test_parity_mutations import FAULTS, damaged

    (tmp_path / "source" / "models").mkdir(parents=True)
    shutil.copy(standin_pth, tmp_path / "source")
    damaged(standin_h5, tmp_path / "source" / "models" / "a-standin.h5", FAULTS["epsilon of one BatchNorm"].plant)
    inputs = {"checkpoint": standin_pth.name, "model": "models/a-standin.h5", "sha256": sha256_of(standin_pth)}
    runner = Runner(tmp_path, images=1, **inputs).run(STEPS)
    assert runner.failed and runner.outputs["verify"]["passed"] == "false"
    assert not (tmp_path / "converted").exists()
    assert "# FAIL" in runner.summary.read_text() and "epsilon 0.001" in runner.summary.read_text()
    assert (tmp_path / "report" / "a-standin.h5" / "report.html").exists()


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"checkpoint": "weights/none.pth"}, "::error::There is no file 'weights/none.pth' in the source."),
        ({"checkpoint": "none.pth", "artifact": "a"}, "There is no file 'none.pth' in the artifact."),
        ({"checkpoint": "http://example.org/a.pth"}, "::error::Only https:// addresses are fetched."),
        ({"checkpoint": "a.pth", "sha256": "0" * 64}, "does not have the SHA-256"),
        ({"checkpoint": "a.pth'; touch taken; '"}, "There is no file"),
        ({"checkpoint": "$(touch taken)"}, "There is no file"),
        ({"checkpoint": "a.pth", "model": "$(touch taken).h5"}, "error: There is no file source/$(touch taken).h5"),
    ],
)
def test_bad_inputs_are_one_sentence_and_never_run(inputs: dict[str, str], told: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.pth").write_bytes(b"no checkpoint")
    runner = Runner(tmp_path, **inputs).run(STEPS)
    assert runner.failed and told in runner.log, runner.log
    assert "Traceback" not in runner.log
    assert not list(tmp_path.rglob("taken"))
    assert "could not be run" in runner.summary.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["resnet50"], indirect=True)
def test_the_shell_variant_runs(standin_pth: Path, tmp_path: Path) -> None:
    (script,) = blocks(PAGE, "bash")
    making, installing, *rest = script.strip().splitlines()
    assert making == "python3 -m venv venv" and installing.startswith(
        "venv/bin/pip install -c ferplus-keras/constraints"
    )
    runner = Runner(tmp_path)
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "bin").symlink_to(tmp_path / "bin")
    runner.shell({"run": "\n".join(rest).replace("converted/model", "converted/model-standin"),
                  "env": {"CHECKPOINT": str(standin_pth)}})  # fmt: skip
    assert not runner.failed, runner.log
    assert (tmp_path / "report" / "junit.xml").exists()


@pytest.mark.slow
def test_an_installed_copy_has_all_that_reports_are_made_of(tmp_path: Path) -> None:
    """The job installs the project, it does not run it from its folder."""
    source = tmp_path / "source"
    left = ("downloads", "output", "reports", "runs", "build", "tests", "shared", "wheelhouse")
    shutil.copytree(ROOT, source, ignore=lambda _folder, names: [
        name for name in names if name.startswith(".") or name in left
    ])  # fmt: skip
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    run = subprocess.run(build, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    import zipfile

    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    for path in [*(ROOT / "verify" / "report").rglob("*"), *(ROOT / "convert").rglob("*.py")]:
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(ROOT)) in packed
