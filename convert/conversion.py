"""One source, any number of targets; the source is read once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

from convert.checkpoint import Checkpoint, Provenance
from convert.folding import fold, refuse_folded
from convert.readers import read_checkpoint
from convert.targets import BY_SUFFIX, FORMATS
from convert.writers import Written, check_target, format_of, write
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.atomic import claimed
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.network_folder import open_checkpoint
from ferplus_keras.networks.architecture import COMPACT, NO_HEAD, architecture
from ferplus_keras.packages import naming_missing


@dataclass(frozen=True)
class Conversion:
    """What a conversion read and wrote."""

    source: Path
    provenance: Provenance
    written: tuple[Written, ...]
    seconds: float

    def __repr__(self) -> str:
        made_up = ", STAND-IN: made-up weights" if self.provenance.standin else ""
        targets = ", ".join(each.path.name for each in self.written)
        return f"<Conversion {self.source.name} to {targets}: {self.provenance.network}{made_up}>"


class Options(TypedDict, total=False):
    """The options of a conversion; the comments give the defaults."""

    network: str  #: "resnet50", "senet50" or "compact"; else what the file is recognised as ("auto")
    allow_missing: Iterable[str]  #: see :func:`convert.matching.match`
    allow_unexpected: Iterable[str]  #: see :func:`convert.matching.match`
    key: str | None  #: see :func:`convert.readers.read_checkpoint`
    geometry: str | None  #: see :func:`convert.readers.read_checkpoint`
    dropout: float | None  #: rate of the published networks' dropout layers in Keras models; else as in the source
    top: bool  #: False leaves the head out; else it stays
    folded: bool  #: merge the batch normalisations into the convolutions; a folded source is only converted so
    logits: bool | None  #: no softmax in Keras and ONNX models; else as in the source when that is a model, or False
    channels_last: bool  #: ONNX models take images as height x width x channels; else channels come first
    layout: str  #: "keras-vggface" writes weights for keras_vggface 0.6's graphs, which are inexact; else "albanie"
    pixels: bool  #: the preprocessing goes inside .h5 and .keras models, which then take RGB bytes; else it stays out


def convert(
    source: str | Path | MappedFile,
    targets: Iterable[str | Path],
    *,
    progress: Callable[[str], None] = lambda _line: None,
    **options: Unpack[Options],
) -> Conversion:
    """Convert ``source`` to every one of ``targets``, whose names choose the formats.

    Args:
        source: a checkpoint in any format that is read, or the folder of a network; as a :class:`MappedFile`, its hash
            may be on its way already.
        targets: files to write, or one; each is replaced only when the new one is complete and reads back bit for bit.
        progress: called with a line of text at the start of each step.
        options: see :class:`Options`.

    Raises:
        BadInputError: the source cannot be converted; nothing was written.
        OutputError: a target cannot be written; those before it are complete.
    """
    if unknown := options.keys() - Options.__annotations__.keys():
        raise TypeError(f"convert takes no option {min(unknown)}: it takes {', '.join(Options.__annotations__)}")
    start = time.perf_counter()
    file = open_checkpoint(source)
    paths = [Path(target) for target in ([targets] if isinstance(targets, (str, os.PathLike)) else targets)]
    if not paths:
        raise BadInputError("No target is named: give the files to write.")
    layout = options.get("layout", "albanie")
    formats = [format_of(path, layout) for path in paths]
    if options.get("channels_last") and not any(format.name == "onnx" for format in formats):
        raise BadInputError("--channels is for ONNX: no other format takes images with the channels first.")
    if options.get("logits") is not None and not any(format.has_output for format in formats):
        raise BadInputError("--output is for files with a graph, and no target has one: leave it out.")
    places = [os.path.realpath(path) for path in paths]
    if os.path.realpath(file.path) in places:
        path = paths[places.index(os.path.realpath(file.path))]
        raise BadInputError(f"{path} is both source and target. Give the target another name.")
    if len(set(places)) < len(paths):
        raise BadInputError("Two targets have the same name; each needs its own.")
    with naming_missing(), claimed(*paths):
        progress(f"reading {file.path}")
        file.begin_sha256()
        for format in formats:
            format.load()  # importing h5py takes as long as the hash still does
        checkpoint = read_checkpoint(
            file,
            network=options.get("network", "auto"),
            allow_missing=options.get("allow_missing", ()),
            allow_unexpected=options.get("allow_unexpected", ()),
            key=options.get("key"),
            geometry=options.get("geometry"),
        )
        checkpoint = _changed(checkpoint, options)
        for path in paths:
            check_target(checkpoint, path, layout=layout, pixels=options.get("pixels", False))
        logits = options.get("logits")
        if logits is None:
            from_keras = checkpoint.provenance.source.format in ("h5-model", "keras", "onnx")
            logits = from_keras and checkpoint.provenance.output == "logits"
        written = []
        for path in paths:
            progress(f"writing {path}")
            written.append(
                write(
                    checkpoint, path, logits=logits, layout=layout,
                    channels_last=options.get("channels_last", False), pixels=options.get("pixels", False),
                )
            )  # fmt: skip
    return Conversion(file.path, checkpoint.provenance, tuple(written), time.perf_counter() - start)


def _changed(checkpoint: Checkpoint, options: Options) -> Checkpoint:
    dropout, folded = options.get("dropout"), options.get("folded", False)
    if not folded:
        refuse_folded(checkpoint, "To convert it as it is, add --fold.")
    elif dropout:
        raise BadInputError("A folded network is for inference, where dropout does nothing: leave out --dropout or "
                            "--fold.")  # fmt: skip
    else:
        checkpoint = fold(checkpoint)
    if dropout and checkpoint.architecture.network == COMPACT:
        raise BadInputError("The compact network was not published, and so has no published dropout: leave out "
                            "--dropout.")  # fmt: skip
    table, arrays, provenance = checkpoint.architecture, checkpoint.arrays, checkpoint.provenance
    if not options.get("top", True):
        table = architecture(table.network, NO_HEAD, provenance.dropout, folded=folded)
        arrays = {layer: arrays[layer] for layer in table.parameters}
        provenance = replace(provenance, head="none", units=0, labels=None)
    if dropout is not None:
        table = architecture(table.network, table.head, dropout, folded=folded)
        provenance = replace(provenance, dropout=dropout)
    return Checkpoint(table, arrays, provenance)


def default_target(source: str | Path, format: str, *, folded: bool = False) -> Path:
    """The default target of a conversion to ``format``: beside the source, under its name.

    A folded network's name gets ``-folded`` at the end.
    """
    source = Path(source)
    source = source if source.name not in ("", "..") else source.resolve()  # a folder's own name
    stem = source.name
    for suffix in (*BY_SUFFIX, source.suffix):
        if suffix and stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
            break
    if folded and not stem.endswith("-folded"):
        stem += "-folded"
    return source.with_name(stem + FORMATS[format].suffix)
