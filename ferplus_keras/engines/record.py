"""The part of a file's record that whoever runs it needs: labels, mean, size, and what comes out.

The record comes from a file, and the file from anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferplus_keras.engines.card import GRAY, MAX_SIDE, MIN_SIDE, NO_CARD, RGB, Card
from ferplus_keras.engines.engine import LOGITS, PROBABILITIES, Engine, Run, Takes
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.provenance import named_standin
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.preprocessing import PUBLISHED, trained_side
from ferplus_keras.wording import counted, only_output, printable

Record = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """Whether channels come ``first``, which ones, and height and width (None: any)."""

    first: bool
    order: str
    extents: tuple[int | None, ...]


@dataclass(frozen=True)
class FileFacts:
    """What ``record`` says, as far as it can be believed; what it does not say is as published."""

    path: Path
    record: Record | None = None
    labels: tuple[str, ...] | None = None
    mean: tuple[float, ...] = PUBLISHED.mean
    side: int | None = None  #: of the images that it was trained on; None where nothing is said
    gives: str | None = None
    card: Card = NO_CARD  #: what is known besides; it goes before the record
    prepared: bool = False  #: whether the record says how images are prepared

    @classmethod
    def of(cls, path: Path, record: Record | None, card: Card = NO_CARD) -> FileFacts:
        """Raises :class:`BadInputError` when the network wants its images in a way that is not given here."""
        fields, said = record or {}, card.input
        wanted = fields.get("preprocessing")
        wanted = wanted if isinstance(wanted, dict) else {}
        inside = fields.get("preprocessing_inside") is True
        scaled, ordered = bool(said and said.scaled), bool(said and said.order)
        for key, published, given in (
            ("channel_order", PUBLISHED.channel_order, ordered), ("std", list(PUBLISHED.std), scaled)
        ):  # fmt: skip
            asked = wanted.get(key, published)
            if not given and (list(asked) if isinstance(asked, tuple) else asked) != published:
                raise BadInputError(
                    f"{path} asks for {key} {str(asked)[:60]}, and would be given RGB, 0..255, minus a mean. "
                    f"`ferplus convert {path} new.h5` makes a file in this project's own layout first."
                )
        if said and (scaled or not (inside or wanted)):
            mean = said.scale[1]
        else:
            mean = (0.0,) * 3 if inside else _mean(path, wanted.get("mean"))
        side = said.side if said else None
        gives = (said.gives if said else None) or fields.get("output")
        return cls(
            path, record, card.classes or _labels(fields.get("labels")), mean,
            side or (trained_side(wanted["size"]) if "size" in wanted else None),
            gives if isinstance(gives, str) and gives in (LOGITS, PROBABILITIES) else None, card,
            inside or bool(wanted),
        )  # fmt: skip

    def side_for(self, *graph: int | None) -> int:
        """The side of the images, by the record and by the ``graph``'s height and width (None: any).

        Raises :class:`BadInputError` when the two contradict each other, or the images are not square.
        """
        fixed = {each for each in graph if each is not None}
        side = self.side or (fixed and min(fixed)) or PUBLISHED.size[0]
        possible = MIN_SIDE <= side <= MAX_SIDE if self.card.input else trained_side((side, side)) == side
        if fixed - {side} or not possible:
            shown = " x ".join("any" if each is None else str(each) for each in graph)
            raise BadInputError(
                f"{self.path} takes images of {shown}, and these networks take images of {side} x {side} x 3: it is "
                "not a network for square images of one size, or its record or --input is another file's."
            )
        return side

    def layout(self, shape: Sequence[int | None] | None, kind: str = "", *, last: bool = False) -> Layout:
        """How images lie in an input of the ``shape`` (None: any extent) and the ``kind`` of numbers;
        ``last``: the channels are, unless it was said that they are not.

        Raises :class:`BadInputError` when these are no images, or what they are like is known from nowhere.
        """
        said = self.card.input
        orders = {3: said.order or RGB, 1: said.order or GRAY} if said else {3: RGB}
        if said and said.order:
            orders = {1 if said.order == GRAY else 3: said.order}
        found = None
        if shape is not None and len(shape) == 4:
            for first in (False,) if last and not (said and said.first) else (False, True):
                channels = shape[1 if first else 3]
                if channels is None:  # any number: the one that is meant
                    channels = next(iter(orders)) if not first and shape[1] not in orders else None
                if found is None and channels in orders and (said is None or said.first in (None, first)):
                    found = Layout(first, orders[channels], tuple(shape[2:] if first else shape[1:3]))
        if found is None:
            shown = " x ".join("any" if each is None else str(each) for each in shape or ()) or "nothing recognisable"
            wanted = f'--input says "{said.text[:80]}"' if said else (
                f"these networks take images of {self.side or 224} x {self.side or 224} x 3: if it is a network for "
                'other images, say which with --input, such as "gray 48x48 0..1"'
            )  # fmt: skip
            raise BadInputError(f"{self.path} takes {shown[:200]}{f' ({kind})' if kind else ''}, and {wanted}.")
        return found

    def output_of(self, outputs: Sequence[tuple[str, Sequence[int | None] | None]]) -> tuple[int, tuple[str, ...]]:
        """Which of a network's ``outputs`` (name, shape) is its classes, and what is to be said of the others.

        The only one is what it is. Raises :class:`BadInputError` when none of several has as many numbers for an image
        as there are classes, or more than one has.
        """
        if len(outputs) == 1:
            return 0, ()
        wanted = len(self.labels or EMOTIONS)
        numbers = [_numbers(shape) for _, shape in outputs]
        if numbers.count(wanted) != 1:
            listed = ", ".join(
                f"{name} ({counted(many, 'number') if many else 'of no known size'})"
                for (name, _), many in zip(outputs, numbers, strict=True)
            )
            raise BadInputError(
                printable(f"{self.path} has {len(outputs)} outputs, {listed[:400]}, of which ")
                + f"{'none is' if wanted not in numbers else 'more than one could be'} its {wanted} classes. Save it "
                "with the classes as its only output."
            )
        place = numbers.index(wanted)
        names = [name for name, _ in outputs]
        return place, (only_output(names.pop(place), names),)

    def engine(
        self,
        by: str,
        call: Run,
        classes: int | None,
        *,
        side: int,
        network: str = "",
        gives: str | None = None,
        **more: Any,
    ) -> Engine:
        """The engine of the file; ``more`` are fields of :class:`Engine`, or of :class:`Takes`."""
        takes: Record = {name: more.pop(name) for name in ("dtype", "channels_first", "fixed", "order") if name in more}
        if (said := self.card.input) is not None:
            span, _, std = said.scale
            takes |= {"order": said.order or takes.get("order", RGB), "range": span, "std": std}
            gives = said.gives or gives
            if takes.get("dtype") == "uint8" and (span, set(self.mean), set(std)) != ((0.0, 255.0), {0.0}, {1.0}):
                raise BadInputError(
                    f"{self.path} takes bytes, which are not scaled: leave range, mean and std out of --input and of "
                    "its card."
                )
        takes_in, labels, notes = Takes(side, self.mean, **takes), self.labels, []
        if labels is None and classes in (len(EMOTIONS), None):
            labels = EMOTIONS
            notes.append(f"the file does not name its classes; FERPlus's order is assumed: {', '.join(labels)}")
        if said is None and not self.prepared and takes_in.dtype != "uint8":
            notes.append(f"the file does not say how images are prepared; {takes_in.text} is assumed")
        record = self.record or {}
        standin = named_standin(self.path.name) or bool(record.get("standin"))
        return Engine(
            self.path, by, call, takes_in, gives or self.gives, labels, classes,
            network or str(record.get("network") or ""), standin, record=self.record,
            notes=(*notes, *more.pop("notes", ())), **more,
        )  # fmt: skip


def _numbers(shape: Sequence[int | None] | None) -> int:
    """For each image, of an output; 0 where that is not known."""
    extents = [each or 0 for each in shape[1:]] if shape else []  # TensorFlow Lite has -1 for any
    return math.prod(extents) if extents and min(extents) > 0 else 0


def _labels(labels: Any) -> tuple[str, ...] | None:
    good = isinstance(labels, list | tuple) and labels and all(isinstance(each, str) for each in labels)
    return tuple(labels) if good else None


def _mean(path: Path, mean: Any) -> tuple[float, ...]:
    if mean is None:
        return PUBLISHED.mean
    good = isinstance(mean, list | tuple) and len(mean) == 3
    if not good or not all(isinstance(x, int | float) and math.isfinite(x) and abs(x) <= 255 for x in mean):
        raise BadInputError(
            f"{path}: its record asks for the mean {str(mean)[:60]}; it should be three numbers in 0..255."
        )
    return tuple(map(float, mean))
