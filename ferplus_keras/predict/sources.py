"""What people name, file, folder, pattern, Parquet or a list on standard input, as a lazy row of images.

Nothing here opens an image, and nothing keeps the names: a folder of a million files costs as much memory as one of
ten thousand. One image comes once, however many of the inputs name it.
"""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.opening import is_address
from ferplus_keras.predict.decoding import decode, read_image
from ferplus_keras.predict.seen import Seen

if TYPE_CHECKING:
    from PIL.Image import Image

#: Entries of a folder that are sorted at a time. A larger folder comes in sorted pieces of this many.
SORTED_ENTRIES = 10_000

#: A longer name is none; a list that has no line ends is no list.
MAX_NAME_BYTES = 1 << 16

#: Inputs that are tried before a network is loaded: if none can be read, there may be nothing to do.
LOOKED_AT = 32

#: Columns of a Parquet file in which images are looked for, and beside them their names.
IMAGE_COLUMNS = ("image", "bytes", "picture", "data", "img")

#: The suffix of Parquet files.
PARQUET = ".parquet"

#: Rows of a Parquet file that are read at a time.
PARQUET_ROWS = 64

#: Bytes by which a column of images may be larger unpacked than packed. Images are packed already.
UNPACKED_BYTES = 64 << 20


@dataclass(frozen=True)
class Source:
    """One image to come: its name as it was given, and its bytes where it is no file.

    ``inside`` is its path within the folder that was named; ``problem`` says why there is nothing to open.
    """

    name: str
    data: bytes | None = None
    inside: str | None = None
    problem: str = ""

    def read(self) -> Image:
        """The image, upright, in RGB. Raises :class:`BadInputError`."""
        if self.problem:
            raise BadInputError(self.problem)
        return read_image(self.name) if self.data is None else decode(self.data, self.name)


@dataclass(frozen=True)
class RowGroup:
    """Some rows of a Parquet file of images: its ``group``-th piece, from the row ``first`` on, ``rows`` of them."""

    path: str
    group: int
    first: int
    rows: int

    def name(self, row: int) -> str:
        """What the image in a row of the file is called."""
        return f"{self.path}#{row}"


Place = Source | RowGroup


@dataclass(frozen=True)
class Ahead:
    """What a look at the first inputs says, before anything large is loaded.

    ``readable`` says whether an image among them can be read; ``problems`` are those before it that cannot, each with
    its reason, and ``broken`` whether one of these is a file at all. ``all`` are the same inputs as if nobody had
    looked.
    """

    readable: bool
    problems: list[Source]
    broken: bool
    all: Iterator[Source]


def look_ahead(sources: Iterable[Source]) -> Ahead:
    """Look for an image that can be read among the first :data:`LOOKED_AT` of ``sources``."""
    coming = iter(sources)
    looked: list[Source] = []
    problems: list[Source] = []
    broken = readable = False
    for source in islice(coming, LOOKED_AT):
        looked.append(source)
        try:
            source.read()
        except BadInputError as error:
            problems.append(replace(source, problem=str(error), data=None))
            there = (source.name, source.name.rpartition("#")[0])  # a file, or a row of one
            broken = broken or any(os.path.lexists(name) and not os.path.isdir(name) for name in there)  # noqa: PTH112
        else:
            readable = True
            break
    else:
        readable = len(looked) == LOOKED_AT  # there may be one later
    return Ahead(readable, problems, broken, chain(looked, coming))


def find_sources(
    inputs: Sequence[str], *, listed: BinaryIO | None = None, null: bool = False, done: Seen | None = None
) -> Iterator[Source]:
    """The images that ``inputs`` name, each once, in the order of the inputs.

    Args:
        inputs: image files, folders (searched to the bottom for names with an image's suffix), patterns such as
            ``faces/**/*.jpg``, Parquet files, and ``-`` for the names in ``listed``.
        listed: a list of names, one a line, or with ``null`` one before each zero byte.
        done: names that are left out; those that come are added.
    """
    seen = Seen() if done is None else done
    for place in find_places(inputs, listed=listed, null=null):
        for source in (place,) if isinstance(place, Source) else rows_of(place):
            if seen.add(source.name):
                yield source


def find_places(inputs: Sequence[str], *, listed: BinaryIO | None = None, null: bool = False) -> Iterator[Place]:
    """The same, nothing opened: images, and pieces of Parquet files; what is named twice comes twice."""
    for given in inputs:
        yield from _of_list(listed, null) if given == "-" else _of_input(given)


def _of_list(listed: BinaryIO | None, null: bool) -> Iterator[Place]:
    for name in _names(listed, b"\0" if null else b"\n") if listed is not None else ():
        yield from _of_place(name)


def _of_input(given: str) -> Iterator[Place]:
    if os.path.lexists(given) or not glob.has_magic(given) or is_address(given):
        yield from _of_place(given)
        return
    names = glob.iglob(given, recursive=True)  # noqa: PTH207
    found = False
    while piece := sorted(islice(names, SORTED_ENTRIES)):
        for name in piece:
            if not os.path.isdir(name):  # noqa: PTH112  (`faces/*` means the files in it)
                found = True
                yield from _of_place(name)
    if not found:
        yield Source(given, problem="no file matches this pattern")


def _of_place(name: str) -> Iterator[Place]:
    if not name or "\0" in name:
        yield Source(name, problem="not a file name")
    elif os.path.isdir(name):  # noqa: PTH112  (Path.is_dir raises on a name that is too long)
        found = False
        for place in _of_folder(name):
            found = True
            yield place
        if not found:
            yield Source(name, problem="a folder without images")
    elif name.lower().endswith(PARQUET) and os.path.isfile(name):  # noqa: PTH113
        yield from _of_parquet(name)
    else:
        yield Source(name)


def _of_folder(folder: str) -> Iterator[Place]:
    """The images below ``folder``, a folder's own before those of the folders in it; hidden ones are left out."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        below: list[str] = []
        try:
            with os.scandir(here) as entries:
                while piece := sorted(islice(entries, SORTED_ENTRIES), key=lambda entry: entry.name):
                    for entry in piece:
                        suffix = Path(entry.name).suffix.lower()
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir(follow_symlinks=False):  # a link may lead back up
                            below.append(entry.path)
                        elif suffix == PARQUET:
                            yield from _of_parquet(entry.path)
                        elif suffix in suffixes() and not os.path.isdir(entry.path):  # noqa: PTH112  (no error for a link to itself)
                            yield Source(entry.path, inside=os.path.relpath(entry.path, folder))
        except OSError as error:
            yield Source(here, problem=f"a folder that cannot be read: {(error.strerror or 'unknown error').lower()}")
        waiting += sorted(below, reverse=True)


@cache
def suffixes() -> frozenset[str]:
    """What the names of images end in: all that Pillow registers for a format that it can read."""
    from PIL import Image

    return frozenset(end for end, format in Image.registered_extensions().items() if format in Image.OPEN)


def _names(stream: BinaryIO, end: bytes) -> Iterator[str]:
    """The names in ``stream``; a carriage return before a line's end belongs to the line's end."""
    rest, piece = b"", _piece(stream)
    if piece.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise BadInputError("The list of names is in UTF-16, as PowerShell writes files. Save it in UTF-8.")
    piece = piece.removeprefix(codecs.BOM_UTF8)
    while piece:
        *names, rest = (rest + piece).split(end)
        if len(rest) > MAX_NAME_BYTES:
            raise BadInputError(f"The list of names has one of more than {MAX_NAME_BYTES:,} bytes: it is not a list.")
        yield from _as_names(names, end)
        piece = _piece(stream)
    yield from _as_names([rest], end)


def _piece(stream: BinaryIO) -> bytes:
    try:
        piece: bytes = stream.read1(MAX_NAME_BYTES) if hasattr(stream, "read1") else stream.read(MAX_NAME_BYTES)
    except OSError as error:
        raise BadInputError(f"The list of names cannot be read: {(error.strerror or str(error)).lower()}.") from None
    return piece


def _as_names(names: Iterable[bytes], end: bytes) -> Iterator[str]:
    for name in names:
        if end == b"\n":
            name = name.removesuffix(b"\r")
        if name:
            yield os.fsdecode(name)


# --- Parquet ----------------------------------------------------------------------------------------------------


def _of_parquet(path: str) -> Iterator[Place]:
    try:
        yield from row_groups(path)
    except BadInputError as error:
        yield Source(path, problem=str(error))


def row_groups(path: str) -> list[RowGroup]:
    """The row groups of the Parquet file at ``path``. Raises :class:`BadInputError`."""
    if not os.path.isfile(path):  # noqa: PTH113  (a named pipe would be waited for)
        raise BadInputError("not a file")
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise BadInputError("reading Parquet needs pyarrow: pip install 'ferplus-keras[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            counts = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
            _column(file.schema_arrow.names)
            if sum(counts) > os.path.getsize(path):  # noqa: PTH202  (an image takes more than a byte)
                raise BadInputError(f"damaged: it claims {sum(counts):,} rows, more than it has bytes")
    except BadInputError:
        raise
    except Exception as error:  # pyarrow's own classes, OSError, ValueError
        raise BadInputError(f"not a Parquet file that can be read: {first_line(error, 120)}") from None
    return [RowGroup(path, index, sum(counts[:index]), count) for index, count in enumerate(counts)]


def rows_of(piece: RowGroup) -> Iterator[Source]:
    """The images of one row group, read a few at a time."""
    import pyarrow.parquet as parquet

    row, end = piece.first, piece.first + piece.rows
    problem = "the Parquet file has fewer rows than it says"
    try:
        with parquet.ParquetFile(piece.path) as file:
            column = _column(file.schema_arrow.names)
            _refuse_bomb(file.metadata.row_group(piece.group), column)
            for batch in file.iter_batches(PARQUET_ROWS, row_groups=[piece.group], columns=[column]):
                for value in batch.column(0).to_pylist():
                    if isinstance(value, dict):  # a structure of bytes and a path, as the datasets library writes them
                        value = value.get("bytes")
                    if isinstance(value, bytes):
                        yield Source(piece.name(row), value)
                    else:
                        yield Source(piece.name(row), problem="holds no bytes")
                    row += 1
    except BadInputError as error:
        problem = str(error)
    except Exception as error:  # what pyarrow raises on damage
        problem = f"the Parquet file is damaged here: {first_line(error, 120)}"
    for left in range(row, end):
        yield Source(piece.name(left), problem=problem)


def _refuse_bomb(group: Any, column: str) -> None:
    """Raise :class:`BadInputError` when the rows of a group unpack to far more than they take in the file."""
    parts = [group.column(index) for index in range(group.num_columns)]
    parts = [part for part in parts if part.path_in_schema.split(".")[0] == column]
    packed, unpacked = (sum(getattr(part, f"total_{kind}_size") for part in parts) for kind in
                        ("compressed", "uncompressed"))  # fmt: skip
    if unpacked > packed + UNPACKED_BYTES:
        raise BadInputError(f"the Parquet rows would unpack from {packed:,} to {unpacked:,} bytes, which no images do")


def _column(names: Sequence[str]) -> str:
    for name in IMAGE_COLUMNS:
        if name in names:
            return name
    raise BadInputError(
        f"its columns are {', '.join(names)[:120]}; the images' bytes are looked for in {', '.join(IMAGE_COLUMNS)}"
    )
