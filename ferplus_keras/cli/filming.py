"""``ferplus predict`` on a film or a camera: frame by frame, with a number for each face."""

from __future__ import annotations

import argparse
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ferplus_keras.cli.endings import STOPS
from ferplus_keras.cli.outcome import Outcome
from ferplus_keras.cli.requirements import FILM_SUFFIXES, need_place
from ferplus_keras.errors import BadInputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ferplus_keras.predict.film import FilmWriter, Frame, Tracker
    from ferplus_keras.predict.records import Answer
    from ferplus_keras.predict.streaming import Prepared

#: Frames that are predicted at a time: a few, since each takes some megabytes until then.
FRAMES = 8

#: Faces in films are looked for from this many pixels on: half the tiles of photographs and less.
SMALLEST = 48

#: Seconds over which a face's emotions are averaged, unless said otherwise.
SMOOTH = 0.5


def film_of(options: argparse.Namespace) -> str | int | None:
    """The film or the number of the camera that the command is about, if it is about one.

    Raises :class:`BadInputError` where more than that is named, or an option that a film does not have.
    """
    named = [each for each in filter(None, (options.model, *options.inputs)) if each.lower().endswith(FILM_SUFFIXES)]
    if options.camera is None and not named:
        if options.step or options.smooth is not None:
            raise BadInputError("--step and --smooth are about films and cameras: name one, or leave them out.")
        return None
    if len(named) + (options.camera is not None) > 1 or (options.inputs[:-1] if named else options.inputs):
        raise BadInputError("a film or a camera comes alone: ferplus predict NETWORK film.mp4")
    if options.parquet or options.null or options.engine == "ray":
        raise BadInputError("films do not go with --parquet, --null or --engine ray: write --csv FILE.")
    if options.resume and (options.annotate or options.camera is not None):
        raise BadInputError("--resume continues a film's --csv FILE: leave --annotate and --camera out.")
    camera: int | None = options.camera
    return named[0] if camera is None else camera


def watch(options: argparse.Namespace, source: str | int, start: float) -> int:
    """Look at all frames, put the answers out, and give the exit code. Ctrl-C ends the watching of a camera."""
    from ferplus_keras.cli.predicting import open_classifier
    from ferplus_keras.files.atomic import atomic_path
    from ferplus_keras.predict.classifier import decoding_threads
    from ferplus_keras.predict.faces import face_finder
    from ferplus_keras.predict.film import Film, FilmWriter, Tracker
    from ferplus_keras.predict.records import Answer
    from ferplus_keras.predict.streaming import Preparation, stream

    options.step, options.smooth = options.step or 1, SMOOTH if options.smooth is None else options.smooth
    film = Film(source)
    name = f"{Path(film.name).stem}.mp4"
    if options.annotate:
        need_place(options.annotate / name, film.name)
    find = face_finder(options.faces, options.margin or 0.0, SMALLEST) if options.faces != "none" else None
    classifier = open_classifier(options.model, options.runtime)
    outcome = Outcome(options, classifier.labels, classifier.standin, start, film=True)
    tracker = Tracker(classifier.labels, options.smooth)
    first = tracker.recall(outcome.file.rows(), film.name) if outcome.file and options.resume else 0
    outcome.total.images = None if film.live else max(0, film.count - first) // options.step
    ready = Preparation["Frame"](pixels_of, find, options.annotate is not None, classifier.side)

    def prepare(frame: Frame) -> Prepared[Frame]:
        """Faces cut out, the frame's own pixels let go: many frames without a face wait for one batch of faces."""
        return replace(ready(frame), item=replace(frame, image=None))

    with ExitStack() as ending, outcome:
        ending.callback(film.close)
        writer: FilmWriter | None = None
        if options.annotate:
            path = ending.enter_context(atomic_path(options.annotate / name))
            writer = FilmWriter(path, film.frames_per_second / options.step)
            ending.callback(writer.close)
        with suppress(*[KeyboardInterrupt] * film.live):
            for answers in stream(
                film.frames(options.step, first), prepare, classifier, batch=1 if film.live else FRAMES,
                threads=1 if film.live else options.threads or decoding_threads(),
            ):  # fmt: skip
                outcome.take([_answer(film.name, tracker, prepared, found, writer) for prepared, found in answers])
        STOPS.clear()  # a camera is ended by Ctrl-C: what goes wrong from here on is said
        if film.cut:
            error = f"the film is damaged: it ends here, and its header promises {film.count:,} frames"
            outcome.take([Answer(f"{film.name}#{film.cut[0]}", error=error, moment=film.cut)])
    return outcome.finish()


def pixels_of(frame: Frame) -> Image:
    """The frame as an image; one that was just read has it."""
    assert frame.image is not None
    return frame.image


def _answer(
    name: str, tracker: Tracker, prepared: Prepared[Frame], predictions: tuple[Any, ...], writer: FilmWriter | None
) -> Answer:
    from ferplus_keras.predict.film import WHOLE_FRAME
    from ferplus_keras.predict.streaming import answer

    frame = prepared.item
    followed = tracker.follow(frame.seconds, (WHOLE_FRAME,) if prepared.boxes is None else prepared.boxes, predictions)
    numbers, smoothed = tuple(number for number, _ in followed), tuple(seen for _, seen in followed)
    if writer and prepared.shown:
        boxes = ((0, 0, *frame.size),) if prepared.boxes is None else prepared.boxes
        scaled = [[side * prepared.scale for side in box] for box in boxes]
        texts = [f" {number}: {seen.emotion} {100 * seen.confidence:.0f} % " for number, seen in followed]
        writer.write(prepared.shown, scaled, texts, numbers)
    answered = answer(f"{name}#{frame.number}", prepared, smoothed)
    return replace(answered, moment=(frame.number, frame.seconds), tracks=numbers)
