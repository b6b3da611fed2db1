"""Arrays in an HDF5 file, with h5py: nothing is followed out of the file, and nothing is unpacked unseen.

HDF5 can point outside itself (external links, external and virtual datasets), can declare arrays that are not there,
and its filters unpack whatever a piece holds, however large it was declared. All of it is looked at before.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.budget import MAX_DEPTH, MAX_NAMES, Budget

#: What h5py raises when it meets damage.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)

MAX_DEFLATION = 1032  #: zlib's best; an array that is larger by more than that has no data for most of it
STEP = 1 << 18  #: bytes that are unpacked at a time, to see how many a piece holds

SHUFFLE, DEFLATE, FLETCHER32, LZF = h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32, 32000


@contextmanager
def open_hdf5(path: Path, content: bytes | None = None) -> Iterator[h5py.File]:
    """The HDF5 file at ``path``, or ``content`` out of it, until the block ends.

    Raises :class:`BadInputError` when it is damaged, also from within the block.
    """
    try:
        # A path lets HDF5 read by itself, without a Python call for each block.
        h5 = h5py.File(path if content is None else io.BytesIO(content), "r")
    except DAMAGE as error:
        raise BadInputError(
            f"{path} is a damaged HDF5 file ({first_line(error)}). It was probably cut short: copy or "
            "download it again."
        ) from None
    with h5:
        try:
            yield h5
        except DAMAGE as error:
            raise BadInputError(
                f"{path} is a damaged HDF5 file ({first_line(error)}). Copy or download it again."
            ) from error


#: How Keras 3 stores bfloat16, which h5py does not know: two opaque bytes a number.
BFLOAT16 = np.dtype("V2")


class StoredArray:
    """An array in an open HDF5 file: shape and type known, the numbers read when asked for.

    ``content`` is all of the HDF5 file, mapped or in memory.
    """

    def __init__(self, dataset: h5py.h5d.DatasetID, content: Any, budget: Budget, where: str) -> None:
        self.dataset, self.content, self.budget, self.where = dataset, content, budget, where
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype = dataset.dtype
        self.bfloat16 = self.dtype == BFLOAT16
        if self.bfloat16:
            self.dtype = np.dtype(np.float32)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def offset(self) -> int | None:
        """Where its plain, contiguous bytes begin in the HDF5 file; None when it is chunked, filtered or empty.

        None also when HDF5 keeps the numbers in a form that numpy has not (bfloat16, say) and converts them.
        """
        if self.bfloat16 or self.dataset.get_type() != h5py.h5t.py_create(self.dtype, logical=True):
            return None
        offset: int | None = self.dataset.get_offset()
        return offset

    def read(self) -> np.ndarray:
        """Its numbers, in memory of their own; bfloat16 widened to float32, which holds them exactly.

        Raises :class:`BadInputError` when they unpack to more than declared.
        """
        check_pieces(self.dataset, self.content, self.budget, self.where)
        array: np.ndarray = np.asarray(h5py.Dataset(self.dataset)[()])
        return (array.view("<u2").astype(np.uint32) << 16).view(np.float32) if self.bfloat16 else array

    def view(self) -> np.ndarray:
        """The same on the bytes of the file where they lie in one piece, as they do in ours; else read."""
        offset = self.offset
        if offset is None or offset + self.nbytes > len(self.content):
            return self.read()
        return np.ndarray(self.shape, self.dtype, buffer=self.content, offset=offset)


def arrays_below(path: Path, root: h5py.Group, content: Any, budget: Budget) -> dict[str, StoredArray]:
    """Every array under ``root`` by its path from there. Follows no link; refuses all but plain data.

    Raises :class:`BadInputError`.
    """
    links = _links_below(path, root)
    inner = {name.rpartition(b"/")[0] for name, _ in links}
    found: dict[str, StoredArray] = {}
    lying = 0
    for name, kind in links:
        where = name.decode("utf-8", "replace")
        if kind != h5py.h5l.TYPE_HARD:
            refuse_link(path, where)
        if name in inner:
            continue
        item = h5py.h5o.open(root.id, name)
        if isinstance(item, h5py.h5g.GroupID):
            if len(item):  # not visited through this name, so it was through another
                raise BadInputError(f"{path}: its groups form a loop at {where}. The file is not a model.")
        elif isinstance(item, h5py.h5d.DatasetID):
            stored = StoredArray(item, content, budget, where)
            in_one_piece = item.get_offset() is not None  # asking for more takes time
            if not in_one_piece:
                _refuse_foreign(path, where, item)
            if stored.dtype.kind in "SO":  # strings: Keras's own bookkeeping, never read as weights
                continue
            _refuse_absurd(path, stored)
            found[where] = stored
            if in_one_piece:
                lying += stored.nbytes // 2 if stored.bfloat16 else stored.nbytes
            else:
                budget.take(stored.nbytes, f"the array {where}")
    if lying > len(content):
        raise BadInputError(f"{path}: its arrays share their bytes, which no network's do. The file is not a model.")
    return found


def _links_below(path: Path, root: h5py.Group) -> list[tuple[bytes, int]]:
    """Name and kind of every link under ``root``, none of them followed."""
    links: list[tuple[bytes, int]] = []
    deepest = 0

    def note(name: bytes, info: Any) -> bool | None:
        nonlocal deepest
        links.append((name, info.type))
        deepest = max(deepest, name.count(b"/"))
        # HDF5 visits a group within its visit of the one above, as deep as the file wants; True ends that.
        return True if len(links) > MAX_NAMES or deepest > MAX_DEPTH else None

    root.id.links.visit(note, info=True)  # in one call, and without opening what a link points to
    if len(links) > MAX_NAMES:
        raise BadInputError(f"{path}: it has far too many entries. The file is not a model.")
    if deepest > MAX_DEPTH:
        raise BadInputError(f"{path}: its groups are nested more than {MAX_DEPTH} deep. The file is not a model.")
    return links


def refuse_link(path: Path, where: str) -> None:
    """Raise the :class:`BadInputError` for a link at ``where``."""
    raise BadInputError(
        f"{path}: {where} is a link and not data; a weights file has none. "
        "Do not load it; get the file from its author again."
    )


# --- attributes -------------------------------------------------------------------------------------------------------


def _refuse_foreign(path: Path, where: str, dataset: h5py.h5d.DatasetID) -> None:
    creation = dataset.get_create_plist()
    if creation.get_external_count() or creation.get_layout() == h5py.h5d.VIRTUAL:
        raise BadInputError(f"{path}: the array {where} lies in another file; a weights file carries its own data.")


def _refuse_absurd(path: Path, stored: StoredArray) -> None:
    if stored.shape is None or stored.dtype.kind not in "fiub":
        raise BadInputError(f"{path}: {stored.where} holds {stored.dtype} and no numbers.")
    if stored.nbytes > MAX_DEFLATION * stored.dataset.get_storage_size():
        raise BadInputError(
            f"{path}: the array {stored.where} claims the shape {stored.shape} and has no data for it. "
            "The file is damaged."
        )


# --- pieces -----------------------------------------------------------------------------------------------------------


def piece_bytes(dataset: h5py.h5d.DatasetID) -> int:
    """Bytes of the piece that is unpacked to read any of ``dataset``, which may be larger than all of it; 0: none."""
    creation = dataset.get_create_plist()
    if creation.get_layout() != h5py.h5d.CHUNKED:
        return 0
    return int(math.prod(creation.get_chunk()) * dataset.dtype.itemsize)


def check_pieces(dataset: h5py.h5d.DatasetID, content: Any, budget: Budget, where: str) -> None:
    """See that each piece of ``dataset`` unpacks to what is declared, before HDF5 unpacks it without a bound.

    Raises :class:`BadInputError`.
    """
    size = piece_bytes(dataset)
    if not size:
        return
    creation = dataset.get_create_plist()
    filters = [creation.get_filter(number)[0] for number in range(creation.get_nfilters())]
    if set(filters) - {SHUFFLE, DEFLATE, FLETCHER32, LZF} or filters.count(DEFLATE) + filters.count(LZF) > 1:
        raise BadInputError(
            f"{budget.path}: the array {where} is packed in a way that Keras never uses (HDF5's filters {filters}). "
            "Save it with gzip, or without compression."
        )
    whole = math.prod(dataset.shape) * dataset.dtype.itemsize
    if size > max(whole, 1 << 20):  # h5py itself chooses pieces of up to 1 MiB, also for a small array that may grow
        raise BadInputError(
            f"{budget.path}: the array {where} has {whole:,} bytes in chunks of {size:,} each. The file is damaged."
        )
    budget.check(2 * size, f"a piece of the array {where}")  # as it is packed, and unpacked

    pieces: list[Any] = []

    def note(piece: Any) -> bool | None:
        pieces.append(piece)
        return True if len(pieces) > MAX_NAMES else None

    dataset.chunk_iter(note)
    if len(pieces) > MAX_NAMES:
        raise BadInputError(f"{budget.path}: the array {where} is in more than {MAX_NAMES:,} pieces. It is damaged.")
    for piece in pieces:
        packed = memoryview(content)[piece.byte_offset : piece.byte_offset + piece.size]
        found = _unpacked(packed, [each for bit, each in enumerate(filters) if not piece.filter_mask >> bit & 1], size)
        if found != size:
            raise BadInputError(
                f"{budget.path}: a piece of the array {where} unpacks to {'more' if found > size else 'fewer'} than "
                f"the {size:,} bytes that it should have. The file is damaged."
            )


def _unpacked(packed: memoryview, filters: list[int], limit: int) -> int:
    """How many bytes a piece has without its filters; a number above ``limit`` when they are more than that."""
    if filters[-1:] == [FLETCHER32]:
        packed = packed[:-4]
    if DEFLATE in filters:
        return _inflated(packed, limit)
    return _expanded(packed, limit) if LZF in filters else len(packed)


def _inflated(packed: memoryview, limit: int) -> int:
    """How many bytes a zlib stream holds, as far as it is whole."""
    stream, count = zlib.decompressobj(), 0
    try:
        for start in range(0, len(packed), STEP):
            rest: bytes | memoryview = packed[start : start + STEP]
            while rest and count <= limit and not stream.eof:
                count += len(stream.decompress(rest, STEP))
                rest = stream.unconsumed_tail
    except zlib.error:
        return -1
    return count


def _expanded(packed: memoryview, limit: int) -> int:
    """The same of an LZF stream: runs of plain bytes, and copies of what came before."""
    data, place, count = bytes(packed), 0, 0
    end = len(data)
    while place < end and count <= limit:
        control = data[place]
        if control < 32:
            count, place = count + control + 1, place + control + 2
        elif control < 224:
            count, place = count + (control >> 5) + 2, place + 2
        else:
            count, place = count + (data[place + 1] if place + 1 < end else 0) + 9, place + 3
    return count
