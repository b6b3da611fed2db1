"""What is said of somebody else's network is understood, kept, and done to every pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferplus_keras.engines import open_engine
from ferplus_keras.engines.card import Card, Input
from ferplus_keras.engines.engine import Takes
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.emotions import EMOTIONS, SYNONYMS, emotion_of

SEVEN = "angry,disgust,fear,happy,sad,surprise,neutral"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("gray 48x48 0..1", {"order": "gray", "side": 48, "range": (0, 1)}),
        ("GREY -1..1 nhwc", {"order": "gray", "range": (-1, 1), "first": False}),
        ("bgr 224x224 mean 103.9,116.8,123.7 channels-first",
         {"order": "BGR", "side": 224, "mean": (103.9, 116.8, 123.7), "first": True}),
        ("rgb 0..1 mean 0.5 std 0.5 logits",
         {"order": "RGB", "range": (0, 1), "mean": (0.5,), "std": (0.5,), "gives": "logits"}),
    ],
)  # fmt: skip
def test_a_line_says_what_goes_in(text: str, fields: dict[str, Any]) -> None:
    assert Input.parse(text) == Input(text, **fields)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("48x40", "not a square"), ("4x4", "not a square"), ("1..0", "not a range"), ("blue", '"blue" is not understood'),
     ("gray rgb", "says the order twice"), ("nchw channels-last", "says the layout twice"), ("std 0", "behind std"),
     ("mean 1, 2, 3", "behind mean"), ("mean", "behind mean"), ("gray mean 1,2,3", "one number each")],
)  # fmt: skip
def test_a_line_that_makes_no_sense_is_a_sentence(text: str, problem: str) -> None:
    with pytest.raises(BadInputError, match=problem):
        Input.parse(text)


def test_a_network_whose_name_leaves_no_room_for_a_card_has_none(tmp_path: Path) -> None:
    assert Card.beside(tmp_path / f"{'n' * 247}.onnx") == Card()


def test_names_of_classes_are_text(tmp_path: Path) -> None:
    card = Card.of(None, "a\x1b,\udcff")
    card.keep(tmp_path / "x.onnx")
    assert card.classes == (r"a\x1b", r"\udcff") and Card.beside(tmp_path / "x.onnx") == card
    assert card.keep(tmp_path / "x.onnx") is None


@pytest.mark.parametrize(
    ("order", "more", "pixel", "wanted"),
    [
        ("RGB", {"range": (0.0, 1.0)}, (255, 0, 51), (1, 0, 0.2)),
        ("BGR", {"mean": (1.0, 2.0, 3.0)}, (10, 20, 30), (29, 18, 7)),
        ("RGB", {"range": (0.0, 1.0), "mean": (0.5,), "std": (0.5, 0.25, 0.5)}, (255, 0, 255), (1, -2, 1)),
        ("gray", {"range": (-1.0, 1.0)}, (255, 255, 255), (1,)),
        ("gray", {}, (255, 0, 0), (76,)),
        ("gray", {"dtype": "uint8"}, (7, 7, 7), (7,)),
    ],
)
def test_pixels_are_brought_to_what_was_said(
    order: str, more: dict[str, Any], pixel: tuple[int, ...], wanted: tuple[float, ...]
) -> None:
    takes = Takes(**{"side": 2, "mean": (0.0,), "order": order} | more)
    pixels = np.broadcast_to(np.array(pixel, np.uint8), (1, 2, 2, 3))
    np.testing.assert_allclose(takes.prepared(pixels)[0, 1, 1], wanted, atol=1e-6)
    assert not pixels.flags.writeable and str(takes.side) in takes.text


def test_a_card_is_kept_and_read_again(tmp_path: Path) -> None:
    network = tmp_path / "a.onnx"
    card = Card.of("gray 48x48 0..1", SEVEN)
    assert Card.beside(network) == Card() and not Card.beside(network)
    assert card.keep(network) == tmp_path / "a.onnx.toml" and card.keep(network) is None
    assert Card.beside(network) == card
    over = Card.of("rgb", None).over(card)
    assert over.input == Input.parse("rgb") and over.classes == card.classes


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"a = [", "not TOML"), (b"\xff", "not TOML"), (b"mean = 3", "may hold only"),
     (b'classes = "a"', "may hold only"), (b"input = 3", "may hold only"),
     (b'input = "48"', "not understood"), (b'classes = ["a", "a"]', "twice")],
)  # fmt: skip
def test_a_card_that_is_none_is_a_sentence(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "a.onnx.toml").write_bytes(content)
    with pytest.raises(BadInputError, match=rf"a\.onnx\.toml.*{problem}"):
        Card.beside(tmp_path / "a.onnx")


@pytest.mark.parametrize("classes", ["angry", "angry,,sad", "angry,angry", ""])
def test_classes_that_are_none_are_a_sentence(classes: str) -> None:
    with pytest.raises(BadInputError, match="two or more names"):
        Card.of(None, classes)


def test_emotions_have_other_names() -> None:
    assert [emotion_of(name) for name in SEVEN.split(",")] == [
        "anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"
    ]  # fmt: skip
    assert emotion_of(" Contempt ") == "contempt" and emotion_of("NF") is None
    names = [name for each in SYNONYMS.values() for name in each]
    assert len(set(names)) == len(names) and tuple(SYNONYMS) == EMOTIONS


def test_a_torchscript_file_is_run_in_a_process_of_its_own(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Mean(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, images: Any) -> Any:
            return images.mean(dim=(2, 3)) @ torch.ones(1, 7)

    torch.jit.trace(Mean(), torch.zeros(1, 1, 8, 8)).save(tmp_path / "a.pt")
    with pytest.raises(BadInputError, match="does not say what images"):
        open_engine(tmp_path / "a.pt")
    engine = open_engine(tmp_path / "a.pt", 1, Card.of("gray 8x8 0..1", SEVEN))
    found = engine.run(np.full((3, 8, 8, 3), 51, np.uint8))
    engine.close()
    np.testing.assert_allclose(found, np.full((3, 7), 0.2), atol=1e-6)
    assert "TorchScript" in engine.by
