"""What old environments import is written in what they know: TensorFlow 2.12 to 2.15 live on Python 3.9 to 3.11."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import run_python

#: What `import ferplus_keras.compat` and ferplus_keras.load_weights bring in, found out below.
FOUND = """
import sys

import ferplus_keras.compat, ferplus_keras.applications.loading, ferplus_keras.files.folders
print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('ferplus_keras')), sep='\\n')
print(any(name in sys.modules for name in ('keras', 'tensorflow', 'tf_keras', 'convert', 'verify')))
"""


def modules() -> tuple[list[Path], str]:
    *paths, heavy = run_python(FOUND).split()
    return [Path(path) for path in paths], heavy


def test_nothing_in_it_is_newer_than_python_3_9_or_heavy() -> None:
    paths, heavy = modules()
    assert heavy == "False"
    assert {path.stem for path in paths} >= {"keras_plan", "keras_files", "loading", "vggface", "utils", "building"}
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))  # refuses `match`
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", "")
                assert name != "zip" or not node.keywords, f"{path}:{node.lineno}: zip(strict=...) is of Python 3.10"
                union = name == "isinstance" and isinstance(node.args[1], ast.BinOp)
                assert not union, f"{path}:{node.lineno}: isinstance(x, A | B) is of Python 3.10"


@pytest.mark.parametrize("version", ["3.9", "3.10"])
def test_the_syntax_as_the_old_interpreter_has_it(version: str) -> None:
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-V"], capture_output=True).returncode:
        pytest.skip(f"no Python {version} here")
    paths, _ = modules()
    code = "import sys; [compile(open(p, encoding='utf-8').read(), p, 'exec') for p in sys.argv[1:]]"
    run = subprocess.run([python, "-c", code, *map(str, paths)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
