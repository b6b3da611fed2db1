"""Files in: bytes -> named arrays (one module a format) -> a checkpoint that is complete and checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from convert.checkpoint import STANDIN, Checkpoint, Provenance, Source, labels_for, with_output
from convert.choice import choose
from convert.heads import adopt_head
from convert.match_report import by
from convert.matching import Match, NamedArrays, match, without_prefix
from convert.readers.keras_vggface import in_our_terms
from convert.readers.torch_file import is_torch_file, read_torch_file
from convert.torchvision_names import MARKER, NOTE, published_name
from ferplus_keras import HDF5_MAGIC, PROVENANCE_KEY
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.network_folder import EXPORT, STATE_KEY, open_checkpoint
from ferplus_keras.files.provenance import named_standin, provenance_of
from ferplus_keras.files.safetensors_file import Tensors, read_tensors
from ferplus_keras.files.shipped import shipped_at
from ferplus_keras.files.signatures import is_mat_file, is_onnx, is_safetensors
from ferplus_keras.files.zips import is_keras_zip
from ferplus_keras.networks.architecture import Head, architecture
from ferplus_keras.networks.keras_vggface import KERAS_VGGFACE
from ferplus_keras.networks.preprocessing import PUBLISHED, trained_side


def read_named(file: MappedFile, key: str | None = None) -> NamedArrays:
    """The arrays of ``file`` by its own names; of the network under ``key`` where it holds several.

    The format is recognised by the content, not by the file's name.

    Raises :class:`BadInputError` if the format is unknown or the file damaged.
    """
    head = bytes(file.view[:512])
    if key is not None and not (is_safetensors(head) or (is_torch_file(head) and not is_keras_zip(file.path))):
        raise BadInputError(f"{file.path} holds one network: leave out --key, which is for a .pth or .safetensors.")
    if is_mat_file(head):
        from convert.readers.mat_file import read_mat

        return read_mat(file)
    if head[:8] == HDF5_MAGIC or (head[:4] == b"PK\x03\x04" and is_keras_zip(file)):
        from convert.readers.keras import read_keras  # h5py costs 0.1 s, and a PyTorch file does not need it

        return read_keras(file)
    if is_safetensors(head):
        tensors = read_tensors(file)
        record = provenance_of(file.path, tensors.metadata.get(PROVENANCE_KEY))
        _path, arrays, notes = choose(file.path, {"": tensors.arrays}, key)
        if STATE_KEY in tensors.metadata:
            return _state(file, tensors)
        dtypes = {name: tensors.dtypes[name] for name in arrays}
        return NamedArrays("safetensors", "torch", arrays, dtypes, notes, record)
    if is_torch_file(head):
        found = read_torch_file(file, key)
        notes = [f"the state dict was found under {' / '.join(found.wrapping)}"] if found.wrapping else []
        provenance = found.metadata.get(PROVENANCE_KEY)
        return NamedArrays(
            found.format, "torch", found.tensors, found.dtypes, notes + found.notes,
            provenance if isinstance(provenance, dict) else None, standin=found.metadata.get(STANDIN) is True,
        )  # fmt: skip
    if is_onnx(head):
        from convert.readers.onnx_file import read_onnx

        return read_onnx(file)
    raise BadInputError(f"{file.path} is not a checkpoint: {_what_it_is(head, file.size)}")


def _state(file: MappedFile, tensors: Tensors) -> NamedArrays:
    """One epoch of a training, in Keras's names: what is to be known of it besides, the manifest says, or nothing."""
    trained = shipped_at(file.path)
    if trained is None:
        raise BadInputError(
            f"{file.path} is a state of a training and does not name its classes. Name the training's folder, once it "
            "is finished."
        )
    return NamedArrays("safetensors", "keras", tensors.arrays, tensors.dtypes, provenance=asdict(trained.provenance))


def read_checkpoint(
    source: str | Path | MappedFile,
    *,
    network: str = "auto",
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
    check_graph: bool = True,
    key: str | None = None,
    geometry: str | None = None,
) -> Checkpoint:
    """The checkpoint in the file ``source``, whatever its format, matched strictly against its architecture.

    Args:
        source: a ``.pth``, ``.safetensors``, ``.h5``, ``.weights.h5``, ``.keras``, ``.onnx`` or ``.mat`` file, or the
            folder of a network (:func:`ferplus_keras.files.network_folder.network_file`).
        network: "auto" recognises the network; "resnet50", "senet50" or "compact" insists.
        allow_missing, allow_unexpected: see :func:`convert.matching.match`.
        check_graph: compare the graph in a Keras file with the network's, and take a head of another name on its
            features as the classifier. False leaves the arrays as they are, for callers that run the graph itself.
        key: the network to take if the file holds several, such as "model_ema".
        geometry: "published" asserts that tensors under torchvision's names have the published geometry.

    Raises:
        BadInputError: the file is damaged, unsafe, incomplete, or not one of these networks, or its graph is not the
            graph of the network that its arrays belong to.
    """
    file = open_checkpoint(source)
    file.begin_sha256()
    found = read_named(file, key)
    if geometry == "published":
        found = under_published_names(found)
    found = with_head(found) if check_graph else in_our_terms(found)
    earlier = valid_provenance(found)
    try:
        result = match(
            found, file.path.name, network=network, allow_missing=allow_missing, allow_unexpected=allow_unexpected
        )
    except BadInputError as error:
        if check_graph and found.graph and found.departure and found.akin:  # the cause of the table's entries
            raise _another_graph(file, "none of these networks'", found.departure, error.details) from None
        raise
    described = Source(file.name, file.size, file.sha256(), found.format)
    if check_graph and (problem := graph_problem(found)):
        raise _another_graph(file, f"not {result.architecture.network}'s", problem)
    head = result.architecture.head
    folded = result.architecture.folded
    dropout = 0.0 if folded else found.dropout or (earlier.dropout if earlier else 0.0)
    ours = earlier if earlier and earlier.layout == "albanie" else None  # keras_vggface's preprocessing is its own
    preprocessing = ours.preprocessing if ours else _preprocessing(found, result.notes)
    provenance = Provenance(
        source=described,
        origin=earlier.origin if earlier else described,
        network=result.architecture.network,
        head=head.kind,
        units=head.units,
        dropout=dropout,
        labels=_labels(found, head, earlier),
        preprocessing=preprocessing,
        standin=found.standin or named_standin(file.path.name) or bool(earlier and earlier.standin),
        num_batches_tracked=_step_counters(found, result, earlier),
        torch_head=earlier.torch_head if earlier and not _is_state_dict(found) else result.torch_head,
        folded=folded,
        notes=tuple(result.notes),
        training=earlier.training if earlier else None,
    )  # fmt: skip
    output = found.output or (earlier.output if earlier and not _is_state_dict(found) else "logits")
    provenance = with_output(provenance, probabilities=output == "probabilities")
    return Checkpoint(
        architecture(result.architecture.network, head, dropout, folded=folded), result.arrays, provenance
    )


def _another_graph(file: MappedFile, whose: str, problem: str, details: str = "") -> BadInputError:
    return BadInputError(
        f"{file.path}: its graph is {whose}: {problem}. Converted, its arrays would compute something else; "
        f"`ferplus verify parity {file.path} --against ...` shows what it does.",
        details,
    )


def own_provenance(path: str | Path) -> Provenance | None:
    """The provenance of the file at ``path``; None if none of our writers made it.

    Raises :class:`BadInputError` when the file cannot be read.
    """
    return valid_provenance(read_named(open_checkpoint(path)))


def with_head(found: NamedArrays) -> NamedArrays:
    """``found`` under our names; a head of another name on its features, if any, becomes the classifier."""
    if _is_state_dict(found):
        return adopt_head(without_prefix(found))
    if found.layout == "torch":
        return found
    from convert.readers.keras_pairing import by_graph

    dialect = found.layout == KERAS_VGGFACE
    found = in_our_terms(found)
    return by_graph(found, dialect=dialect) if found.graph else adopt_head(found)


def under_published_names(found: NamedArrays) -> NamedArrays:
    """``found`` under the published names if it has torchvision's; anything else unchanged."""
    bare = without_prefix(found) if _is_state_dict(found) else found
    return bare.renamed(published_name, NOTE) if MARKER in bare.arrays else found


def graph_problem(found: NamedArrays) -> str:
    """Where the graph in a Keras file differs from the network of its arrays; "" if it does not."""
    if found.departure:
        return found.departure
    inside = found.provenance is not None and found.provenance.get("preprocessing_inside") is True
    if found.graph and inside and not found.preprocessed:
        return "it says that it subtracts the mean itself, but the layer data does something else"
    return ""


def _preprocessing(found: NamedArrays, notes: list[str]) -> dict[str, Any]:
    """The published preprocessing, to the size that the file's graph takes; ``notes`` gets that, if it is another."""
    if found.size is None or found.size == PUBLISHED.size:
        return PUBLISHED.as_dict()
    side = trained_side(found.size)
    given = f"its graph takes images of {by(found.size)}"
    if side != found.size[0]:
        notes.append(f"{given}, which no file made here can: they take {side} x {side}")
    else:
        notes.append(f"{given}, and nothing says that the network was trained on others: that size was kept")
    return replace(PUBLISHED, size=(side, side)).as_dict()


def _labels(found: NamedArrays, head: Head, earlier: Provenance | None) -> tuple[str, ...] | None:
    if found.adopted:
        return None
    if found.labels and labels_for(head):
        return found.labels
    if earlier is None or (earlier.head, earlier.units) != (head.kind, head.units):
        return labels_for(head)
    return earlier.labels


def _step_counters(found: NamedArrays, result: Match, earlier: Provenance | None) -> int | dict[str, int] | None:
    """PyTorch's counters: from the tensors, from a Keras file's provenance, or zero for a network made in Keras."""
    if _is_state_dict(found):
        return result.num_batches_tracked
    return earlier.num_batches_tracked if earlier else 0


def _is_state_dict(found: NamedArrays) -> bool:
    """Whether the file is a state dict, which has a place for everything that PyTorch keeps."""
    return found.layout == "torch" and found.format != "onnx"


def valid_provenance(found: NamedArrays) -> Provenance | None:
    """The file's provenance, if one of our writers made it.

    A record that this version cannot read becomes a note; only that its weights are made up is kept.
    """
    if found.provenance is None:
        return None
    try:
        return Provenance.from_dict(found.provenance)
    except ValueError as error:
        found.standin = found.standin or found.provenance.get("standin") is True
        found.notes.append(f"its provenance record could not be read and was ignored ({error})")
        return None


def looks_like_html(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a web page, which dead links answer with status 200."""
    return head[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))


def _what_it_is(head: bytes, size: int) -> str:
    """A guess at what the file is instead of a checkpoint, and what to do."""
    if not size:
        return "it is empty. Copy or download it again."
    if looks_like_html(head):
        return "it is an HTML page, most likely what a dead link answered. Delete it and get the file elsewhere."
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself. Run `git lfs pull` where it came from."
    if head[4:8] == b"TFL3":
        return f"it is a TensorFlow Lite file, {EXPORT}"
    if head.startswith(b"\x1f\x8b"):
        return "it is gzip-compressed. Unpack it first."
    if head[257:262] == b"ustar":
        return "it is a tar archive. Unpack it first."
    return (
        f"{size:,} bytes that begin with {_beginning(head)}, not PyTorch, safetensors, HDF5, .keras, ONNX or "
        "MATLAB. Check that the download is complete."
    )


def _beginning(head: bytes) -> str:
    """The first bytes, as text if possible, else in hexadecimal."""
    text = head[:8].decode("latin1")
    return f'"{text}"' if text.isascii() and text.isprintable() else head[:8].hex(" ")


__all__ = [
    "graph_problem", "in_our_terms", "looks_like_html", "own_provenance", "read_checkpoint", "read_named",
    "under_published_names", "valid_provenance", "with_head",
]  # fmt: skip
