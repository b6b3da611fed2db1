"""Frames a second of a film through ``ferplus predict``'s parts, and through the plain loop over the same film.

    python -m benchmarks.film_speed [--data DIR] [--frames 60]

The film is 640 x 480 with two faces of FERPlus that move. The plain loop reads a frame, finds the faces, predicts, and
takes the next; the detector and the network are the same. Beside it: the process's memory at the end.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import machine
from ferplus_keras.cli.filming import FRAMES, SMALLEST
from ferplus_keras.dataset import load_ferplus
from ferplus_keras.predict.classifier import EmotionClassifier, decoding_threads
from ferplus_keras.predict.faces import face_finder
from ferplus_keras.predict.film import Film, FilmWriter, Frame
from ferplus_keras.predict.streaming import Preparation, stream


def make(path: Path, data: str | None, frames: int) -> None:
    dataset = load_ferplus(data)
    faces = [Image.fromarray(dataset.images[row]).resize((120, 120)) for row in dataset.rows_of("val")[[3, 7]]]
    writer = FilmWriter(path, 25)
    for number in range(frames):
        image = Image.new("RGB", (640, 480), (90, 110, 130))
        for place, face in enumerate(faces):
            image.paste(face, (60 + 280 * place + number % 100, 150))
        writer.write(image, [], [], [])
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data")
    parser.add_argument("--frames", type=int, default=60)
    options = parser.parse_args()
    classifier, find = EmotionClassifier(), face_finder("blazeface", smallest=SMALLEST)
    told: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        make(path, options.data, options.frames)
        for _round in range(2):  # the first warms the network up
            begun, faces = time.perf_counter(), 0
            for frame in Film(path).frames():
                if found := find(frame.image):
                    faces += len(
                        classifier.predict_pixels(
                            np.stack([each.pixels(frame.image, classifier.side) for each in found])
                        )
                    )
            told["plain loop"] = {"frames/s": round(options.frames / (time.perf_counter() - begun), 2), "faces": faces}
            begun, faces = time.perf_counter(), 0
            prepare = Preparation[Frame](lambda frame: frame.image, find, side=classifier.side)
            for answers in stream(Film(path).frames(), prepare, classifier, batch=FRAMES, threads=decoding_threads()):
                faces += sum(len(found) for _, found in answers)
            told["ferplus predict"] = {
                "frames/s": round(options.frames / (time.perf_counter() - begun), 2),
                "faces": faces,
            }
        told["MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
