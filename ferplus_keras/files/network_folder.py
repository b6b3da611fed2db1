"""Folders that are networks: a SavedModel, what a finished training left, and a network that was trained here."""

from __future__ import annotations

from pathlib import Path

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.opening import is_file, is_folder

#: What a folder holds: TensorFlow's graph; a training's record, and its network once it is finished; the network of
#: a released folder.
SAVED_MODEL, RUN, BEST, RELEASED = "saved_model.pb", "run.json", "best.h5", "model.safetensors"

#: The key of a training's own record in the header of its states.
STATE_KEY = "ferplus_keras_run"

#: What a file or folder is that runtimes without Keras run, and nothing converts back.
EXPORT = "an export format, which cannot be converted back. Name the checkpoint that it was made from."


def is_saved_model(path: Path) -> bool:
    return is_file(path / SAVED_MODEL)


def is_network_folder(path: Path) -> bool:
    """Whether the folder at ``path`` is one of these, finished or not."""
    return any(is_file(path / name) for name in (SAVED_MODEL, RUN, BEST, RELEASED))


def network_file(path: Path) -> Path:
    """``path`` itself, or, if it is the folder of a finished training or of a network trained here, its network's file.

    Raises :class:`BadInputError` when it is another folder; a SavedModel, which is one, is returned as it is.
    """
    if not is_folder(path) or is_saved_model(path):
        return path
    for name in (BEST, RELEASED):
        if is_file(path / name):
            return path / name
    if is_file(path / RUN):
        raise BadInputError(
            f"{path} is the folder of a training that has no network to run: it is not finished, or --formats did not "
            "name h5."
        )
    raise BadInputError(f"{path} is a folder, neither a SavedModel nor a finished training. Name a file in it.")


def network_name(path: Path, folders: int = 0) -> str:
    """What the network at ``path``, a file or a folder, is called in tables, with so many of the ``folders`` it is in.

    A run's ``best.h5`` and a released ``model.safetensors`` have their folder's name, others their own.
    """
    path = path.absolute()
    named = path.parent if path.name in (BEST, RELEASED) and is_file(path.with_name(RUN)) else path
    return "/".join(named.parts[-1 - folders :])


def open_checkpoint(source: str | Path | MappedFile) -> MappedFile:
    """The file with the weights of the network at ``source``, a file or a folder (:func:`network_file`).

    Raises :class:`BadInputError` when there is none, as in a SavedModel.
    """
    if isinstance(source, MappedFile):
        return source
    path = network_file(Path(source))
    if is_saved_model(path):
        raise BadInputError(f"{path} is not a checkpoint: it is a SavedModel, {EXPORT}")
    return MappedFile(path)
