"""Are two files the same network? First the numbers, in ulps; where these differ, the function, layer by layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint
from convert.choice import SeveralNetworksError
from convert.folding import fold, normalisation_of
from convert.readers import read_checkpoint
from ferplus_keras.networks.architecture import BATCHNORM_EPSILON, Architecture, BatchNorm, Conv
from ferplus_keras.wording import counted, printable
from verify.images import Images
from verify.metrics import Difference, difference, worst
from verify.tensors import TensorComparison, compare_tensors

#: Two files that are one network in other roundings (a variance kept as its root, a normalisation folded into the
#: convolution before it) differ by what float32 rounding does to a network: some 1e-6 of a layer's largest value.
TOLERANCE = 5e-5

PRECISION = "float64"


@dataclass
class Same:
    """The verdict on two files.

    ``layers`` is empty when equal numbers, or unlike networks, made running them needless.
    """

    a: Path
    b: Path
    one: Checkpoint
    other: Checkpoint
    tensors: TensorComparison | None  #: None where the networks are of different shapes
    layers: list[Difference] = field(default_factory=list)
    compared: frozenset[str] = frozenset()  #: the layers that decide
    furthest_map: Difference | None = None  #: the layer whose arrays, normalisation included, are furthest apart
    images: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        if self.tensors is None:
            return False
        return self.tensors.passed or (bool(self.layers) and self.first_departure is None and self.maps_alike)

    @property
    def notes(self) -> list[str]:
        """What was noteworthy when they were read."""
        read = ((self.a, self.one), (self.b, self.other))
        labels, theirs = (checkpoint.provenance.labels for _, checkpoint in read)
        apart = [] if labels == theirs else [
            f"their records name the classes otherwise: {_said(labels)} in {self.a.name}, {_said(theirs)} in "
            f"{self.b.name}"
        ]  # fmt: skip
        apart += [
            f"{path.name} is a STAND-IN with made-up weights"
            for path, checkpoint in read
            if checkpoint.provenance.standin
        ]
        return apart + [f"{path.name}: {note}" for path, checkpoint in read for note in checkpoint.provenance.notes]

    @property
    def maps_alike(self) -> bool:
        """Whether every layer that owns arrays is the same map of any input, not of the images alone."""
        return self.furthest_map is not None and self.furthest_map.relative <= TOLERANCE

    @property
    def first_departure(self) -> Difference | None:
        return next((each for each in self.layers if each.layer in self.compared and self._over(each)), None)

    @property
    def moved(self) -> Difference | None:
        """The first convolution that departs although what follows its normalisation does not."""
        return next((each for each in self.layers if each.layer not in self.compared and self._over(each)), None)

    def _over(self, each: Difference) -> bool:
        return not each.finite or each.relative > TOLERANCE

    @property
    def summary(self) -> str:
        """The verdict in a sentence or two."""
        if self.tensors is None:
            what = f"{self.a.name} is a {self.one.architecture}, {self.b.name} a {self.other.architecture}"
            return f"different networks: {what}"
        if self.tensors.passed:
            return f"the same network: {self.tensors.summary}"
        if parts := self.first_departure:
            what = f"off by {parts.relative:.2g} of its largest value" if parts.finite else parts.problem
            return f"different networks: they first differ at {parts.layer}, which is {what} (allowed {TOLERANCE:.0e})"
        if (map_apart := self.furthest_map) is not None and not self.maps_alike:
            return (
                "different networks: the images that were run do not tell them apart, but "
                f"{map_apart.layer} is another map, off by "
                f"{map_apart.relative:.2g} of its largest number (allowed {TOLERANCE:.0e})"
            )
        furthest = worst([each for each in self.layers if each.layer in self.compared])
        verdict = (
            f"the same function up to rounding: in {PRECISION} the worst layer, {furthest.layer}, is off by "
            f"{furthest.relative:.2g} of its largest value (allowed {TOLERANCE:.0e})"
        )
        if self.moved:
            verdict += (
                f"; {self.moved.layer} and its normalisation divide the work differently, as after folding one into "
                "the other"
            )
        return verdict

    def as_dict(self) -> dict[str, Any]:
        """Plain data for strict JSON."""
        departure = self.first_departure

        def file(path: Path, checkpoint: Checkpoint) -> dict[str, str]:
            source = checkpoint.provenance.source
            return {"file": str(path), "network": str(checkpoint.architecture), "sha256": source.sha256}

        return {
            "passed": self.passed,
            "summary": self.summary,
            "a": file(self.a, self.one),
            "b": file(self.b, self.other),
            "tensors": self.tensors and {"passed": self.tensors.passed, "summary": self.tensors.summary}
            | self.tensors.figures(),
            "tolerance": TOLERANCE,
            "dtype": PRECISION,
            "images": self.images,
            "notes": self.notes,
            "first_departure": departure.as_dict() if departure else None,
            "layers": [each.as_dict() for each in self.layers],
            "seconds": self.seconds,
        }  # fmt: skip


def _said(labels: tuple[str, ...] | None) -> str:
    return "not at all" if labels is None else printable(", ".join(labels)[:200])


def _read(path: Path, key: str | None) -> Checkpoint:
    try:
        return read_checkpoint(path)
    except SeveralNetworksError:
        if key is None:
            raise
        return read_checkpoint(path, key=key)


def check_same(
    a: str | Path,
    b: str | Path,
    *,
    key: str | None = None,
    images: int = 2,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _line: None,
) -> Same:
    """Hold two files of any formats that are read against each other.

    Args:
        a, b: the files.
        key: which network is meant of a file that holds several.
        images: how many seeded images to run when the numbers differ.
        seed: of the images.
        progress: called with a line when a step begins.

    Raises:
        BadInputError: a file cannot be read.
    """
    start = time.perf_counter()
    a, b = Path(a), Path(b)
    progress(f"reading {a} and {b}")
    one, other = _read(a, key), _read(b, key)
    if one.architecture.folded != other.architecture.folded:  # the same layers are needed, and folding is one way
        one, other = fold(one), fold(other)
    alike = (one.architecture.network, one.architecture.head) == (other.architecture.network, other.architecture.head)
    tensors = compare_tensors(one.arrays, other.arrays) if alike else None
    result = Same(a, b, one, other, tensors)
    if tensors is not None and not tensors.passed:
        progress(f"the numbers differ; running both on {counted(images, 'image')} in {PRECISION}")
        _run(result, Images.of(images, seed=seed, size=max(one.provenance.side, other.provenance.side)).inputs)
    result.seconds = time.perf_counter() - start
    return result


def _run(result: Same, batch: np.ndarray) -> None:
    from verify.references.torch_reference import TorchReference

    references = [TorchReference(checkpoint, PRECISION) for checkpoint in (result.one, result.other)]
    found: dict[str, list[Difference]] = {}
    for image in batch:  # one at a time: activations in float64 are large
        theirs, ours = (reference.run(image[None].astype(PRECISION)) for reference in references)
        for name, values in theirs.items():
            if name in ours and name != "data":
                found.setdefault(name, []).append(difference(name, values, ours[name]))
    result.layers = [worst(each) for each in found.values()]
    ours, theirs = (dict(_maps(checkpoint)) for checkpoint in (result.one, result.other))
    result.furthest_map = worst([difference(name, ours[name], theirs[name]) for name in ours])
    result.compared = deciding(result.one.architecture)
    result.images = len(batch)


def _maps(checkpoint: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
    """Layer -> its arrays as one map in float64, each normalisation multiplied into the convolution before it.

    Images decide nothing about a channel that is silent on all of them; these numbers do.
    """
    before = {norm: convolution for convolution, norm in normalisation_of(checkpoint.architecture).items()}
    for layer in checkpoint.architecture.layers:
        roles = {role: array.astype(np.float64) for role, array in checkpoint.arrays.get(layer.name, {}).items()}
        if isinstance(layer, BatchNorm):
            (source,) = layer.inputs
            scale = roles["gamma"] / np.sqrt(roles["moving_variance"] + BATCHNORM_EPSILON)
            yield f"{source} with {layer.name}", checkpoint.arrays[before[layer.name]]["kernel"] * scale
            yield layer.name, roles["beta"] - roles["moving_mean"] * scale
        elif roles and layer.name in deciding(checkpoint.architecture):
            for role, array in roles.items():
                yield f"{layer.name} ({role})", array


def deciding(table: Architecture) -> frozenset[str]:
    """The layers whose outputs make the function: all but convolutions that a normalisation follows.

    Such a pair may divide its work differently (a channel scaled in the one and scaled back in the other) and still be
    the same function; what comes out behind the normalisation is what counts.
    """
    inner = {layer.inputs[0] for layer in table.layers if isinstance(layer, BatchNorm)}
    inner &= {layer.name for layer in table.layers if isinstance(layer, Conv)}
    return frozenset(layer.name for layer in table.layers[1:] if layer.name not in inner)
