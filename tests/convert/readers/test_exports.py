"""What an export says of itself, read from bytes that may be anything."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from convert.inspection import as_text, inspect
from convert.readers import read_checkpoint
from convert.readers.exports import EXTRA, read_export
from ferplus_keras import PROVENANCE_KEY, PROVENANCE_MEMBER
from ferplus_keras.errors import BadInputError, DamagedError
from ferplus_keras.files.flatbuffer import Table
from ferplus_keras.files.mapped_file import MappedFile
from tests.seeded import seeded_checkpoint
from tests.small import small_networks


def small_tflite(record: str, *, custom: str = "") -> bytes:
    """A TensorFlow Lite file of one operator and one tensor, built with FlatBuffers' own library."""
    import flatbuffers

    builder = flatbuffers.Builder(1024)

    def table(fields: dict[int, tuple[str, int]], slots: int) -> int:
        builder.StartObject(slots)
        for slot, (kind, value) in fields.items():
            if kind == "offset":
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
            elif kind == "int8":
                builder.PrependInt8Slot(slot, value, 0)
            else:
                builder.PrependUint32Slot(slot, value, 0)
        return int(builder.EndObject())

    def vector(offsets: list[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    def integers(values: list[int]) -> int:
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            builder.PrependInt32(value)
        return int(builder.EndVector())

    name, key = builder.CreateString(custom), builder.CreateString(PROVENANCE_KEY)
    data = builder.CreateByteVector(record.encode())
    code = table({1: ("offset", name)} if custom else {}, 4)
    shape, signature = integers([1, 224, 224, 3]), integers([-1, 224, 224, 3])
    tensor = table({0: ("offset", shape), 1: ("int8", 9), 7: ("offset", signature)}, 8)
    graph = table({0: ("offset", vector([tensor])), 1: ("offset", integers([0])), 2: ("offset", integers([0]))}, 5)
    buffers = [table({}, 1), table({0: ("offset", data)}, 1)]
    entry = table({0: ("offset", key), 1: ("uint32", 1)}, 2)
    model = table(
        {0: ("uint32", 3), 1: ("offset", vector([code])), 2: ("offset", vector([graph])),
         4: ("offset", vector(buffers)), 6: ("offset", vector([entry]))}, 8,
    )  # fmt: skip
    builder.Finish(model, b"TFL3")
    return bytes(builder.Output())


with small_networks():
    RECORD = seeded_checkpoint("senet50").provenance.to_json()
SMALL = small_tflite(RECORD)


def test_a_tflite_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(SMALL)
    found = read_export(path)
    assert found and found.provenance and found.provenance.network == "senet50"
    assert found.dtypes == {"int8": 1} and found.inputs == ["int8 any x 224 x 224 x 3"] and not found.problem
    shown = inspect(path)
    assert shown["network"] == "senet50" and shown["format"] == "tflite" and not shown["problems"]
    json.dumps(shown)
    assert "takes       int8 any x 224 x 224 x 3" in as_text(shown) and "head        8 classes\n" in as_text(shown)


def test_its_weights_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(SMALL)
    with pytest.raises(BadInputError, match="TensorFlow Lite file, an export format, which cannot be converted"):
        read_checkpoint(path)


def test_operators_of_other_hands_are_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(small_tflite(RECORD, custom="FlexWriteFile"))
    assert "FlexWriteFile" in inspect(path)["problems"]


@pytest.mark.parametrize(("record", "note"), [("{}", "missing"), ('{"schema": 99}', "newer version")])
def test_a_record_that_cannot_be_read_is_noted(record: str, note: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(small_tflite(record))
    found = read_export(path)
    assert found and (found.provenance is None) and (note in "".join(found.notes) or record == "{}")


def test_a_record_that_is_no_json_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(small_tflite("[1"))
    with pytest.raises(BadInputError, match="not valid JSON"):
        read_export(path)


def test_a_claim_of_a_billion_entries_is_refused() -> None:
    view = struct.pack("<IHHHHiII", 12, 8, 8, 4, 0, 8, 4, 1 << 30)
    table = Table.root(view)
    with pytest.raises(DamagedError):
        list(table.tables(0))


def test_a_saved_model_says_what_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "net.saved_model"
    (folder / EXTRA).mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / EXTRA / PROVENANCE_MEMBER).write_text(RECORD)
    found = inspect(folder)
    assert found["network"] == "senet50" and found["format"] == "saved_model" and found["size"] > len(RECORD)
    (folder / os.fsdecode(b"\xff")).write_bytes(b"a name that is no UTF-8")
    assert inspect(folder)["sha256"] != found["sha256"]


def test_a_folder_that_is_no_saved_model_is_none(tmp_path: Path) -> None:
    assert read_export(tmp_path) is None
    with pytest.raises(BadInputError, match="is a folder"):
        MappedFile(tmp_path)
