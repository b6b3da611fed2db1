"""What is said of somebody else's network is understood, kept, and done to every pixel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ferplus_keras.engines import open_engine
from ferplus_keras.engines.card import NO_CARD, Card, Input
from ferplus_keras.engines.engine import PROBABILITIES, Engine, Takes
from ferplus_keras.engines.record import FileFacts
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
     ("mean 1, 2, 3", "behind mean"), ("mean", "behind mean"), ("gray mean 1,2,3", "one number each"),
     ("mean 0.485,0.456,0.406 std 0.229,0.224,0.225", "would reach 1137: give the range"),
     ("0..1 mean 131.09", "do not have a mean of 131.09"), ("0...5", '"0...5" is not understood')],
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


def test_what_a_card_leaves_open_is_what_the_record_says(tmp_path: Path) -> None:
    record = {
        "labels": list(EMOTIONS), "output": "logits", "preprocessing": {"mean": [131.0, 103.0, 91.0], "size": [48, 48]}
    }  # fmt: skip
    for line, mean, side, gives in (
        ("channels-last", (131.0, 103.0, 91.0), 48, "logits"),
        ("probabilities", (131.0, 103.0, 91.0), 48, PROBABILITIES),
        ("rgb 0..1", (0.0,), 48, "logits"), ("64x64", (131.0, 103.0, 91.0), 64, "logits"),
    ):  # fmt: skip
        facts = FileFacts.of(tmp_path / "a.onnx", record, Card.of(line, None))
        assert (facts.mean, facts.side, facts.gives, facts.labels) == (mean, side, gives, EMOTIONS), line


def test_what_nobody_says_is_assumed_and_said(tmp_path: Path) -> None:
    def notes(card: Card = NO_CARD, record: dict[str, Any] | None = None, **more: Any) -> str:
        engine = FileFacts.of(tmp_path / "a.onnx", record, card).engine("x", lambda x: x, 8, side=48, **more)
        return "; ".join(engine.notes)

    assert "FERPlus's order is assumed: neutral" in notes()
    assert "images are prepared; RGB 48 x 48, 0..255 less (131.091, 103.883, 91.4953) is assumed" in notes()
    assert "prepared" not in notes(Card.of("rgb 0..1", None)) and "order" in notes(Card.of("rgb 0..1", None))
    assert not notes(Card.of("rgb 0..1", ",".join(EMOTIONS)))
    assert not notes(record={"labels": list(EMOTIONS), "preprocessing": {"mean": [1, 2, 3]}})
    assert "prepared" not in notes(dtype="uint8")
    with pytest.raises(BadInputError, match="takes bytes, which are not scaled"):
        notes(Card.of("0..1", None), dtype="uint8")


def test_an_answer_does_not_depend_on_the_images_beside_it(tmp_path: Path) -> None:
    """Softmax in steps of 1/256, as old quantised files give it: many rows miss 1, some by chance do not."""
    rng = np.random.default_rng(0)
    scores = np.exp(rng.normal(0, 2.5, (256, 8)))
    rows = np.rint(scores / scores.sum(axis=1, keepdims=True) * 256) / 256
    engine = Engine(
        tmp_path / "a.tflite", "x", lambda images: rows[images[:, 0, 0, 0].astype(int)], Takes(8, (0.0,)),
        numbers="int8", labels=EMOTIONS,
    )  # fmt: skip
    pixels = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None, None], (64, 8, 8, 3))
    together = engine.probabilities(pixels)
    for number in range(64):
        np.testing.assert_array_equal(engine.probabilities(pixels[number : number + 1])[0], together[number])
    wrong = replace(engine, numbers="float32")
    first = [wrong.probabilities(pixels[number : number + 1])[0] for number in range(64)]
    np.testing.assert_array_equal(first, wrong.probabilities(pixels))


@pytest.mark.slow
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
