"""A network's file, opened by what is at home there: Keras files by Keras, ``.onnx`` by ONNX Runtime, ``.tflite`` by
LiteRT. Files are told by their content. Only what the file needs is imported.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras import HDF5_MAGIC, PROVENANCE_KEY
from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.opening import open_regular
from ferplus_keras.files.provenance import provenance_of
from ferplus_keras.files.zips import is_keras_zip
from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.preprocessing import PUBLISHED, trained_side

Run = Callable[[np.ndarray], np.ndarray]

#: A file says no more of itself than this.
MAX_TEXT_BYTES = 1 << 20

#: Images at a time, unless the file has a fixed number of its own.
BATCH = 32


@dataclass(frozen=True)
class Runtime:
    """A network ready to run: ``run`` takes images less ``mean`` (n x side x side x 3, float32, RGB) and gives n x
    classes logits or probabilities. ``fixed`` is the batch size that the file insists on. ``pixels``: the preprocessing
    is inside, and ``run`` takes bytes.
    """

    path: Path
    by: str
    run: Run
    labels: tuple[str, ...]
    mean: tuple[float, ...] = PUBLISHED.mean
    standin: bool = False
    network: str = ""
    logits: bool | None = None  #: what ``run`` gives; None: told from the numbers
    fixed: int | None = None
    pixels: bool = False
    side: int = INPUT_SIZE  #: of the pictures that it was trained on


def open_runtime(path: str | Path, threads: int | None = None) -> Runtime:
    """The network in the file at ``path``; ``threads`` bounds the processor threads of one run where it can be told.

    Raises :class:`BadInputError` when there is none, or when its classes have no names.
    """
    path = Path(path)
    with open_regular(path) as stream:
        head = stream.read(16)
    if head.startswith(HDF5_MAGIC) or (head.startswith(b"PK\x03\x04") and is_keras_zip(path)):
        return _open_keras(path)
    if head[4:8] == b"TFL3":
        return _open_tflite(path, threads)
    if path.suffix.lower() == ".onnx" and head:
        return _open_onnx(path, threads)
    raise BadInputError(
        f"{path} is none of the files that predict runs: .h5, .weights.h5, .keras, .onnx or .tflite. "
        f"`ferplus convert {path.name} {path.stem}.h5` makes one of a checkpoint."
    )


# --- Keras ------------------------------------------------------------------------------------------------------


def _open_keras(path: Path) -> Runtime:
    from ferplus_keras.files.keras_files import open_keras_file
    from ferplus_keras.predict.known_graph import known_network

    with open_keras_file(path) as file:  # every safety check of the reader, before Keras sees the file
        told = _Told.of(path, file.provenance)
        known = known_network(file)
        if known is not None:
            table, stored = known
            arrays = {layer: {role: array.read() for role, array in roles.items()} for layer, roles in stored.items()}
        elif not file.config_layers:
            raise BadInputError(
                f"{path} holds weights without a graph, and its layers are not those of a network with its classifier: "
                "give the whole model (model.save)."
            )
    import keras

    by = f"Keras {keras.__version__} on {keras.backend.backend()}"
    if known is None:
        run, classes, size = _keras_model(path, told.side)
        return told.runtime(by, run, classes, fixed=size)
    from ferplus_keras.predict.forward import Forward

    forward = Forward(table, arrays)
    return told.runtime(by, forward.logits, table.head.units, network=table.network, logits=True)


def _keras_model(path: Path, side: int) -> tuple[Run, int | None, int | None]:
    """A graph of somebody else's, as Keras opens it: how to run it, its number of classes, and its batch size."""
    import keras

    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a file from anywhere: Keras raises whatever its parts raise
        raise BadInputError(f"Keras {keras.__version__} cannot open {path}: {first_line(error, 300)}") from None
    shapes = [tuple(each.shape) for each in model.inputs or ()]
    takes = len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][3] in (None, 3)
    if not takes or any(each not in (None, side) for each in shapes[0][1:3]):
        raise BadInputError(f"{path} takes {str(shapes)[:200]}, and is given images of {side} x {side} x 3.")
    size = shapes[0][0] or BATCH

    def run(images: np.ndarray) -> np.ndarray:
        found = model.predict_on_batch(images)
        found = list(found.values()) if isinstance(found, dict) else found
        return np.asarray(found[0] if isinstance(found, list | tuple) else found)

    shape = list(model.outputs[0].shape) if model.outputs else []
    return run, shape[-1] if len(shape) == 2 else None, size


# --- ONNX Runtime -----------------------------------------------------------------------------------------------


def _open_onnx(path: Path, threads: int | None) -> Runtime:
    try:
        import onnxruntime
    except ImportError:
        raise BadInputError(
            f"{path} is run by ONNX Runtime, which is not installed: pip install onnxruntime."
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or 0
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (images_input,) = session.get_inputs()
        metadata = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # the library's own exception classes share no base that is public
        raise BadInputError(
            f"ONNX Runtime cannot open {path} as a network of one input: {first_line(error, 300)}"
        ) from None
    shape = list(images_input.shape)
    channels_last = len(shape) == 4 and shape[-1] == 3
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise BadInputError(f"{path} takes {str(shape)[:200]}, and these networks take images of 224 x 224 x 3.")
    output, name = session.get_outputs()[0], images_input.name

    def run(images: np.ndarray) -> np.ndarray:
        batch = images if channels_last else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return np.asarray(session.run([output.name], {name: batch})[0])

    classes = output.shape[-1] if output.shape and isinstance(output.shape[-1], int) else None
    told = _Told.of(path, provenance_of(path, metadata.get(PROVENANCE_KEY)))
    fixed = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
    pixels = images_input.type == "tensor(uint8)"
    return told.runtime(f"ONNX Runtime {onnxruntime.__version__}", run, classes, fixed=fixed, pixels=pixels)


# --- LiteRT -----------------------------------------------------------------------------------------------------


def _open_tflite(path: Path, threads: int | None) -> Runtime:
    interpreter_class, by = _tflite_interpreter(path)
    try:
        interpreter = interpreter_class(model_path=str(path), num_threads=threads)
        (taken,) = interpreter.get_input_details()
        given = interpreter.get_output_details()[0]
        signature = [int(side) for side in taken.get("shape_signature", taken["shape"])]
        if len(signature) != 4 or 3 not in (signature[1], signature[3]):
            raise ValueError(f"it takes {signature}")
        channels_last = signature[3] == 3
        fixed = signature[0] if signature[0] > 0 else None
        size = 0
    except Exception as error:
        raise BadInputError(f"LiteRT cannot open {path} as a network of one input: {first_line(error, 300)}") from None

    def run(images: np.ndarray) -> np.ndarray:
        nonlocal size
        batch = images if channels_last else images.transpose(0, 3, 1, 2)
        if len(batch) != size:
            if not fixed:
                interpreter.resize_tensor_input(taken["index"], list(batch.shape))
            interpreter.allocate_tensors()
            size = len(batch)
        interpreter.set_tensor(taken["index"], _quantized(batch, taken))
        interpreter.invoke()
        found = np.array(interpreter.get_tensor(given["index"]))
        scale, zero = given["quantization"]
        return (found.astype(np.float32) - zero) * scale if scale else found

    told = _Told.of(path, _text_within(path))
    pixels = np.dtype(taken["dtype"]) == np.uint8 and not taken["quantization"][0]
    return told.runtime(by, run, int(given["shape"][-1]), fixed=fixed, pixels=pixels)


def _quantized(batch: np.ndarray, detail: dict[str, Any]) -> np.ndarray:
    scale, zero = detail["quantization"]
    kind = np.dtype(detail["dtype"])
    if not scale or kind.kind == "f":
        return np.ascontiguousarray(batch, kind)
    bounds = np.iinfo(kind)
    whole: np.ndarray = np.clip(np.rint(batch / scale + zero), bounds.min, bounds.max).astype(kind)
    return whole


def _text_within(path: Path) -> dict[str, Any] | None:
    """What this project's export says of itself: JSON text in the file's metadata, which interpreters do not give."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = content.find(b'{"source": {')
        text = content[place : place + MAX_TEXT_BYTES].decode("utf-8", "replace") if place >= 0 else ""
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _tflite_interpreter(path: Path) -> tuple[Any, str]:
    try:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter, "LiteRT"
    except ImportError:
        pass
    try:
        from tensorflow import __version__, lite

        return lite.Interpreter, f"TensorFlow Lite {__version__}"
    except ImportError:
        raise BadInputError(f"{path} is run by LiteRT, which is not installed: pip install ai-edge-litert.") from None


# --- what a file says of itself ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Told:
    """The part of a file's provenance that a prediction needs; all of it from a file that may be anyone's."""

    path: Path
    labels: tuple[str, ...] | None = None
    mean: tuple[float, ...] = PUBLISHED.mean
    standin: bool = False
    network: str = ""
    logits: bool | None = None
    side: int = INPUT_SIZE

    @classmethod
    def of(cls, path: Path, told: dict[str, Any] | None) -> _Told:
        told = told or {}
        named = "standin" in path.name.lower()
        labels = told.get("labels")
        good = isinstance(labels, list) and all(isinstance(each, str) for each in labels)
        wanted = told.get("preprocessing")
        wanted = wanted if isinstance(wanted, dict) else {}
        for key, published in (("channel_order", "RGB"), ("std", [1.0] * 3)):
            if wanted.get(key, published) != published:
                raise BadInputError(
                    f"{path} asks for {key} {str(wanted[key])[:60]}, which predict does not do: it gives RGB, 0..255, "
                    f"less a mean. `ferplus convert {path} new.h5` makes a file of this project's own layout first."
                )
        mean = wanted.get("mean", PUBLISHED.mean)
        if not (isinstance(mean, list | tuple) and len(mean) == 3 and all(map(_number, mean))):
            mean = PUBLISHED.mean
        if told.get("preprocessing_inside") is True:
            mean = (0.0, 0.0, 0.0)
        output = told.get("output")
        return cls(
            path, tuple(map(str, labels)) if good and isinstance(labels, list) else None, tuple(map(float, mean)),
            named or bool(told.get("standin")), str(told.get("network") or ""),
            {"logits": True, "probabilities": False}.get(output) if isinstance(output, str) else None,
            trained_side(wanted.get("size")),
        )  # fmt: skip

    def runtime(
        self, by: str, run: Run, classes: int | None, *, network: str = "", logits: bool | None = None,
        fixed: int | None = None, pixels: bool = False,
    ) -> Runtime:  # fmt: skip
        labels = self.labels
        if labels is None and classes in (len(EMOTIONS), None):
            labels = EMOTIONS
        if labels is None or (classes is not None and classes != len(labels)) or len(set(labels)) != len(labels):
            said = "" if labels is None else f", and names {len(labels)}"
            raise BadInputError(
                f"{self.path} has {classes} classes{said}: predict needs {len(EMOTIONS)}, or names in the file."
            )
        chosen = self.logits if logits is None else logits
        return Runtime(
            self.path, by, run, labels, self.mean, self.standin, network or self.network, chosen, fixed,
            pixels, self.side,
        )  # fmt: skip


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e6  # whole numbers may be beyond any float


__all__ = ["BATCH", "Runtime", "open_runtime"]
