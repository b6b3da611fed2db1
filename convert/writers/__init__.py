"""Files out: one writer per format; each result is read back and compared bit for bit before it gets its name."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from convert.checkpoint import STANDIN, Checkpoint, check_standin_name, with_output
from convert.halves import in_halves
from convert.layouts import LAYOUTS, STEP_COUNTER, Slot
from convert.matching import NamedArrays
from convert.readers import read_named
from convert.targets import BY_SUFFIX, FORMATS, Format
from convert.writers.blocks import blocks
from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.files.atomic import atomic_path, flush
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.networks.architecture import COMPACT
from ferplus_keras.networks.keras_vggface import KERAS_VGGFACE
from ferplus_keras.wording import counted

#: Bytes of the new file in memory at a time while it is compared.
RELEASE_EVERY = 4 << 20

#: A generous estimate of what a file takes besides its numbers: names, shapes, the graph.
METADATA_BYTES = 2 << 20


#: Formats chosen by ``--layout`` and not by suffix: a .h5 of weights for another package's graph.
FOREIGN = {
    KERAS_VGGFACE: Format(KERAS_VGGFACE, ".h5", "convert.writers.keras_vggface:write_keras_vggface", has_output=True)
}

#: Formats of the published networks alone: a .mat's graph is written, and read, for images of 224 x 224.
PUBLISHED_ALONE = ("mat",)

#: Formats whose graph can have the preprocessing inside and take pixels.
WITH_PIXELS = ("h5", "keras")


@dataclass(frozen=True)
class Written:
    """A finished file."""

    path: Path
    format: str
    size: int
    sha256: str


def format_of(path: str | Path, layout: str = "albanie") -> Format:
    """The format that a file name asks for, or a foreign ``layout``.

    Raises :class:`BadInputError` if its suffix is unknown, or not the layout's.
    """
    name = Path(path).name.lower()
    if layout in FOREIGN:
        if name.endswith((".h5", ".hdf5")) and not name.endswith(".weights.h5"):
            return FOREIGN[layout]
        raise BadInputError(
            f"{path}: weights in the layout {layout} go into a .h5 or .hdf5 file (not .weights.h5, which Keras 3 takes "
            "for its own)."
        )
    for suffix, format in BY_SUFFIX.items():
        if name.endswith(suffix):
            return format
    if name.endswith(".hdf5"):
        return FORMATS["h5"]
    raise BadInputError(
        f"{path}: its suffix is not a known format's. Targets end in {', '.join(f.suffix for f in FORMATS.values())}."
    )


def check_target(checkpoint: Checkpoint, path: Path, *, layout: str = "albanie", pixels: bool = False) -> Format:
    """The format of ``path``. Raises :class:`BadInputError` when :func:`write` would refuse it."""
    format = format_of(path, layout)
    if pixels and format.name not in WITH_PIXELS:
        raise BadInputError(
            f"{path}: preprocessing goes inside a model, a {' or '.join(f'.{name}' for name in WITH_PIXELS)} file; "
            "this is neither."
        )
    if format.name in PUBLISHED_ALONE and checkpoint.architecture.network == COMPACT:
        raise BadInputError(
            f"{path}: {format.suffix} files are for images of 224 x 224, and the compact network's are "
            f"{checkpoint.provenance.side} x {checkpoint.provenance.side}. Choose another format."
        )
    if checkpoint.provenance.standin:
        check_standin_name(checkpoint.provenance.source.name, path, format.suffix)
    return format


def write(
    checkpoint: Checkpoint,
    path: str | Path,
    *,
    logits: bool = False,
    channels_last: bool = False,
    layout: str = "albanie",
    pixels: bool = False,
) -> Written:
    """Write ``checkpoint`` to ``path`` in the format of its name.

    The bytes go to a temporary file, are read back by the reader of that format and compared bit for bit, and only
    then take the target's name. ``logits`` leaves the softmax out of a Keras or ONNX model; ``channels_last`` makes an
    ONNX model take images as height x width x channels; ``layout`` "keras-vggface" writes weights for that package's
    graphs; ``pixels`` puts the preprocessing inside a ``.h5`` or ``.keras`` model, which then takes RGB bytes.

    Raises :class:`OutputError` when the file cannot be written or does not read back as it should.
    """
    path = Path(path)
    format = check_target(checkpoint, path, layout=layout, pixels=pixels)
    has_softmax = format.has_output and not logits
    provenance = replace(with_output(checkpoint.provenance, probabilities=has_softmax), preprocessing_inside=pixels)
    labelled = replace(checkpoint, provenance=provenance)
    if layout == KERAS_VGGFACE:
        from convert.writers.keras_vggface import for_keras_vggface

        labelled = for_keras_vggface(labelled)
    activation = "softmax" if has_softmax else None
    with atomic_path(path, size=checkpoint.parameter_bytes + METADATA_BYTES) as temporary:
        options = {"channels_last": channels_last} if format.name == "onnx" else {"pixels": True} if pixels else {}
        format.load()(labelled, temporary, activation=activation, model_name=_model_name(labelled), **options)
        with ThreadPoolExecutor(2) as pool:  # flush, hash and comparison run at the same time
            digest = pool.submit(sha256_of, temporary)
            flushed = pool.submit(flush, temporary)
            file = MappedFile(temporary)
            found = read_named(file)
            compare(labelled, file, found, path)
            flushed.result()
            written = Written(path, format.name, temporary.stat().st_size, digest.result())
    return written


def compare(checkpoint: Checkpoint, file: MappedFile, found: NamedArrays, shown: Path) -> None:
    """Compare every array ``found`` in ``file`` with ``checkpoint``, bit for bit. Raises :class:`OutputError`."""
    layout = LAYOUTS[found.layout](checkpoint.architecture)
    names = {name for name in found.arrays if not name.endswith(STEP_COUNTER)}
    if names != set(layout):
        raise OutputError(f"{shown}: the file just written does not hold the arrays it should. It was discarded.")
    compared = 0

    def differs(slot: Slot) -> bool:
        nonlocal compared
        wanted = checkpoint.arrays[slot.layer][slot.role]
        equal = _equal_bits(slot.to_neutral(found.arrays[slot.name]), wanted)
        compared += wanted.nbytes
        if compared > RELEASE_EVERY:
            compared = 0
            file.release()
        return not equal

    def differing(some: Sequence[Slot]) -> list[str]:
        return [slot.name for slot in some if differs(slot)]

    halves = in_halves(differing, list(layout.values()), lambda slot: found.arrays[slot.name].nbytes)
    wrong = [name for half in halves for name in half]
    if wrong:
        raise OutputError(
            f"{shown}: {wrong[0]} reads back with other bits than were written ({counted(len(wrong), 'array')}). "
            "The disk or the memory is at fault; the file was discarded."
        )


def _equal_bits(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether two float32 arrays are equal, bit for bit, whatever their order in memory."""
    if found.shape != wanted.shape:
        return False
    found, wanted = found.view(np.uint32), wanted.view(np.uint32)
    return all(np.array_equal(found[..., some], wanted[..., some]) for some in blocks(wanted))


def _model_name(checkpoint: Checkpoint) -> str:
    purpose = {"classifier": "ferplus" if checkpoint.provenance.labels else f"{checkpoint.provenance.units}",
               "embedding": f"{checkpoint.provenance.units}d", "none": "notop"}[checkpoint.provenance.head]  # fmt: skip
    suffix = f"_{STANDIN}" if checkpoint.provenance.standin else ""
    return f"{checkpoint.architecture.network}_{purpose}{suffix}"
