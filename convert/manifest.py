"""``weights/manifest.toml`` as typed data: the known checkpoints and where their files belong."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.folders import MANIFEST, WEIGHTS_VARIABLE, output_folder, shipped_folder, weights_folder
from ferplus_keras.networks.architecture import NO_HEAD, Head, classifier, embedding


@dataclass(frozen=True)
class Known:
    """A published checkpoint: its file, its network, and where it is cited."""

    name: str
    file: str
    network: str
    head: Head
    urls: tuple[str, ...]
    cited: str
    default: bool = False
    dropout: float = 0.0
    accuracy: dict[str, float] | None = None  # split -> published FERPlus accuracy in percent
    size: int | None = None
    sha256: str | None = None


def downloads_folder() -> Path:
    """The folder of fetched and hand-placed checkpoints."""
    return weights_folder() / "downloads"


def reports_folder() -> Path:
    """The folder of the converted files' parity reports."""
    return weights_folder() / "reports"


def read_manifest(path: Path | None = None) -> dict[str, Known]:
    """The manifest by name. Raises :class:`BadInputError` that names the entry if it is not valid."""
    if path is None:
        own = weights_folder() / MANIFEST
        path = own if own.is_file() else shipped_folder() / MANIFEST
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInputError(
            f"There is no manifest at {path}. Run from a checkout of the project, or set {WEIGHTS_VARIABLE} to its "
            "weights folder."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is not valid TOML: {error}.") from None
    return {name: _known(path, name, entry) for name, entry in raw.items() if name != "trained"}


def _known(path: Path, name: str, entry: Any) -> Known:
    try:
        fields = dict(entry)
        kind, units = fields.pop("head"), fields.pop("units", 0)
        head = NO_HEAD if kind == "none" else {"classifier": classifier, "embedding": embedding}[kind](units)
        return Known(name, head=head, urls=tuple(fields.pop("urls")), **fields)
    except (TypeError, ValueError, KeyError) as error:
        raise BadInputError(f"{path}: the entry [{name}] is not valid ({error}).") from None


__all__ = ["WEIGHTS_VARIABLE", "Known", "downloads_folder", "output_folder", "read_manifest", "reports_folder",
           "weights_folder"]  # fmt: skip
