"""Is a Keras file the same function as its source? Five levels of proof, and where they part, why.

1. *tensors*: every array of the file is the checkpoint's, bit for bit or a stated number of ulps off;
2. *preprocessing*: pixels become network input as published, measured apart from the network;
3. *layers*: every layer's output on the same images, in float64 (the proof: rounding is 1e-16 there, and a mistake in
   the mapping has nowhere to hide) and in float32 (rounding, beside a bound of what rounding can do);
4. *logits* and probabilities;
5. *decisions*: the same top class, and by how much the closest call was decided.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint, Provenance
from convert.folding import fold, refuse_folded
from convert.readers import read_checkpoint
from convert.readers.onnx_file import FOLDED
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.network_folder import network_file
from verify.departures import departures, in_order
from verify.diagnosis import Diagnosis, diagnose_all
from verify.folding_check import check_folding
from verify.images import Images
from verify.pairing import Pairing
from verify.preprocessing_check import PreprocessingComparison, compare_preprocessing
from verify.rounding import UNIT_ROUNDOFF, rounding_units
from verify.runs import TOLERANCES, Progress, Reference, Run, Side, compare
from verify.sigmas import explained
from verify.tensors import TensorComparison, compare_tensors

#: Images on which folding is held against the network as it was: in float64, two networks beside it.
FOLDING_IMAGES = 2


@dataclass
class Parity:
    """The verdict on one pair of files on one backend."""

    model: Path
    checkpoint: Checkpoint  #: the source's
    model_provenance: Provenance | None  #: what the model file says of itself, where it is one of ours
    backend: str
    images: Images
    pairing: Pairing
    tensors: TensorComparison
    preprocessing: PreprocessingComparison
    references: list[dict[str, Any]]
    runs: list[Run] = field(default_factory=list)
    diagnosis: Diagnosis | None = None
    seconds: float = 0.0

    @property
    def standin(self) -> bool:
        return any(each.standin for each in (self.checkpoint.provenance, self.model_provenance) if each)

    @property
    def passed(self) -> bool:
        return (
            bool(self.runs)
            and all(run.passed for run in self.runs)
            and self.tensors.passed
            and self.preprocessing.passed
        )


@dataclass(frozen=True)
class ParityOptions:
    """On what two files are compared, how exactly, and with which references beside the checkpoint's."""

    images: int = 4  #: how many
    folder: Path | None = None  #: where they are; None for seeded images with natural statistics
    seed: int = 0  #: of the images
    dtypes: tuple[str, ...] | None = None  #: "float64", "float32" or both; None: all that the backend has
    tolerances: Mapping[str, float] = field(default_factory=dict)  #: dtype -> largest relative difference allowed
    reference_code: Path | None = None  #: the network's own code, such as a ``*_dag.py``. It is executed.
    key: str | None = None  #: which network of the source is meant where it holds several
    onnx: bool = False  #: whether ONNX Runtime is a further reference


def check_parity(
    model: str | Path,
    source: str | Path,
    options: ParityOptions | None = None,
    progress: Progress = lambda _line: None,
) -> Parity:
    """Run ``model`` (a Keras or an ONNX file) and ``source`` (a checkpoint) on the same images and compare every layer.

    Args:
        model: ``.h5``, ``.keras``, ``.weights.h5`` or ``.onnx``: ours, or anyone's whole model of the same network.
        source: the checkpoint that it should be.
        options: images, precision and references.
        progress: called with a line when a step begins.

    Raises:
        BadInputError: a file cannot be read, or the two are different networks.
    """
    start = time.perf_counter()
    options = options or ParityOptions()
    model, source, code = network_file(Path(model)), network_file(Path(source)), options.reference_code
    # Under torchvision's names the geometry is a claim, and the code is there to test it.
    original = read_checkpoint(source, key=options.key, geometry="published" if code else None)
    checkpoint = _as_folded_as(model, original)
    side = _open(model, checkpoint)
    apart = explained(checkpoint, side.arrays, side.provenance)
    folded, checkpoint = checkpoint is not original, apart.checkpoint
    dtypes, size = _dtypes(options.dtypes, side), checkpoint.provenance.side
    chosen = Images.of(options.images, seed=options.seed, folder=options.folder, size=size)
    result = Parity(
        model, checkpoint, side.provenance, side.backend, chosen, side.pairing,
        compare_tensors(checkpoint.arrays, side.arrays),
        compare_preprocessing(chosen, side.provenance, checkpoint.provenance, side.preprocess), [],
    )  # fmt: skip
    result.tensors.extra += side.pairing.left_over  # layers with arrays of their own, which the checkpoint has not
    result.tensors.remark = apart.remark
    if folded:
        progress(f"{model.name}: {source.name} folded, against itself in float64")
        result.tensors.folding = check_folding(original, chosen.inputs[:FOLDING_IMAGES])
    progress(f"{model.name}: what rounding can do, in float64")
    rounding = _rounding(checkpoint, chosen.inputs[:1])
    for dtype in dtypes:
        bounds = {layer: units * UNIT_ROUNDOFF[dtype] for layer, units in rounding.items()}
        tolerance = options.tolerances.get(dtype, TOLERANCES[dtype])
        # ONNX Runtime against itself would testify to nothing.
        references = _references(checkpoint, source, dtype, code, options.onnx and side.backend != "onnxruntime")
        result.runs += compare(side, checkpoint, references, chosen.inputs, dtype, tolerance, bounds, progress)
        for reference in references:
            known = {"name": reference.title, "independent": reference.independent, "note": reference.note}
            if known not in result.references:
                result.references.append(known)
    if any(run.first_over for run in result.runs if not run.passed):
        progress(f"{model.name}: looking for the cause")
        result.diagnosis = _diagnose(side, checkpoint, result, chosen.inputs)
    result.seconds = time.perf_counter() - start
    return result


def _as_folded_as(model: Path, source: Checkpoint) -> Checkpoint:
    """The source, folded where the model says that it is: only then do the two have the same layers."""
    try:
        folded = read_checkpoint(model, check_graph=False).architecture.folded
    except BadInputError:  # not a file of ours, or none: whoever opens it will say
        return source
    if folded == source.architecture.folded:
        return source
    if not folded:
        refuse_folded(source, f"{model.name}, which is not, cannot be held against it.")
    return fold(source)


def _open(model: Path, checkpoint: Checkpoint) -> Side:
    if model.suffix.lower() == ".onnx":
        from verify.onnx_side import open_side as open_onnx

        return open_onnx(model, checkpoint)
    from verify.keras_side import open_side as open_keras

    return open_keras(model, checkpoint)


def _dtypes(dtypes: tuple[str, ...] | None, side: Side) -> tuple[str, ...]:
    if dtypes is None:
        return side.dtypes
    if not set(dtypes) <= set(side.dtypes):
        raise BadInputError(
            f"Keras computes BatchNormalization in float32 on the {side.backend} backend, whatever the dtype asked "
            "for. Run the float64 check with KERAS_BACKEND=tensorflow."
        )
    return dtypes


def _references(checkpoint: Checkpoint, source: Path, dtype: str, code: Path | None, onnx: bool) -> list[Reference]:
    """Made when they are needed: each holds the network's weights in memory."""
    from verify.references.torch_reference import TorchReference

    references: list[Reference] = [TorchReference(checkpoint, dtype)]
    if checkpoint.provenance.folded:  # neither a MatConvNet graph nor published code has the folded layers
        if code is not None:
            raise BadInputError(f"{code} has batch normalisations, and the folded file has none: leave it out.")
    elif checkpoint.provenance.source.format.startswith("matconvnet"):
        from verify.references.matconvnet import MatConvNetReference

        references.append(MatConvNetReference(checkpoint, dtype, source))
    if code is not None:
        from verify.references.user_code import UserCodeReference

        references.append(UserCodeReference(checkpoint, dtype, code))
    if onnx:
        from verify.references.onnx_runtime import OnnxRuntimeReference

        references.append(OnnxRuntimeReference(checkpoint, dtype))
    return references


#: By checkpoint and image: several files held against one source need it once.
_rounding_known: dict[tuple[str, bytes], dict[str, float]] = {}


def _rounding(checkpoint: Checkpoint, image: np.ndarray) -> dict[str, float]:
    """Layer -> what rounding can do to it, in units of the unit roundoff."""
    from verify.references.torch_reference import TorchReference

    weights = f"{checkpoint.provenance.source.sha256}{checkpoint.architecture.folded}"
    key = (weights, sha256(image.tobytes()).digest())
    if key not in _rounding_known:
        exact = TorchReference(checkpoint, "float64")
        _rounding_known[key] = rounding_units(exact.module, image, exact.run(image.astype("float64")))
    return _rounding_known[key]


def _disagreement(failed: Run) -> Diagnosis:
    """The model is the same function as our module, and another reference is not: no fault of the conversion's."""
    layer = failed.first_over or ""
    apart = next(each for each in failed.layers if each.layer == layer)
    cause = (
        f"at {layer}, the reference {failed.reference} computes something else than this project's module, with "
        "which the model agrees: the two disagree about the architecture (a stride, a padding, an epsilon, an input)"
    )
    size = f"{apart.relative:.1e} of the layer's largest value" if apart.finite else apart.problem
    return Diagnosis(layer, "references-disagree", cause, "certain", 0, f"off by {size}; the module's own run passed")


def _diagnose(side: Side, checkpoint: Checkpoint, result: Parity, batch: np.ndarray) -> Diagnosis:
    """Both sides once more, in the finest precision that the backend has, and what is wrong at each layer."""
    from verify.references.torch_reference import TorchReference

    dtype = side.dtypes[0]
    suspects = [run for run in result.runs if not run.passed and run.first_over]
    failed = next((run for run in suspects if run.reference == TorchReference.name), None)
    if failed is None:
        return _disagreement(suspects[0])
    name = failed.first_over or ""
    number = failed.worst_image.get(name, 0)
    image = batch[number : number + 1]
    actual: dict[str, np.ndarray] = {}
    side.runner(dtype)(image.astype(dtype), actual.__setitem__)
    folded = next((note for note in (side.provenance.notes if side.provenance else ()) if FOLDED in note), None)
    if folded and failed.worst_layer.finite and failed.worst_layer.relative < TOLERANCES["float32"]:
        cause = f"{FOLDED} the convolutions and rounded again to float32: other numbers, the same function but for that"
        return Diagnosis(name, "batchnorm-folded", cause, "likely", 1, folded.split(". ")[0])
    cases = departures(checkpoint, side.arrays, image, actual, failed.over)
    if found := diagnose_all(in_order(cases)):
        return found
    said = "on the re-examined image, every layer computes what it should from its input"
    return Diagnosis(name, "unknown", f"{name} differs on some images only", "unknown", 0, said)
