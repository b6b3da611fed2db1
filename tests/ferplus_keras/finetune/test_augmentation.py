"""The augmentation against libraries that were not used to write it: SciPy, Pillow, and NumPy's own arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from ferplus_keras.finetune.augmentation import COLUMNS, Augmentation, maps
from ferplus_keras.finetune.noise import folded, uniforms
from ferplus_keras.finetune.recipe import load_recipe
from ferplus_keras.finetune.settings import AugmentationSettings
from ferplus_keras.finetune.warping import oversampling, resized, warped
from ferplus_keras.networks.preprocessing import PUBLISHED, preprocess_input
from ferplus_keras.networks.resizing import RESIZERS
from tests.conftest import run_python

MEAN = np.asarray(PUBLISHED.mean, np.float32)
MANY = 20_000
ALBANIE, WTOMIN = (load_recipe(name).augmentation for name in ("albanie", "wtomin"))


def faces(count: int = 3, height: int = 48, width: int = 48, channels: int = 1) -> np.ndarray:
    """Smooth bytes with an edge and a grain in them, none like its own mirror image."""
    rows, columns = np.mgrid[:height, :width]
    generator = np.random.default_rng(count + height)
    smooth = [
        120 + 60 * np.sin(rows / (3 + n) + c) + 50 * (columns > 11 + 5 * n + c) + generator.normal(0, 8, rows.shape)
        for n in range(count)
        for c in range(channels)
    ]
    pixels = np.stack(smooth).reshape(count, channels, height, width).transpose(0, 2, 3, 1)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def as_array(tensor: object) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def trained(settings: AugmentationSettings, images: np.ndarray, size: int = 48, seed: int = 0) -> np.ndarray:
    """What one training step sees, as grey levels (n x size x size)."""
    return as_array(Augmentation(settings, size, seed)(images, training=True))[..., 0] + MEAN[0]


def drawn_maps(settings: AugmentationSettings, count: int = MANY) -> np.ndarray:
    return as_array(maps(settings, uniforms(folded(1), 0, np.arange(count), COLUMNS)))


# --- the one sampling -----------------------------------------------------------------------------------------------


def scipys(images: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
    """The same by SciPy: places in pixels, colours beyond the edge those of the edge."""
    grid = (2 * np.arange(size) + 1) / size - 1
    there = np.stack([*np.meshgrid(grid, grid), np.ones((size, size))])  # x, y, 1
    result = np.empty((len(images), size, size, images.shape[3]))
    for n, (image, place) in enumerate(zip(images.astype(float), places, strict=True)):
        x, y = np.tensordot(place, there, axes=1)
        rows, columns = (y + 1) / 2 * image.shape[0] - 0.5, (x + 1) / 2 * image.shape[1] - 0.5
        for channel in range(image.shape[2]):
            result[n, ..., channel] = ndimage.map_coordinates(
                image[..., channel], [rows, columns], order=1, mode="nearest"
            )
    return result


@pytest.mark.parametrize(
    ("shape", "size"), [((48, 48, 1), 224), ((48, 48, 1), 48), ((48, 48, 3), 64), ((30, 41, 1), 50)]
)
def test_any_affine_map_is_sampled_as_by_scipy(shape: tuple[int, int, int], size: int) -> None:
    images = faces(4, *shape)
    places = np.random.default_rng(size).normal(0, 0.6, (4, 2, 3)) + np.eye(2, 3)

    ours = as_array(warped(images.astype(np.float32), places.astype(np.float32), size))

    np.testing.assert_allclose(ours, scipys(images, places, size), atol=0.02)


@pytest.mark.parametrize("size", [224, 48, 40, 32])
def test_a_map_that_moves_nothing_is_the_straight_resize(size: int) -> None:
    images = faces().astype(np.float32)
    still = np.broadcast_to(np.eye(2, 3, dtype=np.float32), (3, 2, 3))

    np.testing.assert_allclose(as_array(warped(images, still, size)), as_array(resized(images, size)), atol=1e-3)


def test_shrinking_looks_at_every_pixel() -> None:
    assert [oversampling(48, 48, size) for size in (224, 48, 47, 24, 23, 16)] == [1, 1, 2, 2, 3, 3]
    stripes = np.zeros((1, 48, 48, 1), np.float32)
    stripes[:, :, ::2] = 200  # point samples of a 24-pixel-wide image would see only one of the two colours
    np.testing.assert_allclose(as_array(resized(stripes, 24)), 100, atol=1e-3)


# --- not training: the preprocessing of everything else ---------------------------------------------------------------


def test_without_training_it_is_the_published_preprocessing() -> None:
    images = faces(2)[..., 0]
    ours = as_array(Augmentation(ALBANIE)(images))

    exact = preprocess_input(np.repeat(RESIZERS["tensorflow"].run(images)[..., None], 3, axis=-1))
    pillow = preprocess_input(np.repeat(RESIZERS["pillow"].run(images)[..., None], 3, axis=-1))
    assert ours.shape == (2, 224, 224, 3) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, exact, atol=1e-3)
    assert np.abs(ours - pillow).max() <= 1.01  # Pillow rounds to bytes, twice


@pytest.mark.parametrize("size", [40, 32, 16])
def test_smaller_than_the_source_it_is_near_pillows_filter(size: int) -> None:
    image = faces(1)[0, ..., 0]
    pillow = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR), float)

    assert np.abs(as_array(Augmentation(size=size)(image[None]))[0, ..., 0] + MEAN[0] - pillow).mean() < 3


def test_with_nothing_on_training_changes_nothing() -> None:
    layer = Augmentation(size=64)
    np.testing.assert_array_equal(as_array(layer(faces(), training=True)), as_array(layer(faces())))
    assert int(layer.steps.value) == 0


def test_colour_is_three_times_grey() -> None:
    colour = faces(2, channels=3)
    settings = replace(ALBANIE, warped=1.0)
    found = as_array(Augmentation(settings, 48, 4)(colour, training=True))

    for channel in range(3):
        grey = as_array(Augmentation(settings, 48, 4)(colour[..., channel], training=True))
        np.testing.assert_allclose(found[..., channel], grey[..., channel], atol=1e-3)


# --- each parameter by itself, against Pillow and by hand --------------------------------------------------------

INSIDE = slice(9, -9)  # what no edge has come into


def pillows(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Pillow's affine transform about the middle; ``matrix`` maps places of the result to the source, in pixels."""
    (a, b), (c, d) = matrix
    middle = image.shape[0] / 2
    data = (a, b, middle - a * middle - b * middle, c, d, middle - c * middle - d * middle)
    pil = Image.fromarray(image.astype(np.float32))  # mode F: not rounded
    return np.asarray(pil.transform(pil.size, Image.Transform.AFFINE, data, resample=Image.Resampling.BILINEAR))


def test_rotation_is_pillows_counter_clockwise() -> None:
    image = faces(1)[..., 0]
    ours = trained(AugmentationSettings(rotation=(10.0,)), image)

    turned = np.asarray(Image.fromarray(image[0].astype(np.float32)).rotate(10, resample=Image.Resampling.BILINEAR))
    np.testing.assert_allclose(ours[0][INSIDE, INSIDE], turned[INSIDE, INSIDE], atol=0.05)


def test_skew_shears_both_axes() -> None:
    image = faces(1)[..., 0]
    ours = trained(AugmentationSettings(skew=(0.1,)), image)

    sheared = pillows(image[0], np.array([[1, 0.1], [0.1, 1]]))
    np.testing.assert_allclose(ours[0][INSIDE, INSIDE], sheared[INSIDE, INSIDE], atol=0.05)


def test_rotation_follows_skew() -> None:
    image = faces(1)[..., 0]
    ours = trained(AugmentationSettings(skew=(0.1,), rotation=(-10.0,)), image)

    angle = np.deg2rad(-10)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    both = pillows(image[0], turn @ np.array([[1, 0.1], [0.1, 1]]))
    np.testing.assert_allclose(ours[0][INSIDE, INSIDE], both[INSIDE, INSIDE], atol=0.05)


def test_flip_mirrors_exactly() -> None:
    images = faces(8)[..., 0]
    np.testing.assert_allclose(trained(AugmentationSettings(flip=1.0), images), images[:, :, ::-1], atol=1e-3)
    some = trained(AugmentationSettings(flip=0.5), images, seed=2)
    mirrored = [np.abs(one - image[:, ::-1]).max() < 1e-3 for one, image in zip(some, images, strict=True)]
    same = [np.abs(one - image).max() < 1e-3 for one, image in zip(some, images, strict=True)]
    assert 0 < sum(mirrored) < 8 and sum(mirrored) + sum(same) == 8


@pytest.mark.parametrize("zoom", [0.8, 1.25])
def test_zoom_is_about_a_place_within_the_image(zoom: float) -> None:
    found = drawn_maps(AugmentationSettings(zoom=(zoom, zoom)))

    np.testing.assert_allclose(found[:, 0, 0], 1 / zoom, rtol=1e-6)
    np.testing.assert_array_equal(found[:, 0, 0], found[:, 1, 1])
    limit = abs(1 - 1 / zoom)
    for shift in (found[:, 0, 2], found[:, 1, 2]):
        assert stats.kstest(shift, "uniform", args=(-limit, 2 * limit)).pvalue > 1e-4
    assert abs(np.corrcoef(found[:, 0, 2], found[:, 1, 2])[0, 1]) < 0.05


def test_a_zoomed_image_is_that_part_of_it() -> None:
    image = faces(1)[..., 0]
    settings = AugmentationSettings(zoom=(2.0, 2.0))
    place = as_array(maps(settings, uniforms(folded(3), 0, np.arange(1), COLUMNS)))[0]
    ours = trained(settings, image, seed=3)[0]

    left, upper = ((place[axis, 2] + 1) * 24 - 12 for axis in (0, 1))
    whole = Image.fromarray(image[0].astype(np.float32))
    part = whole.resize((48, 48), Image.Resampling.BILINEAR, (left, upper, left + 24, upper + 24))
    np.testing.assert_allclose(ours[2:-2, 2:-2], np.asarray(part)[2:-2, 2:-2], atol=0.05)


# --- how often, and how far ------------------------------------------------------------------------------------------


def test_albanies_warps() -> None:
    found = drawn_maps(ALBANIE)
    flips = found[:, 0, 0] < 0
    upright = np.where(flips[:, None, None], found * np.array([[-1, 1, 1], [-1, 1, 1]]), found)
    still = np.abs(upright - np.eye(2, 3)).max(axis=(1, 2)) < 1e-6
    assert abs(flips.mean() - 0.5) < 0.02
    # Half, and none of the other half stands still: the zoom is never 1.
    assert abs(still.mean() - 0.5) < 0.02

    moving = upright[~still]
    seen = set()
    for matrix in moving[:400, :, :2].astype(float):
        fitting = [
            (angle, skew_x, skew_y)
            for angle in (-10, 0, 10)
            for skew_x in (-0.1, 0, 0.1)
            for skew_y in (-0.1, 0, 0.1)
            if np.abs(matrix - window(matrix, skew_x, skew_y) * turned(angle, skew_x, skew_y)).max() < 1e-5
        ]
        assert len(fitting) == 1
        assert 1 / 1.04 - 1e-6 <= window(matrix, *fitting[0][1:]) <= 1 / 0.96 + 1e-6
        seen.add(fitting[0])
    assert len(seen) == 27  # every combination comes up


def window(matrix: np.ndarray, skew_x: float, skew_y: float) -> float:
    """How far a warp shrinks: its area, less that of the skew."""
    return float(np.sqrt(np.linalg.det(matrix) / (1 - skew_x * skew_y)))


def turned(angle: float, skew_x: float, skew_y: float) -> np.ndarray:
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix: np.ndarray = rotation @ np.array([[1, skew_x], [skew_y, 1]])
    return matrix


def test_ranges_reach_either_way() -> None:
    found = drawn_maps(AugmentationSettings(rotation_range=20.0))
    angles = np.rad2deg(np.arctan2(found[:, 1, 0], found[:, 0, 0]))
    assert stats.kstest(angles, "uniform", args=(-20, 40)).pvalue > 1e-4
    skews = drawn_maps(AugmentationSettings(skew_range=0.2))
    for each in (skews[:, 0, 1], skews[:, 1, 0]):
        assert stats.kstest(each, "uniform", args=(-0.2, 0.4)).pvalue > 1e-4


def test_shifts_reach_that_share_of_the_side_either_way() -> None:
    found = drawn_maps(AugmentationSettings(shift=0.2))
    np.testing.assert_array_equal(found[:, :, :2], np.broadcast_to(np.eye(2), (MANY, 2, 2)))
    for axis in (0, 1):  # a place goes from -1 to 1 over the side
        assert stats.kstest(found[:, axis, 2], "uniform", args=(-0.4, 0.8)).pvalue > 1e-4


def test_a_teacher_sees_the_same_images_at_its_own_size() -> None:
    settings = AugmentationSettings(flip=0.5, rotation_range=20.0, shift=0.1, brightness=0.2, erased=1.0)
    images = faces(6)
    alone = Augmentation(settings, 48, seed=4)(images, training=True)
    own, beside = Augmentation(settings, 96, seed=4, beside=(48,))(images, training=True)
    np.testing.assert_array_equal(as_array(beside), as_array(alone))
    assert own.shape == (6, 96, 96, 3)
    smaller = as_array(own).reshape(6, 48, 2, 48, 2, 3).mean(axis=(2, 4))
    assert np.abs(smaller - as_array(beside)).mean() < 3  # of 255: the same crop, sampled more finely


@pytest.mark.parametrize(("scale", "ratio"), [((0.8, 1.0), (4 / 5, 5 / 4)), ((0.3, 0.9), (0.5, 2.0))])
def test_crops_are_drawn_until_one_fits(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    found = drawn_maps(AugmentationSettings(crop_scale=scale, crop_ratio=ratio))
    width, height = found[:, 0, 0], found[:, 1, 1]

    generator = np.random.default_rng(0)  # the rule as torchvision and Albumentations have it, one at a time
    expected = []
    while len(expected) < 4000:
        for _ in range(10):
            area, shape = generator.uniform(*scale), np.exp(generator.uniform(*np.log(ratio)))
            if max(sides := (np.sqrt(area * shape), np.sqrt(area / shape))) <= 1:
                break
        else:
            sides = (1.0, 1.0)
        expected.append(sides)
    for ours, theirs in zip((width, height), np.array(expected).T, strict=True):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-4
    assert width.max() <= 1 and height.max() <= 1
    assert (np.abs(found[:, 0, 2]) <= 1 - width + 1e-6).all()  # never beyond the image
    places = found[:, 0, 2][width < 0.99] / (1 - width[width < 0.99])
    assert stats.kstest(places, "uniform", args=(-1, 2)).pvalue > 1e-4


def test_brightness_and_contrast_of_wtomins() -> None:
    flat = np.full((4000, 2, 2), 100, np.uint8)
    settings = replace(WTOMIN, toned=0.5)

    light = trained(settings, flat, size=2)[:, 0, 0]
    steep = trained(replace(settings, brightness=0.0, toned=1.0), flat, size=2)[:, 0, 0]
    bright = trained(replace(settings, contrast=0.0, toned=1.0), flat, size=2)[:, 0, 0]

    assert abs((np.abs(light - 100) < 1e-3).mean() - 0.5) < 0.04
    assert stats.kstest(steep, "uniform", args=(90, 20)).pvalue > 1e-4
    assert stats.kstest(bright, "uniform", args=(100 - 25.5, 51)).pvalue > 1e-4
    assert trained(replace(settings, toned=1.0), np.full((500, 2, 2), 250, np.uint8), size=2).max() <= 255.01


def test_erasing_leaves_the_mean_colour_in_a_rectangle() -> None:
    images = np.full((2000, 4, 4), 7, np.uint8)
    settings = AugmentationSettings(erased=0.25, erased_area=(0.1, 0.3))
    found = as_array(Augmentation(settings, 40)(images, training=True))

    gone = (found == 0).all(axis=-1)
    assert abs(gone.any(axis=(1, 2)).mean() - 0.25) < 0.05
    np.testing.assert_allclose(found[~gone], np.broadcast_to(7 - MEAN, found[~gone].shape), rtol=1e-5)
    for mask in gone[gone.any(axis=(1, 2))][:50]:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert len(rows) * len(columns) == mask.sum()
    areas = gone.mean(axis=(1, 2))[gone.any(axis=(1, 2))]
    assert areas.min() > 0.05 and areas.max() < 0.36


# --- random numbers and state ---------------------------------------------------------------------------------------


def by_numpy(seed: int, step: int, rows: np.ndarray, columns: int) -> np.ndarray:
    """The same generator in unsigned numbers, where shifts and products are what they are in its definition."""

    def mixed(value: np.ndarray) -> np.ndarray:
        value = (value ^ (value >> np.uint32(16))) * np.uint32(0x7FEB352D)
        value = (value ^ (value >> np.uint32(15))) * np.uint32(0x846CA68B)
        result: np.ndarray = value ^ (value >> np.uint32(16))
        return result

    stride = np.uint32(0x9E3779B9)
    key = mixed(mixed(np.array([step], np.uint32) * stride) ^ np.uint32(seed & 0xFFFFFFFF))
    row = mixed(mixed(rows.astype(np.uint32) * stride) ^ key)
    cells = mixed(row[:, None] + np.arange(1, columns + 1, dtype=np.uint32) * stride)
    result: np.ndarray = (cells >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return result


def test_the_random_numbers_are_those_of_unsigned_arithmetic() -> None:
    for seed, step in ((0, 0), (1, 5), (12345, 100_000)):
        ours = as_array(uniforms(folded(seed), step, np.arange(7, 60), 38))
        np.testing.assert_array_equal(ours, by_numpy(folded(seed), step, np.arange(7, 60), 38))


def test_the_random_numbers_look_like_it() -> None:
    steps = np.stack([by_numpy(folded(0), step, np.arange(128), 38) for step in range(200)])  # step x row x column

    counts = np.histogram(steps, bins=64, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-4
    assert steps.min() >= 0 and steps.max() < 1
    for one, other in ((steps[:-1], steps[1:]), (steps[:, :-1], steps[:, 1:]), (steps[..., :-1], steps[..., 1:])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)
    other_seed = np.stack([by_numpy(folded(1), step, np.arange(128), 38) for step in range(200)])
    assert abs(np.corrcoef(steps.ravel(), other_seed.ravel())[0, 1]) < 5 / np.sqrt(steps.size)


def test_a_restored_layer_goes_on_where_the_other_was() -> None:
    first, second = (Augmentation(ALBANIE, 48, seed=9) for _ in range(2))
    seen = [as_array(first(faces(), training=True)) for _ in range(3)]
    second.build((None, 48, 48, 1))
    second.set_weights([np.array(2)])

    np.testing.assert_array_equal(as_array(second(faces(), training=True)), seen[2])
    assert not np.array_equal(seen[1], seen[2])
    assert [weight.name for weight in first.weights] == ["steps"] and not first.trainable_weights


def test_half_precision_does_not_reach_the_pixels() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = Augmentation(size=48)
        found = layer(faces().astype(np.float32) + 0.25)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(as_array(found)[..., 0], faces()[..., 0] + 0.25 - MEAN[0], atol=1e-3)


def test_a_model_with_it_can_be_saved_and_opened(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((48, 48), dtype="uint8"), Augmentation(WTOMIN, 64, seed=5)])
    model.save(tmp_path / "with.keras")
    again = keras.saving.load_model(tmp_path / "with.keras")

    assert (again.layers[0].settings, again.layers[0].size, again.layers[0].seed) == (WTOMIN, 64, 5)
    assert model.output_shape == (None, 64, 64, 3)
    np.testing.assert_array_equal(as_array(again(faces(), training=True)), as_array(model(faces(), training=True)))


# --- the other backends ---------------------------------------------------------------------------------------------

ELSEWHERE = """
import json, sys
import keras, numpy as np
from ferplus_keras.finetune.augmentation import Augmentation
from ferplus_keras.finetune.settings import AugmentationSettings
from ferplus_keras.finetune.feeding import Feed, for_keras
source = np.load(sys.argv[1])
settings = json.loads(sys.argv[2])
layer = Augmentation(AugmentationSettings(**settings), 100, seed=11)
model = keras.Sequential([keras.Input((48, 48), dtype="uint8"), layer, keras.layers.GlobalMaxPooling2D()])
model.add(keras.layers.Dense(2, kernel_initializer="ones"))
model.compile("sgd", "mse")
images = source["images"]
feed = Feed(images, np.zeros((len(images), 2), np.float32), np.ones(len(images), np.float32), len(images))
for feed.epoch in range(2):
    model.fit(for_keras(feed), epochs=1, verbose=0, shuffle=False)  # compiled where it can be
steps = int(layer.steps.value)
after = keras.ops.convert_to_numpy(layer(images, training=True))
plain = keras.ops.convert_to_numpy(layer(images))
np.savez(sys.argv[3], after=after, plain=plain)
print(keras.backend.backend(), steps)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_other_backends_make_the_same_images(backend: str, tmp_path: Path) -> None:
    """Two steps of fit, then one by hand: the third of the sequence, as here."""
    everything = replace(
        ALBANIE, crop_scale=(0.8, 1.0), crop_ratio=(0.8, 1.25), brightness=0.1, contrast=0.1, erased=0.3
    )
    np.savez(tmp_path / "in.npz", images=faces(6)[..., 0])
    settings = json.dumps({name: getattr(everything, name) for name in everything.__dataclass_fields__})

    said = run_python(
        ELSEWHERE, tmp_path / "in.npz", settings, tmp_path / "out.npz",
        KERAS_BACKEND=backend, OMP_NUM_THREADS="1",
    )  # fmt: skip

    assert said.split() == [backend, "2"]
    here = Augmentation(everything, 100, seed=11)
    for _ in range(3):
        expected = as_array(here(faces(6)[..., 0], training=True))
    with np.load(tmp_path / "out.npz") as there:
        np.testing.assert_allclose(there["after"], expected, atol=0.02)
        np.testing.assert_allclose(there["plain"], as_array(here(faces(6)[..., 0])), atol=1e-3)


# --- what cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, None, 48), (2, 48, 48, 4), (2, 1, 48), (2, 48)])
def test_images_that_cannot_be_are_said(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(ValueError, match="fixed size"):
        Augmentation().build(shape)
