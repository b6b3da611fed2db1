"""Exports to runtimes without Keras: ONNX, TensorFlow Lite, TensorFlow's SavedModel.

Apart from the writers, because checkpoints are not read back from these files (except from our ``.onnx``): TensorFlow's
converters change the graph and, when quantising, the numbers. So an export's output is measured
(:mod:`verify.outputs`), and it is always made from the source, never from another export.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint, check_standin_name, with_output
from convert.conversion import default_target
from convert.folding import fold, refuse_folded
from convert.targets import EXPORTS, QUANTIZATIONS
from ferplus_keras.errors import BadInputError

#: Silences a library's output; the command line passes one because TensorFlow's converter prints a lot.
Quiet = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Recipe:
    """How a network is exported."""

    target: str  #: a name of :data:`EXPORTS`
    quantize: str = "none"  #: TensorFlow Lite only: "float16" (the weights) or "int8" (weights and activations)
    folded: bool = False  #: batch normalisation merged into the convolutions, in float64
    pixels: bool = False  #: preprocessing inside: RGB bytes in
    batch: int | None = None  #: images at a time; None: any number
    logits: bool = False  #: no softmax after the classifier
    channels_first: bool = False  #: ONNX only: images as 3 x 224 x 224

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        words = [EXPORTS[self.target].title, "float32" if self.quantize == "none" else self.quantize]
        words += ["folded"] * self.folded + ["preprocessing inside"] * self.pixels
        return ", ".join([*words, f"batch {self.batch}" if self.batch else "any batch"])


def checked(recipe: Recipe, calibrated: bool) -> None:
    """Raises :class:`BadInputError` if parts of ``recipe`` do not go together, before any work is done."""
    if recipe.target not in EXPORTS:
        raise BadInputError(f"There is no target {recipe.target}: choose from {', '.join(EXPORTS)}.")
    if recipe.quantize not in QUANTIZATIONS:
        raise BadInputError(f"There is no quantisation {recipe.quantize}: choose from {', '.join(QUANTIZATIONS[1:])}.")
    if recipe.quantize != "none" and recipe.target != "tflite":
        raise BadInputError(
            f"--quantize {recipe.quantize} is for --to tflite; {EXPORTS[recipe.target].title} files are written in "
            "float32. Leave it out, or change the target."
        )
    if recipe.quantize == "int8" and not calibrated:
        raise BadInputError(
            "int8 is calibrated on images: give --calibrate a folder of faces, or FERPlus, whose train images are used."
        )
    if calibrated and recipe.quantize != "int8":
        raise BadInputError("--calibrate is only for --quantize int8. Leave it out.")
    if recipe.channels_first and recipe.target != "onnx":
        raise BadInputError(
            "TensorFlow's networks take images as height x width x channels: leave out --channels first, or use --to "
            "onnx."
        )


def export(
    checkpoint: Checkpoint,
    recipe: Recipe,
    path: Path,
    *,
    calibration: np.ndarray | None = None,
    quiet: Quiet = nullcontext,
) -> Checkpoint:
    """Write ``checkpoint`` to ``path`` as ``recipe`` says, and return what was written: folded if requested.

    Args:
        checkpoint: the source.
        recipe: what to make of it; see :func:`checked`.
        path: a file, or for a SavedModel a folder, which must not exist. The caller renames it into place.
        calibration: for int8: images of the network's size, n x side x side x 3 bytes, RGB.
        quiet: wrapped around library calls that print.

    Raises:
        BadInputError: the network cannot be exported this way.
        OutputError: a library is missing.
    """
    if recipe.folded:
        checkpoint = fold(checkpoint)
    else:
        refuse_folded(checkpoint, "To export it as it is, add --fold.")
    provenance = with_output(checkpoint.provenance, probabilities=not recipe.logits)
    checkpoint = replace(checkpoint, provenance=replace(provenance, preprocessing_inside=recipe.pixels, dropout=0.0))
    EXPORTS[recipe.target].load()(checkpoint, recipe, path, calibration=calibration, quiet=quiet)
    return checkpoint


def export_path(source: str | Path, recipe: Recipe, out: str | Path | None, *, standin: bool) -> Path:
    """Where the export goes: ``out``, or beside the source under a descriptive name.

    Raises :class:`BadInputError` if ``out`` is the source, or its name hides that the weights are made up.
    """
    source = Path(source)
    if out is not None:
        path = Path(out)
    else:
        beside = default_target(source, "h5", folded=recipe.folded)
        marks = ([recipe.quantize] if recipe.quantize != "none" else []) + ["pixels"] * recipe.pixels
        path = beside.with_name("-".join([beside.name.removesuffix(".h5"), *marks]) + EXPORTS[recipe.target].suffix)
    if os.path.realpath(path) == os.path.realpath(source):
        raise BadInputError(f"{path} is both source and target. Give the target another name.")
    expected = EXPORTS[recipe.target].suffix
    if expected != ".saved_model" and not path.name.lower().endswith(expected):
        raise BadInputError(f"{path}: {EXPORTS[recipe.target].title} files end in {expected}; give it such a name.")
    if standin:
        check_standin_name(source.name, path, path.suffix)
    return path
