"""Where in a path FERPlus lies: Kaggle's pair of files, Microsoft's folders, or an archive of either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ferplus_keras.dataset.places import Archive, Entry, Folder, Place, joined
from ferplus_keras.dataset.records import FOLDER_LABEL_FILE, LABEL_FILE, SPLITS, split_code
from ferplus_keras.errors import BadInputError

#: The folder or file of the data, where none is named.
DATA_VARIABLE = "FERPLUS_DATA"

#: Kaggle's pixel file goes by two names.
PIXEL_FILES = ("fer2013.csv", "icml_face_data.csv")

#: Directories looked into below the one that is named; a home folder is not searched.
MAX_BASES = 200

EXPECTED = (
    f"Expected {PIXEL_FILES[0]} (or {PIXEL_FILES[1]}) beside {LABEL_FILE}, or Microsoft's folders FER2013Train, "
    f"FER2013Valid, FER2013Test with their pictures, or a .zip of either"
)


@dataclass(frozen=True)
class Found:
    """What to read. Either ``pixels`` (Kaggle's file, with ``labels``) or ``folders`` (split code -> where)."""

    labels: Entry | None
    pixels: Entry | None = None
    folders: dict[int, tuple[Place, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.pixels is not None:
            return f"{self.pixels} with {self.labels}"
        places = sorted({place.show(name) for place, name in self.folders.values()})
        shown = places[0] if len(places) == 1 else f"{len(places)} folders beside {places[0]}"
        return f"{shown}, votes of {self.labels or FOLDER_LABEL_FILE}"


def find(path: str | Path | None = None) -> Found:
    """The data at ``path``: one of the files, one of the folders, an archive, or a folder that holds any of these.

    None takes ``$FERPLUS_DATA``. Raises :class:`BadInputError` saying what was looked for.
    """
    named = path or os.environ.get(DATA_VARIABLE)
    if not named:
        raise BadInputError(f"No data were named: give --data PATH, or set {DATA_VARIABLE}. {EXPECTED}.")
    path = Path(named).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if not path.exists():
        raise BadInputError(f"There is nothing at {path}. {EXPECTED}.")
    if _is_zip(path):
        return _in_archive(path) or _nothing(path)
    if path.suffix.lower() in (".gz", ".tar", ".tgz"):
        raise BadInputError(f"{path} is a tar or gzip archive: unpack it, and name the folder.")
    if path.name.lower() == LABEL_FILE:
        return _in_folder(path.parent)
    folder = Folder(path.absolute().parent)
    if path.name.lower() == FOLDER_LABEL_FILE:
        return _in_folder(path.absolute().parent)
    if path.suffix.lower() == ".csv":
        labels = _labels_in(folder, "")
        return Found(labels or _no_labels(path), pixels=Entry(folder, path.name))
    return _nothing(path)


def _in_folder(path: Path) -> Found:
    folder = Folder(path.absolute())
    bases = list(_bases(folder))
    outside = next((labels for base in bases if (labels := _labels_in(folder, base))), None)
    outside = outside or _labels_in(Folder(folder.path.parent), "")
    if found := _in_place(folder, bases, outside):
        return found
    if (code := split_code(path.name)) is not None and FOLDER_LABEL_FILE in folder.entries():
        labels = outside or _labels_in(Folder(folder.path.parent.parent), "")
        return Found(labels, folders={code: (folder, "")})
    for base in bases:
        for name, is_directory in folder.entries(base).items():
            archive = folder.path / base / name
            is_archive = not is_directory and name.lower().endswith(".zip") and _is_zip(archive)
            if is_archive and (found := _in_archive(archive, outside)):
                return found
    return _nothing(path)


def _in_archive(path: Path, outside: Entry | None = None) -> Found | None:
    """What the archive holds; the labels may lie beside it."""
    archive = Archive(path.absolute())
    bases = list(_bases(archive))
    inside = next((labels for base in bases if (labels := _labels_in(archive, base))), None)
    return _in_place(archive, bases, inside or outside or _labels_in(Folder(path.absolute().parent), ""))


def _in_place(place: Place, bases: list[str], labels: Entry | None) -> Found | None:
    for base in bases:
        for name, is_directory in place.entries(base).items():
            if not is_directory and name.strip().lower() in PIXEL_FILES:
                entry = Entry(place, joined(base, name))
                return Found(_labels_in(place, base) or labels or _no_labels(entry), pixels=entry)
    for base in bases:
        folders = {
            code: (place, joined(base, name))
            for name, is_directory in place.entries(base).items()
            if is_directory and name.lower().startswith("fer2013") and (code := split_code(name)) is not None
        }
        if folders:
            return Found(_labels_in(place, base) or labels, folders=folders)
    return None


def _bases(place: Place) -> Iterator[str]:
    """The directories that are looked into: the place itself, what lies in it, and ``data`` in those."""
    yield ""
    names = [name for name, is_directory in place.entries().items() if is_directory and not name.startswith(".")]
    for name in names[:MAX_BASES]:
        if split_code(name) is None:  # FER2013Train holds pictures, thousands of them
            yield name
            try:
                if place.entries(name).get("data"):
                    yield joined(name, "data")
            except BadInputError:
                continue  # a directory that may not be read is none of ours


def _labels_in(place: Place, base: str) -> Entry | None:
    for name, is_directory in place.entries(base).items():
        if not is_directory and name.strip().lower() == LABEL_FILE:
            return Entry(place, joined(base, name))
    return None


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError as error:
        raise BadInputError(f"{path} cannot be read: {error.strerror}.") from None


def _no_labels(pixels: object) -> Entry:
    raise BadInputError(
        f"{pixels} has no votes in it, and there is no {LABEL_FILE} beside it: get that file from "
        "github.com/microsoft/FERPlus and put it there."
    )


def _nothing(path: Path) -> Found:
    raise BadInputError(f"There is no FERPlus at {path}. {EXPECTED}.")


__all__ = ["DATA_VARIABLE", "SPLITS", "Found", "find"]
