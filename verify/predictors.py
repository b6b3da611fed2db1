"""Any of the networks' files as one thing: pixels in, the probabilities of FERPlus's eight emotions out.

What can be run as it is has an engine (:mod:`ferplus_keras.engines`). A checkpoint of PyTorch's has no graph and is run
by the reference module, MatConvNet's by the graph that is stored in it. :data:`KINDS` is the list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint, Provenance, Source
from convert.readers import read_checkpoint, read_named
from convert.readers.exports import is_export, read_export
from ferplus_keras import HDF5_MAGIC
from ferplus_keras.applications.loading import kind_of
from ferplus_keras.engines import Engine, open_engine
from ferplus_keras.engines.card import NO_CARD, Card
from ferplus_keras.engines.engine import LOGITS, Run
from ferplus_keras.engines.keras_engine import engine_of_model
from ferplus_keras.engines.record import FileFacts
from ferplus_keras.engines.torchscript import is_torchscript
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.keras_files import open_keras_file
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.network_folder import network_file
from ferplus_keras.files.provenance import named_standin
from ferplus_keras.files.shipped import shipped_at
from ferplus_keras.files.signatures import is_mat_file, is_onnx, is_safetensors
from ferplus_keras.files.zips import is_keras_zip
from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.networks.emotions import EMOTIONS, emotion_of
from ferplus_keras.networks.keras_vggface import KERAS_VGGFACE
from ferplus_keras.networks.preprocessing import PUBLISHED


@dataclass(frozen=True)
class Predictor:
    """An engine of eight emotions, and what its file says of itself."""

    engine: Engine
    source: Source
    provenance: Provenance | None = None
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return self.engine.path

    @property
    def network(self) -> str:
        return self.engine.network

    @property
    def batch(self) -> int:
        """How many images at a time suit it."""
        return self.engine.takes.fixed or self.engine.batch

    @property
    def size(self) -> int:
        """The side of the images that it takes."""
        return self.engine.takes.side

    @property
    def standin(self) -> bool:
        named = named_standin(self.path.name)
        return named or self.engine.standin or bool(self.provenance and self.provenance.standin)

    @property
    def missing(self) -> tuple[str, ...]:
        """The emotions that it has no class for."""
        return tuple(each for each in EMOTIONS if each not in _meant(self.engine.labels or ()))

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """n x 8 float64 in the order of EMOTIONS for ``pixels``, n x size x size x 3 in RGB, 0..255.

        An emotion that it does not have gets 0; what it gives to classes that are no emotions is left out.

        Raises :class:`BadInputError` when the network has other classes or gives what is no distribution where it
        should, :class:`ferplus_keras.errors.CheckFailedError` on NaN.
        """
        assert self.engine.labels is not None  # open_predictor saw to it
        given, meant = self.engine.probabilities(pixels), _meant(self.engine.labels)
        result = np.zeros((len(given), len(EMOTIONS)))
        for place, emotion in enumerate(EMOTIONS):
            if emotion in meant:
                result[:, place] = given[:, meant.index(emotion)]
        if None in meant:
            result /= np.maximum(result.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        return result

    def as_dict(self) -> dict[str, Any]:
        return asdict(self.source) | {
            "path": str(self.path),
            "run_by": self.engine.by,
            "network": self.engine.network,
            "standin": self.standin,
            "labels": list(self.engine.labels or ()),
            "provenance": asdict(self.provenance) if self.provenance else None,
        }


def _meant(labels: tuple[str, ...]) -> list[str | None]:
    """The emotion that each of a network's classes is."""
    return [emotion_of(label) for label in labels]


def open_predictor(path: str | Path, card: Card = NO_CARD) -> Predictor:
    """The network in the file or the folder at ``path``, whatever its format.

    ``card`` says what its file does not, before what the card beside it says. Raises :class:`BadInputError` when there
    is no such file, no such format, or no emotions in it.
    """
    path, kind = recognised(path)
    card = card.over(Card.beside(path))
    if card.classes is not None:
        _check_classes(path, card.classes, None)
    predictor = kind.open(path, card)
    labels = _check_classes(path, predictor.engine.labels, predictor.engine.classes)
    notes = predictor.notes
    if missing := predictor.missing:
        notes += (
            f"it has no class for {' and '.join(missing)}: it is wrong on all images of these, unless they are "
            "left out",
        )
    if others := [label for label in labels if not emotion_of(label)]:
        notes += (f"what it gives to {', '.join(others)[:200]} is left out, and the rest scaled to sum to 1",)
    return replace(predictor, notes=notes)


def recognised(path: str | Path) -> tuple[Path, Kind]:
    """The network's file that ``path`` stands for, and of which kind it is; nothing large is imported for it.

    Raises :class:`BadInputError` when it is none, and says what it is instead.
    """
    path = network_file(Path(path))
    head = b"" if path.is_dir() and is_export(path) else bytes(MappedFile(path).view[:512])
    kind = next(kind for kind in KINDS if kind.recognises(path, head))
    if kind.open is _open_torch:
        read_named(MappedFile(path))
    return path, kind


def _check_classes(path: Path, labels: tuple[str, ...] | None, classes: int | None) -> tuple[str, ...]:
    """The ``labels`` of a network that gives ``classes`` numbers (None: not known); raises :class:`BadInputError`."""
    if labels is None or classes not in (None, len(labels)):
        named = "" if labels is None else f", and {len(labels)} classes are named"
        raise BadInputError(
            f"{path} gives {classes} numbers for an image; FERPlus has {len(EMOTIONS)} emotions{named}: name its "
            'classes in order with --classes "angry,disgust,...".'
        )
    found = [emotion for emotion in _meant(labels) if emotion]
    if len(found) < 2 or len(set(found)) < len(found):
        raise BadInputError(
            f"{path} has the classes {', '.join(labels)[:200]}, each of which must be a different FERPlus emotion: "
            f"{', '.join(EMOTIONS)}."
        )
    return labels


@dataclass(frozen=True)
class Kind:
    """A kind of file: how to tell it (name and first bytes), and how to open it."""

    name: str
    recognises: Callable[[Path, bytes], bool]
    open: Callable[[Path, Card], Predictor]


def _open_engine(path: Path, card: Card = NO_CARD) -> Predictor:
    """A Keras or an ONNX file: what it says of itself is known where its arrays are those of one of the networks."""
    try:
        provenance = read_checkpoint(path, check_graph=False).provenance
    except BadInputError:  # somebody else's network, which may well have eight emotions
        file = MappedFile(path)
        kind = "torchscript" if is_torchscript(file) else "onnx" if is_onnx(bytes(file.view[:8])) else "keras"
        source = Source(path.name, file.size, file.sha256(), kind)
        return _predictor(open_engine(path, card=card), source, None)
    _check_head(path, provenance, card)  # before Keras is imported
    return _predictor(open_engine(path, card=card), provenance.source, provenance)


def _open_keras(path: Path, card: Card) -> Predictor:
    with open_keras_file(path) as file:
        theirs = not file.config_layers and kind_of(file.layers, file.listed) == KERAS_VGGFACE
    if not theirs:
        return _open_engine(path, card)
    _refuse_card(path, card)
    from verify.keras_side import open_model  # the inexact graph that the weights are for

    model, mine = open_model(path)
    assert mine is not None
    facts = FileFacts.of(path, asdict(mine.provenance))
    return _predictor(engine_of_model(facts, model), mine.provenance.source, mine.provenance)


def _refuse_card(path: Path, card: Card) -> None:
    """Raises :class:`BadInputError`: these files are of networks whose input is known."""
    if card:
        raise BadInputError(
            f"{path} is a network whose input is known: leave --input and --classes out, and remove the card beside "
            "it if there is one."
        )


def _open_shipped(path: Path, card: Card) -> Predictor:
    _refuse_card(path, card)
    file = MappedFile(path)
    source = Source(path.name, file.size, file.sha256(), "safetensors")
    return _predictor(open_engine(path), source, None, ("it comes with this package, trained here",))


def _open_export(path: Path, card: Card) -> Predictor:
    export = read_export(path)
    assert export is not None
    return _predictor(open_engine(path, card=card), export.source, export.provenance, tuple(export.notes))


def _open_torch(path: Path, card: Card) -> Predictor:
    _refuse_card(path, card)
    checkpoint = read_checkpoint(path)
    import torch

    from verify.references.torch_reference import as_torch, reference_module

    module = reference_module(checkpoint, "float32")

    def call(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            result: np.ndarray = module(as_torch(images, "float32")).numpy()
        return result

    return _of_checkpoint(path, checkpoint, f"PyTorch {torch.__version__}, this project's module", call)


def _open_matconvnet(path: Path, card: Card) -> Predictor:
    _refuse_card(path, card)
    from verify.references.matconvnet import MatConvNetReference

    checkpoint = read_checkpoint(path)
    reference = MatConvNetReference(checkpoint, "float32", path)

    def call(images: np.ndarray) -> np.ndarray:
        result: np.ndarray = reference.run(images)[checkpoint.architecture.output]
        return result

    # It keeps every layer's output, 40 MB an image.
    return _of_checkpoint(path, checkpoint, reference.title, call, (reference.note,), batch=4)


def _of_checkpoint(
    path: Path, checkpoint: Checkpoint, by: str, call: Run, notes: tuple[str, ...] = (), **fields: Any
) -> Predictor:
    provenance = checkpoint.provenance
    record = asdict(provenance) | {"output": LOGITS}
    mine = FileFacts.of(path, record)
    engine = mine.engine(by, call, provenance.units, side=mine.side_for(), network=provenance.network, **fields)
    return _predictor(engine, provenance.source, provenance, notes)


def _check_head(path: Path, provenance: Provenance, card: Card = NO_CARD) -> None:
    """Raises :class:`BadInputError` when the head is no classifier of eight, or ``card`` names another number."""
    if provenance.head != "classifier" or provenance.units != len(EMOTIONS):
        what = {"none": "no head"}.get(provenance.head, f"a {provenance.head} of {provenance.units}")
        raise BadInputError(
            f"{path} is a {provenance.network} with {what}; accuracy on FERPlus needs a classifier of "
            f"{len(EMOTIONS)} classes."
        )
    if card.classes is not None:
        _check_classes(path, card.classes, provenance.units)


def _predictor(engine: Engine, source: Source, provenance: Provenance | None, more: tuple[str, ...] = ()) -> Predictor:
    """Raises :class:`BadInputError` when the network has another head than a classifier of eight classes."""
    if provenance is None:
        return Predictor(engine, source, notes=(*engine.notes, *more))
    _check_head(engine.path, provenance)
    notes = []
    if provenance.labels != EMOTIONS and provenance.labels is not None:
        notes.append(
            f"the file's classes are in the order {', '.join(provenance.labels)}; they were reordered to FERPlus's"
        )
    if (side := engine.takes.side) != INPUT_SIZE:
        notes.append(f"it was trained on images of {side} x {side}, and is given that size")
    if engine.takes.mean not in (PUBLISHED.mean, (0.0, 0.0, 0.0)):
        notes.append(f"the file asks for the mean {engine.takes.mean}, not the published one; that mean is used")
    return Predictor(
        engine, source, provenance, tuple(dict.fromkeys((*notes, *provenance.notes, *engine.notes, *more)))
    )


#: The kinds of files, most particular first; the last takes what is left, and its reader says what is wrong with it.
#: They are recognised by their content, as the readers do, whatever they are called.
KINDS = (
    Kind("export", lambda path, _head: is_export(path), _open_export),
    Kind("matconvnet", lambda _path, head: is_mat_file(head), _open_matconvnet),
    Kind("keras", lambda path, head: head.startswith(HDF5_MAGIC) or is_keras_zip(path), _open_keras),
    Kind("shipped", lambda path, head: is_safetensors(head) and shipped_at(path) is not None, _open_shipped),
    Kind("onnx", lambda _path, head: is_onnx(head), _open_engine),
    Kind("torchscript", lambda path, _head: is_torchscript(MappedFile(path)), _open_engine),
    Kind("torch", lambda _path, _head: True, _open_torch),
)
