"""What a row of results was made by: the network's file, and the options and the folder that change what it says.

It is the text of the column ``model``, by which ``--resume`` knows whether a table may be continued:
``b.onnx@7c1049b5b928``, ``b.onnx@7c1049b5b928 openvino faces=haar margin=0.1 from=../images``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from ferplus_keras.wording import printable

#: A network's name, SHA-256 and runtime; then settings, in which no blanks are.
ORIGIN = re.compile(r"(.*@[0-9a-f]{12}(?: [\w-]+)?)((?: [a-z]+=\S+)*)", re.DOTALL)

#: Settings that are no option: the network's card, and the folder that names start from, seen from the table's.
CARD, FOLDER = "card", "from"


def origin_text(network: str, settings: Mapping[str, object]) -> str:
    """The text for a ``network`` that was run with these ``settings``, values without blanks."""
    return " ".join([network, *(f"{name}={value}" for name, value in settings.items())])


class Origin:
    """What this run's rows in a ``table`` come from; ``made`` is :func:`origin_text`'s.

    A relative name means nothing without the folder that it starts from, so rows of such a name have that too, unless
    it is the table's own. It is kept relative to the table, so that both may move together.
    """

    def __init__(self, made: str, table: Path) -> None:
        self._made, self._table = made, Path(os.path.realpath(table.parent))

    @cached_property
    def _relative(self) -> str:
        folder = os.path.relpath(Path.cwd(), self._table)
        return self._made if folder == "." else origin_text(self._made, {FOLDER: quote(os.fsencode(folder))})

    def of(self, name: str) -> str:
        """What the row of the image called ``name`` says of itself."""
        return self._made if os.path.isabs(name) else self._relative  # noqa: PTH117

    def problem(self, name: str, made: str, boxes: bool) -> str:
        """Why a row of the image ``name`` that was ``made`` so cannot stand in this run's table; "" where it can.

        Earlier versions did not say which option they looked for faces with, but the ``boxes`` of these are there.
        """
        now = printable(self.of(name))
        (network, had), (own, has) = _taken_apart(made), _taken_apart(now)
        if boxes:
            had = {"faces": "", **had}
        if network != own:
            return f"it was made by {network[:120]}, and this run would be by {own}. Choose another name"
        for setting in (*has, *had):
            if had.get(setting) != has.get(setting):
                return self._difference(setting, had.get(setting), has.get(setting), own)
        return ""

    def _difference(self, setting: str, had: str | None, has: str | None, network: str) -> str:
        if setting == CARD:
            card = f"{network.rpartition('@')[0]}.toml"
            return f"the card beside the network ({card}) is not the one it was made with. Choose another name"
        if setting == FOLDER:
            there = os.path.normpath(self._table / os.fsdecode(unquote_to_bytes(had or ".")))
            unsaid = "" if had else ", or to a folder that an earlier version did not record"
            return f"its names are relative to {there[:200]}{unsaid}: run the command there, or choose another name"
        was, would = (
            f"without --{setting}" if value is None else f"with --{setting} {value[:40]}".rstrip()
            for value in (had, has)
        )
        unsaid = "" if had else f", or by an earlier version, which did not record --{setting}"
        return f"it was made {was}{unsaid}, and this run would be {would}. Give the same, or choose another name"


@lru_cache(maxsize=16)
def _taken_apart(made: str) -> tuple[str, Mapping[str, str]]:
    """The network, and the settings by name."""
    found = ORIGIN.fullmatch(made)
    if found is None:
        return made, {}
    pairs = (each.partition("=") for each in found[2].split())
    return found[1], {name: value for name, _, value in pairs}
