"""The label order, and predictions made readable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ferplus_keras
from ferplus_keras.networks.emotions import EMOTIONS, decode_predictions


def one_hot(index: int, dtype: type = np.float32) -> np.ndarray:
    return np.eye(len(EMOTIONS), dtype=dtype)[[index]]


def test_the_published_order() -> None:
    assert EMOTIONS == ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
    assert ferplus_keras.EMOTIONS is EMOTIONS


def test_best_first_with_the_scores_as_they_are() -> None:
    scores = np.array([[0.1, 0.5, 0.05, 0.2, 0.02, 0.03, 0.06, 0.04], [0.2, 0.0, 0.1, 0.4, 0.0, 0.0, 0.05, 0.25]])

    first, second = decode_predictions(scores)

    assert first == [("happiness", 0.5), ("sadness", 0.2), ("neutral", 0.1)]
    assert second == [("sadness", 0.4), ("contempt", 0.25), ("neutral", 0.2)]


@pytest.mark.parametrize("row", [np.arange(8.0), [0.5] * 7 + [-0.1], [np.inf] * 8])
def test_logits_are_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match=r"takes probabilities.*range from.*keras\.ops\.softmax"):
        decode_predictions([row])


def test_nan_is_not_called_logits() -> None:
    with pytest.raises(ValueError, match=r"takes probabilities, and some of these are NaN.*look at both$"):
        decode_predictions([[0.5] * 7 + [np.nan]])


@pytest.mark.parametrize("top", [0, -1, 2.5, None, "3"])
def test_top_is_a_whole_number_from_one_on(top: Any) -> None:
    with pytest.raises(ValueError, match="a whole number from 1 on, not"):
        decode_predictions([[0.125] * 8], top=top)


def test_ties_go_to_the_lower_index() -> None:
    tied = np.zeros((1, 8), np.float32)
    assert [name for name, _ in decode_predictions(tied, top=8)[0]] == list(EMOTIONS)

    tied[0, [2, 6]] = 1.0
    assert [name for name, _ in decode_predictions(tied, top=3)[0]] == ["surprise", "fear", "neutral"]


@pytest.mark.parametrize(("top", "given"), [(1, 1), (3, 3), (8, 8), (20, 8)])
def test_top_is_the_number_of_classes_given_at_most_all(top: int, given: int) -> None:
    decoded = decode_predictions(np.linspace(0, 1, 16).reshape(2, 8), top=top)
    assert [len(row) for row in decoded] == [given, given]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_])
def test_any_number_type_is_ordered_by_value(dtype: type) -> None:
    # FERPlus's votes are small unsigned integers, where "the highest first" cannot be had by negation.
    assert decode_predictions(one_hot(4, dtype))[0] == [("anger", 1.0), ("neutral", 0.0), ("happiness", 0.0)]


def test_scores_are_plain_floats_and_lists_are_taken() -> None:
    decoded = decode_predictions([[0.25] * 7 + [0.5]], top=1)
    assert decoded == [[("contempt", 0.5)]]
    assert type(decoded[0][0][1]) is float


def test_own_labels() -> None:
    assert decode_predictions([[0.25, 0.75]], labels=("no", "yes")) == [[("yes", 0.75), ("no", 0.25)]]


def test_no_images_give_no_rows() -> None:
    assert decode_predictions(np.zeros((0, 8))) == []


@pytest.mark.parametrize("shape", [(8,), (2, 7), (2, 9), (2, 8, 1), (1, 1, 1, 8), ()])
def test_another_shape_is_refused_with_the_shape_it_had(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images x 8 classes \(neutral, .*the shape") as caught:
        decode_predictions(np.zeros(shape))
    assert str(shape) in str(caught.value)


@given(st.lists(st.floats(0, 1, width=32), min_size=8, max_size=8))
def test_every_class_once_in_falling_order(scores: list[float]) -> None:
    (row,) = decode_predictions([scores], top=8)

    assert sorted(name for name, _ in row) == sorted(EMOTIONS)
    assert [score for _, score in row] == sorted(scores, reverse=True)
    assert all(scores[EMOTIONS.index(name)] == score for name, score in row)
