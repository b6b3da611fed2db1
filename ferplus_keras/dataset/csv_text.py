"""What the readers of all CSV files share: text that is decoded, lines that are counted, errors that say where."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence

from ferplus_keras.errors import BadInputError

#: No label file comes near these; what goes beyond is something else, and is not read to its end.
MAX_LABEL_BYTES = 64 << 20
MAX_LABEL_ROWS = 1_000_000

#: What some spreadsheets put between columns instead of commas.
OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}


def rows_of(data: bytes, where: str) -> Iterator[tuple[int, list[str]]]:
    """Each row of a CSV text with the line it ends on; empty lines are left out.

    Takes a byte order mark, CRLF and quoted fields. Raises :class:`BadInputError` naming the line.
    """
    refuse_utf16(data, where)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInputError(f"{where}, line {line}: the text is not UTF-8. Save the file as plain CSV.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for count, row in enumerate(reader):
            if count > MAX_LABEL_ROWS:
                raise BadInputError(f"{where} has more than {MAX_LABEL_ROWS:,} rows, so it is not a FERPlus file.")
            if any(field.strip() for field in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise BadInputError(f"{where}, line {reader.line_num}: not valid CSV ({error}).") from None


def refuse_utf16(head: bytes, where: str) -> None:
    """Raise :class:`BadInputError` when a text that begins with ``head`` is in two or four bytes a character."""
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in head[:64]:
        raise BadInputError(
            f'{where} is not UTF-8 but UTF-16, which spreadsheets call "Unicode text". Save it as CSV in UTF-8, or '
            "take the published file as it was downloaded."
        )


def columns_of(header: Sequence[str], wanted: Sequence[str], where: str, line: int = 1) -> list[int]:
    """Where each of ``wanted`` stands in ``header``, whatever the case and the blanks around and in the names.

    Raises :class:`BadInputError` naming the column that is missing or there twice.
    """
    have = [_column_name(name) for name in header]
    places = []
    for name in wanted:
        if (count := have.count(_column_name(name))) != 1:
            if len(header) == 1 and (other := next((sign for sign in OTHER_SEPARATORS if sign in header[0]), None)):
                raise BadInputError(
                    f"{where}, line {line}: its columns are separated by {OTHER_SEPARATORS[other]}. Save it as CSV, "
                    "with commas."
                )
            problem = f'there is no column "{name}"' if not count else f'the column "{name}" stands there {count} times'
            shown = ", ".join(field.strip()[:30] for field in header[:14])
            raise BadInputError(f"{where}, line {line}: {problem} among: {shown}.")
        places.append(have.index(_column_name(name)))
    return places


def votes_of(fields: Sequence[str], where: str, line: int) -> list[int]:
    """Vote counts from their fields. Raises :class:`BadInputError` when one is no count from 0 to 255."""
    digits = [field.strip() for field in fields]
    # int() takes "1_0", "+1" and other scripts' digits too, and no end of them.
    if all(text.isascii() and text.isdigit() and len(text) <= 3 for text in digits):
        votes = [int(text) for text in digits]
        if max(votes) <= 255:
            return votes
    raise BadInputError(f"{where}, line {line}: the votes {', '.join(fields)[:80]} are not all counts.")


def _column_name(name: str) -> str:
    return "".join(name.lower().split()).strip("\ufeff_")
