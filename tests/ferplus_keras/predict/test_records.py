"""The file of results: whole rows whatever happens, and --resume that loses nothing and repeats nothing."""

from __future__ import annotations

import csv
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.predict.records import Answer, CsvFile, Prediction, columns, csv_bytes
from tests.conftest import run_python

MODEL = "net.h5@0123456789ab faces=blazeface margin=0.0"


def prediction(seed: int) -> Prediction:
    return Prediction.of(EMOTIONS, np.random.default_rng(seed).dirichlet(np.ones(8)))


#: One face, three faces, damaged, no face; names that CSV must quote, and one that is no UTF-8.
ANSWERS = [
    Answer("a.png", (prediction(0),)),
    Answer('b, "quoted"\nand broken\r.png', tuple(map(prediction, (1, 2, 3))), ((0, 1, 2, 3),) * 3),
    Answer("c.png", error="damaged: image file is truncated"),
    Answer("d\udcff.png", (), ()),
    Answer("é.png", (prediction(4), prediction(5)), ((5, 6, 7, 8),) * 2),
]


def written(path: Path, answers: list[Answer], **options: bool) -> CsvFile:
    file = CsvFile(path, EMOTIONS, MODEL, **options)
    for answer in answers:
        if answer.input not in file.done:
            file.write([answer])
    return file


def rows(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")))


def test_a_prediction_speaks_in_names() -> None:
    found = prediction(0)
    assert list(found.probabilities) == list(EMOTIONS) and found.confidence == max(found.probabilities.values())
    assert found.as_dict() == {
        "emotion": found.emotion, "confidence": found.confidence, "probabilities": found.probabilities,
    }  # fmt: skip
    one = Prediction({"neutral": 0.25, "fear": 0.6, "anger": 0.1, "joy": 0.05})
    assert repr(one) == "<Prediction: fear 60.0 %, neutral 25.0 %, anger 10.0 %>"


def test_the_file_takes_its_name_when_all_is_done(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.csv"
    file = written(path, ANSWERS)
    assert not path.exists() and file.partial.exists()
    file.finish()
    assert [each.name for each in path.parent.iterdir()] == ["out.csv"]
    header, *found = rows(path.read_bytes())
    assert header == columns(EMOTIONS)
    assert [row[0] for row in found] == [answer.input for answer in ANSWERS for _ in answer.predictions or [0]]
    assert [(row[1], row[2]) for row in found] == [
        ("1", "1"), ("1", "3"), ("2", "3"), ("3", "3"), ("0", "0"), ("0", "0"), ("1", "2"), ("2", "2"),
    ]  # fmt: skip
    assert float(found[0][9]) == pytest.approx(ANSWERS[0].predictions[0].probabilities["neutral"], rel=1e-6)
    assert found[4][-2].startswith("damaged") and not found[5][-2]


def test_a_kill_at_any_byte_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    whole = tmp_path / "whole.csv"
    written(whole, ANSWERS).finish()
    data = whole.read_bytes()
    for cut in range(len(data) + 1):
        path = tmp_path / "cut.csv"
        partial = tmp_path / "cut.csv.partial"
        partial.write_bytes(data[:cut])
        file = written(path, ANSWERS, resume=True)
        file.finish()
        assert path.read_bytes() == data, cut


def test_what_was_done_is_known_and_errors_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    written(path, ANSWERS[:4]).finish()
    file = CsvFile(path, EMOTIONS, MODEL, resume=True)
    assert len(file.done) == 4 and file.errors == 1 and ANSWERS[4].input not in file.done
    file.close()
    assert path.exists() and file.partial.exists()


def test_a_run_that_was_cut_short_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    written(path, ANSWERS[:2]).close()
    with pytest.raises(BadInputError, match="--resume"):
        CsvFile(path, EMOTIONS, MODEL)
    assert len(rows((tmp_path / "out.csv.partial").read_bytes())) == 5


def test_nothing_is_left_of_a_run_without_results(tmp_path: Path) -> None:
    CsvFile(tmp_path / "out.csv", EMOTIONS, MODEL).close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name,emotion\na.png,fear\n", "other columns"),
        ("name,emotion\n".encode("utf-16") * 40, "begins with a byte order mark"),
        ("name,emotion\n".encode("utf-8-sig") * 40, "begins with a byte order mark"),
        (csv_bytes([columns(EMOTIONS)]) + b"a.png,1,1\nb.png,1,1\n", "record 2: it is not a row"),
        (csv_bytes([columns(EMOTIONS), ["a.png", "\xb2", 1, *[""] * 15, MODEL]]), "record 2: it is not a row"),
        (csv_bytes([columns(EMOTIONS), ["a.png", "9" * 5000, 1, *[""] * 15, MODEL]]), "record 2: it is not a row"),
        (csv_bytes([columns(EMOTIONS), ["/a.png", 1, 1, *[""] * 15, "other.h5@ffffffffffff"]]), "made by other.h5"),
        (csv_bytes([columns(EMOTIONS), ["/a.png", 1, 3, *[""] * 15, MODEL], ["/a.png", 3, 3, *[""] * 15, MODEL]]),
         "face is missing"),
    ],
)  # fmt: skip
def test_what_another_run_wrote_is_not_gone_on_with(tmp_path: Path, content: bytes, says: str) -> None:
    partial = tmp_path / "out.csv.partial"
    partial.write_bytes(content)
    with pytest.raises(BadInputError, match=says):
        CsvFile(tmp_path / "out.csv", EMOTIONS, MODEL, resume=True)
    assert partial.read_bytes() == content


def test_a_full_disk_is_said_and_what_was_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "out.csv", ANSWERS[:1])
    kept = file.partial.read_bytes()

    def full(_data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file, "_append", full)
    with pytest.raises(OutputError, match="no space left"):
        file.write(ANSWERS[1:])
    assert file.partial.read_bytes() == kept


def test_a_file_that_may_not_grow_is_closed_without_another_error(tmp_path: Path) -> None:
    """The system's own limit: a row is written in part, and --resume cuts that off."""
    code = """
import pathlib, resource, sys
from ferplus_keras.errors import OutputError
from ferplus_keras.predict.records import Answer, CsvFile
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
file = CsvFile(pathlib.Path(sys.argv[1]), ("a",), "m")
try:
    for number in range(1000):
        file.write([Answer(f"{number}.png", error="damaged")])
except OutputError as error:
    print(error)
file.close()
"""
    said = run_python(code, tmp_path / "out.csv")
    assert "file too large" in said and "--resume" in said
    assert (tmp_path / "out.csv.partial").stat().st_size == 1000
    assert len(CsvFile(tmp_path / "out.csv", ("a",), "m", resume=True).done) > 10


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="folder"):
        CsvFile(tmp_path, EMOTIONS, MODEL)


def test_a_second_run_does_not_touch_the_file_of_a_living_one(tmp_path: Path) -> None:
    first = written(tmp_path / "out.csv", ANSWERS[:1])
    before = first.partial.read_bytes()
    with ThreadPoolExecutor(1) as pool:
        for resume in (False, True):
            second = pool.submit(CsvFile, tmp_path / "out.csv", EMOTIONS, MODEL, resume=resume)
            with pytest.raises(OutputError, match=f"being written by process {os.getpid()}"):
                second.result()
    assert first.partial.read_bytes() == before
    first.finish()


def test_a_link_is_written_through_and_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "out.csv").symlink_to("real.csv")
    written(tmp_path / "out.csv", ANSWERS[:1]).finish()
    assert (tmp_path / "out.csv").is_symlink() and len(rows((tmp_path / "real.csv").read_bytes())) == 2
    (tmp_path / "x.csv.partial").symlink_to("precious")
    with pytest.raises(OutputError, match="is a link"):
        CsvFile(tmp_path / "x.csv", EMOTIONS, MODEL, resume=True)
    os.mkfifo(tmp_path / "y.csv.partial")
    os.mkfifo(tmp_path / "z.csv")
    for name in ("y", "z"):
        with pytest.raises(OutputError, match="a named pipe"):
            CsvFile(tmp_path / f"{name}.csv", EMOTIONS, MODEL)
    assert (tmp_path / "precious").read_text() == "kept"


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_anything_after_the_header_is_gone_on_with_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rest: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "out.csv.partial").write_bytes(csv_bytes([columns(EMOTIONS)]) + rest)
    try:
        written(folder / "out.csv", ANSWERS, resume=True).finish()
    except BadInputError:
        return
    assert {row[0] for row in rows((folder / "out.csv").read_bytes())[1:]} >= {answer.input for answer in ANSWERS}
