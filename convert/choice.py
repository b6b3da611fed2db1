"""Choosing between several networks in one file: raw weights and their average, a student and a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convert.matching import first_kernels, recognise
from convert.torchvision_names import MARKER
from ferplus_keras.errors import BadInputError
from ferplus_keras.wording import counted

#: The tensors that identify one of these networks, under the published names and under torchvision's.
FIRST_KERNELS = first_kernels("torch")

#: The key of tensors that are not in a dictionary of their own.
TOP = "."

#: Groups of at least this many other tensors are mentioned.
MENTIONED = 20


class SeveralNetworksError(BadInputError):
    """A file holds several networks and none was chosen. ``choices``: key -> description."""

    def __init__(self, message: str, choices: dict[str, str]) -> None:
        super().__init__(message)
        self.choices = choices


def choose(
    where: object, groups: Mapping[str, Mapping[str, Any]], key: str | None
) -> tuple[str, dict[str, Any], list[str]]:
    """The path of the chosen network, its tensors under the file's own names, and notes.

    Args:
        where: the file, for messages.
        groups: path in the file -> name -> something with a shape. Two networks may also share a group and differ in
            the prefix of their names (``model.``, ``ema_model.``).
        key: the path, or path and prefix, that the user gave.

    Raises:
        SeveralNetworksError: there are several networks and no key.
        BadInputError: there is nothing under ``key``.
    """
    networks: dict[str, tuple[str, dict[str, Any]]] = {}
    for path, items in groups.items():
        prefixes = _prefixes(items)
        for prefix in prefixes:
            name = "/".join(filter(None, (path, prefix.rstrip("./") if len(prefixes) > 1 else ""))) or TOP
            own = _of(items, prefix, prefixes) if len(prefixes) > 1 else dict(items)
            if len(prefixes) > 1 or not any(_tensors(own) == _tensors(others) for _, others in networks.values()):
                networks[name] = (path, own)
    choices = {name: _what(own) for name, (_, own) in networks.items()}
    if key is None and len(networks) > 1:
        *rest, last = (f"{name} ({what})" for name, what in choices.items())
        options = " or ".join(f"--key {name}" for name in choices)
        raise SeveralNetworksError(
            f"{where} holds {len(networks)} networks: {', '.join(rest)} and {last}. Choose one: {options}.",
            choices,
        )
    ours = {path for path, _ in networks.values()}
    known = networks | {path or TOP: (path, dict(items)) for path, items in groups.items() if path not in ours}
    largest = max(known, key=lambda name: len(_tensors(known[name][1])))
    wanted = key.strip("/") if key is not None else next(iter(networks), largest)
    if wanted not in known:
        raise BadInputError(f"{where} has no tensors under the key {wanted}; it has {', '.join(known)}.")
    path, chosen = known[wanted]
    notes = [
        f"the file also holds {name} ({_what(items)}), which was ignored"
        for name, (_, items) in known.items()
        if name != wanted and networks and (name in networks or len(_tensors(items)) >= MENTIONED)
    ]
    return path, chosen, notes


def _prefixes(items: Mapping[str, Any]) -> list[str]:
    return [name.removesuffix(first) for name in map(str, items) for first in FIRST_KERNELS
            if name == first or name.endswith(f".{first}")]  # fmt: skip


def _of(items: Mapping[str, Any], prefix: str, all_prefixes: list[str]) -> dict[str, Any]:
    """The items whose names have ``prefix`` and no longer one of ``all_prefixes``, and the tensors beside them.

    Beside ``student.backbone.``, ``student.fc.weight`` is the student's, too, as long as no other network is there.
    """
    longer = tuple(each for each in all_prefixes if len(each) > len(prefix) and each.startswith(prefix))
    parts = prefix.split(".")
    stems = (".".join([*parts[:count], ""]) for count in range(1, len(parts)))
    others = [each for each in all_prefixes if each != prefix]
    stem = next((each for each in stems if not any(other.startswith(each) for other in others)), prefix)
    return {
        name: item for name, item in items.items()
        if (name.startswith(prefix) and not name.startswith(longer))
        or (stem != prefix and name.startswith(stem) and len(getattr(item, "shape", ())))  # counters are nobody's
    }  # fmt: skip


def is_network(items: Mapping[Any, Any]) -> bool:
    """Whether the names of ``items`` are those of one of these networks."""
    return bool(_prefixes(items))


def _tensors(items: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors in ``items``, by which a network that is in the file twice is recognised."""
    return {name: item for name, item in items.items() if hasattr(item, "shape")}


def _what(items: Mapping[str, Any]) -> str:
    """For instance ``resnet50, 8 classes, 267 tensors``."""
    count = counted(len(items), "tensor")
    prefix = next(iter(_prefixes(items)), "")
    shapes = {name.removeprefix(prefix): getattr(item, "shape", ()) for name, item in items.items()}
    if MARKER in shapes:
        return f"torchvision's names, {count}"
    try:
        return f"{recognise(shapes, 'torch', '')}, {count}"
    except BadInputError:
        return count
