"""Frames a second of a film through ``ferplus predict``'s parts, and through the plain loop over the same film.

    python -m benchmarks.film_speed [--data DIR] [--frames 60]

The film is 640 x 480 with two faces of FERPlus that move. The plain loop reads a frame, finds the faces, predicts, and
takes the next; the detector and the network are the same. Beside it: the process's memory at the end.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import harness
from benchmarks.harness import Row
from ferplus_keras.cli.filming import FRAMES, SMALLEST, pixels_of
from ferplus_keras.dataset import load_ferplus
from ferplus_keras.predict.classifier import EmotionClassifier, decoding_threads
from ferplus_keras.predict.faces import Face, face_finder
from ferplus_keras.predict.film import Film, FilmWriter, Frame
from ferplus_keras.predict.streaming import Preparation, stream

Find = Callable[[Image.Image], list[Face]]


def make(path: Path, data: str, frames: int) -> None:
    """Write the film."""
    dataset = load_ferplus(data or None)
    faces = [Image.fromarray(dataset.images[row]).resize((120, 120)) for row in dataset.rows_of("val")[[3, 7]]]
    writer = FilmWriter(path, 25)
    for number in range(frames):
        image = Image.new("RGB", (640, 480), (90, 110, 130))
        for place, face in enumerate(faces):
            image.paste(face, (60 + 280 * place + number % 100, 150))
        writer.write(image, [], [], [])
    writer.close()


def plain_loop(path: Path, classifier: EmotionClassifier, find: Find) -> int:
    """The number of faces, frame by frame."""
    faces = 0
    for frame in Film(path).frames():
        image = pixels_of(frame)
        if found := find(image):
            crops = np.stack([each.pixels(image, classifier.side) for each in found])
            faces += len(classifier.predict_pixels(crops))
    return faces


def streamed(path: Path, classifier: EmotionClassifier, find: Find) -> int:
    """The same through what ``ferplus predict`` is made of."""
    prepare = Preparation[Frame](pixels_of, find, side=classifier.side)
    answers = stream(Film(path).frames(), prepare, classifier, batch=FRAMES, threads=decoding_threads())
    return sum(len(found) for batch in answers for _, found in batch)


def measure(data: str = "", frames: int = 60) -> dict[str, list[Row]]:
    """Both ways, each once to warm up."""
    classifier, find = EmotionClassifier(), face_finder("blazeface", smallest=SMALLEST)
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        make(path, data, frames)
        for _round in range(2):
            for name, way in (("plain loop", plain_loop), ("ferplus predict", streamed)):
                start = time.perf_counter()
                faces = way(path, classifier, find)
                rows[name] = {"way": name, "frames/s": frames / (time.perf_counter() - start), "faces": faces}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {f"film of {frames} frames, {memory} MiB at most": [*rows.values()]}


if __name__ == "__main__":
    harness.command(measure)
