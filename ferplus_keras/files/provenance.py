"""The record that our writers leave in every file: where its numbers come from, and how they are to be used."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from ferplus_keras import PROVENANCE_KEY, __version__
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.json_text import parse_json
from ferplus_keras.files.provenance_fields import SCHEMA, SOURCE_FIELDS, problem_of
from ferplus_keras.networks.preprocessing import PUBLISHED, trained_side

#: Bytes of a record; one with all that training leaves has some 5,000.
MAX_RECORD = 1 << 20

#: What every file with made-up weights has in its name and its provenance.
STANDIN = "standin"

#: The word, not a part of another one: "understanding" has it, too.
NAMED = re.compile(rf"(?<![a-z]){STANDIN}s?(?![a-z])")

ELSEWHERE = "The file is damaged: get it elsewhere, or make it again."


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
    #: An int when all are alike, a dict by layer otherwise; None where the source had none.
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


def named_standin(name: str) -> bool:
    """Whether a file of this ``name`` says that its weights are made up."""
    return bool(NAMED.search(name.lower()))


def provenance_of(path: object, text: object) -> dict[str, Any] | None:
    """The JSON object in ``text`` (str or bytes), as it stands in the file ``path``; None where there is none.

    :meth:`Provenance.from_dict` makes a record of it. Raises :class:`BadInputError` when it is not text, or no object.
    """
    if text is None or text in ("", b""):
        return None
    if not isinstance(text, (str, bytes)) or len(text) > MAX_RECORD:
        raise BadInputError(f"{path}: its {PROVENANCE_KEY} record is not text, or far too long. {ELSEWHERE}")
    try:
        record = parse_json(text)
        # JSON can name half a character ("\\ud800"), which no file, terminal or table takes.
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise BadInputError(f"{path}: its {PROVENANCE_KEY} record holds what is not text. {ELSEWHERE}") from None
    except (ValueError, RecursionError):
        raise BadInputError(f"{path}: its {PROVENANCE_KEY} record is not valid JSON. {ELSEWHERE}") from None
    if not isinstance(record, dict):
        raise BadInputError(f"{path}: its {PROVENANCE_KEY} record is JSON but not an object. {ELSEWHERE}")
    return record
