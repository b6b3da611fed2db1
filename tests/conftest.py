"""Fixtures that several test modules share. Large files are made once a session, in the session's own folder."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from ferplus_keras.dataset import Dataset

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the parity command has it: libraries take turns
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # each its share of the cores, and not all of them
    share = str(max(1, (os.cpu_count() or 1) // int(workers)))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, share)
# PyTorch for CUDA comes with Triton, which its optimizers import; imported after TensorFlow 2.21, it crashes.
if find_spec("triton"):
    import_module("triton")
#: The same examples each time, so that a gate does not turn red over what was there before. New ones are looked for
#: by `make fuzz`.
settings.register_profile("gate", derandomize=True, deadline=None)
settings.register_profile("fuzz", derandomize=False, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))
#: Of the millions of objects that the libraries bring none is garbage; looking for it as often as Python does by itself
#: takes a seventh of the time.
gc.set_threshold(100_000, 50, 50)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def unflushed() -> Iterator[None]:
    """Nothing that a test writes need survive a power cut, and each flush waits for the disk for ten milliseconds."""
    with patch.object(os, "fsync", lambda _descriptor: None):
        yield


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("session")


@pytest.fixture(scope="session", params=["resnet50", "senet50"])
def network(request: pytest.FixtureRequest) -> str:
    """Both networks, one after the other."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """For ``pytest.mark.usefixtures``: the module's networks are small ones (:mod:`tests.small`), not of full size."""
    from tests.small import small_networks

    with small_networks():
        yield


@pytest.fixture
def full_size() -> Iterator[None]:
    """For the one test of a module of small networks that needs the published ones."""
    from ferplus_keras.networks.architecture import BODIES
    from tests.small import PUBLISHED

    with patch.dict(BODIES, PUBLISHED):
        yield


@pytest.fixture(scope="module")
def networks_folder(session_folder: Path) -> Path:
    """Where the files of networks of the size that is in use are: made once a session."""
    from ferplus_keras.networks.architecture import BODIES

    folder = session_folder / f"stem-{BODIES['resnet50'].stem}"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.hookimpl(trylast=True)  # when those that are left out are gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most long tests first: one that came last would keep one of the processes waiting for minutes."""
    long = Counter(item.path for item in items if item.get_closest_marker("slow"))
    number = Counter(item.path for item in items)
    items.sort(key=lambda item: (-long[item.path], -number[item.path]))


#: For ``indirect`` parameters of :func:`network`: both, the second by `make test-all` only.
SECOND_SLOW = ["resnet50", pytest.param("senet50", marks=pytest.mark.slow)]


def standin_of(network: str, folder: Path) -> Path:
    """A stand-in checkpoint in the old torch.save format, made once: sane activations, made-up weights."""
    from convert.manifest import read_manifest
    from convert.standin import standin_path, write_standin

    known = read_manifest()[f"{network}_ferplus"]
    path = standin_path(known, folder)
    if not path.exists():
        write_standin(known, path)
    return path


@pytest.fixture(scope="module")
def standin_pth(network: str, networks_folder: Path) -> Path:
    return standin_of(network, networks_folder)


@pytest.fixture(scope="module")
def standin_h5(standin_pth: Path) -> Path:
    """The stand-in, converted to a whole-model .h5."""
    from convert.conversion import convert

    path = standin_pth.with_suffix(".h5")
    if not path.exists():
        convert(standin_pth, [path])
    return path


@pytest.fixture(scope="module")
def seeded_pth(networks_folder: Path) -> Path:
    """A ResNet50 with seeded numbers in the zip format. Do not write to it; copy it."""
    from tests.seeded import save_state, seeded_state

    path = networks_folder / "seeded-resnet50.pth"
    return path if path.exists() else save_state(seeded_state("resnet50"), path)


@pytest.fixture(scope="session")
def ferplus_data() -> Path:
    """Where the published FERPlus is."""
    if not (folder := os.environ.get("FERPLUS_DATA")):
        pytest.skip("FERPLUS_DATA is not set: the published data are not here")
    return Path(folder)


@pytest.fixture(scope="session")
def ferplus(ferplus_data: Path) -> Dataset:
    """The published data, read once into the session's own cache."""
    from ferplus_keras.dataset import load_ferplus

    return load_ferplus(ferplus_data)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(session_folder: Path) -> None:
    """Nothing of the tests goes into the user's cache, and nothing of it into the tests."""
    os.environ["FERPLUS_CACHE"] = str(session_folder / "cache")


@pytest.fixture(scope="session")
def keras2() -> Path:
    """The interpreter of the Keras 2.15 environment, which `make test` sets up."""
    python = Path(os.environ.get("KERAS2_PYTHON", ROOT / ".venv-keras2" / "bin" / "python"))
    if not python.exists():
        pytest.skip(f"no Keras 2.15 environment at {python} (`make test` makes one where Python 3.9 to 3.11 is)")
    return python


def hears_interrupts() -> None:
    """To be run in a child before it begins: a test run in the background has its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_python(code: str, *arguments: object, python: object = sys.executable, **environment: str) -> str:
    """The standard output of ``code`` in a process of its own; fails the test with its error output otherwise."""
    from tests.small import python_path

    run = subprocess.run(
        [str(python), "-c", code, *map(str, arguments)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": python_path(), **environment}, cwd=ROOT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, f"exit code {run.returncode}\n{run.stdout}\n{run.stderr}"
    return run.stdout


def run_ferplus(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user has it, in a process of its own."""
    from tests.small import python_path

    return subprocess.run(
        [sys.executable, "-m", "ferplus_keras", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": python_path(), **environment}, cwd=cwd or ROOT, capture_output=True, text=True,
    )  # fmt: skip


def typed(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, which is a hundred times as fast."""
    from ferplus_keras.cli import main
    from tests.small import python_path

    words, out, err = [str(word) for word in arguments], io.StringIO(), io.StringIO()
    environment = {"PYTHONPATH": python_path()} | environment
    with patch.dict(os.environ, environment), redirect_stdout(out), redirect_stderr(err):
        code = main(words)
    gc.enable()  # `convert` lives too short to need it
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
