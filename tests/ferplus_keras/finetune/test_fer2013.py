"""FER2013's own labels, from Kaggle's file alone; and the images a run is given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ferplus_keras.dataset.fer2013 import FER2013_CLASSES, load_fer2013
from ferplus_keras.dataset.records import Dataset
from ferplus_keras.errors import BadInputError
from ferplus_keras.finetune.examples import make_examples
from ferplus_keras.finetune.settings import DataSettings
from tests.ferplus_files import small


def written(folder: Path, emotions: list[str]) -> np.ndarray:
    data = small(len(emotions))
    rows = [[emotion, *row[1:]] for emotion, row in zip(emotions, data.pixel_rows(), strict=True)]
    lines = [",".join(row) for row in [["emotion", "pixels", "Usage"], *rows]]
    (folder / "fer2013.csv").write_text("\n".join(lines) + "\n")
    return data.images


def test_the_file_alone_is_enough(tmp_path: Path) -> None:
    images = written(tmp_path, ["3", "6", "0", "1", "2", "3", "4", "5"])
    for place in (tmp_path, tmp_path / "fer2013.csv"):
        dataset, labels = load_fer2013(place)
        np.testing.assert_array_equal(dataset.images, images)
        assert [FER2013_CLASSES[label] for label in labels[:3]] == ["happiness", "neutral", "anger"]
    examples = make_examples(dataset, DataSettings(target="hard"), labels=labels, classes=FER2013_CLASSES)
    assert len(examples.train) + len(examples.valid) + len(examples.test) == 8
    assert examples.targets.targets.shape == (len(examples.train), 7)
    np.testing.assert_array_equal(examples.train.labels, labels[dataset.rows_of("train")])


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "fer2013.zip").write_bytes(b"PK\x03\x04" + bytes(40))
    with pytest.raises(BadInputError, match=r"fer2013\.zip is a ZIP archive: unpack it"):
        load_fer2013(tmp_path / "fer2013.zip")


@pytest.mark.parametrize("target", ["majority", "multi_target"])
def test_a_target_that_is_a_rule_has_its_own(target: str) -> None:
    """Under the protocol that Valid is judged by, majority would be the same as hard."""
    data, settings = ferplus(), DataSettings(target=target)
    data.votes[0] = [8, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    found, own, albanies = (
        make_examples(data, replace(settings, train_protocol=each)).targets.targets for each in ("", target, "albanie")
    )
    assert np.array_equal(found, own) and not np.array_equal(found, albanies)


@pytest.mark.parametrize("wrong", ["7", "-1", "happy", "", "\xb2", "10"])
def test_a_label_that_is_none(wrong: str, tmp_path: Path) -> None:
    written(tmp_path, ["3", wrong, "0", "1"])
    with pytest.raises(BadInputError, match=r"line 3: .* is not an emotion"):
        load_fer2013(tmp_path)
    with pytest.raises(BadInputError, match=r"no fer2013\.csv"):
        load_fer2013(tmp_path / "nowhere")


def ferplus() -> Dataset:
    votes = np.zeros((12, 10), np.uint8)
    votes[np.arange(12), np.arange(12) % 8] = 10
    votes[2] = [5, 5, 0, 0, 0, 0, 0, 0, 0, 0]
    votes[3, :] = [0] * 9 + [10]  # no face: dropped
    images = np.random.default_rng(0).integers(0, 256, (12, 48, 48), dtype=np.uint8)
    split = np.repeat(np.array([0, 1, 2], np.uint8), 4)
    return Dataset(images, votes, split, tuple(f"{row}.png" for row in range(12)), "fer2013new.csv", 12, "here")


def test_what_counts_is_the_protocols_and_the_fingerprint_tells_data_apart() -> None:
    data = ferplus()
    hard, soft = (make_examples(data, DataSettings(target=target)) for target in ("hard", "crossentropy"))
    assert (len(hard.train), len(hard.valid), len(hard.test)) == (3, 4, 4)
    assert hard.targets.targets[2].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert soft.targets.targets[2].tolist() == [0.5, 0.5, 0, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(hard.train.labels, soft.train.labels)
    again = make_examples(ferplus(), DataSettings(target="hard"))
    assert again.fingerprint == hard.fingerprint != soft.fingerprint
    data.images[5, 0, 0] ^= 1
    assert make_examples(data, DataSettings(target="hard")).fingerprint != hard.fingerprint
    assert len(make_examples(data, DataSettings(), limit=2).valid) == 2
    with pytest.raises(BadInputError, match="8 and there are 7"):
        make_examples(data, DataSettings(class_weights=(1.0,) * 8), classes=FER2013_CLASSES)
    data.split[data.split == 2] = 0
    with pytest.raises(BadInputError, match="no test images"):
        make_examples(data, DataSettings())
