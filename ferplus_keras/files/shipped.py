"""The networks that were trained here and come with the package: ``[trained.NAME]`` in ``weights/manifest.toml``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.folders import MANIFEST, shipped_folder
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.opening import is_file
from ferplus_keras.files.provenance import Provenance, Source
from ferplus_keras.networks.architecture import Architecture, Conv, architecture, torch_name
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.preprocessing import PUBLISHED
from ferplus_keras.packages import naming_missing

#: The protocol whose figure is quoted where there is room for one.
QUOTED = "albanie"

TITLES = {"resnet50": "ResNet50", "senet50": "SE-ResNet50", "compact": "compact network"}


@dataclass(frozen=True)
class Recorded:
    """An accuracy that was measured when the weights were shipped: ``correct`` of ``n`` images.

    ``copies``: whether images that also stand in another split count.
    """

    split: str
    protocol: str
    copies: bool
    correct: int
    n: int

    @property
    def percent(self) -> float:
        return 100 * self.correct / self.n


@dataclass(frozen=True)
class Shipped:
    """A trained network: its float16 file, the side of its images, and how often it was right."""

    name: str
    network: str
    path: Path
    sha256: str
    size: int
    accuracy: tuple[Recorded, ...] = ()

    @property
    def table(self) -> Architecture:
        return architecture(self.network)

    @property
    def source(self) -> Source:
        """The file as a record names it."""
        return Source(self.path.name, self.path.stat().st_size, self.sha256, "safetensors")

    @property
    def provenance(self) -> Provenance:
        """What is known of it, as a record."""
        source = replace(self.source, format="trained here")
        return Provenance(
            source, source, self.network, "classifier", len(EMOTIONS), labels=EMOTIONS,
            preprocessing=PUBLISHED.as_dict() | {"size": (self.size, self.size)},
        )  # fmt: skip

    @property
    def quoted(self) -> Recorded | None:
        """The accuracy where there is room for one: of Test, or of Valid where Test was not looked at."""
        measured = {each.split: each for each in self.accuracy if each.protocol == QUOTED and each.copies}
        return measured.get("test") or measured.get("val")

    @property
    def figure(self) -> str:
        """:attr:`quoted` in words."""
        if (best := self.quoted) is None:
            return "accuracy not measured"
        return f"{best.percent:.1f} % on FERPlus {'Test' if best.split == 'test' else 'Valid'}"

    @property
    def title(self) -> str:
        return f"{TITLES[self.network]} trained here, {self.size} x {self.size}, {self.figure}"

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """:func:`released_arrays`. Raises :class:`BadInputError` too when the file is not the one in the manifest."""
        if sha256_of(self.path) != self.sha256:
            raise BadInputError(f"{self.path} is not the file that the manifest names: install the package again.")
        return released_arrays(self.path, self.network)


def released_arrays(path: Path, network: str) -> dict[str, dict[str, np.ndarray]]:
    """Layer -> role -> float32 array of a released ``network``'s file, kernels height x width x in x out.

    Raises :class:`BadInputError` when it is not there, damaged, or another network's.
    """
    with naming_missing():
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

    table = architecture(network)
    try:
        stored = load_file(path)
        return {layer: {role: _read(table, stored, layer, role) for role in roles}
                for layer, roles in table.parameters.items()}  # fmt: skip
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise BadInputError(f"{path} is not a {network} of eight emotions ({error}).") from None


def _read(table: Architecture, stored: dict[str, np.ndarray], layer: str, role: str) -> np.ndarray:
    """One array, from a file with Keras's roles (``conv1/kernel``) or with PyTorch's names (``conv1.weight``)."""
    shape = table.parameters[layer][role]
    if f"{layer}/{role}" in stored:
        found = stored[f"{layer}/{role}"]
    else:
        found = stored[torch_name(layer, role)]
        if role == "kernel":
            convolution = any(each.name == layer and isinstance(each, Conv) for each in table.layers)
            found = found.transpose(2, 3, 1, 0) if convolution else found.reshape(found.shape[:2]).T
    if found.shape != shape:
        raise ValueError(f"{layer} is {found.shape}, not {shape}")
    return np.ascontiguousarray(found, np.float32)


def shipped() -> dict[str, Shipped]:
    """The trained networks by name, the default first. Raises :class:`BadInputError` when the manifest is not valid."""
    try:
        import tomllib
    except ModuleNotFoundError:  # `compat` runs in the Python 3.9 of old Keras, without these networks
        return {}
    folder = shipped_folder()
    try:
        entries = tomllib.loads((folder / MANIFEST).read_text("utf-8")).get("trained", {})
        return {name: _shipped(folder, name, entry) for name, entry in entries.items()}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadInputError(f"{folder / MANIFEST} has no valid list of trained networks ({error}).") from None


def _shipped(folder: Path, name: str, entry: dict[str, Any]) -> Shipped:
    figures = tuple(Recorded(**each) for each in entry.get("accuracy", ()))
    return Shipped(name, entry["network"], folder / entry["file"], entry["sha256"], entry["size"], figures)


def shipped_at(path: Path) -> Shipped | None:
    """The trained network whose file is at ``path``, wherever that was copied; None when it is another file."""
    known = shipped().values()
    if is_file(path) and path.stat().st_size not in {each.path.stat().st_size for each in known if is_file(each.path)}:
        return None  # what is of another size need not be hashed, which takes minutes of a large file
    digest = sha256_of(path)
    return next((each for each in known if each.sha256 == digest), None)


def default_shipped() -> Shipped:
    """The network that is used where none is named. Raises :class:`BadInputError` when there is none."""
    for each in shipped().values():
        return each
    raise BadInputError(f"No trained network comes with this package: {shipped_folder() / MANIFEST} names none.")
