"""Whether an array's numbers can be pixels from 0 to 255: one rule for all that takes arrays. NumPy alone."""

from __future__ import annotations

import math

import numpy as np

#: Floats up to here were scaled: to 0..1, or a little more where contrast or a wide kernel went beyond it, or as
#: ImageNet's networks have them, where white is 2.64. As pixels they would all be black.
FRACTION = 3.0

#: Whole numbers up to here are a mask, or were divided by 255.
BIT = 1

#: Kernels wider than the bilinear one overshoot. Of FERPlus's 35,714 faces, resized to 224 x 224 by OpenCV, the worst
#: reach -0.20 times the brightest pixel and 309 (bicubic), -0.25 times and 335 (Lanczos). Less a mean, what was black
#: is far lower: at -0.8 times the brightest pixel where it was white.
LOWEST, HIGHEST = -0.25, 340.0


def range_problem(pixels: np.ndarray, *, overshoot: bool = False) -> str:
    """What says that ``pixels`` are not from 0 to 255, in a sentence without its full stop; "" where nothing does.

    With ``overshoot``, floats may go beyond both ends as far as resizing takes them. Whole numbers may not, and bytes
    are always pixels.
    """
    if pixels.dtype == np.uint8:
        return ""
    if pixels.dtype.kind not in "uif":
        return f"an array of {pixels.dtype} is not an image: give numbers from 0 to 255"
    if not pixels.size:
        return ""
    low, high = float(pixels.min()), float(pixels.max())
    if not math.isfinite(low) or not math.isfinite(high):
        return "the array has NaN or infinity among its numbers, and pixels lie in 0..255"
    floats = pixels.dtype.kind == "f"
    deepest = min(0.0, LOWEST * high)
    if deepest <= low and 0 < high <= (FRACTION if floats else BIT):
        return (
            f"the array has no number above {high:.4g}, and pixels lie in 0..255: if it holds 0..1, multiply it by 255 "
            "(an image as dark as that: give it as bytes)"
        )
    least, most = (deepest, HIGHEST) if floats and overshoot else (0.0, 255.0)
    if low < least or high > most:
        deep = pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2
        return f"the array has numbers outside 0..255 ({low:.5g} to {high:.5g}): " + (
            "divide 16 bits by 257" if deep else "pixels are wanted, neither scaled nor less a mean"
        )
    return ""
