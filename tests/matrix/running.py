"""Which versions of Keras every file that we write is opened by: the environments, and the table that comes out.

python -m tests.matrix.running      what `make matrix` runs: every environment that is there, and a table
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.small import python_path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = Path(os.environ.get("MATRIX", ROOT / ".venv-matrix"))
KERAS2 = Path(os.environ.get("KERAS2_PYTHON", ROOT / ".venv-keras2" / "bin" / "python"))


@dataclass(frozen=True)
class Environment:
    """An interpreter with a Keras. ``packages`` is a folder that goes before the interpreter's own packages.

    ``cannot`` are ways that this version is known not to have, each with the reason; they are shown and not run over.
    """

    name: str
    python: Path
    packages: Path | None = None
    variables: dict[str, str] = field(default_factory=dict)
    cannot: dict[str, str] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        return self.python.exists() and (self.packages is None or self.packages.exists())


#: Keras 3.15 writes into its native files what Keras 3.3 does not know. The .h5 is for both.
NEWER = "written by Keras 3.15"

ENVIRONMENTS = (
    Environment("Keras 2.12 (TensorFlow 2.12)", FOLDER / "tensorflow-2.12" / "bin" / "python"),
    Environment("Keras 2.15 (TensorFlow 2.15)", KERAS2),
    Environment("tf_keras, newest TensorFlow", Path(sys.executable), variables={"TF_USE_LEGACY_KERAS": "1"}),
    Environment(
        "oldest Keras 3", Path(sys.executable), FOLDER / "keras-oldest", {"KERAS_BACKEND": "jax"},
        dict.fromkeys(("native-standin.keras", "pixels-standin.keras"), NEWER),
    ),
    Environment("newest Keras 3, TensorFlow", Path(sys.executable), variables={"KERAS_BACKEND": "tensorflow"}),
    Environment("newest Keras 3, JAX", Path(sys.executable), variables={"KERAS_BACKEND": "jax"}),
    Environment("newest Keras 3, PyTorch", Path(sys.executable), variables={"KERAS_BACKEND": "torch"}),
)  # fmt: skip


def make_files(source: Path, folder: Path) -> None:
    """Every kind of file that is written of ``source``, images, and what each should give (in this process's Keras)."""
    import keras
    import numpy as np

    from convert.conversion import convert
    from convert.readers import read_checkpoint
    from ferplus_keras.networks.preprocessing import preprocess_input
    from verify.images import natural_pixels
    from verify.keras_side import open_model
    from verify.references.torch_reference import TorchReference

    convert(source, [folder / f"{name}" for name in ("whole-standin.h5", "native-standin.keras",
                                                     "native-standin.weights.h5")])  # fmt: skip
    convert(source, [folder / "pixels-standin.h5", folder / "pixels-standin.keras"], pixels=True)
    convert(source, [folder / "vggface-standin.h5"], layout="keras-vggface")
    checkpoint = read_checkpoint(source)
    (folder / "about.json").write_text(json.dumps({"network": checkpoint.provenance.network}))
    pixels = natural_pixels(2, seed=3)
    np.save(folder / "images.npy", pixels)
    batch = preprocess_input(pixels)
    logits = TorchReference(checkpoint, "float32").run(batch)["classifier"].reshape(len(batch), -1)
    np.save(folder / "exact.npy", keras.ops.convert_to_numpy(keras.ops.softmax(logits)))
    np.save(folder / "inexact.npy", open_model(folder / "vggface-standin.h5")[0].predict(batch, verbose=0))


def run(environment: Environment, folder: Path) -> dict[str, Any]:
    """What ``environment`` makes of the files in ``folder``. Raises ``RuntimeError`` when it cannot even try."""
    paths = [str(path) for path in (environment.packages, python_path()) if path]
    told = subprocess.run(
        [environment.python, ROOT / "tests" / "matrix" / "open_files.py", folder],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(paths), **environment.variables},
        capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    lines = told.stdout.strip().splitlines()
    if told.returncode or not lines:
        raise RuntimeError(f"{environment.name}: {told.stderr.strip()[-1500:]}")
    result: dict[str, Any] = json.loads(lines[-1])
    for each in result["results"]:
        each["cannot"] = environment.cannot.get(each["way"], "")
    return result


def failures(result: dict[str, Any]) -> list[str]:
    """What should have gone well and did not, or the other way round."""
    return [
        f"{each['way']}: {each['problem'] or each['apart']}"
        for each in result["results"]
        if each["passed"] == bool(each["cannot"])
    ]


def main() -> int:
    from convert.manifest import read_manifest
    from convert.standin import standin_path, write_standin

    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = read_manifest()["senet50_ferplus"]
        source = standin_path(known, folder)
        write_standin(known, source)
        make_files(source, folder)
        for environment in ENVIRONMENTS:
            if not environment.is_there:
                print(f"{environment.name}: not here")
                continue
            try:
                result = run(environment, folder)
            except RuntimeError as error:
                wrong += 1
                print(f"FAIL  {error}")
                continue
            wrong += len(failures(result))
            print(f"{environment.name}: {result['keras']}")
            for each in result["results"]:
                word = "pass" if each["passed"] else "-" if each["cannot"] else "FAIL"
                apart = "" if each["apart"] is None else f"{each['apart']:.1e}"
                print(f"  {word:<4}  {apart:<8}  {each['way']}  {each['cannot'] or each['problem']}".rstrip())
    print(f"{wrong} of these are wrong" if wrong else "every file opens, predicts and agrees")
    return int(bool(wrong))


if __name__ == "__main__":
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    sys.exit(main())
