"""``ferplus predict``: from images to emotions."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ferplus_keras.cli import filming, screen
from ferplus_keras.cli.outcome import Outcome
from ferplus_keras.cli.parsing import number, option
from ferplus_keras.cli.requirements import (
    FILM_SUFFIXES,
    IMAGE_SUFFIXES,
    NETWORK_SUFFIXES,
    may_be_network,
    need_file,
    need_folder,
    need_network_before,
    need_place,
)
from ferplus_keras.cli.shared import Commands, count, need_keras
from ferplus_keras.errors import BadInputError
from ferplus_keras.packages import need

if TYPE_CHECKING:
    from ferplus_keras.predict.classifier import EmotionClassifier
    from ferplus_keras.predict.sources import Ahead, Source
    from ferplus_keras.predict.streaming import Prepared

#: What finds faces; the first is taken where none is named.
DETECTORS = ("blazeface", "haar", "none")

#: Problems that are named where there is nothing to do.
SHOWN = 5


def add(commands: Commands) -> None:
    """Declare the command of this module."""
    commands.add(
        "predict", _predict, "Recognise emotions in images, films or a camera's frames.",
        "ferplus predict resnet50_ferplus.h5 faces/ --csv emotions.csv",
        option("model? MODEL", ".h5, .weights.h5, .keras, .onnx, .tflite, a SavedModel or a training run's folder "
               "(default: the network that comes with the package)"),
        option("inputs* INPUT", 'images, folders, patterns ("faces/**/*.jpg"), Parquet files, a film, or - for a list '
               "of names on stdin"),
        option("--csv FILE", "write the results to FILE as they come", Path),
        option("--parquet FILE", "with --csv: at the end, write them as Parquet too", Path),
        option("--resume", "with --csv: continue a run that was interrupted"),
        option("--annotate DIR", "save images with the results drawn on them", Path),
        option("--faces", "find faces first, with BlazeFace or OpenCV's Haar cascade (default: none for images, each "
               "is taken as a cropped face; blazeface for films and cameras)",
               DETECTORS, nargs="?", const=DETECTORS[0]),
        option("--margin SHARE", "with --faces: widen each face by this share on each side (default: 0, as in "
               "FER2013)", number(float, 0, 2, "a share from 0 to 2")),
        option("--camera N", "read from camera N", number(int, 0, 99, "a camera's number")),
        option("--step N", "films: use every N-th frame (default: 1)", count),
        option("--smooth SECONDS", "films: average a face's emotions over about this time (default: 0.5)",
               number(float, 0, 60, "seconds from 0 to 60")),
        option("--null", "names on stdin end with a zero byte (find -print0)"),
        option("--top N", "show the N most probable emotions (default: 3)", count, 3),
        option("--batch N", "images at a time (default: 32)", count, 32),
        option("--threads N", "threads that decode images (default: one per processor, up to 4)", count),
        option("--engine", "ray: use all machines of a Ray cluster (docs/predict.md)", ("local", "ray"), "local"),
        option("--runtime NAME", "for .onnx files: onnxruntime, openvino, or openvino-bf16, in bfloat16 (default: "
               "onnxruntime)"),
        option("--workers N", "with --engine ray: copies of the network (default: 2)", count),
    )  # fmt: skip


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
    if ahead and not ahead.readable and (outcome := _without_network(ahead, options, start)):
        return outcome.finish()
    if options.engine == "ray":
        return _with_ray(options, start)

    from ferplus_keras.predict.classifier import decoding_threads
    from ferplus_keras.predict.faces import face_finder
    from ferplus_keras.predict.streaming import Preparation, answer, stream

    find = face_finder(options.faces, options.margin or 0.0) if options.faces != "none" else None
    classifier = open_classifier(options.model, options.runtime)
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
    if "" in (options.model, *options.inputs):
        raise BadInputError('one of the names is empty (""): is it a variable that is not set?')
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
    if swapped := next((each for each in options.inputs if each.lower().endswith(NETWORK_SUFFIXES)), None):
        raise BadInputError(
            f"{options.model} is no network, and {swapped} looks like one. The network comes first: ferplus predict "
            "NETWORK IMAGE"
        )
    from ferplus_keras.files.shipped import default_shipped

    chosen = default_shipped()
    options.inputs, options.model = [*filter(None, [options.model]), *options.inputs], str(chosen.path)
    screen.notice(f"no network was named; using the {chosen.title}")


def _list_of_names(options: argparse.Namespace) -> BinaryIO | None:
    if "-" not in options.inputs:
        return None
    if sys.stdin is None:
        raise BadInputError("Standard input is closed, and - takes the list of names from it.")
    return sys.stdin.buffer


def open_classifier(model: str, runtime: str | None = None) -> EmotionClassifier:
    """The network, opened, an ONNX file by ``runtime``. Packages that are missing for a Keras file are all named."""
    _need_keras_for(model)
    from ferplus_keras.predict.classifier import EmotionClassifier

    classifier = EmotionClassifier(model, runtime=runtime)
    screen.notice(*(f"note: {note}" for note in classifier.notes))
    return classifier


def _need_keras_for(model: str) -> None:
    if model.lower().endswith((".h5", ".hdf5", ".keras", ".safetensors")):
        need_keras()


def _without_network(ahead: Ahead, options: argparse.Namespace, start: float) -> Outcome | None:
    """What becomes of inputs that are all broken; None where only the network itself can name a table's columns.

    Raises :class:`BadInputError` when there is nothing to look at.
    """
    if not ahead.broken:
        problems = "; ".join(f"{source.name}: {source.problem}" for source in ahead.problems[:SHOWN])
        more = f"; and {len(ahead.problems) - SHOWN:,} more" if len(ahead.problems) > SHOWN else ""
        raise BadInputError(f"There is no image to look at: {problems or 'the list is empty'}{more}.")
    from ferplus_keras.files.shipped import default_shipped
    from ferplus_keras.networks.emotions import EMOTIONS
    from ferplus_keras.predict.records import Answer

    if options.csv and Path(options.model) != default_shipped().path:
        return None
    with Outcome(options, EMOTIONS, False, start) as outcome:
        outcome.take([Answer(each.name, error=each.problem) for each in ahead.problems])
    return outcome


def _check(options: argparse.Namespace) -> None:
    """Check what the command line and the disk show. Raises :class:`BadInputError`."""
    need_file(options.model, folder=True)
    for target in filter(None, (options.csv, options.parquet)):
        need_place(target, options.model, *options.inputs)
        if target.suffix.lower() in (*IMAGE_SUFFIXES, *FILM_SUFFIXES, *NETWORK_SUFFIXES):
            raise BadInputError(f"{target} has the suffix of an image, a film or a network: name the results .csv.")
    if options.annotate:
        need_folder(options.annotate)
        need_place(options.annotate, *options.inputs, folder=True)  # a second run would read the first one's images
    ray, listed = options.engine == "ray", "-" in options.inputs
    for wrong, sentence in (
        (options.resume and not options.csv, "--resume continues a file of results: name it with --csv FILE."),
        (options.parquet and not options.csv, "--parquet is made from the file of results: name it with --csv FILE."),
        (options.csv and options.csv == options.parquet, "--csv and --parquet name the same file: each needs its own."),
        (options.margin is not None and options.faces == "none",
         "--margin widens what --faces cuts out: add --faces, or leave it out."),
        (options.null and not listed,
         "--null is about the list on standard input: add - to the inputs, or leave it out."),
        (ray and not options.csv, "--engine ray is for large sets: name the file of results with --csv FILE."),
        (ray and (options.annotate or options.runtime or options.faces != "none" or listed),
         "--engine ray takes folders, patterns and Parquet files, and neither --faces, --annotate nor --runtime."),
        (options.workers and not ray, "--workers is about --engine ray: add it, or leave --workers out."),
    ):  # fmt: skip
        if wrong:
            raise BadInputError(sentence)
    if options.runtime:
        from ferplus_keras.engines.onnx_engine import check_runtime

        check_runtime(Path(options.model), options.runtime)
    if options.parquet:
        from ferplus_keras.predict.parquet import check_parquet

        check_parquet()


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
    need("ray")
    from ferplus_keras.predict.rays import predict_with_ray

    classifier = open_classifier(options.model)
    outcome = Outcome(options, classifier.labels, classifier.standin, start)
    del classifier  # each worker opens its own
    with outcome:
        for answers in predict_with_ray(
            options.model, options.inputs, workers=options.workers or 2, batch=options.batch, done=outcome.done
        ):
            outcome.take(answers)
    return outcome.finish()
