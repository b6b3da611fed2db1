"""The published data themselves, where ``FERPLUS_DATA`` says that they are: every count that the docs give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ferplus_keras.dataset import Dataset, find, load_ferplus, read_labels
from ferplus_keras.dataset.duplicates import find_duplicates
from ferplus_keras.dataset.image_folders import folder_labels
from ferplus_keras.dataset.labels import read_folder_labels
from ferplus_keras.dataset.protocols import PROTOCOLS
from ferplus_keras.dataset.records import Labels


@pytest.fixture(scope="module")
def labels(ferplus_data: Path) -> Labels:
    found = find(ferplus_data).labels
    if found is None:
        pytest.skip("no fer2013new.csv there")
    return read_labels(found.read(1 << 26))


def test_the_label_file_is_the_published_one(labels: Labels) -> None:
    assert len(labels) == 35_887
    assert np.bincount(labels.split).tolist() == [28_709, 3_589, 3_589]
    blank = np.array([not name for name in labels.names])
    assert blank.sum() == 173 and (labels.votes[blank, 9] == 10).all()
    named = [name for name in labels.names if name]
    assert len(named) - len(set(named)) == 4  # four names stand there twice


@pytest.mark.parametrize(
    ("name", "dropped", "kept"),
    [
        ("albanie", 3079, (26196, 3318, 3294)),
        ("wtomin", 3154, (26153, 3305, 3275)),
        ("majority", 4475, (25060, 3199, 3153)),
        ("probability", 921, (27956, 3505, 3505)),
        ("crossentropy", 921, (27956, 3505, 3505)),
        ("multi_target", 1272, (27671, 3472, 3472)),
    ],
)
def test_every_protocol_keeps_what_is_published(labels: Labels, name: str, dropped: int, kept: tuple[int, ...]) -> None:
    protocol = PROTOCOLS[name]
    targets = protocol.apply(labels.votes)
    assert (int((~targets.kept).sum()), targets.counts(labels.split)) == (dropped, kept)
    assert (protocol.dropped, protocol.kept) == (dropped, kept)


def test_albanies_test_classes(labels: Labels) -> None:
    targets = PROTOCOLS["albanie"].apply(labels.votes)
    test = (labels.split == 2) & targets.kept
    assert np.bincount(targets.labels[test]).tolist() == [1175, 908, 413, 399, 282, 18, 83, 16]


def test_the_images_give_the_same_counts(ferplus: Dataset) -> None:
    """Rows without an image are dropped by every protocol, so that nothing is missing from any figure."""
    assert ferplus.official and len(ferplus) in (35_714, 35_887)
    for protocol in PROTOCOLS.values():
        assert protocol.apply(ferplus.votes).counts(ferplus.split) == protocol.kept


def test_copies_across_the_splits(ferplus: Dataset) -> None:
    """Rows, and distinct images among them; the distinct ones are what is usually quoted."""
    found = find_duplicates(ferplus)
    assert found.counts("test", "train") == (288, 278)
    assert found.counts("test", "val") == (44, 43)
    assert found.counts("val", "train") == (279, 269)
    both = found.copied("test", "train") & found.copied("test", "val")
    assert (int(both.sum()), len(np.unique(found.identity[both]))) == (18, 17)
    kept = PROTOCOLS["albanie"].apply(ferplus.votes).kept
    assert int((found.seen("test") & kept).sum()) == 290 and int((found.seen("val") & kept).sum()) == 260


def test_a_name_that_stands_twice_is_an_image_that_stands_twice(ferplus: Dataset) -> None:
    """So taking images by name, as the folders have them, gives what Kaggle's file has row by row."""
    found = find_duplicates(ferplus)
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(ferplus.names):
        rows.setdefault(name, []).append(row)
    twice = [each for each in rows.values() if len(each) > 1]
    assert all(len(set(found.identity[each])) == 1 for each in twice)


def test_the_folders_own_votes_are_others(ferplus_data: Path, labels: Labels) -> None:
    """Why label.csv is not taken where fer2013new.csv is there."""
    found = find(ferplus_data)
    if not found.folders:
        pytest.skip("no folders of images there")
    own = folder_labels(found)
    by_name: dict[str, list[list[int]]] = {}
    for name, votes in zip(labels.names, labels.votes.tolist(), strict=True):
        by_name.setdefault(name, []).append(votes)
    different = sum(
        votes not in by_name[name] for name, votes in zip(own.names, own.votes.tolist(), strict=True)
    )  # fmt: skip
    assert len(own) == 35_710 and different == 1601
    assert PROTOCOLS["albanie"].apply(own.votes).counts(own.split) == (26_174, 3_312, 3_284)
    assert read_folder_labels(b"", 0, "label.csv").votes.shape == (0, 10)


def test_the_second_start_takes_it_from_the_cache(ferplus: Dataset, ferplus_data: Path) -> None:
    load_ferplus(ferplus_data)  # other tests may have filled the cache with their data since
    lines: list[str] = []
    again = load_ferplus(ferplus_data, progress=lines.append)
    assert not lines and again.names == ferplus.names
    np.testing.assert_array_equal(again.images, ferplus.images)
