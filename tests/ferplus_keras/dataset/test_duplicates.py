"""Copies across splits."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np

from ferplus_keras.dataset.duplicates import find_duplicates
from ferplus_keras.dataset.records import Dataset
from tests.ferplus_files import small


def dataset(copies: dict[int, int], split: list[int]) -> Dataset:
    data = small(len(split))
    for row, original in copies.items():
        data.images[row] = data.images[original]
    codes = np.array(split, np.uint8)
    return Dataset(data.images, data.votes, codes, tuple(map(str, range(len(split)))), "l", len(split), "o")


def test_copies_are_counted_by_row_and_by_image() -> None:
    # rows:           0  1  2  3  4  5  6  7
    found = find_duplicates(dataset({4: 0, 5: 0, 6: 3, 7: 1}, [0, 0, 0, 1, 2, 2, 2, 1]))
    assert found.counts("test", "train") == (2, 1)
    assert found.counts("test", "val") == (1, 1)
    assert found.counts("val", "train") == (1, 1)
    assert np.flatnonzero(found.seen("test")).tolist() == [4, 5, 6]
    assert np.flatnonzero(found.seen("val")).tolist() == [7]
    assert not found.seen("train").any()


def test_a_pixel_apart_is_no_copy() -> None:
    data = dataset({3: 0}, [0, 0, 1, 2])
    data.images[3, 47, 47] ^= 1
    assert find_duplicates(data).counts("test", "train") == (0, 0)


def test_rows_without_a_name_are_copies_of_none() -> None:
    data = dataset({2: 0, 3: 0}, [0, 0, 2, 2])
    unnamed = replace(data, names=("0", "1", "row 2", "3"))
    assert np.flatnonzero(find_duplicates(data).seen("test")).tolist() == [2, 3]
    assert np.flatnonzero(find_duplicates(unnamed).seen("test")).tolist() == [3]
    assert unnamed.named.tolist() == [True, True, False, True]


def test_images_are_not_kept_a_second_time() -> None:
    data = dataset({}, [0, 1, 2] * 200)
    find_duplicates(data)
    tracemalloc.start()
    find_duplicates(data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < data.images.nbytes / 4


def test_copies_within_a_split_are_no_leak() -> None:
    assert not find_duplicates(dataset({3: 2}, [0, 1, 2, 2])).seen("test").any()
