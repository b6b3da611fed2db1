"""The part of a file's record that whoever runs it needs: labels, mean, size, and what comes out.

The record comes from a file, and the file from anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferplus_keras.engines.engine import LOGITS, PROBABILITIES, Engine, Run, Takes
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.preprocessing import PUBLISHED, trained_side

Record = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """What ``record`` says, as far as it can be believed; what it does not say is as published."""

    path: Path
    record: Record | None = None
    labels: tuple[str, ...] | None = None
    mean: tuple[float, ...] = PUBLISHED.mean
    side: int | None = None  #: of the images that it was trained on; None where nothing is said
    gives: str | None = None

    @classmethod
    def of(cls, path: Path, record: Record | None) -> Told:
        """Raises :class:`BadInputError` when the network wants its images in a way that is not given here."""
        told = record or {}
        wanted = told.get("preprocessing")
        wanted = wanted if isinstance(wanted, dict) else {}
        for key, published in (("channel_order", PUBLISHED.channel_order), ("std", list(PUBLISHED.std))):
            asked = wanted.get(key, published)
            if (list(asked) if isinstance(asked, tuple) else asked) != published:
                raise BadInputError(
                    f"{path} asks for {key} {str(asked)[:60]}, and is given RGB, 0..255, less a mean. "
                    f"`ferplus convert {path} new.h5` makes a file of this project's own layout first."
                )
        inside = told.get("preprocessing_inside") is True
        gives = told.get("output")
        return cls(
            path, record, _labels(told.get("labels")), (0.0,) * 3 if inside else _mean(path, wanted.get("mean")),
            trained_side(wanted["size"]) if "size" in wanted else None,
            gives if isinstance(gives, str) and gives in (LOGITS, PROBABILITIES) else None,
        )  # fmt: skip

    def side_for(self, *graph: int | None) -> int:
        """The side of the images, by the record and by the ``graph``'s height and width (None: any).

        Raises :class:`BadInputError` when the two contradict each other, or the images are not square.
        """
        fixed = {each for each in graph if each is not None}
        side = self.side or (fixed and min(fixed)) or PUBLISHED.size[0]
        if fixed - {side} or trained_side((side, side)) != side:
            shown = " x ".join("any" if each is None else str(each) for each in graph)
            raise BadInputError(
                f"{self.path} takes images of {shown}, and these networks take images of {side} x {side} x 3: it is no "
                "network for square images of one size, or its record is another file's."
            )
        return side

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
        takes = {name: more.pop(name) for name in ("dtype", "channels_first", "fixed") if name in more}
        labels = self.labels
        if labels is None and classes in (len(EMOTIONS), None):
            labels = EMOTIONS
        record = self.record or {}
        standin = "standin" in self.path.name.lower() or bool(record.get("standin"))
        return Engine(
            self.path, by, call, Takes(side, self.mean, **takes), gives or self.gives, labels, classes,
            network or str(record.get("network") or ""), standin, record=self.record, **more,
        )  # fmt: skip


def _labels(labels: Any) -> tuple[str, ...] | None:
    good = isinstance(labels, list | tuple) and labels and all(isinstance(each, str) for each in labels)
    return tuple(labels) if good else None


def _mean(path: Path, mean: Any) -> tuple[float, ...]:
    if mean is None:
        return PUBLISHED.mean
    good = isinstance(mean, list | tuple) and len(mean) == 3
    if not good or not all(isinstance(x, int | float) and math.isfinite(x) and abs(x) <= 255 for x in mean):
        raise BadInputError(
            f"{path}: its record asks for the mean {str(mean)[:60]}; three numbers in 0..255 are meant."
        )
    return tuple(map(float, mean))


__all__ = ["Record", "Told"]
