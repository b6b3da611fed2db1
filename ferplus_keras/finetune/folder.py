"""The folder of a run: who may write there, and what is called how.

    recipe.toml  run.json                 what is being done: all values; data, start, versions, seed
    history.csv  curves.svg               the epochs so far
    state/state.safetensors               the last complete checkpoint
    state/best-0007.safetensors           the weights of the best epoch on Valid
    best.h5 ... last.h5 ... model-card.md the release, once the run is done
    release.json                          what it consists of: its presence says that the run is finished

Every file is written under another name and renamed.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ferplus_keras.errors import BadInputError, OutputError
from ferplus_keras.files.atomic import unwritable, write_text
from ferplus_keras.files.json_text import parse_json
from ferplus_keras.files.locks import sole_writer
from ferplus_keras.files.network_folder import RUN
from ferplus_keras.files.opening import is_file, read_text

RECIPE, HISTORY, CURVES = "recipe.toml", "history.csv", "curves.svg"
LOCK = ".lock"


class RunFolder:
    """The paths of the run in ``path``, and its text files."""

    write_text = staticmethod(write_text)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe, self.run = path / RECIPE, path / RUN
        self.history, self.curves = path / HISTORY, path / CURVES
        self.accuracy, self.card, self.release = path / "accuracy", path / "model-card.md", path / "release.json"
        self.states = path / "state"
        self.state, self.last = self.states / "state.safetensors", self.states / "last.safetensors"

    def best(self, epoch: int) -> Path:
        return self.states / f"best-{epoch:04}.safetensors"

    def missing(self, release: Mapping[str, Any]) -> list[str]:
        """What a finished run has and this folder has no longer; ``release`` is what :meth:`read_release` found."""
        wanted = [self.path / Path(each["path"]).name for each in release["files"]]
        wanted += [self.card, self.history, self.curves, self.recipe]
        wanted += [self.accuracy] if release.get("accuracy_report") else []
        return [path.name for path in wanted if not path.exists()]

    @property
    def started(self) -> bool:
        """Whether a run was started here."""
        return is_file(self.run) or is_file(self.state)

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Raise :class:`BadInputError` when another run is there, or none to resume, and ``OutputError`` at a file."""
        if resume:
            if not self.started:
                raise BadInputError(f"There is no run in {self.path} to resume. Leave out --resume to start one.")
            return
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; give the name of a folder for the run.")
        if self.started and not overwrite:
            raise BadInputError(
                f"There is a run in {self.path} already: resume it with --resume, replace it with --overwrite, or give "
                "another --out."
            )

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder, in which a run may stand that is not to be lost before the new one is known to be sound.

        Raises as :meth:`check` does, and :class:`OutputError` when it cannot be made.
        """
        self.check(resume=resume, overwrite=overwrite)
        try:
            self.states.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be created: {error.strerror}. Choose another place.") from None

    def clear(self) -> None:
        """Remove what another run left."""
        if self.started:
            for pattern in ("state/*.safetensors", "best.*", "last.*", "model-card.md", "accuracy/*"):
                for old in self.path.glob(pattern):
                    old.unlink(missing_ok=True)
            for old in (self.run, self.recipe, self.history, self.curves, self.release):
                old.unlink(missing_ok=True)

    def write_run(self, record: Mapping[str, Any]) -> None:
        _write(self.run, record)

    def read_run(self) -> dict[str, Any]:
        return _read(self.run, "The run cannot be resumed; start again with --overwrite.")

    def read_release(self) -> dict[str, Any]:
        """What the finished run made; empty when it is not finished. Raises :class:`BadInputError` when damaged."""
        if not os.path.lexists(self.release):
            return {}
        return _read(self.release, "Remove it, and --resume makes it again.")

    def write_release(self, record: Mapping[str, Any]) -> None:
        _write(self.release, record)

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        if history:
            writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(history)
        write_text(self.history, text.getvalue())

    def forget_other_bests(self, kept: int) -> None:
        """Remove the weights of epochs that are the best no longer, and what killed processes left half written."""
        for pattern in ("best-*.safetensors", ".partial-*", ".*.lock"):
            for old in self.states.glob(pattern):
                if old != self.best(kept):
                    old.unlink(missing_ok=True)


def _write(path: Path, record: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _read(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        record = parse_json(read_text(path))
    except (BadInputError, ValueError):
        record = None
    if not isinstance(record, dict):
        raise BadInputError(f"{path} cannot be read. {otherwise}")
    return record


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Nobody else trains in ``folder`` meanwhile. Raises :class:`OutputError` saying who does."""
    with ExitStack() as locks:
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            locks.enter_context(sole_writer(folder.path, lock=folder.path / LOCK))
        except OSError as error:
            raise OutputError(unwritable(folder.path, error)) from None
        yield
