"""The wheel stands on its own: built, installed where no checkout is, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

README = """
import ferplus_keras
from convert.manifest import read_manifest, weights_folder

classifier = ferplus_keras.EmotionClassifier()
assert "site-packages" in str(classifier.path), classifier.path
print(classifier.predict("face.png").emotion)
assert "resnet50_ferplus" in read_manifest()
assert "site-packages" not in str(weights_folder()), weights_folder()
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel, which sees this one's other packages."""
    folder = tmp_path_factory.mktemp("wheel")
    kept = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in filter(lambda name: not name.startswith(("tests/", "docs/")), kept.stdout.splitlines()):
        if (ROOT / name).is_file():
            (folder / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "copy" / name)
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, folder / "copy"]
    subprocess.run(build, check=True)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder / "venv")}))
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python


def test_the_installed_wheel_predicts_offline_and_writes_into_a_folder_of_the_users(
    python: Path, tmp_path: Path
) -> None:
    import numpy as np
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)).save(tmp_path / "face.png")
    left_out = ("PYTHONPATH", "FERPLUS_WEIGHTS", "FERPLUS_DATA")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    before = sorted(python.parents[1].rglob("site-packages/*"))
    for arguments, told in (
        (["-c", README], ""),
        (["-m", "ferplus_keras", "predict", "face.png"], "no network was named; using the compact network"),
        (["-m", "ferplus_keras", "--version"], ""),
    ):
        run = subprocess.run([python, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert told in run.stderr
    assert sorted(python.parents[1].rglob("site-packages/*")) == before
