"""What a run starts from: apart from the network that is trained, so that it can be read without Keras."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ferplus_keras.networks.gates import Arrays


@dataclass(frozen=True)
class Start:
    """What a run starts from: arrays without a head of the right classes have it left out. Empty: from nothing.

    ``source`` goes into every provenance: the file's name, SHA-256 and the like. ``standin``: made-up weights.
    """

    arrays: Arrays = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    standin: bool = False

    def __str__(self) -> str:
        return str(self.source.get("name", "nothing: random weights"))
