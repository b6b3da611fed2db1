"""Microsoft's label files: what is taken, and that what is wrong is named with its line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ferplus_keras.dataset.labels import read_folder_labels, read_labels
from ferplus_keras.errors import BadInputError
from tests.ferplus_files import HEADER, csv_bytes, small


def test_every_row_comes_out_as_it_stands_in_the_file() -> None:
    data = small()
    labels = read_labels(data.labels())
    np.testing.assert_array_equal(labels.votes, data.votes)
    np.testing.assert_array_equal(labels.split, data.split)
    assert list(labels.names) == data.names and labels.names[2] == ""
    assert labels.lines == tuple(range(2, 2 + len(data.names)))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_marks_quotes_blanks_and_the_order_of_columns_do_not_matter(end: str, mark: bytes) -> None:
    data = small()
    order = np.random.default_rng(1).permutation(len(HEADER))
    rows = [[HEADER[place].upper() for place in order]]
    rows += [[f'"{row[place]}"' if place % 2 else f" {row[place]}" for place in order] for row in data.label_rows()]
    labels = read_labels(mark + csv_bytes(rows, end) + end.encode() * 2)
    np.testing.assert_array_equal(labels.votes, data.votes)
    assert list(labels.names) == data.names


@pytest.mark.parametrize(
    ("spelled", "code"),
    [("Training", 0), ("train", 0), (" TRAIN ", 0), ("PublicTest", 1), ("public_test", 1), ("valid", 1), ("Val", 1),
     ("PrivateTest", 2), ("private test", 2), ("test", 2)],
)  # fmt: skip
def test_usage_is_understood_however_it_is_spelled(spelled: str, code: int) -> None:
    row = small().label_rows()[0]
    assert read_labels(csv_bytes([HEADER, [spelled, *row[1:]]])).split.tolist() == [code]


def broken(line: int, place: int, value: str) -> bytes:
    rows = [list(HEADER), *small().label_rows()]
    rows[line - 1][place] = value
    return csv_bytes(rows)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (csv_bytes([HEADER]), "no rows"),
        (broken(1, 3, "joy"), 'line 1: there is no column "happiness"'),
        (broken(1, 3, "neutral"), '"neutral" stands there 2 times'),
        (broken(5, 0, "Holiday"), 'line 5: "Holiday" is not a Usage'),
        (broken(7, 4, "x"), "line 7: the votes"),
        (broken(7, 4, "-1"), "line 7: the votes"),
        (broken(7, 4, "256"), "line 7: the votes"),
        (broken(7, 4, "1_0"), "line 7: the votes"),
        (broken(7, 4, "+1"), "line 7: the votes"),
        (broken(7, 4, "\u0663"), "line 7: the votes"),
        (broken(7, 4, "9" * 5000), "line 7: the votes"),
        (broken(4, 4, "1,1"), "line 4: 13 fields where the header has 12"),
        (csv_bytes([HEADER, ["Training", '"never closed', *"0000000000"]]), "not valid CSV"),
        (small().labels()[:60] + b"\xff\xfe" + small().labels()[60:], "line 1: the text is not UTF-8"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(content: bytes, told: str) -> None:
    with pytest.raises(BadInputError) as caught:
        read_labels(content, "fer2013new.csv")
    assert told in str(caught.value) and "fer2013new.csv" in str(caught.value)


def test_a_folders_file_has_no_header_and_may_be_given_one() -> None:
    line = 'fer0000000.png,"(0, 0, 48, 48)",4,0,0,1,3,2,0,0,0,0\n'
    header = "name,box,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    for text in (line, header + line):
        labels = read_folder_labels(text.encode(), 2, "label.csv")
        assert labels.names == ("fer0000000.png",) and labels.split.tolist() == [2]
        assert labels.votes.tolist() == [[4, 0, 0, 1, 3, 2, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a.png,box,1,2\n", "line 1: 4 fields where a row has 12"),
        (",box,1,0,0,0,0,0,0,0,0,0\n", "line 1: the image name is blank"),
        ("a.png,b,1,0,0,0,0,0,0,0,0,0\na.png,b,1,0,0,0,0,0,0,0,0,0\n", "line 2: the image name is 'a.png' again"),
        ("a.png,b,1,0,0,0,0,0,0,0,0,x\n", "line 1: the votes"),
    ],
)
def test_a_folders_file_names_its_lines_too(text: str, told: str) -> None:
    with pytest.raises(BadInputError, match=r"label\.csv") as caught:
        read_folder_labels(text.encode(), 0, "label.csv")
    assert told in str(caught.value)


@settings(max_examples=150)
@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 60))
@example(b"\x00", 0, 0)
@example(b'"' * 50, 120, 5)
def test_bytes_that_are_put_in_or_taken_out_end_in_a_result_or_a_sentence(junk: bytes, at: int, cut: int) -> None:
    content = small().labels()
    for text in (content[:at] + junk + content[at + cut :], junk):
        for read in (read_labels, lambda data: read_folder_labels(data, 0, "label.csv")):
            try:
                labels = read(text)
            except BadInputError as error:
                assert "\n" not in str(error) and len(str(error)) < 600
            else:
                assert labels.votes.shape == (len(labels), 10)
