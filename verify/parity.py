"""Is a Keras file the same function as its source? Five levels of proof, and where they part, why.

1. *tensors*: every array of the file is the checkpoint's, bit for bit or so many ulps off;
2. *preprocessing*: pixels become network input as published, measured apart from the network;
3. *layers*: every layer's output on the same images, in float64 (the proof: rounding is 1e-16 there, and a mistake in
   the mapping has nowhere to hide) and in float32 (rounding, beside a bound of what rounding can do);
4. *logits* and probabilities;
5. *decisions*: the same top class, and by how much the closest call was decided.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from convert.checkpoint import Checkpoint, Provenance
from convert.readers import read_checkpoint
from ferplus_keras.architecture import Architecture
from ferplus_keras.errors import BadInputError
from verify.diagnosis import Case, Diagnosis, diagnose
from verify.images import Images
from verify.keras_side import FLOAT64_BACKENDS, KerasSide, open_side
from verify.metrics import Difference, difference, finite_or_none, worst
from verify.pairing import Pairing
from verify.preprocessing_check import PreprocessingComparison, compare_preprocessing
from verify.rounding import UNIT_ROUNDOFF, rounding_units
from verify.tensors import TensorComparison, compare_tensors

#: Largest difference allowed, relative to the reference's largest magnitude. Float64 leaves 4 decimal digits above
#: its rounding (about 3e-14 over 50 layers); float32's 5e-5 is about ten times what rounding alone gives.
TOLERANCES = {"float64": 1e-12, "float32": 5e-5}

Progress = Callable[[str], None]


class Reference(Protocol):
    """A network to hold the model against. ``run`` yields outputs by layer name, in Keras's layout."""

    name: str
    title: str
    independent: bool
    note: str

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Run:
    """The outcome in one floating-point type against one reference."""

    reference: str
    dtype: str
    tolerance: float
    layers: tuple[Difference, ...]  #: in network order, the worst over all images
    bounds: dict[str, float]  #: layer -> what rounding can do, relative
    logits: Difference
    probabilities: Difference | None  #: None where the head is no classifier
    top1_agreement: float
    closest_margin: float  #: smallest distance between the two highest reference logits, over the largest logit
    images: int
    seconds: float

    def over(self, layer: Difference) -> bool:
        return not layer.finite or layer.relative > self.tolerance

    @property
    def first_over(self) -> str | None:
        """The first layer beyond the tolerance, where the two part."""
        return next((each.layer for each in self.layers if self.over(each)), None)

    @property
    def worst_layer(self) -> Difference:
        return worst(list(self.layers))

    @property
    def passed(self) -> bool:
        """Logits within the tolerance, the same decisions; in float64 every layer too (in float32 that is rounding)."""
        layers = self.worst_layer.finite if self.dtype != "float64" else self.first_over is None
        ends = (self.logits, self.probabilities)
        return layers and self.top1_agreement == 1.0 and not any(each is not None and self.over(each) for each in ends)

    def as_dict(self, table: Architecture) -> dict[str, Any]:
        def entry(each: Difference) -> dict[str, Any]:
            bound = self.bounds.get(each.layer)
            kind = type(table.by_name[each.layer]).__name__ if each.layer in table.by_name else "Output"
            return each.as_dict() | {"kind": kind, "bound": bound, "passed": not self.over(each)}

        return {
            "reference": self.reference,
            "dtype": self.dtype,
            "tolerance": self.tolerance,
            "passed": self.passed,
            "seconds": self.seconds,
            "first_over": self.first_over,
            "layers": [entry(each) for each in self.layers],
            "worst_layer": entry(self.worst_layer),
            "logits": entry(self.logits),
            "probabilities": entry(self.probabilities) if self.probabilities else None,
            "decisions": {
                "agreement": self.top1_agreement,
                "closest_margin": finite_or_none(self.closest_margin),
                "images": self.images,
            },
        }


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


def check_parity(
    model: str | Path,
    source: str | Path,
    *,
    images: int = 4,
    folder: Path | None = None,
    seed: int = 0,
    dtypes: tuple[str, ...] | None = None,
    tolerances: dict[str, float] | None = None,
    reference_code: Path | None = None,
    onnx: bool = False,
    progress: Progress = lambda _line: None,
) -> Parity:
    """Run ``model`` (a Keras file) and ``source`` (a checkpoint) on the same images and compare every layer.

    Args:
        model: ``.h5``, ``.keras`` or ``.weights.h5``: one of ours, or anyone's whole model of the same network.
        source: the checkpoint that it should be.
        images: how many images.
        folder: pictures to take them from; None for seeded images with natural statistics.
        seed: of the images.
        dtypes: "float64", "float32" or both; default: all that the backend has.
        tolerances: dtype -> largest relative difference allowed.
        reference_code: a ``*_dag.py`` to run as a further reference. It is executed.
        onnx: whether ONNX Runtime is a further reference.
        progress: called with a line when a step begins.

    Raises:
        BadInputError: a file cannot be read, or the two are different networks.
    """
    import keras

    start = time.perf_counter()
    model, source = Path(model), Path(source)
    backend = keras.backend.backend()
    dtypes = _dtypes(dtypes, backend)
    checkpoint = read_checkpoint(source)
    side = open_side(model, checkpoint, dtypes[0])
    chosen = Images.of(images, seed=seed, folder=folder)
    result = Parity(
        model, checkpoint, side.provenance, backend, chosen, side.pairing,
        compare_tensors(checkpoint.arrays, side.arrays), compare_preprocessing(chosen, side.provenance), [],
    )  # fmt: skip
    progress(f"{model.name}: what rounding can do, in float64")
    rounding = _rounding(checkpoint, chosen.inputs[:1])
    for dtype in dtypes:
        bounds = {layer: units * UNIT_ROUNDOFF[dtype] for layer, units in rounding.items()}
        tolerance = (tolerances or {}).get(dtype, TOLERANCES[dtype])
        references = _references(checkpoint, dtype, reference_code, onnx)
        for reference in references:
            known = {"name": reference.title, "independent": reference.independent, "note": reference.note}
            if known not in result.references:
                result.references.append(known)
        result.runs += _compare(side, checkpoint, references, chosen.inputs, dtype, tolerance, bounds, progress)
    if any(run.first_over for run in result.runs if not run.passed):
        progress(f"{model.name}: looking for the cause")
        result.diagnosis = _diagnose(side, checkpoint, result, chosen.inputs[:1])
    result.seconds = time.perf_counter() - start
    return result


def _dtypes(dtypes: tuple[str, ...] | None, backend: str) -> tuple[str, ...]:
    if dtypes is None:
        return ("float64", "float32") if backend in FLOAT64_BACKENDS else ("float32",)
    if "float64" in dtypes and backend not in FLOAT64_BACKENDS:
        raise BadInputError(
            f"Keras computes BatchNormalization in float32 on the {backend} backend, whatever the dtype asked for. "
            "Run the float64 check with KERAS_BACKEND=tensorflow."
        )
    return dtypes


def _references(checkpoint: Checkpoint, dtype: str, code: Path | None, onnx: bool) -> list[Reference]:
    """Made when they are needed: each holds the network's weights in memory."""
    from verify.references.torch_reference import TorchReference

    references: list[Reference] = [TorchReference(checkpoint, dtype)]
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

    key = (checkpoint.provenance.source.sha256, sha256(image.tobytes()).digest())
    if key not in _rounding_known:
        exact = TorchReference(checkpoint, "float64")
        _rounding_known[key] = rounding_units(exact.module, image, exact.run(image.astype("float64")))
    return _rounding_known[key]


def _compare(
    side: KerasSide, checkpoint: Checkpoint, references: list[Reference], batch: np.ndarray, dtype: str,
    tolerance: float, bounds: dict[str, float], progress: Progress,
) -> list[Run]:  # fmt: skip
    """The model against every reference: it runs once for all of them."""
    table = checkpoint.architecture
    run = side.runner(dtype)
    found = [_Found(reference) for reference in references]
    mine, returned = [], []
    for number, image in enumerate(batch, 1):  # one at a time: a batch's activations in float64 take gigabytes
        progress(f"{dtype}: image {number} of {len(batch)}, beside {' and '.join(each.name for each in references)}")
        for each in found:
            each.take(image[None].astype(dtype), table.output)

        def observe(layer: str, output: np.ndarray) -> None:
            if layer == table.output:
                mine.append(output.reshape(-1))
            for each in found:  # as it comes: nothing of the model's side is kept
                each.hold_against(layer, output)

        returned.append(run(image[None].astype(dtype), observe)[0].reshape(-1))
    ours = np.stack(mine)
    # The model's own softmax where it has one; else the same function of both sides' logits.
    own = np.stack(returned) if np.allclose([each.sum() for each in returned], 1.0, atol=1e-4) else _softmax(ours)
    runs = []
    for each in found:
        logits = np.stack(each.logits)
        classes = table.head.kind == "classifier"
        runs.append(
            Run(
                reference=each.reference.name,
                dtype=dtype,
                tolerance=tolerance,
                layers=tuple(each.furthest[layer.name] for layer in table.layers if layer.name in each.furthest),
                bounds=bounds,
                logits=difference(table.output, logits, ours),
                probabilities=difference("prob", _softmax(logits), own) if classes else None,
                top1_agreement=float((logits.argmax(axis=1) == ours.argmax(axis=1)).mean()),
                closest_margin=_closest_margin(logits),
                images=len(batch),
                seconds=each.seconds,
            )
        )
    return runs


class _Found:
    """What one reference said, and how far the model was from it at each layer at worst."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.logits: list[np.ndarray] = []
        self.furthest: dict[str, Difference] = {}
        self.seconds = 0.0
        self._kept: dict[str, np.ndarray] = {}

    def take(self, image: np.ndarray, output: str) -> None:
        start = time.perf_counter()
        self._kept = self.reference.run(image)
        self.logits.append(self._kept[output].reshape(-1))
        self.seconds += time.perf_counter() - start

    def hold_against(self, layer: str, output: np.ndarray) -> None:
        if layer in self._kept:  # a stranger's module may not show every layer
            start = time.perf_counter()
            apart = difference(layer, self._kept.pop(layer), output)
            self.furthest[layer] = worst([apart, self.furthest.get(layer, apart)])
            self.seconds += time.perf_counter() - start


def _closest_margin(logits: np.ndarray) -> float:
    if logits.shape[1] < 2:
        return float("inf")
    highest = np.sort(logits, axis=1)
    return float((highest[:, -1] - highest[:, -2]).min() / (np.abs(logits).max() or 1.0))


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result


def _diagnose(side: KerasSide, checkpoint: Checkpoint, result: Parity, image: np.ndarray) -> Diagnosis:
    """Both sides once more, in the finest precision that the backend has, up to the layer where they part."""
    from verify.references.torch_reference import TorchReference

    dtype = "float64" if result.backend in FLOAT64_BACKENDS else "float32"
    failed = next(run for run in result.runs if not run.passed and run.first_over)
    table = checkpoint.architecture
    layer = table.by_name[failed.first_over or ""]
    exact = TorchReference(checkpoint, "float64").run(image.astype("float64"))
    actual: dict[str, np.ndarray] = {}

    def observe(name: str, output: np.ndarray) -> None:
        if name == layer.name:
            actual[name] = output

    side.runner(dtype)(image.astype(dtype), observe)
    before = table.layers[: table.layers.index(layer)]
    case = Case(
        table,
        layer,
        tuple(exact[name] for name in layer.inputs),
        exact[layer.name],
        actual[layer.name].astype(np.float64),
        checkpoint.arrays,
        side.arrays,
        {each.name: exact[each.name] for each in before},
    )
    return diagnose(case)
