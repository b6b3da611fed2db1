"""Each way of resizing against the library that it is named after."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ferplus_keras.cli.accuracy import RESIZER_NAMES
from ferplus_keras.networks.resizing import DEFAULT_RESIZER, RESIZERS


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """Noise, slopes, edges: what roundings and borders show on."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (6, 48, 48), dtype=np.uint8)
    rows, columns = np.mgrid[0:48, 0:48]
    shapes = np.stack([rows * 5, columns * 5, ((rows + columns) % 2) * 255, np.full((48, 48), 255), rows * 0])
    return np.concatenate([noise, shapes.astype(np.uint8)])


def test_the_names_are_the_command_lines() -> None:
    assert tuple(RESIZERS) == RESIZER_NAMES and next(iter(RESIZERS)) == DEFAULT_RESIZER


def test_pillow(faces: np.ndarray) -> None:
    """As `load_image` resizes an RGB image of the same grey."""
    found = RESIZERS["pillow"].run(faces)
    for image, resized in zip(faces, found, strict=True):
        colour = Image.fromarray(image).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(np.asarray(colour), np.repeat(resized[..., None], 3, axis=2))


def test_align_corners_is_torchs(faces: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    images = torch.from_numpy(faces[:, None].astype(np.float32))
    expected = torch.nn.functional.interpolate(images, (224, 224), mode="bilinear", align_corners=True).numpy()[:, 0]
    found = RESIZERS["align-corners"].run(faces)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found[:, [0, 0, -1, -1], [0, -1, 0, -1]], faces[:, [0, 0, -1, -1], [0, -1, 0, -1]])


def test_tensorflow_is_tensorflows_bit_for_bit(faces: np.ndarray) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    expected = tensorflow.image.resize(faces[..., None], (224, 224)).numpy()[..., 0]
    np.testing.assert_array_equal(RESIZERS["tensorflow"].run(faces), expected)


def test_opencv_is_opencvs_bit_for_bit(faces: np.ndarray) -> None:
    """Where OpenCV is installed; it is no requirement of this project. Seen with 4.10 and 5.0."""
    cv2 = pytest.importorskip("cv2")
    for image, resized in zip(faces, RESIZERS["opencv"].run(faces), strict=True):
        np.testing.assert_array_equal(cv2.resize(image, (224, 224), interpolation=cv2.INTER_LINEAR), resized)


def test_opencv_is_what_was_seen_of_it() -> None:
    """A piece of cv2.resize's own output, kept here for where OpenCV is not installed."""
    seen = [106, 114, 122, 131, 139, 148, 156, 165, 174, 183, 191, 201, 210, 219, 228, 211, 167, 123, 78, 34]
    ramp = np.tile((np.arange(48) ** 2 % 251).astype(np.uint8), (48, 1))
    assert RESIZERS["opencv"].run(ramp[None])[0, 100, 90:110].tolist() == seen


@pytest.mark.parametrize("name", RESIZER_NAMES)
def test_what_all_of_them_have_in_common(name: str, faces: np.ndarray) -> None:
    run = RESIZERS[name].run
    found = run(faces)
    assert found.shape == (len(faces), 224, 224) and found.dtype in (np.uint8, np.float32)
    np.testing.assert_array_equal(run(faces[3:4])[0], found[3])  # an image does not depend on its neighbours
    np.testing.assert_allclose(found[9], 255, atol=1.01)  # OpenCV's weights leave 254 here and there
    assert (found[10] == 0).all()
    centres = (np.arange(224) + 0.5) * 48 / 224 - 0.5
    slope = found[6].astype(np.float64) / 5  # brightness says which row it came from
    if name == "align-corners":
        centres = np.arange(224) * 47 / 223
    np.testing.assert_allclose(slope[:, 100], np.clip(centres, 0, 47), atol=0.21)
