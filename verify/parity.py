"""Is a Keras file the same function as its source? Both run on the same images; here is how far they are apart.

The float64 figure is the proof: there, rounding is 1e-16 and a mistake in the mapping has nowhere to hide. The
float32 figure says what a user will see, and is rounding alone when the float64 figure is small.

The Keras side is the *file*, opened by Keras as a stranger would open it; only its precision is changed. The
reference is PyTorch's own layers with the source's tensors (:mod:`verify.references.torch_module`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.readers import read_checkpoint
from convert.writers import format_of
from convert.writers.torch_files import torch_arrays
from ferplus_keras.errors import BadInputError
from verify.images import natural_inputs

#: Largest difference allowed, relative to the reference's largest magnitude. Float64 leaves 4 decimal digits above
#: its rounding (about 3e-14 over 50 layers); float32's 5e-5 is about ten times what rounding alone gives.
TOLERANCES = {"float64": 1e-12, "float32": 5e-5}

#: Keras's type promotion turns float64 into float32 on the others (``keras.backend.result_type``, seen in 3.15).
FLOAT64_BACKENDS = ("tensorflow",)


@dataclass(frozen=True)
class Difference:
    """One tensor against its reference. ``relative`` is ``absolute`` over the reference's largest magnitude."""

    layer: str
    absolute: float
    relative: float
    rms: float
    finite: bool


@dataclass(frozen=True)
class Precision:
    """The outcome in one floating-point type: the logits, the layer that is furthest off, the decisions."""

    dtype: str
    logits: Difference
    worst_layer: Difference
    first_over: str | None  #: the first layer beyond the tolerance, where the two part
    top1_agreement: float
    closest_margin: float  #: smallest distance between the two highest reference logits, over the largest logit
    tolerance: float

    @property
    def passed(self) -> bool:
        """The logits within the tolerance; in float64 every layer too (in float32 a layer's figure is rounding)."""
        layers = self.first_over is None or self.dtype != "float64"
        return layers and self.logits.finite and self.logits.relative <= self.tolerance


@dataclass
class Parity:
    """The verdict on one pair of files."""

    model: str
    source: str
    network: str
    backend: str
    images: int
    standin: bool
    seconds: float = 0.0
    precisions: list[Precision] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.precisions) and all(precision.passed for precision in self.precisions)

    def figure(self, dtype: str) -> float | None:
        """The logits' relative difference in ``dtype``; None when it was not run."""
        return next((each.logits.relative for each in self.precisions if each.dtype == dtype), None)

    def as_dict(self) -> dict[str, Any]:
        result = asdict(self) | {"passed": self.passed, "schema": 1}
        for entry, precision in zip(result["precisions"], self.precisions, strict=True):
            entry["passed"] = precision.passed
        return result


def check_parity(
    model: str | Path,
    source: str | Path,
    *,
    images: int = 4,
    seed: int = 0,
    dtypes: tuple[str, ...] | None = None,
    tolerances: dict[str, float] | None = None,
    progress: Callable[[str], None] = lambda _line: None,
) -> Parity:
    """Run ``model`` (a Keras file) and ``source`` (a checkpoint) on the same ``images`` seeded images.

    Every layer that the architecture names is compared, in each of ``dtypes`` (default: all that the backend has).
    Needs PyTorch and Keras. Raises :class:`BadInputError` when a file cannot be read or the two are different networks.
    """
    import keras

    start = time.perf_counter()
    backend = keras.backend.backend()
    if dtypes is None:
        dtypes = ("float64", "float32") if backend in FLOAT64_BACKENDS else ("float32",)
    if "float64" in dtypes and backend not in FLOAT64_BACKENDS:
        raise BadInputError(
            f"Keras computes BatchNormalization in float32 on the {backend} backend, whatever the dtype asked for. "
            "Run the float64 check with KERAS_BACKEND=tensorflow."
        )
    checkpoint = read_checkpoint(source)
    provenance = read_checkpoint(model).provenance
    if (provenance.network, provenance.head, provenance.units) != (
        checkpoint.provenance.network, checkpoint.provenance.head, checkpoint.provenance.units,
    ):  # fmt: skip
        raise BadInputError(
            f"{model} is a {provenance.network} with {provenance.units or 'no'} outputs and {source} is a "
            f"{checkpoint.architecture}: they cannot be compared."
        )
    result = Parity(
        Path(model).name, Path(source).name, checkpoint.architecture.network, backend, images,
        checkpoint.provenance.standin or provenance.standin,
    )  # fmt: skip
    batch = natural_inputs(images, seed=seed)
    opened = open_model(Path(model), checkpoint)
    for dtype in dtypes:
        progress(f"{result.model}: {images} images in {dtype}")
        tolerance = (tolerances or {}).get(dtype, TOLERANCES[dtype])
        result.precisions.append(_compare(opened, checkpoint, batch, dtype, tolerance))
    result.seconds = time.perf_counter() - start
    return result


def _compare(opened: Any, checkpoint: Checkpoint, batch: np.ndarray, dtype: str, tolerance: float) -> Precision:
    table = checkpoint.architecture
    names = [layer.name for layer in table.layers[1:]]
    module = reference_module(checkpoint, dtype)
    probe = layer_outputs(opened, names, dtype)
    per_layer: dict[str, list[Difference]] = {name: [] for name in names}
    reference_logits, keras_logits = [], []
    for image in batch:  # one at a time: all activations of a batch in float64 would not fit a small machine
        kept: dict[str, np.ndarray] = {}
        _run_reference(module, image[None].astype(dtype), kept)
        outputs = probe(image[None].astype(dtype))
        for name in names:
            per_layer[name].append(difference(name, kept[name], outputs[name]))
        reference_logits.append(kept[table.output].reshape(-1))
        keras_logits.append(outputs[table.output].reshape(-1))
    layers = [max(differences, key=lambda each: each.relative) for differences in per_layer.values()]
    reference, ours = np.stack(reference_logits), np.stack(keras_logits)
    highest = np.sort(reference, axis=1)
    margin = (highest[:, -1] - highest[:, -2]) if reference.shape[1] > 1 else np.array([np.inf])
    return Precision(
        dtype,
        logits=difference(table.output, reference, ours),
        worst_layer=max(layers, key=lambda each: each.relative),
        first_over=next((each.layer for each in layers if not each.finite or each.relative > tolerance), None),
        top1_agreement=float((reference.argmax(axis=1) == ours.argmax(axis=1)).mean()),
        closest_margin=float(margin.min() / np.abs(reference).max()),
        tolerance=tolerance,
    )


def difference(name: str, reference: np.ndarray, ours: np.ndarray) -> Difference:
    """How far ``ours`` is from ``reference``. A NaN, an infinity or another shape is an infinite difference."""
    if reference.shape != ours.shape or not (np.isfinite(reference).all() and np.isfinite(ours).all()):
        return Difference(name, np.inf, np.inf, np.inf, False)
    apart = np.abs(ours.astype(np.float64) - reference.astype(np.float64))
    largest = float(np.abs(reference).max()) or 1.0
    return Difference(name, float(apart.max()), float(apart.max()) / largest, float(np.sqrt((apart**2).mean())), True)


# --- the two sides --------------------------------------------------------------------------------------------------


def reference_module(checkpoint: Checkpoint, dtype: str) -> Any:
    """The PyTorch reference with the checkpoint's tensors, in evaluation mode."""
    import torch

    from verify.references.torch_module import ReferenceNetwork

    module = ReferenceNetwork(checkpoint.architecture)
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    state = {name: torch.from_numpy(np.array(array)).reshape(shapes[name]) for name, array in torch_arrays(checkpoint)}
    missing, unexpected = module.load_state_dict(state, strict=False)
    left = [name for name in missing if not name.endswith("num_batches_tracked")]
    assert not left and not unexpected, (left, unexpected)
    return module.to(getattr(torch, dtype)).eval()


def _run_reference(module: Any, image: np.ndarray, kept: dict[str, np.ndarray]) -> None:
    import torch

    def observe(name: str, value: torch.Tensor) -> None:
        # Keras's layout; a copy, since a layer may work in place on its input
        kept[name] = np.array(value.numpy()).transpose(0, 2, 3, 1)

    with torch.no_grad():
        module(torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2))), observe=observe)


def open_model(path: Path, checkpoint: Checkpoint) -> Any:
    """The Keras model in the file, or our own graph with the file's weights when it has no graph."""
    import keras

    if format_of(path).name == "weights.h5":
        from ferplus_keras.graph import model_from_architecture

        model = model_from_architecture(checkpoint.architecture)
        model.load_weights(path)
        return model
    try:
        return keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInputError(f"Keras {keras.__version__} cannot open {path}: {reason}") from None


def layer_outputs(model: Any, names: list[str], dtype: str) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A function from a batch to the outputs of the layers ``names``, computed by ``model`` in ``dtype``."""
    import keras

    def with_dtype(layer: Any) -> Any:
        return layer.__class__.from_config({**layer.get_config(), "dtype": dtype})

    inputs = keras.Input(model.inputs[0].shape[1:], dtype=dtype)
    inputs = keras.tree.map_structure(lambda _: inputs, model.input)  # a tensor, or a list of one in old files
    copy = keras.models.clone_model(model, input_tensors=inputs, clone_function=with_dtype)
    copy.set_weights(model.get_weights())
    absent = [name for name in names if name not in {layer.name for layer in copy.layers}]
    if absent:
        raise BadInputError(f"The model has no layer {absent[0]} (and {len(absent) - 1} more); it is another graph.")
    probe = keras.Model(copy.input, {name: copy.get_layer(name).output for name in names})

    def run(batch: np.ndarray) -> dict[str, np.ndarray]:
        outputs = probe(batch, training=False)
        arrays = {name: np.asarray(keras.ops.convert_to_numpy(value)) for name, value in outputs.items()}
        # The pooled features and the head are vectors in Keras and 1 x 1 maps in PyTorch.
        return {name: array[:, None, None] if array.ndim == 2 else array for name, array in arrays.items()}

    return run
