"""Every way from a file through two formats and home again, walked; and what is left of the numbers at its end.

A reader that forgets and a writer that adds can make up for each other; over all ordered pairs they cannot.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import STANDIN, Checkpoint
from convert.readers import read_checkpoint
from convert.targets import FORMATS, Format
from convert.writers import PUBLISHED_ALONE, format_of, write
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.network_folder import network_file
from ferplus_keras.networks.architecture import COMPACT
from ferplus_keras.wording import in_columns
from verify.tensors import compare_tensors

#: What must come home beside the numbers.
KEPT = (
    "network",
    "head",
    "units",
    "dropout",
    "labels",
    "preprocessing",
    "standin",
    "num_batches_tracked",
    "torch_head",
)


@dataclass(frozen=True)
class Leg:
    """One stop of a way: how far the checkpoint read there is from the source's."""

    ulps: int  #: the largest distance of a number, in float32 ulps
    arrays: int  #: how many arrays differ
    lost: tuple[str, ...] = ()  #: what of the provenance did not come along

    def __str__(self) -> str:
        if self.lost:
            return f"lost {self.lost[0]}"
        if not self.arrays:
            return "equal"
        if not self.ulps:
            return "0 ulps, other bits"  # +0.0 and -0.0, or one NaN and another
        return f"{self.ulps:,} ulps" if self.ulps > 1 else "1 ulp"


@dataclass(frozen=True)
class Way:
    """Source -> ``first`` -> ``second`` -> the source's format."""

    first: str
    second: str
    there: Leg  #: read from the second format
    back: Leg  #: read from the source's format again

    @property
    def passed(self) -> bool:
        return all(not (leg.lost or leg.arrays) for leg in (self.there, self.back))

    @property
    def verdict(self) -> str:
        worst = max(self.there, self.back, key=lambda leg: (bool(leg.lost), leg.ulps, leg.arrays))
        return str(worst) if self.passed else f"OFF: {worst}"


@dataclass(frozen=True)
class Roundtrip:
    """The matrix."""

    source: Path
    home: str  #: the format in which every way ends
    ways: tuple[Way, ...]
    files: int
    seconds: float

    @property
    def passed(self) -> bool:
        return bool(self.ways) and all(way.passed for way in self.ways)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        ways = [asdict(way) | {"verdict": way.verdict, "passed": way.passed} for way in self.ways]
        return {
            "source": str(self.source), "home": self.home, "passed": self.passed, "files": self.files,
            "seconds": self.seconds, "ways": ways,
        }  # fmt: skip

    def as_text(self) -> str:
        """A table: a row for each first format, a column for each second."""
        columns = list(dict.fromkeys(way.second for way in self.ways))
        rows = [[f"{self.source.name} ->", *(f"-> {each}" for each in columns)]]
        for first in dict.fromkeys(way.first for way in self.ways):
            rows.append([first, *(way.verdict for way in self.ways if way.first == first)])
        return "\n".join(in_columns(rows))


def roundtrip(
    source: str | Path,
    *,
    formats: Iterable[str] | None = None,
    key: str | None = None,
    folder: Path | None = None,
    progress: Callable[[str], None] = lambda _line: None,
) -> Roundtrip:
    """Walk every ordered pair of formats from ``source`` and back to its own format.

    At most three files exist at a time, in a temporary folder. Every file is read once and compared with ``source``:
    arrays in ulps, and what the provenance must keep.

    Args:
        source: a checkpoint in any format that is read.
        formats: names of formats; default all that the network can be written in.
        key: which network of ``source`` is meant where it holds several.
        folder: where the temporary folder is made; default the system's place.
        progress: called with a line when a row begins.

    Raises:
        BadInputError: ``source`` cannot be read.
        OutputError: there is no room for three files of its size.
    """
    start = time.perf_counter()
    source = Path(source)
    origin = read_checkpoint(source, key=key)
    possible = FORMATS.keys() - (PUBLISHED_ALONE if origin.architecture.network == COMPACT else ())
    chosen = [FORMATS[name] for name in (filter(possible.__contains__, FORMATS) if formats is None else formats)]
    home = _home(network_file(source))
    walk = _Walk(origin, home)
    ways: list[Way] = []
    with tempfile.TemporaryDirectory(prefix="ferplus-roundtrip-", dir=folder) as name:
        for first in chosen:
            progress(f"{source.name} -> {first.name} -> {', '.join(each.name for each in chosen)} -> {home.name}")
            with walk.step(origin, first, Path(name) / "first") as middle:
                for second in chosen:
                    with walk.step(middle, second, Path(name) / "second") as far:
                        there, back = walk.leg(far), walk.return_leg(far, second, Path(name) / "home")
                    ways.append(Way(first.name, second.name, there, back))
    return Roundtrip(source, home.name, tuple(ways), walk.files, time.perf_counter() - start)


def _home(source: Path) -> Format:
    """The format to come home to: the source's own, or PyTorch's where ours cannot be seen in the name (``.bin``)."""
    try:
        return format_of(source)
    except BadInputError:
        return FORMATS["pth"]


class _Walk:
    def __init__(self, origin: Checkpoint, home: Format) -> None:
        self.origin, self.home = origin, home
        self.files = 0
        self.returned: dict[tuple[str, str], Leg] = {}
        self.stem = f"x-{STANDIN}" if origin.provenance.standin else "x"

    @contextmanager
    def step(self, checkpoint: Checkpoint, format: Format, folder: Path) -> Iterator[Checkpoint]:
        """Write ``checkpoint`` as ``format`` and read it; the file goes when the block ends."""
        self.files += 1
        path = folder / f"{self.stem}{format.suffix}"
        write(checkpoint, path, logits=checkpoint.provenance.output == "logits")
        try:
            yield read_checkpoint(path)
        finally:
            path.unlink()

    def leg(self, checkpoint: Checkpoint) -> Leg:
        found = compare_tensors(self.origin.arrays, checkpoint.arrays)
        theirs, ours = self.origin.provenance, checkpoint.provenance
        lost = [name for name in KEPT if getattr(theirs, name) != getattr(ours, name)]
        lost += ["the original file's record"] * (theirs.origin != ours.origin)
        return Leg(
            max(found.different.values(), default=0), len(found.different), (*found.missing, *found.extra, *lost)
        )

    def return_leg(self, checkpoint: Checkpoint, format: Format, folder: Path) -> Leg:
        """Home from ``format``. The same numbers from the same format take one way only, so it is walked once."""
        key = (format.name, _fingerprint(checkpoint))
        if key not in self.returned:
            with self.step(checkpoint, self.home, folder) as home:
                self.returned[key] = self.leg(home)
        return self.returned[key]


def _fingerprint(checkpoint: Checkpoint) -> str:
    """Of everything that a writer sees, but for the file that the checkpoint was read from."""
    digest = hashlib.sha256()
    for part in _parts(checkpoint):
        digest.update(part)
    return digest.hexdigest()


def _parts(checkpoint: Checkpoint) -> Iterator[bytes]:
    provenance = checkpoint.provenance
    yield replace(provenance, source=provenance.origin, notes=(), output="").to_json().encode()
    for layer, roles in checkpoint.arrays.items():
        for role, array in roles.items():
            yield f"{layer}/{role}".encode()
            yield np.ascontiguousarray(array).tobytes()
