"""A provenance record comes from a file, and a file from anywhere: it is read whole, or said to be unreadable."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from convert.checkpoint import Checkpoint, Provenance
from convert.conversion import convert
from convert.inspection import as_text, inspect
from convert.readers import own_provenance, read_checkpoint
from convert.writers import write
from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.files.provenance import named_standin
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.preprocessing import PUBLISHED
from tests.seeded import seeded_checkpoint

pytestmark = pytest.mark.usefixtures("small")

GOOD: dict[str, Any] = json.loads(seeded_checkpoint("resnet50").provenance.to_json())


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = write(seeded_checkpoint("resnet50"), tmp_path_factory.mktemp("records") / "x.safetensors").path
    with safe_open(path, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping


def with_record(arrays: dict[str, Any], record: Any, path: Path) -> Path:
    save_file(arrays, path, {PROVENANCE_KEY: json.dumps(record)})
    return path


def changed(**fields: Any) -> dict[str, Any]:
    return GOOD | fields


BAD = {
    "foreign": {"x": 1},
    "no preprocessing": changed(preprocessing={}),
    "a mean of two": changed(preprocessing=GOOD["preprocessing"] | {"mean": [1.0, 2.0]}),
    "a mean of words": changed(preprocessing=GOOD["preprocessing"] | {"mean": ["a", "b", "c"]}),
    "checksum": changed(source=GOOD["source"] | {"sha256": 7}),
    "size": changed(origin=GOOD["origin"] | {"size": -1}),
    "counters": changed(num_batches_tracked="many"),
    "a counter beyond 64 bits": changed(num_batches_tracked={"conv1_7x7_s2_bn": 1 << 63}),
    "stand-in": changed(standin="no"),
    "labels": changed(labels=[1] * 8),
    "too few labels": changed(labels=["a"]),
    "notes": changed(notes="none"),
    "dropout": changed(dropout=1.0),
    "network": changed(network="vgg16"),
    "head": changed(head=["classifier"]),
    "no units": changed(units=0, labels=None),
    "newer": changed(schema=2),
    "schema": changed(schema="1"),
}


@pytest.mark.parametrize("record", BAD.values(), ids=BAD.keys())
def test_a_record_that_is_none_is_refused_with_a_reason(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r" is | labels for "):
        Provenance.from_dict(record)


def test_a_record_comes_back_as_it_was() -> None:
    provenance = replace(
        seeded_checkpoint("senet50").provenance,
        num_batches_tracked={"conv1_7x7_s2_bn": 7}, notes=("a", "b"), labels=None, dropout=0.5, standin=True,
    )  # fmt: skip
    assert Provenance.from_dict(json.loads(provenance.to_json())) == provenance


def test_a_field_of_a_later_version_is_let_pass() -> None:
    later = changed(colour="red", source=GOOD["source"] | {"mtime": 3})
    assert Provenance.from_dict(later) == Provenance.from_dict(GOOD)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=400)
@given(field=st.sampled_from([None, "x", *GOOD, *GOOD["preprocessing"], *GOOD["source"]]), value=JSON)
def test_any_json_as_record_is_read_or_refused(field: str | None, value: Any) -> None:
    record = value if field is None else changed(**{field: value})
    if field in GOOD["preprocessing"]:
        record = changed(preprocessing=GOOD["preprocessing"] | {field: value})
    elif field in GOOD["source"]:
        record = changed(source=GOOD["source"] | {field: value})
    try:
        provenance = Provenance.from_dict(record)
    except ValueError as error:
        assert str(error)
        return
    assert Provenance.from_dict(json.loads(provenance.to_json())) == provenance


@pytest.mark.parametrize("name", ["foreign", "no preprocessing", "checksum", "counters", "newer"])
def test_a_file_with_such_a_record_is_read_without_it(name: str, arrays: dict[str, Any], tmp_path: Path) -> None:
    path = with_record(arrays, BAD[name], tmp_path / "x.safetensors")
    result = inspect(path)
    assert result["provenance"] is None and not result["problems"] and not result["standin"]
    assert "provenance record could not be read" in as_text(result)
    assert own_provenance(path) is None
    convert(path, [tmp_path / "y.safetensors"])
    provenance = read_checkpoint(tmp_path / "y.safetensors").provenance
    assert provenance.origin.name == "x.safetensors" and provenance.labels == EMOTIONS


@pytest.mark.parametrize("name", ["no preprocessing", "newer"])
def test_the_mark_of_a_stand_in_outlives_its_record(name: str, arrays: dict[str, Any], tmp_path: Path) -> None:
    path = with_record(arrays, BAD[name] | {"standin": True}, tmp_path / "x.safetensors")
    assert inspect(path)["standin"] and "STAND-IN" in as_text(inspect(path))
    read = read_checkpoint(path).provenance
    assert read.standin and any("could not be read" in note for note in read.notes)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".h5", ".keras", ".onnx", ".mat"])
def test_another_preprocessing_and_other_labels_travel_on(suffix: str, tmp_path: Path) -> None:
    checkpoint = seeded_checkpoint("resnet50")
    own = PUBLISHED.as_dict() | {"channel_order": "BGR", "mean": (1.0, 2.0, 3.0)}
    labels = tuple(reversed(EMOTIONS))
    provenance = replace(checkpoint.provenance, preprocessing=own, labels=labels)
    first = write(Checkpoint(checkpoint.architecture, checkpoint.arrays, provenance), tmp_path / f"x{suffix}").path
    convert(first, [tmp_path / "y.safetensors"])
    again = read_checkpoint(tmp_path / "y.safetensors").provenance
    assert again.preprocessing == own and again.labels == labels


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet50-standin.h5", True), ("STANDIN.pth", True), ("x_standin_2.onnx", True), ("standins.h5", True),
        ("facial-understanding.pth", False), ("outstanding.h5", False), ("long-standing.keras", False),
    ],
)  # fmt: skip
def test_a_name_says_that_it_is_a_standin_by_the_word_alone(name: str, says: bool) -> None:
    assert named_standin(name) == says
