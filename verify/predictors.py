"""Any of the networks' files as one thing: preprocessed images in, eight probabilities out.

Each kind of file is run by what is at home there: Keras files by Keras, PyTorch's by PyTorch, ``.onnx`` by ONNX
Runtime, ``.mat`` by the graph that is stored in it, ``.tflite`` and SavedModels by TensorFlow. :data:`KINDS` is the
list; a new kind is a row in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint, Provenance, Source
from convert.readers import read_checkpoint
from convert.readers.onnx_graph import read_graph
from ferplus_keras import HDF5_MAGIC
from ferplus_keras.errors import BadInputError, CheckFailedError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.signatures import is_mat_file, is_onnx
from ferplus_keras.files.zips import is_keras_zip
from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.networks.emotions import EMOTIONS, softmax
from ferplus_keras.networks.preprocessing import PUBLISHED, trained_side
from verify.exported import as_pixels, is_export, open_exported

Run = Callable[[np.ndarray], np.ndarray]


#: ONNX's nodes that hold graphs of their own; what those keep in other files would not be seen.
NESTED = ("If", "Loop", "Scan", "SequenceMap")


@dataclass(frozen=True)
class Predictor:
    """A network ready to run.

    ``run`` takes preprocessed images (n x size x size x 3, float32, RGB less the mean) and gives n x 8 logits or
    probabilities; ``size`` is 224, but where the file says that it was trained on another. ``batch`` is how many images
    at a time suit it. ``labels`` is the order of its classes.
    """

    path: Path
    by: str  #: what runs it, in words
    run: Run
    source: Source
    provenance: Provenance | None = None
    network: str = ""
    labels: tuple[str, ...] = EMOTIONS
    batch: int = 32
    notes: tuple[str, ...] = ()
    size: int = INPUT_SIZE
    output: str | None = None  #: what ``run`` gives, "logits" or "probabilities"; None: told from the numbers

    @property
    def standin(self) -> bool:
        named = "standin" in self.path.name.lower()
        return named or bool(self.provenance and self.provenance.standin)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """n x 8 float64 for preprocessed ``images``, in the order of EMOTIONS; softmax where the network gives logits.

        Raises :class:`BadInputError` when the network has other classes or gives what is no distribution where it
        should, :class:`CheckFailedError` on NaN.
        """
        found = np.asarray(self.run(images), np.float64).reshape(len(images), -1)
        if found.shape[1] != len(EMOTIONS):
            raise BadInputError(
                f"{self.path} gives {found.shape[1]} numbers for a picture, and FERPlus has {len(EMOTIONS)} emotions: "
                "it is another network, or one without its head."
            )
        if not np.isfinite(found).all():
            raise CheckFailedError(f"{self.path} gives numbers that are not finite for some of these pictures.")
        distributions = _are_probabilities(found)
        if self.output == "probabilities" and not distributions:
            raise BadInputError(f"{self.path} has a softmax, and yet its numbers are no probabilities that sum to 1.")
        if self.output == "logits" or not distributions:
            found = softmax(found)
        return found[:, [self.labels.index(emotion) for emotion in EMOTIONS]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self.source) | {
            "path": str(self.path),
            "run_by": self.by,
            "network": self.network,
            "standin": self.standin,
            "labels": list(self.labels),
            "provenance": asdict(self.provenance) if self.provenance else None,
        }


def _are_probabilities(rows: np.ndarray) -> bool:
    """Whether every row is a distribution. Logits that happen to be one, for every picture of a batch, do not exist."""
    return bool((rows >= 0).all() and np.abs(rows.sum(axis=1) - 1).max(initial=0) < 1e-3)


@dataclass(frozen=True)
class Kind:
    """A kind of file: how to tell it (name and first bytes), and how to open it."""

    name: str
    recognises: Callable[[Path, bytes], bool]
    open: Callable[[Path], Predictor]


def open_predictor(path: str | Path) -> Predictor:
    """The network in the file at ``path``, whatever its format.

    Raises :class:`BadInputError` when there is no such file, no such format, or no eight emotions in it.
    """
    path = Path(path)
    head = b"" if path.is_dir() and is_export(path) else bytes(MappedFile(path).view[:512])
    predictor = next(kind for kind in KINDS if kind.recognises(path, head)).open(path)
    if set(predictor.labels) != set(EMOTIONS) or len(predictor.labels) != len(EMOTIONS):
        raise BadInputError(
            f"{path} has the classes {', '.join(predictor.labels)[:200]}; FERPlus's are {', '.join(EMOTIONS)}."
        )
    return predictor


def _of_checkpoint(
    path: Path, checkpoint: Checkpoint, by: str, run: Run, batch: int = 32, *, output: str | None
) -> Predictor:
    told = checkpoint.provenance
    return _of_provenance(path, told, told.source, by, run, batch, told.notes, output)


def _of_provenance(
    path: Path, told: Provenance, source: Source, by: str, run: Run, batch: int, more: tuple[str, ...],
    output: str | None,
) -> Predictor:  # fmt: skip
    if told.head != "classifier" or told.units != len(EMOTIONS):
        what = {"none": "no head"}.get(told.head, f"a {told.head} of {told.units}")
        raise BadInputError(
            f"{path} is a {told.network} with {what}; accuracy on FERPlus needs a classifier of {len(EMOTIONS)} "
            "classes."
        )
    notes = []
    if told.labels != EMOTIONS and told.labels is not None:
        notes.append(f"the file's classes stand in the order {', '.join(told.labels)}; they were put in FERPlus's")
    size = size_of(told)
    published = PUBLISHED.as_dict() | {"size": (size, size)}
    if size != INPUT_SIZE:
        notes.append(f"it was trained on pictures of {size} x {size}, and is shown such")
    if any(_listed(told.preprocessing.get(key, value)) != _listed(value) for key, value in published.items()):
        notes.append("the file asks for another preprocessing than was published; it was run with the published one")
    return Predictor(
        path, by, run, source, told, told.network, told.labels or EMOTIONS, batch, (*notes, *more), size, output
    )  # fmt: skip


def size_of(told: Provenance) -> int:
    """The side of the pictures that the network was trained on."""
    return trained_side(told.preprocessing["size"])


def _of_a_stranger(path: Path, format: str, by: str, run: Run, batch: int, source: Source | None = None) -> Predictor:
    """A network that somebody else's program wrote: it says neither what it is nor what its classes are."""
    if source is None:
        file = MappedFile(path)
        source = Source(file.name, file.size, file.sha256(), format)
    notes = ("the file says nothing of its classes; they are taken to stand in FERPlus's order",)
    return Predictor(path, by, run, source, batch=batch, notes=notes)


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _filled(images: np.ndarray, size: int) -> np.ndarray:
    """The batch with black images after it, up to ``size``."""
    if len(images) >= size:
        return images
    return np.concatenate([images, np.zeros((size - len(images), *images.shape[1:]), images.dtype)])


# --- the kinds --------------------------------------------------------------------------------------------------


def _open_keras(path: Path) -> Predictor:
    """The file as Keras opens it. Every batch is filled up to one size: a new one would be compiled anew."""
    import keras

    from verify.keras_side import open_model, without_preprocessing

    model, checkpoint = open_model(path)
    model, _ = without_preprocessing(model)
    shapes = [tuple(each.shape) for each in model.inputs or ()]
    side = size_of(checkpoint.provenance) if checkpoint is not None else INPUT_SIZE
    wanted = (side, side, 3)
    if (
        len(shapes) != 1
        or len(shapes[0]) != 4
        or any(have not in (None, want) for have, want in zip(shapes[0][1:], wanted, strict=True))
    ):
        shown = " and ".join(map(str, shapes)) or "nothing that is known before it runs"
        raise BadInputError(f"{path} takes {shown[:200]}, and these networks take images of {side} x {side} x 3.")
    size = shapes[0][0] or 32
    listed = _takes_a_list(model)

    def run(images: np.ndarray) -> np.ndarray:
        filled = _filled(images, size)
        inputs: Any = [filled] if listed else filled
        try:
            found = model.predict_on_batch(inputs)
        except Exception as error:  # whatever a stranger's graph raises
            raise BadInputError(f"{path} cannot be run on images of {side} x {side} x 3: {_line(error)}") from None
        if isinstance(found, dict):
            found = list(found.values())
        return np.asarray(found[0] if isinstance(found, list | tuple) else found)[: len(images)]

    by = f"Keras {keras.__version__} on {keras.backend.backend()}"
    if checkpoint is None:
        return _of_a_stranger(path, "keras", by, run, size)
    # Asked of what runs: a file of weights alone says nothing of a softmax, and its graph has one.
    softmax = any(getattr(getattr(layer, "activation", None), "__name__", "") == "softmax" for layer in model.layers)
    return _of_checkpoint(path, checkpoint, by, run, size, output="probabilities" if softmax else "logits")


def _takes_a_list(model: Any) -> bool:
    """Whether the model was made of a list of one input: Keras warns at each batch that has another structure."""
    try:
        return isinstance(model.input, list)
    except (AttributeError, ValueError):  # a Sequential has none until it is called
        return False


def _open_torch(path: Path) -> Predictor:
    import torch

    from verify.references.torch_reference import as_torch, reference_module

    checkpoint = read_checkpoint(path)
    module = reference_module(checkpoint, "float32")
    if size_of(checkpoint.provenance) != INPUT_SIZE:  # where the last map is not 7 x 7, the average goes over all of it
        module.pool5_7x7_s1 = torch.nn.AdaptiveAvgPool2d(1)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            result: np.ndarray = module(as_torch(images, "float32")).numpy()
        return result

    return _of_checkpoint(path, checkpoint, f"PyTorch {torch.__version__}, this project's module", run, output="logits")


def open_onnx(path: Path, *, any_head: bool = False) -> Predictor:
    """The file itself, run by ONNX Runtime, once this project's bounded reader has found nothing that leads out of it.

    What counts is the first output, as in the parity check. ``any_head`` is for those who compare outputs: the eight
    emotions are then not insisted upon.
    """
    if find_spec("onnxruntime") is None:
        raise BadInputError(f"{path} is run by ONNX Runtime, which is not installed: pip install onnxruntime.")
    graph = read_graph(MappedFile(path))
    if nested := next((node.kind for node in graph.nodes if node.kind in NESTED), None):
        raise BadInputError(
            f"{path} has a node of the kind {nested}, whose graphs within the graph are not looked into."
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (images_input,) = session.get_inputs()
    except Exception as error:  # the library's own exception classes share no base that is public
        raise BadInputError(f"ONNX Runtime cannot open {path} as a network of one input: {_line(error)}") from None
    channels_last = images_input.shape[-1] == 3
    pixels = images_input.type == "tensor(uint8)"  # the preprocessing is inside
    fixed = images_input.shape[0] if isinstance(images_input.shape[0], int) else None
    output = session.get_outputs()[0].name

    def run(images: np.ndarray) -> np.ndarray:
        batch = _filled(images, fixed or 0)
        batch = as_pixels(batch) if pixels else batch
        batch = batch if channels_last else batch.transpose(0, 3, 1, 2)
        try:
            found: np.ndarray = session.run([output], {images_input.name: np.ascontiguousarray(batch)})[0]
        except Exception as error:
            raise BadInputError(f"ONNX Runtime could not run {path}: {_line(error)}") from None
        return found[: len(images)]

    by = f"ONNX Runtime {onnxruntime.__version__}"
    try:
        told = read_checkpoint(path)
    except BadInputError:
        return _of_a_stranger(path, "onnx", by, run, fixed or 32)
    if any_head:
        return Predictor(path, by, run, told.provenance.source, told.provenance, batch=fixed or 32)
    known = told.provenance.output if len(graph.outputs) == 1 else None  # of several, it says not which
    return _of_checkpoint(path, told, by, run, fixed or 32, output=known)


def _open_export(path: Path) -> Predictor:
    opened = open_exported(path)
    told = opened.provenance
    run = opened.run
    if told is not None and told.output == "probabilities" and opened.kind == "int8":

        def run(images: np.ndarray) -> np.ndarray:
            found: np.ndarray = opened.run(images)  # in steps of 1/256: eight of them are 1 to within a few of these
            scaled: np.ndarray = found / found.sum(axis=1, keepdims=True)
            return scaled

    if told is None:
        stranger = _of_a_stranger(path, opened.source.format, opened.by, opened.run, opened.batch, opened.source)
        return replace(stranger, notes=(*stranger.notes, *opened.notes))
    return _of_provenance(
        path, told, opened.source, opened.by, run, opened.batch, (*opened.notes, *told.notes), told.output
    )  # fmt: skip


def _open_matconvnet(path: Path) -> Predictor:
    from verify.references.matconvnet import MatConvNetReference

    checkpoint = read_checkpoint(path)
    reference = MatConvNetReference(checkpoint, "float32", path)

    def run(images: np.ndarray) -> np.ndarray:
        result: np.ndarray = reference.run(images)[checkpoint.architecture.output].reshape(len(images), -1)
        return result

    # It keeps every layer's output, 40 MB an image.
    predictor = _of_checkpoint(path, checkpoint, reference.title, run, batch=4, output="logits")
    return replace(predictor, notes=(*predictor.notes, reference.note))


def _is_keras(path: Path, head: bytes) -> bool:
    return head.startswith(HDF5_MAGIC) or is_keras_zip(path)


def _line(error: BaseException) -> str:
    """The first line of ``error`` that says something; Keras's own begin with where it happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return (telling or lines or [type(error).__name__])[0][:300]


#: The kinds of files, most particular first; the last takes what is left, and its reader says what is wrong with it.
#: They are told by their content, as the readers do, whatever they are called.
KINDS = (
    Kind("export", lambda path, _head: is_export(path), _open_export),
    Kind("matconvnet", lambda _path, head: is_mat_file(head), _open_matconvnet),
    Kind("keras", _is_keras, _open_keras),
    Kind("onnx", lambda _path, head: is_onnx(head), open_onnx),
    Kind("torch", lambda _path, _head: True, _open_torch),
)

__all__ = ["KINDS", "Kind", "Predictor", "open_onnx", "open_predictor"]
