"""Results as Parquet, made of the CSV file when all is done: typed columns for programs that read millions of rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.atomic import atomic_path
from ferplus_keras.predict.records import columns, unformulated

#: Rows that are in memory at a time.
ROWS = 10_000

#: Columns that are whole numbers; probabilities are float32, the others text.
WHOLE = ("face", "faces", "left", "top", "right", "bottom")
TEXT = ("input", "emotion", "error", "model")


def check_parquet() -> None:
    """Raise :class:`BadInputError` when Parquet cannot be written here, before minutes of work."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise BadInputError("--parquet needs pyarrow: pip install 'ferplus-keras[parquet]'.") from None


def write_parquet(results: Path, labels: Sequence[str], target: Path) -> Path:
    """Write the CSV file ``results`` to ``target``, whole or not at all. What is empty there is null here.

    Raises :class:`OutputError`.
    """
    import pyarrow
    from pyarrow import parquet

    kinds = {name: pyarrow.string() for name in TEXT} | {name: pyarrow.int32() for name in WHOLE}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.float32())) for name in columns(labels)])
    with atomic_path(target) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for rows in _batches(results):
            values = {name: [_value(row[name], name) for row in rows] for name in schema.names}
            writer.write_table(pyarrow.table(values, schema=schema))
    return target


def _batches(results: Path) -> Iterator[list[dict[str, str]]]:
    with results.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        header = next(csv.reader(stream))
        reader = csv.DictReader(stream, [unformulated(name) for name in header])
        while rows := list(islice(reader, ROWS)):
            yield rows


def _value(text: str, name: str) -> Any:
    if not text:
        return None
    if name in TEXT:  # Parquet's text is UTF-8; a name that is none keeps what can be kept of it
        return unformulated(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return int(text) if name in WHOLE else float(text)
