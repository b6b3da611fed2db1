"""Export and check in one go: a file takes its name only when it does what its source does, or as nearly as asked.

The export goes to a temporary place, is opened there by what runs such files, and held against its source: the fold in
float64, an ONNX graph layer by layer, every format's output on the same images, and decisions and accuracy on FERPlus
where that is at hand. Only then is it renamed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.exporters import Quiet, Recipe, checked, export, export_path
from convert.readers import read_checkpoint
from convert.readers.exports import read_export
from ferplus_keras.dataset import load_ferplus
from ferplus_keras.dataset.finding import find
from ferplus_keras.dataset.protocols import PROTOCOLS, PUBLISHED_PROTOCOL
from ferplus_keras.engines import open_engine
from ferplus_keras.errors import BadInputError, first_line
from ferplus_keras.files.atomic import atomic_folder, atomic_path
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.networks.architecture import INPUT_SIZE
from ferplus_keras.networks.resizing import DEFAULT_RESIZER, RESIZERS
from ferplus_keras.wording import counted
from verify.accuracy import Progress as Steps
from verify.accuracy import agreement, evaluate, run_second_network
from verify.folding_check import FoldingComparison, check_folding
from verify.images import Images, image_paths
from verify.metrics import in_words
from verify.outputs import MAX_CHANGED, OutputComparison, compare_outputs
from verify.parity import FOLDING_IMAGES, Parity, ParityOptions, check_parity
from verify.predictors import Predictor, open_predictor
from verify.result import peak_bytes

Progress = Callable[[str], None]

#: Images that int8 is calibrated on, where nothing else is asked for: each costs the converter a forward pass.
CALIBRATION_IMAGES = 100

#: Images on which an ONNX graph is run layer by layer in float64 and float32 here; `ferplus verify parity` runs more.
LAYER_IMAGES = 1


@dataclass(frozen=True)
class DataComparison:
    """The export beside its source on FERPlus images."""

    split: str
    count: int
    changed: int
    accuracy: float
    source_accuracy: float
    max_changed: float

    @property
    def passed(self) -> bool:
        return 100 * self.changed <= self.max_changed * self.count

    @property
    def sentence(self) -> str:
        return (
            f"FERPlus {self.split}: {100 * self.accuracy:.2f} %, the source {100 * self.source_accuracy:.2f} %, on "
            f"{counted(self.count, 'image')}; {counted(self.changed, 'decision')} changed, "
            f"{100 * self.changed / self.count:.2f} % (allowed {self.max_changed:g} %)"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed, "split": self.split, "protocol": PUBLISHED_PROTOCOL, "images": self.count,
            "changed": self.changed, "max_changed_percent": self.max_changed, "accuracy": self.accuracy,
            "source_accuracy": self.source_accuracy,
        }  # fmt: skip


@dataclass
class ExportResult:
    """What an export came to. ``path`` exists exactly when it ``passed``."""

    source: Path
    path: Path
    recipe: Recipe
    checkpoint: Checkpoint
    outputs: OutputComparison
    folding: FoldingComparison | None = None
    layers: Parity | None = None
    data: DataComparison | None = None
    calibration: str = ""
    size: int = 0
    sha256: str = ""
    export_seconds: float = 0.0
    seconds: float = 0.0
    peak: int | None = field(default_factory=peak_bytes)

    @property
    def passed(self) -> bool:
        checks = (self.outputs, self.folding, self.layers, self.data)
        return all(each.passed for each in checks if each is not None)

    @property
    def sentences(self) -> list[tuple[bool, str]]:
        """A verdict and a sentence for each thing that was checked."""
        found: list[tuple[bool, str]] = []
        if self.folding:
            found += [(self.folding.passed, each) for each in self.folding.summary.split("; ")]
        if self.layers:
            found.append((self.layers.passed, self._layers_sentence(self.layers)))
        found += self.outputs.sentences
        if self.data:
            found.append((self.data.passed, self.data.sentence))
        return found

    @staticmethod
    def _layers_sentence(layers: Parity) -> str:
        if layers.diagnosis:
            return f"the layers first differ at {layers.diagnosis.layer}: {layers.diagnosis.cause}"
        furthest = "; ".join(f"{run.dtype} off by {in_words(run.worst_layer.relative)} at worst" for run in layers.runs)
        return f"{len(layers.runs[0].layers)} layers: {furthest}; numbers: {layers.tensors.summary.split('; ')[0]}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed, "source": str(self.source), "path": str(self.path) if self.passed else None,
            "network": str(self.checkpoint.architecture), "standin": self.checkpoint.provenance.standin,
            "recipe": self.recipe.as_dict(), "calibration": self.calibration or None, "size": self.size,
            "sha256": self.sha256, "outputs": self.outputs.as_dict(),
            "folding": self.folding and {"passed": self.folding.passed} | self.folding.figures(),
            "layers": self.layers and {
                "passed": self.layers.passed, "tensors": self.layers.tensors.figures(),
                "runs": {run.dtype: run.worst_layer.as_dict() for run in self.layers.runs},
            },
            "data": self.data and self.data.as_dict(), "export_seconds": self.export_seconds,
            "seconds": self.seconds, "peak_bytes": self.peak,
        }  # fmt: skip


class _RefusedError(Exception):
    """Leaves the block in which the file would get its name."""


@dataclass(frozen=True)
class Checks:
    """What an export is made with and held against before it gets its name."""

    images: int = 16
    folder: Path | None = None  #: where these images are taken from; None: seeded ones
    seed: int = 0
    calibrate: str | Path | None = None  #: for int8: a folder of images, or FERPlus, of which train images are taken
    calibration_images: int = CALIBRATION_IMAGES
    max_changed: float | None = None  #: percentage of decisions that may change; None: by the kind of numbers
    data: str | Path | None = None  #: FERPlus, for accuracy and decisions on its images
    split: str = "val"  #: of the data
    limit: int | None = None  #: at most this many of its images, the first


def export_checked(
    source: str | Path,
    recipe: Recipe,
    out: str | Path | None = None,
    checks: Checks | None = None,
    *,
    progress: Progress = lambda _line: None,
    steps: Steps = lambda _step: None,
    quiet: Quiet = nullcontext,
    start_keras: Callable[[], None] = lambda: None,
) -> ExportResult:
    """Export ``source`` as ``recipe`` says, and check the result before it gets its name.

    Args:
        source: a checkpoint in any format that is read, or the folder of a network.
        recipe: what to make of it.
        out: the file or folder; default beside the source.
        checks: on which images, and how near it must come.
        progress, steps: called when a step begins, and after each batch of FERPlus.
        quiet: silences what libraries print.
        start_keras: imports Keras; called when everything that can be refused without it was looked at.

    Raises:
        BadInputError: the source, the images or the recipe will not do; nothing was written.
        OutputError: the target cannot be written.
    """
    start, checks = time.perf_counter(), checks or Checks()
    checked(recipe, checks.calibrate is not None)
    source = Path(source)
    checkpoint = read_checkpoint(source)
    path = export_path(source, recipe, out, standin=checkpoint.provenance.standin)
    if checks.data is not None:
        find(checks.data)
    chosen, calibration = _images(checks, checkpoint.provenance.side)
    start_keras()
    reference = open_predictor(source) if checks.data is not None else None
    progress(f"{path.name}: {recipe}" + (f", calibrated on {calibration.origin}" if calibration else ""))
    place: AbstractContextManager[Path]
    room = 2 * checkpoint.parameter_bytes
    place = atomic_folder(path, room) if recipe.target == "saved_model" else atomic_path(path, room)
    outcome = None
    try:
        with place as temporary:
            began = time.perf_counter()
            written = export(
                checkpoint, recipe, temporary, calibration=calibration.pixels if calibration else None, quiet=quiet
            )
            export_seconds = time.perf_counter() - began
            progress(f"{path.name}: exported in {export_seconds:.0f} s; comparing it with {source.name}")
            with closing(open_engine(temporary)) as engine:
                outputs = compare_outputs(engine, checkpoint, chosen, max_changed=checks.max_changed)
            outcome = ExportResult(source, path, recipe, written, outputs, export_seconds=export_seconds)
            outcome.calibration = calibration.origin if calibration else ""
            if recipe.folded and not checkpoint.architecture.folded:
                progress(f"{path.name}: the fold, in float64")
                outcome.folding = check_folding(checkpoint, chosen.inputs[:FOLDING_IMAGES])
            if recipe.target == "onnx" and not recipe.pixels and recipe.batch is None:
                progress(f"{path.name}: every layer, in float64 and float32")
                outcome.layers = check_parity(temporary, source, ParityOptions(images=LAYER_IMAGES, seed=checks.seed))
            if reference is not None:
                opened = open_predictor(temporary)
                predictor = replace(opened, engine=replace(opened.engine, path=path))
                allowed = MAX_CHANGED[outputs.kind] if checks.max_changed is None else checks.max_changed
                outcome.data = _on_data(predictor, reference, checks, allowed, steps)
            outcome.size, outcome.sha256 = _measured(temporary)
            if not outcome.passed:
                raise _RefusedError
    except _RefusedError:
        assert outcome is not None
    outcome.seconds, outcome.peak = time.perf_counter() - start, peak_bytes()
    return outcome


def _images(checks: Checks, side: int) -> tuple[Images, Images | None]:
    """Images to check on, and to calibrate on.

    int8 is right for images like those that it was calibrated on: on others of these it is to be judged.
    """
    chosen = calibration = None
    if checks.calibrate is not None:
        chosen, calibration = draw_calibration_images(
            checks.calibrate, checks.images, checks.calibration_images, checks.seed, side
        )
    if chosen is None or checks.folder is not None:
        chosen = Images.of(checks.images, seed=checks.seed, folder=checks.folder, size=side)
    return chosen, calibration


def draw_calibration_images(
    path: str | Path, checked: int, calibrated: int, seed: int = 0, size: int = INPUT_SIZE
) -> tuple[Images, Images]:
    """``checked`` images to check on and ``calibrated`` others to calibrate on, of ``size`` x ``size``.

    They are of FERPlus's validation and train splits where ``path`` is FERPlus. Of a folder, at most half are kept for
    the check; a single image is used for both. Raises :class:`BadInputError` when there is none.
    """
    try:
        find(path)
    except BadInputError as error:
        folder = Path(path)
        if not folder.is_dir():
            raise BadInputError(f"--calibrate takes a folder of images or FERPlus: {first_line(error)}") from None
        kept = min(checked, len(image_paths(folder)) // 2)
        return (
            Images.of(max(kept, 1), seed=seed, folder=folder, size=size),
            Images.of(calibrated, seed=seed, folder=folder, size=size, skip=kept),
        )
    dataset = load_ferplus(path)
    usable = PROTOCOLS[PUBLISHED_PROTOCOL].apply(dataset.votes).kept

    def some(split: str, count: int) -> Images:
        rows = dataset.rows_of(split)
        rows = rows[usable[rows]]
        if not len(rows):
            raise BadInputError(
                f"{dataset.origin} has no {split} images to calibrate or check on. Give --calibrate a folder."
            )
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:count])
        grey = RESIZERS[DEFAULT_RESIZER].run(dataset.images[rows], size)
        return Images(np.repeat(grey[..., None], 3, axis=-1), f"{len(rows)} of FERPlus's {split} images, seed {seed}")

    return some("val", checked), some("train", calibrated)


def _on_data(
    predictor: Predictor, reference: Predictor, checks: Checks, max_changed: float, steps: Steps
) -> DataComparison:
    split = checks.split
    found = evaluate(
        predictor, load_ferplus(checks.data), PROTOCOLS[PUBLISHED_PROTOCOL], splits=(split,), limit=checks.limit,
        progress=steps,
    )  # fmt: skip
    (ours,) = found.splits
    theirs = run_second_network(found, reference, steps)[split]
    same = agreement(ours.predictions, theirs)
    right = float((theirs.decisions == ours.labels).mean())
    changed = same.n - same.same - same.near_ties  # which of two equals comes first is rounding's choice
    return DataComparison(split, same.n, changed, float(ours.correct.mean()), right, max_changed)


def _measured(path: Path) -> tuple[int, str]:
    if path.is_file():
        return path.stat().st_size, sha256_of(path)
    export = read_export(path)
    assert export is not None
    return export.source.size, export.source.sha256
