"""Where the answers of ``ferplus predict`` go, and what is said of them meanwhile and at the end."""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferplus_keras.cli import screen
from ferplus_keras.cli.progress import Progress
from ferplus_keras.cli.shared import SKIPPED, in_the_way
from ferplus_keras.durations import duration
from ferplus_keras.errors import BadInputError
from ferplus_keras.wording import counted, printable

if TYPE_CHECKING:
    from ferplus_keras.predict.records import Answer, CsvFile


class Total:
    """How many images there are, counted beside the work, and how long the rest will take."""

    def __init__(self) -> None:
        self.images: int | None = None
        self._first: tuple[int, float] | None = None

    def count(self, inputs: list[str], done: int) -> None:
        """Count what ``inputs`` name, less those ``done`` before, in a thread; nothing is opened."""
        from ferplus_keras.predict.sources import RowGroup, find_places

        def look() -> None:
            with suppress(BadInputError, OSError):  # they are met again where the work is done, and said there
                places = find_places(inputs)
                self.images = sum(each.rows if isinstance(each, RowGroup) else 1 for each in places) - done

        threading.Thread(target=look, daemon=True).start()

    def progress(self, done: int) -> str:
        """``64 of 1,000 images, 20.5 images/s, 46 s left``. The first batch is no measure: there a network warms up."""
        now = time.perf_counter()
        images = f"{done:,} of {counted(self.images, 'image')}" if self.images else counted(done, "image")
        if self._first is None:
            self._first = (done, now)
        before, since = self._first
        if done == before:
            return images
        pace = (done - before) / max(now - since, 1e-9)
        left = f", {duration(max(0, self.images - done) / pace)} left" if self.images else ""
        return f"{images}, {pace:.1f} images/s{left}"


class Outcome:
    """Where answers go: the table or JSON lines on standard output, the file, and the count at the end."""

    def __init__(
        self, options: argparse.Namespace, labels: tuple[str, ...], standin: bool, start: float, *, film: bool = False
    ) -> None:
        from ferplus_keras.files.network_folder import network_name
        from ferplus_keras.predict.records import CsvFile

        self.options, self.labels, self.standin = options, labels, standin
        self.ready, self.total = time.perf_counter(), Total()
        self.loading = self.ready - start
        self.say = Progress()
        self.model = network_name(Path(options.model))
        self.file: CsvFile | None = None
        if options.csv:
            self.file = CsvFile(options.csv, labels, _made(options, film), resume=options.resume, film=film)
        self.done = self.file.done if self.file else None
        self.before = len(self.done) if self.done is not None else 0
        self.images = self.faces = self.skipped = self.without = 0
        self.headed = False
        self.replaced = ""
        if self.file:
            self.replaced = "; the rows that were there are kept" if self.file.kept else in_the_way(options.csv)

    def __enter__(self) -> Outcome:
        return self

    def __exit__(self, kind: Any, *_error: object) -> None:
        if self.file and kind is not None:
            with suppress(OSError):  # of a disk that is full, which has been said
                self.file.close()
            if self.file.partial.exists():
                self.say.line(f"what was found so far is in {self.file.partial}; --resume continues from there")

    def take(self, answers: list[Answer]) -> None:
        """Put ``answers`` out."""
        if self.file:
            self.file.write(answers)
        for each in answers:
            self.images += 1
            self.faces += len(each.predictions)
            if each.error:
                self.skipped += 1
                self.say.line(f"skipped: {each.input}: {each.error}")
            elif not each.predictions:
                self.without += 1
        if self.options.json:
            screen.result(*(json.dumps(row, allow_nan=False) for each in answers for row in each.rows(self.model)))
        elif not self.file:
            self._table(answers)
        self.say.passing(f"{self.total.progress(self.images)}, {self.skipped:,} skipped")

    def _table(self, answers: Iterable[Answer]) -> None:
        lines = []
        for each in answers:
            for face, found in enumerate(each.predictions, 1):
                rest = sorted(found.probabilities.items(), key=lambda pair: -pair[1])[1 : self.options.top]
                following = ", ".join(f"{printable(label)} {100 * value:.1f} %" for label, value in rest)
                name = printable(each.input)
                if each.boxes:
                    left, top, right, bottom = each.boxes[face - 1]
                    name += f" face {face} ({left}, {top}, {right}, {bottom})"
                emotion = printable(found.emotion)
                lines.append(f"{emotion:<10} {100 * found.confidence:5.1f} %  {name:<40}  {following}".rstrip())
            if not each.predictions and not each.error:
                lines.append(f"{'no face':<10} {'':>7}  {printable(each.input)}")
        if lines and not self.headed:
            lines.insert(0, f"{'emotion':<10} {'':>7}  {'image':<40}  next")
            self.headed = True
        screen.result(*lines)

    def finish(self) -> int:
        """Say what was done, and give the exit code."""
        nothing = self.images == 0 and not self.before
        path = self.file.finish() if self.file and not nothing else None
        if path and self.options.parquet:
            from ferplus_keras.predict.parquet import write_parquet

            write_parquet(path, self.labels, self.options.parquet)
        if nothing:
            if self.file:
                self.file.close()
            raise BadInputError("There is no image in the inputs: the list is empty.")
        seconds, errors = time.perf_counter() - self.ready, self.file.errors if self.file else 0
        parts = [f"{counted(self.images - self.skipped, 'image')} in {duration(seconds)}"]
        parts.append(f"{duration(self.loading)} to start")
        if self.options.faces != "none":
            parts.append(counted(self.faces, "face"))
            parts.append(f"{counted(self.without, 'image')} without a face")
        if self.skipped:
            parts.append(f"{self.skipped:,} skipped")
        if self.before:
            parts.append(f"{self.before:,} done before" + (f", {errors:,} of them skipped" if errors else ""))
        written = [str(each) for each in (path, self.options.parquet, self.options.annotate) if each]
        self.say.line("; ".join(parts) + (f": {', '.join(written)}{self.replaced}" if written else ""))
        if self.standin:
            self.say.line(f"STAND-IN: the weights of {self.model} are made up, and so are these emotions.")
        return SKIPPED if self.skipped or errors else 0


def _made(options: argparse.Namespace, film: bool) -> str:
    """What the rows are made by and with, by which ``--resume`` knows whether it may continue them.

    The model's name, the beginning of its SHA-256 and of its card's, and every option that changes the rows. Images
    that are not searched for faces, the usual case, have no options.
    """
    from ferplus_keras.engines.card import card_of
    from ferplus_keras.files.hashing import sha256_of
    from ferplus_keras.files.network_folder import network_file, network_name
    from ferplus_keras.files.opening import is_file
    from ferplus_keras.predict.origin import CARD, origin_text

    path, settings = Path(options.model), dict[str, object]()
    if is_file(card := card_of(network_file(path))):
        settings[CARD] = sha256_of(card)[:12]
    if film or options.faces != "none":
        settings["faces"] = options.faces
    if options.faces != "none":
        settings["margin"] = options.margin or 0.0
    if film:
        settings |= {"step": options.step, "smooth": options.smooth}
    return origin_text(
        f"{network_name(path)}@{_sha256_of(path)[:12]}{f' {options.runtime}' if options.runtime else ''}", settings
    )


def _sha256_of(model: Path) -> str:
    """SHA-256 of the file that is run; of a SavedModel, that of its graph's and its variables' files'."""
    from ferplus_keras.files.hashing import sha256_of
    from ferplus_keras.files.network_folder import is_saved_model, network_file

    if not is_saved_model(model):
        return sha256_of(network_file(model))
    files = [model / "saved_model.pb", *sorted((model / "variables").glob("variables.*"))]
    return sha256("".join(map(sha256_of, files)).encode()).hexdigest()
