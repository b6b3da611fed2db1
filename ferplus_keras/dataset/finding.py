"""Where in a path FERPlus lies: Kaggle's pair of files, Microsoft's folders, or an archive of either."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ferplus_keras.dataset.places import Archive, Entry, Folder, Place, joined
from ferplus_keras.dataset.records import FOLDER_LABEL_FILE, LABEL_FILE, split_code
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.opening import need_no_address, open_regular, unreadable

#: The folder or file of the data, where none is named.
DATA_VARIABLE = "FERPLUS_DATA"

#: Kaggle's pixel file goes by two names.
PIXEL_FILES = ("fer2013.csv", "icml_face_data.csv")

#: Archives that are not read.
ARCHIVES = (".gz", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")

#: Directories looked into below the one that is named; a home folder is not searched.
MAX_BASES = 200

EXPECTED = (
    f"Expected {PIXEL_FILES[0]} (or {PIXEL_FILES[1]}) beside {LABEL_FILE}, or Microsoft's folders FER2013Train, "
    f"FER2013Valid, FER2013Test with their images, or a .zip of either"
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
        raise BadInputError(f"No data given: use --data PATH, or set {DATA_VARIABLE}. {EXPECTED}.")
    need_no_address(named)
    try:
        path = Path(named).expanduser()
        if not path.exists():
            raise BadInputError(f"There is nothing at {path}. {EXPECTED}.")
    except (OSError, RuntimeError) as error:  # a name that is too long; a user who does not exist
        raise BadInputError(f"{named} cannot be used as the data: {error}.") from None
    if path.is_dir():
        return _in_folder(path)
    if is_zip(path):
        return _in_archive(path) or _nothing(path, archives_in(Archive(path.absolute()), [""]))
    if path.name.lower().endswith(ARCHIVES):
        raise BadInputError(f"{path} is an archive of an unsupported kind: unpack it, and give the folder.")
    if path.name.lower() in (LABEL_FILE, FOLDER_LABEL_FILE):
        return _in_folder(path.absolute().parent)
    if path.suffix.lower() == ".csv":
        folder = Folder(path.absolute().parent)
        return Found(_labels_in(folder) or _no_labels(path, folder), pixels=Entry(folder, path.name))
    return _nothing(path)


def _in_folder(path: Path) -> Found:
    folder = Folder(path.absolute())
    bases = list(_bases(folder))
    outside = next((labels for base in bases if (labels := _labels_in(folder, base))), None) or _labels_above(folder)
    if found := _in_place(folder, bases, outside):
        return found
    if (code := split_code(path.name)) is not None and FOLDER_LABEL_FILE in folder.entries():
        return Found(outside or _labels_above(Folder(folder.path.parent)), folders={code: (folder, "")})
    problem = None
    for base in bases:
        for name, is_directory in folder.entries(base).items():
            archive = folder.path / base / name
            try:
                is_archive = not is_directory and name.lower().endswith(".zip") and is_zip(archive)
                if is_archive and (found := _in_archive(archive, outside)):
                    return found
            except BadInputError as error:  # perhaps none of ours: the next may be
                problem = problem or error
    if problem:
        raise problem
    return _nothing(path, archives_in(folder, bases))


def _in_archive(path: Path, outside: Entry | None = None) -> Found | None:
    """What the archive holds; the labels may lie beside it."""
    archive = Archive(path.absolute())
    bases = list(_bases(archive))
    inside = next((labels for base in bases if (labels := _labels_in(archive, base))), None)
    return _in_place(archive, bases, inside or outside or _labels_above(Folder(archive.path)))


def _in_place(place: Place, bases: list[str], labels: Entry | None) -> Found | None:
    for base in bases:
        for name, is_directory in place.entries(base).items():
            if not is_directory and name.strip().lower() in PIXEL_FILES:
                entry = Entry(place, joined(base, name))
                return Found(_labels_in(place, base) or labels or _no_labels(entry, place), pixels=entry)
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
        if split_code(name) is None:  # FER2013Train holds images, thousands of them
            with suppress(BadInputError):  # a directory that may not be read is none of ours
                inside = place.entries(name)
                yield name
                if inside.get("data") and place.entries(joined(name, "data")):
                    yield joined(name, "data")


def _labels_in(place: Place, base: str = "") -> Entry | None:
    for name, is_directory in place.entries(base).items():
        if not is_directory and name.strip().lower() == LABEL_FILE:
            return Entry(place, joined(base, name))
    return None


def _labels_above(folder: Folder) -> Entry | None:
    """The label file beside ``folder``."""
    with suppress(BadInputError):  # what cannot be read there is none of ours
        return _labels_in(Folder(folder.path.parent))
    return None


def archives_in(place: Place, bases: Iterable[str]) -> str:
    """A sentence on the archives that lie in a place and are not looked into; "" where there are none."""
    within = ARCHIVES if isinstance(place, Folder) else (*ARCHIVES, ".zip")
    found = [
        joined(base, name)
        for base in bases
        for name, is_directory in place.entries(base).items()
        if not is_directory and name.lower().endswith(within)
    ]
    if found:
        shown = ", ".join(place.show(name) for name in found[:3])
        return f" {shown} may hold it, but is not opened: unpack it, and name the folder."
    if isinstance(place, Folder):
        names = (joined(base, name) for base in bases for name in place.entries(base))
        for name in names:
            with suppress(BadInputError):
                if not name.lower().endswith(".zip") or not is_zip(place.path / name):
                    continue
                archive = Archive(place.path / name)
                if hint := archives_in(archive, list(_bases(archive))):
                    return hint
    return ""


def is_zip(path: Path) -> bool:
    try:
        with open_regular(path) as stream:
            return stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError as error:
        raise BadInputError(unreadable(path, error)) from None


def _no_labels(pixels: object, place: Place) -> Entry:
    raise BadInputError(
        f"{pixels} has no votes in it, and there is no {LABEL_FILE} beside it: get that file from "
        f"github.com/microsoft/FERPlus and put it there.{archives_in(place, [''])}"
    )


def _nothing(path: Path, archives: str = "") -> Found:
    raise BadInputError(f"There is no FERPlus at {path}.{archives} {EXPECTED}.")
