"""The feed: every image once, in an order that the seed and the epoch decide, with nothing copied."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from ferplus_keras.finetune.feeding import Feed, InOrder, for_keras


def numbered(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, targets and weights that say which row they are."""
    rows = np.arange(count)
    images = np.zeros((count, 48, 48), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = rows // 256, rows % 256
    return images, np.stack([rows, -rows], axis=1).astype(np.float32), rows.astype(np.float32) + 0.5


def rows_of(feed: Feed) -> list[int]:
    """Which rows an epoch consists of, in order; and that all three arrays speak of the same ones."""
    seen: list[int] = []
    for index in range(len(feed)):
        images, targets, weights = feed[index]
        rows = images[:, 0, 0].astype(int) * 256 + images[:, 0, 1]
        np.testing.assert_array_equal(targets[:, 0], rows)
        np.testing.assert_array_equal(weights, rows + 0.5)
        seen += rows.tolist()
    return seen


def test_an_epoch_has_every_image_once_but_for_what_fills_no_batch() -> None:
    feed = Feed(*numbered(304), batch=16, seed=1)

    seen = rows_of(feed)

    assert len(feed) == 19 and len(Feed(*numbered(303), batch=16)) == 18
    assert sorted(seen) == list(range(304))
    assert seen != sorted(seen)
    assert [array.dtype for array in feed[18]] == [np.uint8, np.float32, np.float32]
    assert feed[18][0].shape == (16, 48, 48)


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    first, again = Feed(*numbered(100), batch=8, seed=7), Feed(*numbered(100), batch=8, seed=7)
    orders = []
    for epoch in range(3):
        first.epoch = epoch
        orders.append(rows_of(first))
    again.epoch = 2  # as a resumed run does, which has not seen the epochs before

    assert rows_of(again) == orders[2]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert rows_of(Feed(*numbered(100), batch=8, seed=8)) != orders[0]


def test_the_parts_of_two_processes_make_the_whole_batch() -> None:
    whole = Feed(*numbered(50), batch=8, seed=2)
    parts = [Feed(*numbered(50), batch=8, seed=2, share=(part, 2)) for part in range(2)]

    assert len(whole) == len(parts[0]) == 6
    for index in range(6):
        for array, one, other in zip(whole[index], parts[0][index], parts[1][index], strict=True):
            np.testing.assert_array_equal(array, np.concatenate([one, other]))


@pytest.mark.parametrize("share", [(0, 1), (1, 2)])
def test_mixing_mixes_images_targets_and_weights_alike(share: tuple[int, int]) -> None:
    count = 64
    images = np.broadcast_to(np.where(np.arange(count) < 32, 0, 200).astype(np.uint8)[:, None, None], (count, 48, 48))
    targets = np.eye(2, dtype=np.float32)[(np.arange(count) >= 32).astype(int)]
    feed = Feed(images, targets, targets[:, 1], batch=32, seed=5, mixup=0.4, share=share)

    mixed, soft, weights = feed[1]

    assert mixed.dtype == np.uint8 and soft.dtype == weights.dtype == np.float32
    np.testing.assert_allclose(mixed[:, 0, 0], 200 * soft[:, 1], atol=0.5)
    np.testing.assert_allclose(weights, soft[:, 1])
    assert ((soft > 0.01) & (soft < 0.99)).any()
    np.testing.assert_array_equal(feed[1][1], soft)  # the same numbers whenever they are asked for
    whole = Feed(images, targets, targets[:, 1], batch=32, seed=5, mixup=0.4)
    np.testing.assert_array_equal(soft, whole[1][1][32 // share[1] * share[0] :])


def test_the_set_is_not_copied() -> None:
    images = np.zeros((20_000, 48, 48), np.uint8)  # 46 MB
    targets, weights = np.zeros((20_000, 8), np.float32), np.ones(20_000, np.float32)
    tracemalloc.start()

    feed = Feed(images, targets, weights, batch=16)
    for index in range(len(feed)):
        feed[index]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert feed.images is images
    assert peak < 2_000_000


def test_targets_can_be_drawn_anew() -> None:
    images, targets, weights = numbered(20)
    feed = Feed(images, targets, weights, batch=20)
    feed.retarget(targets * 2, weights * 3)

    np.testing.assert_array_equal(feed[0][1], (targets * 2)[feed.order(0)])
    np.testing.assert_array_equal(feed[0][2], (weights * 3)[feed.order(0)])
    with pytest.raises(ValueError, match="cannot become"):
        feed.retarget(targets[:5], weights[:5])


def test_the_share_of_waiting_is_of_the_current_epoch() -> None:
    feed = Feed(*numbered(2000), batch=500, mixup=0.2)
    assert feed.waiting == 0
    rows = [feed[index] for index in range(4)]
    assert rows and 0 < feed.waiting <= 1
    feed.epoch = 1
    assert feed.waiting == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batch": 0}, "do not make a batch"),
        ({"batch": 31}, "30 images do not make a batch of 31"),
        ({"batch": 9, "share": (0, 2)}, "equal parts"),
        ({"batch": 8, "share": (2, 2)}, "cannot be shared"),
    ],
)
def test_what_cannot_be_is_said(changed: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=said):
        Feed(*numbered(30), **changed)
    with pytest.raises(ValueError, match="row by row"):
        Feed(*numbered(30)[:2], np.ones(29), batch=2)


def test_fit_sees_the_batches_of_each_epoch_in_their_order() -> None:
    """Through Keras's own loop: what the model sees is the order of epochs 3 and 4, batch by batch."""
    import keras

    keras.utils.set_random_seed(0)
    feed = Feed(*numbered(40), batch=8, seed=9)
    model = keras.Sequential([keras.Input((48, 48)), keras.layers.Flatten(), keras.layers.Dense(2)])
    seen: list[int] = []

    class Watching(keras.losses.Loss):
        def call(self, y_true, y_pred):  # type: ignore[no-untyped-def]
            seen.extend(np.asarray(y_true)[:, 0].astype(int).tolist())
            return keras.ops.mean(y_pred, axis=-1)

    model.compile("sgd", Watching(), run_eagerly=True)
    for feed.epoch in (3, 4):
        model.fit(for_keras(feed), epochs=1, shuffle=False, verbose=0)

    assert seen == [*feed.order(3), *feed.order(4)]
    assert feed.epoch == 4 and 0 < feed.waiting < 1


@pytest.mark.parametrize("count", [1, 8, 43])
def test_images_in_order_are_all_there_once(count: int) -> None:
    images = numbered(count)[0]
    batches = InOrder(images, 8)
    made = [batches[index][0] for index in range(len(batches))]
    assert [len(batch) for batch in made[:-1]] == [8] * (len(made) - 1) and len(made[-1])
    np.testing.assert_array_equal(np.concatenate(made), images)


def test_tensorflow_has_nothing_to_tune() -> None:
    """What it tunes it also waits for: at the end of some epochs for as long as they took, of others not at all."""
    images, targets, weights = numbered(43)
    for fed in (Feed(images, targets, weights, 8), InOrder(images, 8)):
        dataset = for_keras(fed)
        assert dataset.options().autotune.enabled is False
        assert int(dataset.cardinality()) == len(fed)
        for index, batch in enumerate(dataset.as_numpy_iterator()):
            for made, wanted in zip(batch, fed[index], strict=True):
                np.testing.assert_array_equal(made, wanted)
                assert made.dtype == wanted.dtype
