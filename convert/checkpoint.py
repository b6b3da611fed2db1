"""The neutral checkpoint between every reader and every writer.

``layer name -> role -> array``; the roles are Keras's (``kernel``, ``bias``, ``gamma``, ``beta``, ``moving_mean``,
``moving_variance``), kernels are height x width x in x out, the head's kernel is features x units. Beside the
arrays: which network it is, and where it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.provenance import STANDIN, Provenance, Source, named_standin
from ferplus_keras.networks.architecture import Architecture, Head
from ferplus_keras.networks.emotions import EMOTIONS

Arrays = dict[str, dict[str, np.ndarray]]


@dataclass
class Checkpoint:
    """A network's arrays, complete and checked against its architecture (see :mod:`convert.matching`)."""

    architecture: Architecture
    arrays: Arrays
    provenance: Provenance

    def __post_init__(self) -> None:
        """Put layers and roles into the architecture's order, which Keras's ``set_weights`` relies on."""
        wanted = self.architecture.parameters
        self.arrays = {
            layer: _in_order(roles, wanted.get(layer, ())) for layer, roles in _in_order(self.arrays, wanted).items()
        }

    @property
    def parameter_bytes(self) -> int:
        """Size of all arrays in memory, in bytes."""
        return sum(array.nbytes for roles in self.arrays.values() for array in roles.values())


def _in_order(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """``given`` in the order of ``names``; keys that are not in ``names`` come last."""
    return {name: given[name] for name in names if name in given} | dict(given)


def check_standin_name(source: str, path: Path, suffix: str) -> None:
    """Raises :class:`BadInputError` when the name of ``path``, made from a stand-in, does not say so.

    ``source`` is the stand-in's name, ``suffix`` the target's suffix, before which the proposed name has the word.
    """
    if not named_standin(path.name):
        better = path.name[: len(path.name) - len(suffix)] + f"-{STANDIN}{suffix}"
        raise BadInputError(
            f"{source} is a stand-in with made-up weights, and the name of every file made from it must say so: call "
            f"the target {better} instead of {path.name}."
        )


def labels_for(head: Head) -> tuple[str, ...] | None:
    """The class names of ``head``: eight classes are FERPlus's; other heads have no names."""
    return EMOTIONS if head.kind == "classifier" and head.units == len(EMOTIONS) else None


def with_output(provenance: Provenance, *, probabilities: bool) -> Provenance:
    """``provenance`` of a file whose last layer is, or is not, the softmax."""
    output = {"embedding": "embedding", "none": "features"}.get(provenance.head)
    return replace(provenance, output=output or ("probabilities" if probabilities else "logits"))


__all__ = [
    "STANDIN", "Arrays", "Checkpoint", "Provenance", "Source", "check_standin_name", "labels_for", "with_output",
]  # fmt: skip
