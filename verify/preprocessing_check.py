"""The second level of proof: pixels become network input as published, measured apart from the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from convert.checkpoint import Provenance
from ferplus_keras.networks.preprocessing import PUBLISHED, preprocess_input
from verify.images import Images


@dataclass(frozen=True)
class PreprocessingComparison:
    """``arithmetic``: largest difference, in grey levels, from the published formula computed in float64.

    ``stated`` says what the file itself tells its users, where that is not the published preprocessing.
    """

    arithmetic: float
    stated: str
    says_nothing: bool = False
    inside: bool = False  #: whether what was measured is a part of the file
    nameless: bool = False  #: whether the file names its classes and the checkpoint, under whatever head, does not

    @property
    def passed(self) -> bool:
        # Pixels are whole numbers up to 255 and the mean has 7 digits: float32 keeps their difference to 1.5e-5.
        return self.arithmetic <= 2e-5 and not self.stated

    @property
    def summary(self) -> str:
        names = "; the names of the classes are the file's own, the checkpoint has none" if self.nameless else ""
        return self._pixels + names

    @property
    def _pixels(self) -> str:
        if self.stated:
            return f"the file tells its users {self.stated}, which is not the checkpoint's"
        if self.inside:
            return (
                f"the file takes RGB bytes and subtracts the published mean itself; off by {self.arithmetic:.1e} grey "
                "levels at most from the formula in float64"
            )
        silent = ", which the file does not state" if self.says_nothing else ""
        return (
            f"RGB, 0..255 less the published mean{silent}; off by {self.arithmetic:.1e} grey levels at most from the "
            "formula in float64"
        )

    def figures(self) -> dict[str, Any]:
        return {"arithmetic": self.arithmetic}


def compare_preprocessing(
    images: Images,
    provenance: Provenance | None,
    source: Provenance | None = None,
    inside: Callable[[np.ndarray], np.ndarray] | None = None,
) -> PreprocessingComparison:
    """Our function against the published formula on the images' pixels, and the file's own words against both.

    Where the file has its preprocessing ``inside``, that takes our function's place.
    A file not written here (``provenance`` None) says nothing: it is fed as published; its first layer tells the rest.
    """
    exact = np.stack([images.pixels[..., channel] - PUBLISHED.mean[channel] for channel in range(3)], axis=-1)
    apart = float(np.abs((inside or preprocess_input)(images.pixels) - exact).max())
    if provenance is None:
        return PreprocessingComparison(apart, "", says_nothing=True, inside=inside is not None)
    stated, published = dict(provenance.preprocessing), PUBLISHED.as_dict()
    if source is not None:  # it may be for images of another size, by its record or its graph
        published["size"] = source.preprocessing["size"]
    different = [f"{key} {stated.get(key)}" for key, value in published.items() if stated.get(key) != value]
    nameless = source is not None and source.labels is None and provenance.labels is not None
    if source is not None and source.labels != provenance.labels and not nameless:
        different.append(f"the classes {', '.join(provenance.labels or ('none',))}")
    return PreprocessingComparison(apart, ", ".join(different), inside=inside is not None, nameless=nameless)
