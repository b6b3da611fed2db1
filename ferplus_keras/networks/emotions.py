"""The eight FERPlus classes, in the networks' order, and predictions made readable."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Order of the logits. Source: Microsoft's FERPlus columns, which Albanie's networks keep.
EMOTIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")

#: How far a probability that was computed in float16 may lie outside 0..1.
ROUNDING = 1e-3


#: What people call them besides, in small letters.
SYNONYMS = {
    "neutral": ("neutrality", "calm", "normal"), "happiness": ("happy", "joy", "joyful", "smile", "smiling"),
    "surprise": ("surprised", "astonished"), "sadness": ("sad", "unhappy"), "anger": ("angry", "mad"),
    "disgust": ("disgusted", "disgusting"), "fear": ("fearful", "scared", "afraid"),
    "contempt": ("contemptuous", "scorn"),
}  # fmt: skip


def emotion_of(name: str) -> str | None:
    """The one of :data:`EMOTIONS` that ``name`` means ("Angry" is anger); None where it is none of them."""
    told = name.strip().lower()
    return next((each for each in EMOTIONS if told == each or told in SYNONYMS[each]), None)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Images x classes: each row's probabilities."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result


def decode_predictions(
    predictions: Any, top: int = 3, labels: tuple[str, ...] = EMOTIONS
) -> list[list[tuple[str, float]]]:
    """The ``top`` classes of each row of ``predictions`` (images x classes), best first, as (name, probability).

    Like ``keras.applications``' function of that name. Raises ``ValueError`` when the width is not the number of
    labels, when ``top`` is not at least 1, and when a value is not from 0 to 1, as logits are not.
    """
    if not hasattr(top, "__index__") or top < 1:
        raise ValueError(f"top is how many classes to give, a whole number from 1 on, not {top!r}")
    scores = np.asarray(predictions)
    if scores.ndim != 2 or scores.shape[1] != len(labels):
        raise ValueError(
            f"decode_predictions takes an array of images x {len(labels)} classes ({', '.join(labels)}); "
            f"it was given the shape {scores.shape}"
        )
    scores = scores.astype(np.float64)  # minus an unsigned integer would be a large one, and the order wrong
    if np.isnan(scores).any():
        raise ValueError(
            "decode_predictions takes probabilities, and some of these are NaN, which comes of damaged weights or "
            "of pixels that are NaN: look at both"
        )
    if not ((scores > -ROUNDING) & (scores < 1 + ROUNDING)).all():
        raise ValueError(
            f"decode_predictions takes probabilities, and these range from {scores.min():.4g} to {scores.max():.4g}. "
            "If they are logits, pass keras.ops.softmax(predictions)"
        )
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return [[(labels[index], float(scores[row, index])) for index in best] for row, best in enumerate(order)]
