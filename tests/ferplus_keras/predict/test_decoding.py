"""Any image in, upright RGB out, or a sentence: what formats leave open is settled, what is hostile is refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from ferplus_keras import load_image
from ferplus_keras.errors import BadInputError
from ferplus_keras.predict import decoding
from ferplus_keras.predict.decoding import MAX_PIXELS, as_input, decode, read_image
from ferplus_keras.predict.given import from_array, opened


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def noise(*shape: int, dtype: type = np.uint8, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, shape, dtype)


PIXELS = noise(20, 30, 3)


@pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF", "TGA", "WEBP"])
def test_lossless_formats_give_the_pixels(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    found = decode(encoded(Image.fromarray(PIXELS), format, **options))
    assert found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    format = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    found = decode(encoded(image, format))
    assert (found.mode, found.size) == ("RGB", (30, 20))
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(np.asarray(found).astype(int) - expected).max() <= 1


def test_16_bits_are_divided_and_not_clipped() -> None:
    """Pillow's own conversion makes everything above 255 white."""
    grey = np.linspace(0, 65535, 600, dtype=np.uint16).reshape(20, 30)
    expected = np.rint(grey / 257).astype(int)
    coded = (encoded(Image.fromarray(grey)), b"P5 30 20 65535\n" + grey.astype(">u2").tobytes())
    for image in (*map(decode, coded), from_array(grey)):
        found = np.asarray(image).astype(int)
        np.testing.assert_array_equal(found[..., 0], expected)
        assert (found[..., 0] == found[..., 2]).all()


@pytest.mark.parametrize("brightest", [255, 1023, 4095, 16383])
def test_fewer_bits_in_16_or_32_are_refused(brightest: int) -> None:
    """Read as 16 bits they are almost black: 255 becomes 1."""
    grey = np.linspace(0, brightest, 600).astype(np.uint16).reshape(20, 30)
    wide = Image.fromarray(grey.astype(np.int32))
    files = (
        encoded(Image.fromarray(grey)), encoded(Image.fromarray(grey), "TIFF"), encoded(wide, "TIFF"),
        b"P5 30 20 65535\n" + grey.astype(">u2").tobytes(), colour_png(grey),
    )  # fmt: skip
    for image in (*files, Image.fromarray(grey), wide, grey, grey.astype(">u2")):
        with pytest.raises(BadInputError, match=f"no number above {brightest}, which would be almost black"):
            opened(image)


def test_the_whole_image_says_how_many_bits_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "STRIP", 60)  # two rows
    grey = np.full((20, 30), 200, np.uint16)
    grey[-1, -1] = 40_000
    for data in (encoded(Image.fromarray(grey)), colour_png(grey)):
        found = np.asarray(decode(data))
        assert found[0, 0].max() <= 1 and found[-1, -1].tolist() == [156] * 3
    stated = b"P5 30 20 4095\n" + np.linspace(0, 4095, 600).astype(">u2").tobytes()
    assert np.asarray(decode(stated)).max() == 255  # this format says how many
    grey[...] = 0
    for image in (Image.fromarray(grey), Image.fromarray(grey.astype(np.int32)), grey):
        assert not np.asarray(opened(image)).any()  # black is black in any number of bits


def test_16_bits_for_all_three_colours_are_few_and_no_matter() -> None:
    """A BMP of 5, 6 and 5 bits; dark ones are images too."""
    head = struct.pack("<IIIHHIIIIII", 40, 4, 2, 1, 16, 3, 16, 0, 0, 0, 0) + struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    data = b"BM" + struct.pack("<IHHI", 14 + len(head) + 16, 0, 0, 14 + len(head)) + head + b"\x21\x08" * 8
    assert np.asarray(decode(data)).max() == 8


def colour_png(grey: np.ndarray) -> bytes:
    """A PNG of 16 bits in each of three channels, which Pillow does not write."""
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in grey)
    return png(grey.shape[1], grey.shape[0], 16, rows)


def test_pixels_of_unknown_range_are_refused() -> None:
    floats = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    wide = encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF")
    for data in (floats, wide):
        with pytest.raises(BadInputError, match="unknown range"):
            decode(data)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_stand_on_white(mode: str) -> None:
    """The colour that hides behind full transparency must not come out."""
    image = Image.new("RGBA", (8, 8), (10, 200, 30, 0))
    image.putpixel((0, 0), (60, 60, 60, 255))
    if mode == "P":
        indexed = Image.new("P", (8, 8), 1)
        indexed.putpalette([60, 60, 60, 10, 200, 30])
        indexed.putpixel((0, 0), 0)
        data = encoded(indexed, transparency=1)
    else:
        data = encoded(image.convert(mode))
    found = np.asarray(decode(data))
    assert (found[1:] == 255).all() and (found[0, 0] == 60).all()


def test_half_transparent_is_halfway_to_white() -> None:
    found = np.asarray(decode(encoded(Image.new("RGBA", (4, 4), (0, 100, 200, 128)))))
    np.testing.assert_allclose(found[0, 0], [127, 177, 227], atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(orientation: int) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = (250, 0, 0)
    turns = {1: [], 2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}[
        orientation
    ]  # Pillow's, undone by the viewer
    stored = Image.fromarray(upright)
    for turn in turns:
        stored = stored.transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(np.asarray(decode(encoded(stored, exif=exif))), upright)


def test_what_was_turned_or_cut_in_pillow_is_turned_again_unless_transposed_first() -> None:
    """As docs/predict.md says; whether somebody's image is upright already cannot be seen from it."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    with Image.open(io.BytesIO(encoded(Image.new("RGB", (60, 40)), "JPEG", exif=exif.tobytes()))) as image:
        assert opened(image.rotate(-90, expand=True)).size == (60, 40)
        assert opened(image.crop((0, 0, 30, 20))).size == (20, 30)
        upright = ImageOps.exif_transpose(image)
        assert opened(upright).size == (40, 60) and opened(upright.crop((0, 0, 30, 20))).size == (30, 20)


def test_damaged_orientation_does_not_cost_the_image() -> None:
    data = encoded(Image.fromarray(PIXELS), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff garbage")
    np.testing.assert_array_equal(np.asarray(decode(data)), PIXELS)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_counts(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert tuple(np.asarray(decode(data))[4, 4]) == (255, 0, 0)


def test_load_image_is_the_same_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0))))
    assert (load_image(path) == 255).all()
    np.testing.assert_array_equal(load_image(path), as_input(read_image(path)))
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "missing.png")
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(BadInputError, match=r"bad\.png: not an image"):
        load_image(tmp_path / "bad.png")


def test_a_box_is_what_is_resized() -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[10:20, 20:30] = 77
    assert (as_input(Image.fromarray(pixels), (20, 10, 30, 20)) == 77).all()


# --- faults -----------------------------------------------------------------------------------------------------


def header_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is that large."""
    return png(width, height, 8, b"\0" * 1000)


def png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)  # 2: RGB
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (MAX_PIXELS + 1, 1), (10_000, 9_000), (2**31 - 1, 2)])
def test_bombs_are_refused_by_their_header(width: int, height: int) -> None:
    with pytest.raises(BadInputError, match="limit of"):
        decode(header_bomb(width, height))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"hello, this is text", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"\xc5\xd0\xd3\xc6" + b"\0" * 40, "PostScript"),
        (header_bomb(9, 900)[:60], "damaged|not an image"),
        (encoded(Image.fromarray(PIXELS))[:900], "damaged"),
        (encoded(Image.fromarray(PIXELS), "JPEG")[:300], "damaged"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "damaged|not an image|no pixels"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_said_in_a_few_words(data: bytes, says: str) -> None:
    with pytest.raises(BadInputError, match=says) as error:
        decode(data)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_places_that_are_no_files_are_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path, says in ((pipe, "not a file"), (tmp_path, "is a directory|not a file"), (tmp_path / "no.png", "no such"),
                       ("/dev/zero", "not a file"), ("a\0b", "not a file name"), ("x" * 5000, "too long")):  # fmt: skip
        with pytest.raises(BadInputError, match=says):
            read_image(path)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(PIXELS)))
    path.chmod(0)
    with pytest.raises(BadInputError, match="permission denied"):
        read_image(path)


SEEDS = [
    encoded(Image.fromarray(PIXELS), format)
    for format in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "JPEG2000")
]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_damage_anywhere_gives_an_image_or_a_sentence(data: bytes, draw: st.DataObject) -> None:
    spoiled = bytearray(data)
    for place in draw.draw(st.lists(st.integers(0, len(data) - 1), max_size=6)):
        spoiled[place] = draw.draw(st.integers(0, 255))
    end = draw.draw(st.integers(0, len(data)))
    try:
        found = decode(bytes(spoiled[: end or len(spoiled)]))
    except BadInputError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert found.mode == "RGB" and as_input(found).shape == (224, 224, 3)
