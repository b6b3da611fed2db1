"""What each field of a provenance record may hold: a record comes from a file, and a file from anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ferplus_keras.networks.architecture import KNOWN
from ferplus_keras.networks.keras_vggface import KERAS_VGGFACE
from ferplus_keras.networks.preprocessing import PUBLISHED

#: The form of the record that this version writes; it reads no newer one.
SCHEMA = 1

SOURCE_FIELDS = ("name", "size", "sha256", "format")

#: PyTorch counts in 64 bits.
MAX_COUNT = (1 << 63) - 1

#: No kernel of a head may be larger (``ferplus_keras.files.keras_files``), so no head has more outputs.
MAX_UNITS = 1 << 24


def problem_of(record: Any) -> str:
    """What is wrong with a provenance record, in half a sentence; "" when nothing is.

    Fields that are not known are let pass: a later version may add one without a new schema.
    """
    if not isinstance(record, dict):
        return "it is not an object"
    schema = record.get("schema", SCHEMA)
    if not _count(schema) or schema < 1:
        return f"schema is {_shown(schema)}"
    if schema > SCHEMA:
        return f"its schema is {schema}, which a newer version writes; this one reads {SCHEMA}"
    for name, valid in FIELDS.items():
        if name not in record:
            if name in REQUIRED:
                return f"{name} is missing"
        elif not valid(record[name]):
            return f"{name} is {_shown(record[name])}"
    labels = record.get("labels")
    if (record["head"] == "none") != (record["units"] == 0):
        return f"head is {record['head']} with {record['units']} units"
    if labels is not None and len(labels) != record["units"]:
        return f"it has {len(labels)} labels for {record['units']} units"
    return ""


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_text, value))


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= MAX_COUNT if isinstance(value, int) else math.isfinite(value)


def _source(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(_text(value.get(key)) for key in SOURCE_FIELDS if key != "size")
        and _count(value.get("size"))
    )


def _preprocessing(value: Any) -> bool:
    """Whether every field of the published record is there, and of the same kind."""
    if not isinstance(value, dict):
        return False
    for key, published in PUBLISHED.as_dict().items():
        found = value.get(key)
        if isinstance(published, str):
            if not _text(found):
                return False
        elif not isinstance(found, (list, tuple)) or len(found) != len(published) or not all(map(_number, found)):
            return False
    return True


def _counters(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_text(key) and _count(count) for key, count in value.items())
    return value is None or _count(value)


def _one_of(*choices: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in choices


REQUIRED = ("source", "origin", "network", "head", "units")

FIELDS: dict[str, Callable[[Any], bool]] = {
    "source": _source,
    "origin": _source,
    "network": _one_of(*KNOWN),
    "head": _one_of("classifier", "embedding", "none"),
    "units": lambda value: _count(value) and value <= MAX_UNITS,
    "dropout": lambda value: _number(value) and 0 <= value < 1,
    "output": _one_of("logits", "probabilities", "embedding", "features"),
    "labels": lambda value: value is None or _texts(value),
    "preprocessing": _preprocessing,
    "preprocessing_inside": lambda value: isinstance(value, bool),
    "layout": _one_of("albanie", KERAS_VGGFACE),
    "standin": lambda value: isinstance(value, bool),
    "folded": lambda value: isinstance(value, bool),
    "num_batches_tracked": _counters,
    "torch_head": _one_of("conv", "linear"),
    "notes": _texts,
    "training": lambda value: value is None or (isinstance(value, dict) and all(map(_text, (*value, *value.values())))),
    "tool": _text,
}


def _shown(value: Any) -> str:
    return repr(value)[:60]
