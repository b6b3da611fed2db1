"""keras_vggface's ``utils``: pixels to its networks' input, and predictions made readable."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.emotions import decode_predictions as decode_emotions
from ferplus_keras.networks.preprocessing import PUBLISHED, checked_pixels

#: The means, blue first, of keras_vggface's two versions: 1 is VGG16's, 2 is that of ResNet50 and SENet50.
MEANS = {1: (93.5940, 104.7624, 129.1863), 2: tuple(reversed(PUBLISHED.mean))}


def preprocess_input(x: Any, data_format: str | None = None, version: int = 1) -> np.ndarray:
    """``x`` (RGB, 0..255; height x width x 3, or a batch) as keras_vggface's networks take it: BGR less a mean.

    Args:
        x: the images. Unlike the original, whole numbers are taken too.
        data_format: None or "channels_last"; these networks take no other.
        version: 2 is right for ResNet50 and SENet50. 1, the original's default, is VGG16's mean: a warning says so.

    Returns:
        float32, of the shape of ``x``.

    Raises:
        ValueError: on what is no image of bytes (see :func:`ferplus_keras.preprocess_input`), and on other versions.
    """
    if data_format not in (None, "channels_last"):
        raise ValueError(f"these networks take channels last (height x width x 3), not {data_format!r}")
    if version not in MEANS:
        raise ValueError(f"version is 2 (ResNet50, SENet50) or 1 (VGG16's mean), not {version!r}")
    if version == 1:
        warnings.warn("preprocess_input(version=1) subtracts VGG16's mean; ResNet50 and SENet50 were trained with "
                      "version=2", stacklevel=2)  # fmt: skip
    return checked_pixels(x)[..., ::-1].astype(np.float32) - np.asarray(MEANS[version], np.float32)


def decode_predictions(preds: Any, top: int = 5) -> list[list[list[Any]]]:
    """The ``top`` emotions of each row, best first, as keras_vggface gives identities: lists of [name, score].

    Raises ``ValueError`` for other widths: the names of VGGFace2's 8631 identities are in keras_vggface's own files,
    not here.
    """
    scores = np.asarray(preds)
    if scores.ndim == 2 and scores.shape[1] != len(EMOTIONS):
        raise ValueError(
            f"decode_predictions knows FERPlus's {len(EMOTIONS)} emotions; an array of {scores.shape[1]} classes has "
            "names elsewhere (VGGFace2's 8631 identities: rcmalli_vggface_labels_v2.npy of keras_vggface)"
        )
    return [[[name, score] for name, score in row] for row in decode_emotions(scores, top=top)]
