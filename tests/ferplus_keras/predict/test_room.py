"""One bound for all threads that decode: nobody takes what is not there, and nobody waits for ever."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ferplus_keras.errors import BadInputError, ShortageError
from ferplus_keras.predict import decoding
from ferplus_keras.predict.decoding import MAX_SIDE, decode, read_image
from ferplus_keras.predict.room import DECODING, HELD, Room
from tests.ferplus_keras.predict.test_decoding import PIXELS, encoded, header_bomb


def test_a_large_image_waits_for_room() -> None:
    room = Room(DECODING * 100)
    taken = room.take(60)
    image = Image.new("RGB", (6, 10))
    done = threading.Event()

    def other() -> None:
        room.give(room.take(90))
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert not done.wait(0.05)
    room.hold(image, taken)
    assert room.taken == HELD * 60 and not done.wait(0.05)
    del image
    gc.collect()
    thread.join(5)
    assert done.is_set() and room.taken == 0


def test_one_that_is_larger_than_all_the_room_takes_all_of_it() -> None:
    room = Room(100)
    assert room.take(1 << 40) == 100


def test_what_was_decoded_is_counted_while_it_is_held() -> None:
    before = decoding.room.taken
    image = decode(encoded(Image.new("RGBA", (40, 10))))
    assert decoding.room.taken - before == HELD * 400
    del image
    gc.collect()
    with pytest.raises(BadInputError):
        decode(encoded(Image.fromarray(PIXELS))[:900])
    assert decoding.room.taken == before


@pytest.mark.parametrize("error", [MemoryError(), OSError("encoder error -9: out of memory")])
def test_shortage_is_not_damage(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(encoded(Image.new("RGB", (8, 8))))

    def short(_image: Image.Image) -> Image.Image:
        raise error

    monkeypatch.setattr(decoding, "as_rgb", short)
    with pytest.raises(ShortageError, match=r"large\.png could not be read: .*may be sound") as caught:
        read_image(path)
    assert caught.value.exit_code == 3


def test_no_side_is_longer_than_a_jpegs() -> None:
    with pytest.raises(BadInputError, match="a side may have"):
        decode(header_bomb(1, MAX_SIDE + 1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "L", "CMYK"])
def test_strips_are_no_seams(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 23, 3), np.uint8)
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    image = deep if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG", **({"transparency": 7} if mode == "P" else {}))
    whole = np.asarray(decode(data))
    monkeypatch.setattr(decoding, "STRIP", 50)
    np.testing.assert_array_equal(np.asarray(decode(data)), whole)
