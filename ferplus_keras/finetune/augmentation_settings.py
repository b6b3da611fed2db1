"""What is done to the images of a training step, as data: a recipe can be read and refused without Keras."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ferplus_keras.errors import BadInputError

Pair = tuple[float, float]


@dataclass(frozen=True)
class AugmentationSettings:
    """What is done to the images of a training step; the defaults do nothing. Lists (of a TOML file) become tuples.

    ``flip``: share of the images that are mirrored.
    ``warped``: share of the images that ``zoom``, ``shift``, ``rotation`` and ``skew`` are for.
    ``zoom``: from, to: enlarged so many times, about a random place.
    ``shift``: moved by up to that share of its side, either way, on each axis; edges are repeated.
    ``rotation``: degrees, counter-clockwise, one of these; or ``rotation_range``: any angle up to so many, either way.
    ``skew``: shear, one of these on each axis; or ``skew_range``: any up to that, either way.
    ``crop_scale``: from, to: share of the image's area that is cut out and enlarged to the whole;
    ``crop_ratio``: its width to height, from, to.
    ``brightness``: added, up to that share of white, either way; ``contrast``: multiplied by 1 more or less up to
    that; ``toned``: share of the images that these two are for. The result is clipped to 0..255.
    ``erased``: share of the images that lose a rectangle to the mean colour; ``erased_area``: its area, from, to.
    """

    flip: float = 0.0
    warped: float = 1.0
    zoom: Pair = (1.0, 1.0)
    shift: float = 0.0
    rotation: tuple[float, ...] = ()
    rotation_range: float = 0.0
    skew: tuple[float, ...] = ()
    skew_range: float = 0.0
    crop_scale: Pair = (1.0, 1.0)
    crop_ratio: Pair = (1.0, 1.0)
    brightness: float = 0.0
    contrast: float = 0.0
    toned: float = 1.0
    erased: float = 0.0
    erased_area: Pair = (0.02, 0.2)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            value = tuple(map(float, value)) if isinstance(value, list | tuple) else float(value)
            object.__setattr__(self, field.name, value)
            values = value if isinstance(value, tuple) else (value,)
            if not all(map(math.isfinite, values)):
                raise BadInputError(f"The augmentation's {field.name} is {value}: finite numbers are needed.")
        for name in ("flip", "warped", "shift", "toned", "erased", "brightness", "contrast"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInputError(f"The augmentation's {name} is a share from 0 to 1, not {getattr(self, name)}.")
        for name, highest in (
            ("zoom", math.inf), ("crop_scale", 1), ("crop_ratio", math.inf), ("erased_area", 1),
        ):  # fmt: skip
            pair = getattr(self, name)
            if not isinstance(pair, tuple) or len(pair) != 2 or not 0 < pair[0] <= pair[1] <= highest:
                limit = "" if highest == math.inf else f" and at most {highest}"
                raise BadInputError(f"The augmentation's {name} is from, to: two numbers above 0{limit}, not {pair}.")
        for name in ("rotation", "skew"):
            choices, reach = getattr(self, name), getattr(self, f"{name}_range")
            if (choices and reach) or reach < 0:
                raise BadInputError(
                    f"The augmentation takes {name} (one of {choices}) or {name}_range (up to {reach}, 0 or more)."
                )

    @property
    def geometric(self) -> bool:
        """Whether images are sampled anywhere but straight."""
        return bool(self.flip or self.cropping or self.warping)

    @property
    def cropping(self) -> bool:
        return self.crop_scale != (1.0, 1.0) or self.crop_ratio != (1.0, 1.0)

    @property
    def warping(self) -> bool:
        turned = self.zoom != (1.0, 1.0) or any(self.rotation) or any(self.skew) or self.rotation_range
        return bool(self.warped and (turned or self.skew_range or self.shift))

    @property
    def toning(self) -> bool:
        return bool(self.toned and (self.brightness or self.contrast))


#: Albanie's: flip, and half of the images warped.
ALBANIE = AugmentationSettings(
    flip=0.5, warped=0.5, zoom=(0.96, 1.04), rotation=(-10.0, 0.0, 10.0), skew=(-0.1, 0.0, 0.1)
)

#: wtomin's, with the defaults of the library that it calls: brightness and contrast for half of the images.
WTOMIN = AugmentationSettings(
    flip=0.5, crop_scale=(0.8, 1.0), crop_ratio=(4 / 5, 5 / 4), brightness=0.1, contrast=0.1, toned=0.5
)
