"""Images with what was seen drawn on them: boxes round the faces, and bars of probabilities beside them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from os import path as os_path
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferplus_keras.files.atomic import atomic_path
from ferplus_keras.predict.records import Box, Prediction

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

PAPER, INK, MUTED, TRACK, BAR, BEST = "#ffffff", "#1a1f26", "#59636f", "#e8e9e4", "#8fb0d4", "#1f5fa8"
#: Faces differ in colour, in their order.
COLORS = ("#1f5fa8", "#b4540a", "#7a3e9d", "#0f766e", "#a61e5d")
PANEL, PAD, LINE = 290, 16, 24
#: Faces beyond these have a box and no bars.
MOST_PANELS = 6
LEAST_SIDE = 224


def annotated(
    image: Image, predictions: Sequence[Prediction], boxes: Sequence[Box] | None, scale: float, note: str = ""
) -> Image:
    """``image`` (reduced by ``scale``, by which ``boxes`` are too) beside a panel of bars for each face.

    Where faces were looked for and none was found, the panel says so.
    """
    from PIL import Image, ImageDraw

    grown = max(1.0, LEAST_SIDE / min(image.size)) if max(image.size) < LEAST_SIDE else 1.0
    if grown > 1:
        image = image.resize((round(image.width * grown), round(image.height * grown)))
    panel_height = LINE * (len(predictions[0].probabilities) + 1) + PAD if predictions else 0
    shown = predictions[:MOST_PANELS]
    rest = len(predictions) - len(shown)
    height = max(image.height + 2 * PAD, panel_height * len(shown) + PAD + LINE * bool(rest) + LINE * bool(note))
    sheet = Image.new("RGB", (image.width + 2 * PAD + PANEL, height), PAPER)
    sheet.paste(image, (PAD, PAD))
    draw = ImageDraw.Draw(sheet)
    for number, box in enumerate(boxes or ()):
        text = f" {number + 1}: {predictions[number].emotion} "
        _label(draw, [PAD + round(side * scale * grown) for side in box], text, COLORS[number % len(COLORS)])
    top = PAD
    for number, prediction in enumerate(shown):
        color = COLORS[number % len(COLORS)] if boxes else BEST
        name = f"face {number + 1}: " if boxes else ""
        _bars(draw, image.width + 2 * PAD, top, prediction, name, color)
        top += panel_height
    if not shown:
        draw.text((image.width + 2 * PAD, top), "no face found", fill=MUTED, font=_font(17))
    if rest:
        draw.text((image.width + 2 * PAD, top), f"and {rest} more", fill=MUTED, font=_font(14))
        top += LINE
    if note:
        draw.text((image.width + 2 * PAD, height - LINE), note, fill=COLORS[1], font=_font(13))
    return sheet


def labelled(image: Image, boxes: Sequence[Sequence[float]], texts: Sequence[str], numbers: Sequence[int]) -> Image:
    """``image`` with a box and a text for each face, in the colour of its number; its sides are made even."""
    from PIL import ImageDraw

    image = image.crop((0, 0, max(2, image.width // 2 * 2), max(2, image.height // 2 * 2)))
    draw = ImageDraw.Draw(image)
    for box, text, number in zip(boxes, texts, numbers, strict=True):
        _label(draw, [round(side) for side in box], text, COLORS[(number - 1) % len(COLORS)])
    return image


def _label(draw: ImageDraw, box: Sequence[int], text: str, color: str) -> None:
    left, top, right, bottom = box
    draw.rectangle((left, top, right, bottom), outline=color, width=3)
    width = round(draw.textlength(text, _font(14)))
    above = max(0, top - 20)
    draw.rectangle((left, above, left + width, above + 20), fill=color)
    draw.text((left, above + 2), text, fill=PAPER, font=_font(14))


def _bars(draw: ImageDraw, left: int, top: int, prediction: Prediction, name: str, color: str) -> None:
    draw.text((left, top), f"{name}{prediction.emotion} {100 * prediction.confidence:.0f} %", fill=INK, font=_font(17))
    width = PANEL - PAD - 140
    for place, (label, value) in enumerate(prediction.probabilities.items(), 1):
        line = top + LINE * place + 4
        best = label == prediction.emotion
        draw.text((left, line), label[:12], fill=INK if best else MUTED, font=_font(14))
        start = left + 92
        draw.rectangle((start, line + 3, start + width, line + 15), fill=TRACK)
        if (length := round(width * value)) > 0:
            draw.rectangle((start, line + 3, start + length, line + 15), fill=color if best else BAR)
        draw.text((start + width + 8, line), f"{100 * value:.0f}", fill=INK if best else MUTED, font=_font(14))


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def annotated_path(folder: Path, name: str, inside: str | None, *, alone: bool) -> Path:
    """Where the annotated image of ``name`` goes: the same place under ``folder`` as it has in the folder that was
    the only input; else its name with some digits of its place, so that no two are one.
    """
    if alone and inside is not None:
        return folder / f"{inside}.png"
    where = os_path.abspath(name)  # noqa: PTH100
    mark = "" if alone else f"-{blake2b(where.encode('utf-8', 'surrogateescape'), digest_size=4).hexdigest()}"
    return folder / f"{Path(where).name}{mark}.png"


def save(sheet: Image, path: Path) -> Path:
    """Write ``sheet`` as a PNG, whole or not at all. Raises :class:`OutputError`."""
    with atomic_path(path) as temporary:
        sheet.save(temporary, "PNG")
    return path
