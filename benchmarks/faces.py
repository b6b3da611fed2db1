"""How many faces are found in composites, and what a network makes of them, by detector, framing and size.

    python -m benchmarks.faces [--data DIR] [--model FILE] [--sheets 100] [--json]

Faces of FERPlus's Valid (``albanie``) are pasted onto textured backgrounds, two to four a sheet, 24 to 400 pixels wide,
every second one turned by up to 40 degrees. Found is a box that overlaps the square that was pasted (IoU of 0.35);
any other box is wrong. The accuracy is that over the found faces, beside the same faces' as they are in the data set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import harness
from benchmarks.harness import Row
from ferplus_keras.dataset import Dataset, load_ferplus
from ferplus_keras.dataset.protocols import PROTOCOLS
from ferplus_keras.predict.blazeface import BlazeFace, Found, shared
from ferplus_keras.predict.classifier import EmotionClassifier
from ferplus_keras.predict.faces import BlazeFinder, Face, HaarFinder

SHEET = (1000, 750)
SIDES = ((24, 32), (32, 48), (48, 96), (96, 200), (200, 400))
TURNED = 40.0

#: A box shares so much with a face's square (intersection over union), or is wrong.
FOUND = 0.35


@dataclass(frozen=True)
class Pasted:
    """A face on a sheet: its row, the middle and the side of its square, and by how many degrees it was turned."""

    row: int
    x: float
    y: float
    side: int
    degrees: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


def background(rng: np.random.Generator) -> Image.Image:
    """Coloured noise of several scales, as patterned as a wallpaper."""
    total = np.zeros((SHEET[1], SHEET[0], 3), np.float32)
    for cells in (4, 16, 64):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        total += np.asarray(coarse.resize(SHEET, Image.Resampling.BICUBIC), np.float32) / 3
    return Image.fromarray(total.astype(np.uint8))


def sheet(dataset: Dataset, rows: Iterator[int], rng: np.random.Generator) -> tuple[Image.Image, list[Pasted]]:
    """A background with faces on it, none over another."""
    image = background(rng)
    pasted: list[Pasted] = []
    for _ in range(int(rng.integers(2, 5))):
        low, high = SIDES[int(rng.integers(len(SIDES)))]
        side, degrees = int(rng.integers(low, high + 1)), float(rng.uniform(-TURNED, TURNED) * (rng.random() < 0.5))
        reach = side * 0.75
        x, y = (float(rng.uniform(reach, length - reach)) for length in SHEET)
        if any(max(abs(x - each.x), abs(y - each.y)) < reach + each.side * 0.75 for each in pasted):
            continue
        face = Image.fromarray(dataset.images[row := next(rows)]).convert("RGB")
        face = face.resize((side, side), Image.Resampling.BICUBIC)
        turned = face.rotate(-degrees, Image.Resampling.BICUBIC, expand=True)
        mask = Image.new("L", face.size, 255).rotate(-degrees, expand=True)
        image.paste(turned, (round(x - turned.width / 2), round(y - turned.height / 2)), mask)
        pasted.append(Pasted(row, x, y, side, degrees))
    return image, pasted


class _Boxed(BlazeFinder):
    """BlazeFace's own box made square, in place of the frame that its points give."""

    def _framed(self, found: Any, shrink: float, size: tuple[int, int]) -> Face:
        face = super()._framed(found, shrink, size)
        box = found.box / shrink
        side = float(np.max(box[2:] - box[:2])) * (1 + 2 * self.margin)
        x, y = (float(each) for each in (box[:2] + box[2:]) / 2)
        left, top, right, bottom = (round(each) for each in (x - side / 2, y - side / 2, x + side / 2, y + side / 2))
        return replace(face, frame=(x, y, side, 0.0), box=(left, top, right, bottom))


class Memory(BlazeFace):
    """It finds once: the framings are compared on the same faces."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, list[Found]] = {}

    def __call__(self, image: Image.Image) -> list[Found]:
        if id(image) not in self.known:
            self.known[id(image)] = super().__call__(image)
        return self.known[id(image)]


def finders() -> dict[str, Any]:
    """What is compared, by name."""
    framings = {
        "blazeface": BlazeFinder(),
        "blazeface, never level": BlazeFinder(level_from=9),
        "blazeface, always level": BlazeFinder(level_from=0),
        "blazeface, margin -0.05": BlazeFinder(-0.05),
        "blazeface, margin -0.1": BlazeFinder(-0.1),
        "blazeface, margin 0.1": BlazeFinder(0.1),
        "blazeface, its own box": _Boxed(),
        "blazeface, its own box, margin 0.1": _Boxed(0.1),
    }
    memory = Memory()
    for each in framings.values():
        each._find = memory
    return framings | {"haar": HaarFinder()}


def measure(data: str = "", model: str = "", sheets: int = 100) -> dict[str, list[Row]]:
    """Each detector and framing on the same sheets."""
    dataset, classifier = load_ferplus(data or None), EmotionClassifier(model or None)
    targets = PROTOCOLS["albanie"].apply(dataset.votes)
    labels = targets.labels
    rng = np.random.default_rng(0)
    order = iter(rng.permutation([row for row in dataset.rows_of("val") if targets.kept[row]]))
    made = [sheet(dataset, order, rng) for _ in range(sheets)]
    every = [each for _, pasted in made for each in pasted]
    crops = np.stack([_plain(dataset, each.row, classifier.side) for each in every])
    plain = dict(zip([each.row for each in every], _right(classifier, crops, labels, every), strict=True))
    rows = [_measured(name, finder, made, classifier, labels, plain) for name, finder in finders().items()]
    return {f"{len(every)} faces on {sheets} sheets": rows}


def _measured(
    name: str, find: Any, made: list[tuple[Image.Image, list[Pasted]]], classifier: EmotionClassifier,
    labels: np.ndarray, plain: dict[int, bool],
) -> Row:  # fmt: skip
    seconds, wrong = 0.0, 0
    crops: list[np.ndarray] = []
    found: list[Pasted] = []
    for image, pasted in made:
        start = time.perf_counter()
        faces = find(image)
        seconds += time.perf_counter() - start
        left = list(pasted)
        for face in faces:
            best = max(left, key=lambda each: shared(each.box, face.box)[1], default=None)
            if best is None or shared(best.box, face.box)[1] < FOUND:
                wrong += 1
                continue
            left.remove(best)
            found.append(best)
            crops.append(face.pixels(image, classifier.side))
    right = _right(classifier, np.stack(crops), labels, found)
    every = [each for _, pasted in made for each in pasted]

    def recall(those: Callable[[Pasted], bool]) -> float:
        return 100 * sum(map(those, found)) / max(1, sum(map(those, every)))

    sides = {
        f"{a} to {b} px": recall(lambda each, a=a, b=b: a <= each.side < b or each.side == b == 400)  # type: ignore[misc]
        for a, b in SIDES
    }
    return {
        "detector": name, "recall": recall(lambda _: True), **sides,
        "turned": recall(lambda each: abs(each.degrees) > 15), "precision": 100 * len(found) / (len(found) + wrong),
        "accuracy": _percent(right), "as in the data set": _percent([plain[each.row] for each in found]),
        "s a sheet": seconds / len(made),
    }  # fmt: skip


def _plain(dataset: Dataset, row: int, side: int) -> np.ndarray:
    face = Image.fromarray(dataset.images[row]).convert("RGB")
    return np.asarray(face.resize((side, side), Image.Resampling.BILINEAR))


def _right(classifier: EmotionClassifier, crops: np.ndarray, labels: np.ndarray, faces: list[Pasted]) -> np.ndarray:
    given = np.concatenate([classifier.probabilities(crops[start : start + 64]).argmax(1)
                            for start in range(0, len(crops), 64)])  # fmt: skip
    right: np.ndarray = given == labels[[each.row for each in faces]]
    return right


def _percent(right: Any) -> float:
    return 100 * float(np.mean(right)) if len(right) else 0.0


if __name__ == "__main__":
    harness.command(measure)
