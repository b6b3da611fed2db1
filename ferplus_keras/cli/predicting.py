"""``ferplus predict``: from images to emotions."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ferplus_keras.cli import filming, screen
from ferplus_keras.cli.parsing import number
from ferplus_keras.cli.progress import Progress
from ferplus_keras.cli.requirements import (
    NETWORK_SUFFIXES,
    may_be_network,
    need,
    need_file,
    need_network_before,
    need_place_for,
)
from ferplus_keras.cli.shared import SKIPPED, Commands, count, in_the_way, keras_settings, silent_stderr
from ferplus_keras.durations import duration
from ferplus_keras.errors import BadInputError
from ferplus_keras.wording import counted, printable

if TYPE_CHECKING:
    from ferplus_keras.predict.classifier import EmotionClassifier
    from ferplus_keras.predict.records import Answer, CsvFile
    from ferplus_keras.predict.sources import Ahead, Source
    from ferplus_keras.predict.streaming import Prepared

#: What finds faces; the first is taken where none is named.
DETECTORS = ("blazeface", "haar", "none")

#: Problems that are named where there is nothing to do.
SHOWN = 5


def add(commands: Commands) -> None:
    """Declare the command of this module."""
    predict = commands.add(
        "predict", _predict, "Recognise emotions in images, films or a camera's pictures.",
        "ferplus predict resnet50_ferplus.h5 faces/ --csv emotions.csv",
    )  # fmt: skip
    predict.add_argument(
        "model", metavar="MODEL", nargs="?",
        help=".h5, .weights.h5, .keras, .onnx, .tflite, a SavedModel or a training run's folder (default: the "
        "network that comes with the package)",
    )  # fmt: skip
    predict.add_argument(
        "inputs", metavar="INPUT", nargs="*",
        help='images, folders, patterns ("faces/**/*.jpg"), Parquet files, a film, or - for a list of names on stdin',
    )  # fmt: skip
    predict.add_argument("--csv", metavar="FILE", type=Path, help="write the results to FILE as they come")
    predict.add_argument(
        "--parquet", metavar="FILE", type=Path, help="with --csv: at the end, write them as Parquet too"
    )
    predict.add_argument("--resume", action="store_true", help="with --csv: continue a run that was interrupted")
    predict.add_argument("--annotate", metavar="DIR", type=Path, help="save images with the results drawn on them")
    predict.add_argument(
        "--faces", nargs="?", choices=DETECTORS, const=DETECTORS[0],
        help="find faces first, with BlazeFace or OpenCV's Haar cascade (default: none, each image is taken as a "
        "cropped face)",
    )  # fmt: skip
    predict.add_argument(
        "--margin", type=_share, default=None, metavar="SHARE",
        help="with --faces: widen each face by this share on each side (default: 0, as in FER2013)",
    )  # fmt: skip
    predict.add_argument(
        "--camera", type=number(int, 0, 99, "a camera's number"), metavar="N", help="read from camera N"
    )
    predict.add_argument("--step", type=count, metavar="N", help="films: use every N-th frame (default: 1)")
    predict.add_argument(
        "--smooth", type=number(float, 0, 60, "seconds from 0 to 60"), metavar="SECONDS",
        help="films: average a face's emotions over about this time (default: 0.5)",
    )  # fmt: skip
    predict.add_argument("--null", action="store_true", help="names on stdin end with a zero byte (find -print0)")
    predict.add_argument(
        "--top", type=count, default=3, metavar="N", help="show the N most probable emotions (default: 3)"
    )
    predict.add_argument("--batch", type=count, default=32, metavar="N", help="images at a time (default: 32)")
    predict.add_argument(
        "--threads", type=count, metavar="N", help="threads that decode images (default: one per processor, up to 4)"
    )
    predict.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: use all machines of a Ray cluster (docs/predict.md)",
    )
    predict.add_argument(
        "--workers", type=count, metavar="N", help="with --engine ray: copies of the network (default: 2)"
    )


def _predict(options: argparse.Namespace) -> int:
    film = filming.film_of(options)
    _choose_network(options)
    options.faces = options.faces or ("none" if film is None else DETECTORS[0])
    _check(options)
    from ferplus_keras.files.atomic import claimed

    with claimed(*filter(None, (options.csv, options.parquet))):
        start = time.perf_counter()
        return _answered(options, start) if film is None else filming.watch(options, film, start)


def _answered(options: argparse.Namespace, start: float) -> int:
    warnings.filterwarnings("ignore", module="PIL")  # what is wrong with an image is said once, by its own line

    from ferplus_keras.predict.sources import Source, find_sources, look_ahead

    found = partial(find_sources, options.inputs, listed=_list_of_names(options), null=options.null)
    ahead = None if options.resume else look_ahead(found())  # what is done is known when the network is open
    if ahead and _nothing_to_do(ahead, options):
        return SKIPPED
    _settings(options.model)
    if options.engine == "ray":
        return _with_ray(options, start)

    from ferplus_keras.predict.classifier import EmotionClassifier, decoding_threads
    from ferplus_keras.predict.faces import face_finder
    from ferplus_keras.predict.streaming import Preparation, answer, stream

    find = face_finder(options.faces, options.margin or 0.0) if options.faces != "none" else None
    with silent_stderr():  # TensorFlow greets there before it can be told not to
        classifier = EmotionClassifier(options.model)
    outcome = Outcome(options, classifier.labels, classifier.standin, start)
    draw = _drawing(options, classifier) if options.annotate else None
    sources = ahead.all if ahead else found(done=outcome.done)
    prepare = Preparation(Source.read, find, show=draw is not None, side=classifier.side)
    if "-" not in options.inputs:
        outcome.total.count(options.inputs, outcome.before)
    with outcome:
        for answers in stream(
            sources, prepare, classifier, batch=options.batch, threads=options.threads or decoding_threads()
        ):
            for prepared, predictions in answers:
                if draw and prepared.shown is not None:
                    draw(prepared, predictions)
            outcome.take([answer(prepared.item.name, prepared, found) for prepared, found in answers])
    return outcome.finish()


def _choose_network(options: argparse.Namespace) -> None:
    """Where the first argument is no network, take the one that comes with the package, and say which.

    Raises :class:`BadInputError` when a network stands alone, or behind an image.
    """
    if options.model is None and options.camera is None:
        raise BadInputError("no image is named: ferplus predict NETWORK IMAGE")
    if options.camera is not None and options.model:
        return
    if any(each.lower().endswith(NETWORK_SUFFIXES) for each in options.inputs):
        need_network_before(options.model, options.inputs, "ferplus predict NETWORK IMAGE")
    if options.model and may_be_network(options.model, alone=not options.inputs):
        if not options.inputs:
            raise BadInputError(f"{options.model} is a network, and no image is named: ferplus predict NETWORK IMAGE")
        return
    from ferplus_keras.files.shipped import best_shipped

    chosen = best_shipped()
    options.inputs, options.model = [*filter(None, [options.model]), *options.inputs], str(chosen.path)
    screen.notice(f"no network was named; using the {chosen.title}")


def _list_of_names(options: argparse.Namespace) -> BinaryIO | None:
    if "-" not in options.inputs:
        return None
    if sys.stdin is None:
        raise BadInputError("Standard input is closed, and - takes the list of names from it.")
    return sys.stdin.buffer


def _settings(model: str) -> None:
    """What Keras finds when it is imported, if it is; packages that are missing for a Keras file are all named."""
    if model.lower().endswith((".h5", ".hdf5", ".keras", ".safetensors")):
        keras_settings()
        need("keras", os.environ["KERAS_BACKEND"])
    else:
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _nothing_to_do(ahead: Ahead, options: argparse.Namespace) -> bool:
    """Whether all there is was looked at and is broken; that is said. No network is needed for it.

    Raises :class:`BadInputError` when there is nothing to look at.
    """
    if ahead.readable:
        return False
    if not ahead.broken:
        told = "; ".join(f"{source.name}: {source.problem}" for source in ahead.problems[:SHOWN])
        more = f"; and {len(ahead.problems) - SHOWN:,} more" if len(ahead.problems) > SHOWN else ""
        raise BadInputError(f"There is no image to look at: {told or 'the list is empty'}{more}.")
    if options.csv:
        return False  # where each has its row, in columns that the network names
    if options.json:
        from ferplus_keras.predict.records import Answer

        model = Path(options.model).name
        screen.result(*(json.dumps(row) for each in ahead.problems
                        for row in Answer(each.name, error=each.problem).rows(model)))  # fmt: skip
    screen.notice(*(f"skipped: {source.name}: {source.problem}" for source in ahead.problems))
    screen.notice(f"{counted(len(ahead.problems), 'image')} skipped, and none left")
    return True


def _check(options: argparse.Namespace) -> None:
    """All that can be told from the command line and the disk. Raises :class:`BadInputError`."""
    need_file(options.model, folder=True)
    if options.annotate:
        need_place_for(options.annotate)
    if options.resume and not options.csv:
        raise BadInputError("--resume goes on with a file of results: name it with --csv FILE.")
    if options.parquet:
        if not options.csv:
            raise BadInputError("--parquet is made of the file of results: name that with --csv FILE too.")
        from ferplus_keras.predict.parquet import check_parquet

        check_parquet()
    if options.margin is not None and options.faces == "none":
        raise BadInputError("--margin widens what --faces cuts out: add --faces, or leave it out.")
    if options.null and "-" not in options.inputs:
        raise BadInputError("--null is about the list on standard input: add - to the inputs, or leave it out.")
    if options.engine == "ray" and not options.csv:
        raise BadInputError("--engine ray is for large sets: name the file of results with --csv FILE.")
    if options.engine == "ray" and (options.annotate or options.faces != "none" or "-" in options.inputs):
        raise BadInputError(
            "--engine ray takes folders, patterns and Parquet files, and neither --faces nor --annotate."
        )
    if options.workers and options.engine != "ray":
        raise BadInputError("--workers is about --engine ray: add it, or leave --workers out.")


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
        of = f" of {self.images:,}" if self.images else ""
        if self._first is None:
            self._first = (done, now)
        before, begun = self._first
        if done == before:
            return f"{done:,}{of} images"
        pace = (done - before) / max(now - begun, 1e-9)
        left = f", {duration(max(0, self.images - done) / pace)} left" if self.images else ""
        return f"{done:,}{of} images, {pace:.1f} images/s{left}"


class Outcome:
    """Where answers go: the table or JSON lines on standard output, the file, and the count at the end."""

    def __init__(
        self, options: argparse.Namespace, labels: tuple[str, ...], standin: bool, start: float, *, film: bool = False
    ) -> None:
        from ferplus_keras.predict.records import CsvFile

        self.options, self.labels, self.standin = options, labels, standin
        self.ready, self.total = time.perf_counter(), Total()
        self.loading = self.ready - start
        self.say = Progress()
        self.model = Path(options.model).name
        self.file: CsvFile | None = None
        if options.csv:
            self.file = CsvFile(options.csv, labels, _identity(Path(options.model)), resume=options.resume, film=film)
        self.done = self.file.done if self.file else None
        self.before = len(self.done) if self.done is not None else 0
        self.images = self.faces = self.skipped = self.without = 0
        self.headed = False
        self.replaced = in_the_way(options.csv) if options.csv else ""

    def __enter__(self) -> Outcome:
        return self

    def __exit__(self, kind: Any, *_error: object) -> None:
        if self.file and kind is not None:
            with suppress(OSError):  # of a disk that is full, which has been said
                self.file.close()
            if self.file.partial.exists():
                self.say.line(f"what was found so far is in {self.file.partial}; --resume goes on with it")

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
        told = [f"{counted(self.images - self.skipped, 'image')} in {duration(seconds)}"]
        told.append(f"{duration(self.loading)} to load the network")
        if self.options.faces != "none":
            told.append(counted(self.faces, "face"))
            told.append(f"{counted(self.without, 'image')} without a face")
        if self.skipped:
            told.append(f"{self.skipped:,} skipped")
        if self.before:
            told.append(f"{self.before:,} done before" + (f", {errors:,} of them skipped" if errors else ""))
        written = [str(each) for each in (path, self.options.parquet, self.options.annotate) if each]
        self.say.line("; ".join(told) + (f": {', '.join(written)}{self.replaced}" if written else ""))
        if self.standin:
            self.say.line(f"STAND-IN: the weights of {self.model} are made up, and so are these emotions.")
        return SKIPPED if self.skipped or errors else 0


def _drawing(
    options: argparse.Namespace, classifier: EmotionClassifier
) -> Callable[[Prepared[Source], tuple[Any, ...]], None]:
    from ferplus_keras.predict.annotate import annotated, annotated_path, save

    alone = len(options.inputs) == 1 and options.inputs[0] != "-"
    note = "STAND-IN: made-up weights" if classifier.standin else ""

    def draw(prepared: Prepared[Source], predictions: tuple[Any, ...]) -> None:
        assert prepared.shown is not None
        sheet = annotated(prepared.shown, predictions, prepared.boxes, prepared.scale, note)
        source = prepared.item
        save(sheet, annotated_path(options.annotate, source.name, source.inside, alone=alone))

    return draw


def _with_ray(options: argparse.Namespace, start: float) -> int:
    from ferplus_keras.predict.rays import predict_with_ray, ready

    with silent_stderr() if not options.model.lower().endswith(".onnx") else nullcontext():
        labels, standin = ready(options.model)
    outcome = Outcome(options, labels, standin, start)
    with outcome:
        for answers in predict_with_ray(
            options.model, options.inputs, workers=options.workers or 2, batch=options.batch, done=outcome.done
        ):
            outcome.take(answers)
    return outcome.finish()


def _identity(path: Path) -> str:
    """The model's name and the beginning of its SHA-256: what ``--resume`` knows it by."""
    from ferplus_keras.files.hashing import sha256_of

    return f"{path.name}@{sha256_of(path)[:12]}"


_share = number(float, 0, 2, "a share from 0 to 2")
