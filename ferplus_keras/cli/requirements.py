"""What a command needs, looked at before anything large is imported: files and places; packages are beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.files.atomic import refuse_address, unwritable, writable_target
from ferplus_keras.files.network_folder import is_network_folder, network_file
from ferplus_keras.files.opening import is_folder, need_no_address

NETWORK_SUFFIXES = (".h5", ".hdf5", ".keras", ".pth", ".pt", ".safetensors", ".onnx", ".mat", ".tflite")
FILM_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".ogv", ".flv")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")


def need_file(path: str, *, folder: bool = False) -> None:
    """Raise :class:`BadInputError` unless there is something at ``path`` to read: a file, or with ``folder`` a folder.

    What it holds is for its reader to say.
    """
    need_no_address(path)
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
