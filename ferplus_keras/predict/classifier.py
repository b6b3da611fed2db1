"""``EmotionClassifier``: a network's file, asked about images."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras.engines import open_engine
from ferplus_keras.engines.engine import BATCH
from ferplus_keras.errors import BadInputError, NetworkWarning, warn_of_standin
from ferplus_keras.files.network_folder import network_name
from ferplus_keras.files.shipped import default_shipped
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.packages import naming_missing
from ferplus_keras.predict.given import is_one, items, name_of, opened
from ferplus_keras.predict.records import Prediction
from ferplus_keras.predict.streaming import Preparation, stream


class EmotionClassifier:
    """The network in a ``.h5``, ``.weights.h5``, ``.keras``, ``.onnx`` or ``.tflite`` file, ready to be asked.

    A folder may be a SavedModel, or that of a finished training. Without a path it is the best of the trained networks
    that come with the package: ``repr`` says which.

    >>> classifier = EmotionClassifier()
    >>> classifier = EmotionClassifier("resnet50_ferplus.h5")
    >>> classifier.predict("face.png").emotion
    >>> [each.probabilities["happiness"] for each in classifier.predict(["a.png", image, pixels])]

    ``labels`` are its classes in order, ``side`` is that of the square images it takes, ``by`` what runs it, ``notes``
    what to know of the file, such as what had to be assumed, ``standin`` whether its weights are made up; Python warns
    of both. ``threads`` bounds the processor threads of ONNX Runtime, OpenVINO and LiteRT. ``runtime`` says what runs a
    ``.onnx`` file: ``onnxruntime``, or ``openvino`` or ``openvino-bf16``, which computes in bfloat16 where the
    processor does.
    Raises :class:`ferplus_keras.errors.BadInputError` when the file is not such a network.
    """

    def __init__(
        self, path: str | Path | None = None, *, threads: int | None = None, runtime: str | None = None
    ) -> None:
        if path is None:
            path = default_shipped().path
        with naming_missing():
            self.engine = engine = open_engine(path, threads, runtime=runtime)
        if (
            engine.labels is None
            or len(set(engine.labels)) != len(engine.labels)
            or (engine.classes not in (None, len(engine.labels)))
        ):
            said = "" if engine.labels is None else f", and names {len(set(engine.labels))}"
            raise BadInputError(
                f"{engine.path} has {engine.classes} classes{said}: {len(EMOTIONS)} are wanted, or names in the file."
            )
        self.path, self.by, self.labels, self.notes = engine.path, engine.by, engine.labels, engine.notes
        self.standin, self.network, self.side = engine.standin, engine.network, engine.takes.side
        if self.standin:
            warn_of_standin(self.path)
        for note in self.notes:
            warnings.warn(f"{network_name(self.path)}: {note}", NetworkWarning, stacklevel=2)

    def __repr__(self) -> str:
        made_up = ", STAND-IN: made-up weights" if self.standin else ""
        return (
            f"<EmotionClassifier {network_name(self.path)}: {self.network or 'a network'}, {self.side} x {self.side}, "
            f"{len(self.labels)} classes ({', '.join(self.labels)}), run by {self.by}{made_up}>"
        )

    def predict(self, images: Any, *, batch: int = BATCH) -> Any:
        """What is seen in ``images``, each taken as a face crop and resized straight to what the network takes.

        Args:
            images: one image or several. An image is a path; an image file's bytes, or the file, open; a Pillow image;
                or an array or tensor of pixels 0..255, height x width, or height x width x 3 in RGB. Several are a
                list or any other iterable of these, or an array of n x height x width x 3; or, sorted by name, those
                in a folder, or of a pattern such as ``faces/*.png``.
            batch: images at a time.

        Returns:
            A :class:`Prediction` (``emotion``, ``confidence``, ``probabilities`` by name, ``as_dict()``) for one
            image, a list of them for several.

        Raises:
            BadInputError: naming the first image that cannot be read.
        """
        if batch < 1:
            raise ValueError(f"a batch is at least one image, not {batch}")
        if is_one(images):
            return self.predict([images], batch=batch)[0]
        found: list[Prediction] = []
        numbered = enumerate(items(images), 1)
        prepare = Preparation[tuple[int, Any]](lambda item: opened(item[1]), side=self.side)
        for answers in stream(numbered, prepare, self, batch=batch, threads=decoding_threads()):
            for prepared, predictions in answers:
                if prepared.error:
                    raise BadInputError(f"{name_of(prepared.item[1], prepared.item[0])}: {prepared.error}.")
                found.extend(predictions)
        return found

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """n x classes float64 for ``pixels``, n x ``side`` x ``side`` x 3 in RGB, 0..255."""
        return self.engine.probabilities(pixels)

    def predict_pixels(self, pixels: np.ndarray) -> list[Prediction]:
        """:meth:`probabilities`, with names."""
        return [Prediction.of(self.labels, row) for row in self.probabilities(pixels)]


def decoding_threads() -> int:
    """Threads that decode: as many as there are processors, up to four; past that the network is what is waited for."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, usable))
