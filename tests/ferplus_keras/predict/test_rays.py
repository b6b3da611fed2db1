"""Ray: the work is cut up without losing any, and a worker that is killed costs nothing but time."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from ferplus_keras.predict import rays
from ferplus_keras.predict.rays import Worker, find_pieces
from ferplus_keras.predict.seen import Seen
from tests.conftest import run_python
from tests.ferplus_keras.predict.conftest import Brightness, drawing


def write_parquet(path: Path, count: int, group: int = 10) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = []
    for number in range(count):
        stream = io.BytesIO()
        drawing(number).save(stream, "PNG")
        rows.append(stream.getvalue())
    parquet.write_table(pyarrow.table({"image": rows}), path, row_group_size=group)
    return path


def test_the_pieces_hold_everything_once(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rays, "PIECE", 4)
    table = write_parquet(tmp_path / "t.parquet", 25)
    done = Seen()
    done.add(str(faces / "0.png"))
    done.add(f"{table}#13")
    inputs = [str(faces), str(table), str(faces / "1.png"), str(table)]
    pieces = list(find_pieces(inputs, done))
    names = [name for piece in pieces for name in piece.names]
    expected = {str(faces / f"{number}.png") for number in (1, 2, 3)}
    expected |= {str(faces / "more" / f"{number}.png") for number in (4, 5)}
    expected |= {f"{table}#{row}" for row in range(25) if row != 13}
    assert len(names) == len(set(names)) and set(names) == expected
    for piece in pieces:
        assert [source.name for source in piece.read()] == piece.names


def test_a_worker_answers_what_it_was_given(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ferplus_keras.predict.classifier.EmotionClassifier", Brightness)
    (faces / "1.png").write_bytes(b"damaged")
    (piece,) = find_pieces([str(faces)], Seen())
    answers = Worker("net.h5", 2).answer(piece)
    assert [answer.input for answer in answers] == piece.names
    assert [bool(answer.error) for answer in answers] == [False, True, False, False, False, False]


#: Kills one of the worker processes as soon as the first answers are there, and says how many it saw.
KILLING = """
import sys, time, pathlib, psutil
from ferplus_keras.predict import rays, records
from ferplus_keras.networks.emotions import EMOTIONS

if __name__ == "__main__":
    rays.PIECE = 8
    model, out, *inputs = sys.argv[1:]
    file = records.CsvFile(pathlib.Path(out), EMOTIONS, "net@0")
    killed, workers = [], set()

    def alive():
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if "MapWorker" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                pass
        return found

    for answers in rays.predict_with_ray(model, inputs, workers=2, batch=4, done=file.done):
        file.write(answers)
        found = alive()
        workers |= {process.pid for process in found}
        if found and not killed:
            found[0].kill()
            killed.append(found[0].pid)
    file.finish()
    print(len(killed), len(workers - set(killed)))
"""


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(standin: dict[str, Path], tmp_path: Path) -> None:
    """Two workers on a local Ray, one killed on the way: every image once, with the numbers of a run without Ray."""
    pytest.importorskip("ray")
    from ferplus_keras import EmotionClassifier

    folder = tmp_path / "faces"
    folder.mkdir()
    for number in range(80):
        drawing(number).save(folder / f"{number:02}.png")
    (folder / "40.png").write_bytes(b"damaged")
    table = write_parquet(tmp_path / "t.parquet", 20)
    out = tmp_path / "out.csv"
    said = run_python(KILLING, standin["onnx"], out, folder, table)
    killed, others = map(int, said.splitlines()[-1].split())
    assert killed == 1 and others >= 1, "nothing was killed"
    rows = list(csv.DictReader(out.open(newline="")))
    expected = [str(folder / f"{number:02}.png") for number in range(80)] + [f"{table}#{row}" for row in range(20)]
    assert sorted(row["input"] for row in rows) == sorted(expected)
    assert [row["input"] for row in rows if row["error"]] == [str(folder / "40.png")]
    found = {row["input"]: row for row in rows}
    for number, one in enumerate(EmotionClassifier(standin["onnx"]).predict([drawing(n) for n in range(4)])):
        for name in (str(folder / f"{number:02}.png"), f"{table}#{number}"):
            assert float(found[name]["happiness"]) == pytest.approx(one.probabilities["happiness"], abs=1e-5)
