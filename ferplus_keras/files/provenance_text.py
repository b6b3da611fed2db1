"""The record that our writers leave in a file, from the text in which it stands there."""

from __future__ import annotations

import json
from typing import Any

from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.errors import BadInputError


def provenance_of(path: object, text: str | None) -> dict[str, Any] | None:
    """The JSON object in ``text``; None where there is no text. Raises :class:`BadInputError` when it is no object."""
    if not text:
        return None
    try:
        provenance = json.loads(text)
    except (ValueError, RecursionError):
        raise BadInputError(f"{path}: its {PROVENANCE_KEY} record is not valid JSON.") from None
    if not isinstance(provenance, dict):
        raise BadInputError(f"{path}: its {PROVENANCE_KEY} record is JSON but no object.")
    return provenance


__all__ = ["provenance_of"]
