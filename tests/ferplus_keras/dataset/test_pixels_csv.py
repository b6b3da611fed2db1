"""Kaggle's pixel file: every number comes out, and what is wrong is named with its line."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ferplus_keras.dataset.labels import read_labels
from ferplus_keras.dataset.pixels_csv import PIXELS, read_pixels
from ferplus_keras.errors import BadInputError
from tests.ferplus_files import Small, csv_bytes, small


def read(content: bytes, data: Small | None = None) -> np.ndarray:
    return read_pixels(io.BytesIO(content), read_labels((data or small()).labels()), "fer2013.csv")[0]


def test_every_pixel_comes_out() -> None:
    data = small()
    data.images[0], data.images[1], data.images[2] = 0, 255, 9  # one digit, three digits, all alike
    np.testing.assert_array_equal(read(data.pixels(), data), data.images)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoted", [False, True])
def test_the_other_names_orders_and_line_ends_are_read_too(end: str, quoted: bool) -> None:
    """icml_face_data.csv has blanks before its column names, and another order."""
    data = small()
    rows = [["emotion", " Usage", " pixels"]]
    rows += [[emotion, usage, f'"{pixels}"' if quoted else pixels] for emotion, pixels, usage in data.pixel_rows()]
    content = b"\xef\xbb\xbf" + csv_bytes(rows, end).rstrip() + (b"" if quoted else end.encode())
    np.testing.assert_array_equal(read(content), data.images)


def test_what_is_unusual_is_read_slowly_and_rightly() -> None:
    data = small()
    rows = data.pixel_rows()
    rows[3][1] = "  " + rows[3][1].replace(" ", "  ") + " "
    rows[4][1] = rows[4][1].replace(" ", "\t")
    first, _, rest = rows[5][1].partition(" ")
    rows[5][1] = f"{int(first):04} {rest}"
    np.testing.assert_array_equal(read(csv_bytes([["emotion", "pixels", "Usage"], *rows])), data.images)


def with_pixels(line: int, change: object) -> bytes:
    rows = small().pixel_rows()
    words = rows[line - 2][1].split()
    rows[line - 2][1] = " ".join(change(words))  # type: ignore[operator]
    return csv_bytes([["emotion", "pixels", "Usage"], *rows])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda words: words[:-1], "line 6: 2,303 numbers; an image has 48 x 48 = 2,304"),
        (lambda words: [*words, "7"], "line 6: 2,305 numbers"),
        (lambda words: ["256", *words[1:]], 'line 6: "256" is not a pixel'),
        (lambda words: ["300", *words[1:]], 'line 6: "300" is not a pixel'),
        (lambda words: ["999", *words[1:]], 'line 6: "999" is not a pixel'),
        (lambda words: ["1234", *words[1:]], 'line 6: "1234" is not a pixel'),
        (lambda words: ["-1", *words[1:]], 'line 6: "-1" is not a pixel'),
        (lambda words: ["1.5", *words[1:]], 'line 6: "1.5" is not a pixel'),
        (lambda words: ["9" * 5000, *words[1:]], "is not a pixel"),
        (lambda words: [], "line 6: 0 numbers"),
    ],
)
def test_an_image_that_is_none_is_named_with_its_line(change: object, told: str) -> None:
    with pytest.raises(BadInputError, match=r"fer2013\.csv") as caught:
        read(with_pixels(6, change))
    assert told in str(caught.value) and len(str(caught.value)) < 300


def test_a_number_too_many_in_one_row_does_not_make_up_for_one_too_few_in_the_next() -> None:
    """Together the two rows have the right count; read as one stream of numbers they would pass."""
    rows = small().pixel_rows()
    rows[0][1] += " 1"
    rows[1][1] = rows[1][1].rpartition(" ")[0]
    with pytest.raises(BadInputError, match="line 2: 2,305 numbers"):
        read(csv_bytes([["emotion", "pixels", "Usage"], *rows]))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([["emotion", "pixel", "Usage"]], 'line 1: there is no column "pixels"'),
        ([["emotion", "pixels"]], 'there is no column "Usage"'),
        ([["emotion", "pixels", "Usage"], *small().pixel_rows()[:-1]], "ends after 11 rows"),
        ([["emotion", "pixels", "Usage"], *small(13).pixel_rows()], "line 14: one row too many"),
        ([["emotion", "pixels", "Usage"], ["0", "1 2 3"]], "line 2: 2 fields where the header has 3"),
        ([["emotion", "pixels", "Usage"], *small().pixel_rows()[::-1]], 'line 2: Usage is "PrivateTest", and train'),
        ([["emotion", "pixels", "Usage"], ["x" * 200_000]], "longer than any row"),
        ([["", "", ""]], "no column"),
        ([], "no column"),
        ([["emotion;pixels;Usage"], ["0;1 2 3;Training"]], "line 1: its columns are separated by semicolons"),
        ([["emotion\tpixels\tUsage"]], "separated by tabs"),
    ],
)
def test_files_that_do_not_go_together_are_named(rows: list[list[str]], told: str) -> None:
    with pytest.raises(BadInputError) as caught:
        read(csv_bytes(rows))
    assert told in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_text_that_is_not_utf8_is_called_what_it_is(encoding: str) -> None:
    with pytest.raises(BadInputError, match=r"fer2013\.csv is not UTF-8 but UTF-16"):
        read(small().pixels().decode().encode(encoding))
    with pytest.raises(BadInputError, match=r"new\.csv is not UTF-8 but UTF-16"):
        read_labels(small().labels().decode().encode(encoding), "new.csv")


class Endless(io.RawIOBase):
    """A header, and then the same again and again."""

    def __init__(self, again: bytes) -> None:
        self.header, self.again, self.asked = b"emotion,pixels,Usage\n", again, 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        self.asked += 1
        assert self.asked < 10, "it is read on and on"
        text = (self.header + self.again * (len(into) // len(self.again)))[: len(into)]
        self.header = b""
        into[: len(text)] = text
        return len(text)


@pytest.mark.parametrize("again", [b"\n", b"\r\n", b"  \n", b"\r", b" ", b",,\n", b"0,,Training\n"])
def test_a_file_without_rows_is_not_read_to_its_end(again: bytes) -> None:
    with pytest.raises(BadInputError, match=r"fer2013\.csv, line"):
        read_pixels(Endless(again), read_labels(small().labels()), "fer2013.csv")  # type: ignore[arg-type]


@settings(max_examples=100)
@given(st.binary(max_size=60), st.integers(0, 30_000), st.integers(0, 30))
@example(b"", 0, 0)
@example(b"\n", 500, 0)
@example(b'"', 500, 1)
def test_damage_ends_in_a_sentence_or_in_the_right_numbers(junk: bytes, at: int, cut: int) -> None:
    data = small(4)
    content = data.pixels()
    damaged = content[:at] + junk + content[at + cut :]
    try:
        images = read(damaged, data)
    except BadInputError as error:
        assert "\n" not in str(error) and "fer2013.csv" in str(error) and len(str(error)) < 400
    else:
        assert images.shape == (4, 48, 48)
        changed = int((images != data.images).sum())
        assert changed <= len(junk) + cut  # a digit may be another digit; nothing may shift

    assert PIXELS == 48 * 48
