"""The neutral checkpoint that stands between every reader and every writer.

``layer name -> role -> array``; the roles are Keras's (``kernel``, ``bias``, ``gamma``, ``beta``, ``moving_mean``,
``moving_variance``), kernels are height x width x in x out, the head's kernel is features x units. Beside the
arrays: which network it is, and where it came from.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.provenance_fields import SCHEMA, SOURCE_FIELDS, problem_of
from ferplus_keras import __version__
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import Architecture, Head
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.preprocessing import PUBLISHED, trained_side

Arrays = dict[str, dict[str, np.ndarray]]

#: The word that every file with made-up weights carries in its name and in its provenance.
STANDIN = "standin"


@dataclass(frozen=True)
class Source:
    """A file that was read: its name (no folder), size in bytes, SHA-256, and format."""

    name: str
    size: int
    sha256: str
    format: str


@dataclass(frozen=True)
class Provenance:
    """Where the numbers of a file come from and how they are to be used. Written into every file, as JSON."""

    source: Source  #: the file this one was made from
    origin: Source  #: the first file of the chain; equal to ``source`` after one conversion
    network: str
    head: str
    units: int
    dropout: float = 0.0
    output: str = "logits"  #: what the file's last layer yields: "logits", "probabilities", "embedding", "features"
    labels: tuple[str, ...] | None = None
    preprocessing: dict[str, Any] = field(default_factory=PUBLISHED.as_dict)
    preprocessing_inside: bool = False  #: whether the file's graph takes the mean off by itself: RGB bytes go in
    #: Whose names and graph the arrays are for: "albanie" or "keras-vggface" (BGR, gamma for another epsilon).
    layout: str = "albanie"
    standin: bool = False
    #: What a round trip to PyTorch must give back and Keras has no place for: the BatchNorm step counters.
    #: An int when all 53 are alike, a dict by layer otherwise; None where the source had none.
    num_batches_tracked: int | dict[str, int] | None = None
    #: "conv" (units, 2048, 1, 1) or "linear" (units, 2048): the form of the head in the PyTorch source.
    torch_head: str = "conv"
    folded: bool = False  #: whether the batch normalisations stand in the convolutions (``convert.folding``)
    notes: tuple[str, ...] = ()
    #: How the numbers were trained, where that was done here: recipe, data, seed, versions, start (docs/finetuning.md).
    training: dict[str, Any] | None = None
    tool: str = f"ferplus-keras {__version__}"
    schema: int = SCHEMA

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @property
    def side(self) -> int:
        """The side of the images that the network was trained on, and that the graphs in its files take."""
        return trained_side(self.preprocessing["size"])

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Provenance:
        """The inverse of :meth:`to_json`.

        Raises ``ValueError`` when a field is missing or of the wrong kind, or when the record's schema is newer.
        """
        problem = problem_of(data)
        if problem:
            raise ValueError(problem)
        known = {key: value for key, value in data.items() if key in cls.__dataclass_fields__}
        for key in ("source", "origin"):
            known[key] = Source(**{field: known[key][field] for field in SOURCE_FIELDS})
        for key in ("labels", "notes"):
            if known.get(key) is not None:
                known[key] = tuple(known[key])
        if "preprocessing" in known:
            pairs = known["preprocessing"].items()
            known["preprocessing"] = {key: tuple(value) if isinstance(value, list) else value for key, value in pairs}
        return cls(**known)


@dataclass
class Checkpoint:
    """A network's arrays, complete and checked against its architecture (see :mod:`convert.matching`)."""

    architecture: Architecture
    arrays: Arrays
    provenance: Provenance

    @property
    def parameter_bytes(self) -> int:
        """Size of all arrays in memory, in bytes."""
        return sum(array.nbytes for roles in self.arrays.values() for array in roles.values())


def check_standin_name(source: str, path: Path, suffix: str) -> None:
    """Raises :class:`BadInputError` when ``path``, made from a stand-in, does not say so.

    ``source`` is the stand-in's name, ``suffix`` what the target's ends in; the name that is proposed says it before.
    """
    if STANDIN not in path.name.lower():
        better = path.name[: len(path.name) - len(suffix)] + f"-{STANDIN}{suffix}"
        raise BadInputError(
            f"{source} is a stand-in with made-up weights, and every file derived from it says so in its name: call "
            f"the target {better} instead of {path.name}."
        )


def labels_for(head: Head) -> tuple[str, ...] | None:
    """The class names that go with ``head``: eight classes are FERPlus's; other heads bring no names of their own."""
    return EMOTIONS if head.kind == "classifier" and head.units == len(EMOTIONS) else None


def with_output(provenance: Provenance, *, probabilities: bool) -> Provenance:
    """``provenance`` of a file whose last layer is, or is not, the softmax."""
    output = {"embedding": "embedding", "none": "features"}.get(provenance.head)
    return replace(provenance, output=output or ("probabilities" if probabilities else "logits"))
