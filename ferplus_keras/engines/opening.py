"""A network's file, opened by the library that runs it. Files are recognised by their content, and only what a file
needs is imported.
"""

from __future__ import annotations

from pathlib import Path

from ferplus_keras import HDF5_MAGIC
from ferplus_keras.engines.card import Card
from ferplus_keras.engines.engine import Engine
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.network_folder import network_file
from ferplus_keras.files.opening import is_folder
from ferplus_keras.files.signatures import is_onnx, is_safetensors
from ferplus_keras.files.tflite_file import is_tflite
from ferplus_keras.files.zips import is_keras_zip


def open_engine(
    path: str | Path, threads: int | None = None, card: Card | None = None, runtime: str | None = None
) -> Engine:
    """The network in the file, the SavedModel or the folder at ``path`` (:func:`network_file`).

    ``threads`` bounds the processor threads of one run where that can be set; ``card`` is what is known of it besides,
    instead of what the card beside it says; ``runtime`` is one of ``onnx_engine.RUNTIMES`` for an ONNX file. Raises
    :class:`BadInputError` when there is no network, when it does something that these networks do not, or when what
    runs it is not installed.
    """
    path = network_file(Path(path))
    card = Card.beside(path) if card is None else card
    if runtime is not None:
        from ferplus_keras.engines.onnx_engine import check_runtime

        check_runtime(path, runtime)
    if is_folder(path):
        from ferplus_keras.engines.saved_model import open_saved_model

        return open_saved_model(path, card)
    file = MappedFile(path)
    head = bytes(file.view[:512])
    if head.startswith(HDF5_MAGIC) or (head.startswith(b"PK\x03\x04") and is_keras_zip(path)):
        from ferplus_keras.engines.keras_engine import open_keras

        return open_keras(path, card)
    if is_tflite(head):
        from ferplus_keras.engines.tflite_engine import open_tflite

        return open_tflite(file, threads, card)
    if is_onnx(head) or (path.suffix.lower() == ".onnx" and head):
        from ferplus_keras.engines.onnx_engine import open_onnx

        return open_onnx(file, threads, card, runtime)
    if is_safetensors(head):
        from ferplus_keras.engines.keras_engine import open_shipped

        return open_shipped(path)
    from ferplus_keras.engines.torchscript import is_torchscript, open_torchscript

    if is_torchscript(file):
        return open_torchscript(path, threads, card)
    what = "is not a file that can be run" if head else "is empty, so it is no file that can be run"
    target = "network.h5" if path.suffix == ".h5" else f"{path.stem}.h5"
    raise BadInputError(
        f"{path} {what}: .h5, .weights.h5, .keras, .onnx, .tflite, TorchScript or a SavedModel. If it is a checkpoint, "
        f"`ferplus convert {path.name} {target}` makes one."
    )
