"""What the network is trained towards, held against the protocols and against losses written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ferplus_keras.dataset.protocols import PROTOCOLS
from ferplus_keras.errors import BadInputError
from ferplus_keras.finetune.targets import KINDS, loss, make

#: Neutral 6 and happiness 4; happiness by all; only unknown; a tie of two; happiness 5, contempt 5; surprise, NF.
VOTES = np.array(
    [
        [6, 4, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 10, 0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0, 10, 0],
        [0, 0, 5, 5, 0, 0, 0, 0, 0, 0],
        [0, 4, 0, 0, 0, 0, 0, 6, 0, 0],
        [0, 0, 8, 0, 0, 0, 0, 0, 0, 2],
    ],
    np.uint8,
)
SEVERAL = st.integers(1, 30).flatmap(lambda n: arrays(np.int64, (n, 10), elements=st.integers(0, 10)))


def as_rows(rows: list[list[float]]) -> np.ndarray:
    return np.pad(np.array(rows, np.float32), ((0, 0), (0, 8 - len(rows[0]))))


def test_the_four_ways_of_the_paper() -> None:
    assert make(VOTES, "majority").targets[[0, 1, 5]].argmax(axis=1).tolist() == [0, 1, 2]
    assert make(VOTES, "majority").kept.tolist() == [True, True, False, False, True, True]
    distribution = as_rows([[0.6, 0.4], [0, 1]])
    np.testing.assert_allclose(make(VOTES, "crossentropy").targets[:2], distribution)
    np.testing.assert_allclose(make(VOTES, "probability").targets[:2], distribution)
    np.testing.assert_array_equal(
        make(VOTES, "multi_target").targets[[0, 1, 3]], as_rows([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]])
    )


@settings(max_examples=50, deadline=None)
@given(votes=SEVERAL, kind=st.sampled_from(list(KINDS)), named=st.sampled_from([None, *PROTOCOLS]))
def test_the_protocol_says_which_images_count(votes: np.ndarray, kind: str, named: str | None) -> None:
    found = make(votes, kind, protocol=named)
    expected = PROTOCOLS[named or KINDS[kind]].apply(votes)

    np.testing.assert_array_equal(found.kept, expected.kept)
    np.testing.assert_array_equal(found.weights, expected.kept)
    assert found.targets.dtype == found.weights.dtype == np.float32
    if kind in ("hard", "majority"):
        np.testing.assert_array_equal(found.targets.argmax(axis=1)[expected.kept], expected.labels[expected.kept])
    if kind != "multi_target":
        np.testing.assert_allclose(found.targets.sum(axis=1), expected.kept, atol=1e-6)


def test_seven_classes_leave_contempt_out() -> None:
    found = make(VOTES, "crossentropy", 7)

    assert found.targets.shape == (6, 7)
    assert not found.kept[4]  # most voted: contempt
    np.testing.assert_allclose(found.targets[0, :2], [0.6, 0.4], rtol=1e-6)
    np.testing.assert_allclose(make(np.array([[0, 6, 0, 0, 0, 0, 0, 4, 0, 0]]), "crossentropy", 7).targets[0, 1], 1)


def test_labels_without_votes_all_count() -> None:
    found = make(np.array([6, 0, 3]), "hard", 7, label_smoothing=0.07)

    np.testing.assert_allclose(found.targets[0], [0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.94], rtol=1e-6)
    assert found.kept.all()


def test_eight_columns_are_ten_with_nothing_in_the_last() -> None:
    clear = VOTES[[0, 1, 3, 4]]
    np.testing.assert_array_equal(make(clear[:, :8], "hard").targets, make(clear, "hard").targets)


def test_class_weights_are_those_of_the_classes_in_the_target() -> None:
    weights = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]

    np.testing.assert_allclose(make(VOTES, "hard", 8, weights).weights, [1, 2, 0, 4, 128, 4])
    np.testing.assert_allclose(make(VOTES, "crossentropy", 8, weights).weights[:2], [0.6 * 1 + 0.4 * 2, 2], rtol=1e-6)
    np.testing.assert_allclose(make(VOTES, "multi_target", 8, weights).weights[:4], [1.5, 2, 0, 6])
    drawn = make(VOTES, "probability", 8, weights).epoch(0, 0)
    np.testing.assert_allclose(drawn.weights, drawn.targets @ np.array(weights))


def test_smoothing_keeps_the_sum_and_the_dropped_images_at_zero() -> None:
    found = make(VOTES, "crossentropy", 8, None, 0.1)

    np.testing.assert_allclose(found.targets.sum(axis=1), found.kept, rtol=1e-6)
    np.testing.assert_allclose(found.targets[0, :3], [0.6 * 0.9 + 0.0125, 0.4 * 0.9 + 0.0125, 0.0125], rtol=1e-6)


def test_the_draw_is_a_function_of_seed_and_epoch_with_the_votes_frequencies() -> None:
    many = make(np.repeat(VOTES[:1], 20_000, axis=0), "probability")
    drawn = many.epoch(seed=3, epoch=5)

    np.testing.assert_array_equal(drawn.targets, many.epoch(3, 5).targets)
    assert not np.array_equal(drawn.targets, many.epoch(3, 6).targets)
    assert not np.array_equal(drawn.targets, many.epoch(4, 5).targets)
    assert set(np.unique(drawn.targets)) == {0, 1}
    assert drawn.targets[:, 2:].sum() == 0
    assert abs(drawn.targets[:, 0].mean() - 0.6) < 5 * np.sqrt(0.24 / 20_000)


def test_a_draw_never_wakes_a_dropped_image_and_leaves_other_kinds_alone() -> None:
    np.testing.assert_array_equal(make(VOTES, "probability").epoch(0, 0).kept, make(VOTES, "probability").kept)
    hard = make(VOTES, "hard")
    assert hard.epoch(0, 1) is hard


def test_a_drawn_target_is_smoothed_after_the_draw() -> None:
    drawn = make(VOTES[:1], "probability", label_smoothing=0.16).epoch(0, 0).targets[0]

    assert sorted(drawn)[:-1] == pytest.approx([0.02] * 7)
    assert drawn.max() == pytest.approx(0.86)


def test_some_of_the_targets_keep_their_kind() -> None:
    found = make(VOTES, "probability", 8, [2.0] * 8, 0.1)
    some = found.of(found.kept)

    assert (len(some), some.kind, some.label_smoothing, some.redrawn) == (5, "probability", 0.1, True)
    assert some.kept.all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("soft",), 'no target kind "soft"'),
        (("hard", 8, [1.0, 2.0]), "2 class weights for 8 classes"),
        (("hard", 8, [1.0] * 7 + [float("nan")]), "Class weights are numbers"),
        (("hard", 8, None, 1.0), "below 1"),
        (("multi_target", 8, None, 0.1), "no label smoothing"),
        (("hard", 9), "9 classes cannot be made"),
    ],
)
def test_what_cannot_be_is_said(arguments: tuple, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(BadInputError, match=said):
        make(VOTES, *arguments)


def test_an_unknown_protocol_and_a_label_out_of_range_are_said() -> None:
    with pytest.raises(BadInputError, match="no protocol"):
        make(VOTES, "hard", protocol="mine")
    with pytest.raises(BadInputError, match="numbers from 0 to 6"):
        make(np.array([7]), "hard", 7)


# --- losses ---------------------------------------------------------------------------------------------------------

LOGITS = np.array([[2.0, 1.0, 0.5, 0, 0, 0, 0, -1], [0, 3, 0, 0, 0, 0, 0, 0.5], [1, 1, 1, 1, 1, 1, 1, 1]], np.float32)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    result: np.ndarray = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return result


@pytest.mark.parametrize("kind", ["hard", "majority", "probability", "crossentropy"])
def test_cross_entropy_is_of_the_logits(kind: str) -> None:
    targets = make(VOTES[:2], kind).epoch(0, 0)

    expected = -(targets.targets * log_softmax(LOGITS[:2])).sum(axis=1).mean()
    assert float(loss(kind)(targets.targets, LOGITS[:2])) == pytest.approx(expected, rel=1e-6)


def test_multi_target_takes_the_likeliest_of_the_chosen_and_never_one_that_is_not() -> None:
    chosen = as_rows([[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]])
    by_hand = [-log_softmax(LOGITS)[0, 1], -log_softmax(LOGITS)[1, 0], 0.0]

    assert float(loss("multi_target")(chosen, LOGITS)) == pytest.approx(np.mean(by_hand), rel=1e-6)
    single = as_rows([[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    assert float(loss("multi_target")(single, LOGITS)) == pytest.approx(float(loss("hard")(single, LOGITS)), rel=1e-6)


def test_multi_target_gradient_flows_to_the_likeliest_alone() -> None:
    import tensorflow as tf

    logits = tf.Variable(LOGITS[:1])
    with tf.GradientTape() as tape:
        value = loss("multi_target")(as_rows([[0, 1, 1, 0]]), logits)
    gradient = tape.gradient(value, logits).numpy()[0]

    expected = np.exp(log_softmax(LOGITS[:1])[0])
    expected[1] -= 1
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_the_multi_target_loss_survives_being_saved() -> None:
    import keras

    again = keras.losses.deserialize(keras.losses.serialize(loss("multi_target")))
    assert type(again) is type(loss("multi_target"))
