"""``ferplus verify accuracy``: how often a network is right on FERPlus."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ferplus_keras.cli import screen
from ferplus_keras.cli.parsing import number
from ferplus_keras.cli.progress import Progress
from ferplus_keras.cli.requirements import need_file
from ferplus_keras.cli.shared import (
    Commands,
    add_data,
    count,
    keras_settings,
    start_keras,
    typed_again,
    verify_group,
)
from ferplus_keras.durations import duration
from ferplus_keras.errors import CheckFailedError
from ferplus_keras.wording import all_printable, counted

if TYPE_CHECKING:
    from verify.accuracy import Step

#: Names of :data:`ferplus_keras.dataset.protocols.PROTOCOLS` and
#: :data:`ferplus_keras.networks.resizing.RESIZERS`, so that
#: ``--help`` need not import NumPy; a test holds them together.
PROTOCOL_NAMES = ("albanie", "wtomin", "majority", "probability", "crossentropy", "multi_target")
RESIZER_NAMES = ("pillow", "align-corners", "opencv", "tensorflow")

#: Suffixes of files that are run by something else than Keras.
WITHOUT_KERAS = (".pth", ".safetensors", ".onnx", ".mat")


def add(commands: Commands) -> None:
    """Declare the commands of this module."""
    accuracy = verify_group(commands).add(
        "accuracy", _accuracy, "Measure a network's accuracy on FERPlus, under a named protocol.",
        "ferplus verify accuracy senet50_ferplus.h5 --data fer2013/ --split both --expect published",
    )  # fmt: skip
    accuracy.add_argument(
        "model", metavar="MODEL", help="a checkpoint, a Keras or ONNX model, .tflite, TorchScript or a SavedModel"
    )
    accuracy.add_argument(
        "--input", metavar="LINE",
        help='the input of a network from elsewhere, such as "gray 48x48 0..1" or "bgr 224x224 mean '
        '103.9,116.8,123.7"; kept in MODEL.toml (docs/field.md)',
    )  # fmt: skip
    accuracy.add_argument(
        "--classes", metavar="NAMES", help='its classes in order: "angry,disgust,fear,happy,sad,surprise,neutral"'
    )
    add_data(accuracy)
    accuracy.add_argument("--split", choices=("val", "test", "both"), default="test", help="default: test")
    accuracy.add_argument(
        "--protocol", choices=PROTOCOL_NAMES, default=PROTOCOL_NAMES[0],
        help="which images count, and with which label (docs/accuracy.md; default: albanie, as published)",
    )  # fmt: skip
    accuracy.add_argument(
        "--expect", metavar="FIGURE", help='exit with 1 unless the accuracy is this percentage, or "published"'
    )
    accuracy.add_argument(
        "--tolerance",
        type=_points,
        default=0.1,
        metavar="POINTS",
        help="allowed distance from it (default: 0.1)",
    )
    accuracy.add_argument(
        "--versus", metavar="MODEL", help="exit with 1 unless this second network decides the same on every image"
    )
    accuracy.add_argument("--resize", choices=RESIZER_NAMES, default=RESIZER_NAMES[0], help="default: pillow")
    accuracy.add_argument(
        "--compare-resize", action="store_true", help="also run with each other --resize, and report what changes"
    )
    accuracy.add_argument("--limit", type=count, metavar="N", help="only the first N images of each split")
    accuracy.add_argument(
        "--report", metavar="DIR", help="write accuracy.json, junit.xml, report.md and report.html to DIR"
    )
    _add_compare(commands)


def _add_compare(commands: Commands) -> None:
    compare = verify_group(commands).add(
        "compare", _compare, "Compare several networks on FERPlus, under three protocols.",
        "ferplus verify compare a.h5 b.onnx c.tflite --data fer2013/ --html field.html",
    )  # fmt: skip
    compare.add_argument(
        "models", nargs="+", metavar="MODEL", help="two or more networks (docs/field.md for those from elsewhere)"
    )
    add_data(compare)
    compare.add_argument("--split", choices=("val", "test"), default="test", help="default: test")
    compare.add_argument("--resize", choices=RESIZER_NAMES, default=RESIZER_NAMES[0], help="default: pillow")
    compare.add_argument("--limit", type=count, metavar="N", help="only the first N images")
    compare.add_argument("--html", metavar="FILE", help="write the comparison as a web page")


def _compare(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    for name in options.models:
        need_file(name, folder=True)
    if with_keras := any(not name.lower().endswith(WITHOUT_KERAS) for name in options.models):
        keras_settings()

    from ferplus_keras.dataset import load_ferplus
    from verify.accuracy_text import compared_text
    from verify.comparing import compare, different
    from verify.predictors import open_predictor

    different([Path(name) for name in options.models])
    say = Steps(quiet=options.json)
    dataset = load_ferplus(options.data, progress=say.passing)
    if with_keras:
        start_keras()
    result = compare(
        [open_predictor(name) for name in options.models], dataset, split=options.split, resize=options.resize,
        limit=options.limit, command=typed_again("verify compare", options, "html"), progress=say.step,
    )  # fmt: skip
    if options.html:
        from ferplus_keras.files.atomic import write_text
        from verify.report.comparison_page import comparison_page
        from verify.report.page import render_page

        write_text(Path(options.html), render_page(comparison_page(result)))
    if options.json:
        screen.result_json(result)
        return 0
    screen.result(*compared_text(all_printable(result)).split("\n"))
    screen.news(
        *([str(options.html)] if options.html else []),
        f"{counted(result['images'], 'image')}, in {duration(time.perf_counter() - start)} altogether",
    )
    return 0


def _accuracy(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    names = [name for name in (options.model, options.versus) if name]
    for name in names:
        need_file(name, folder=True)
    with_keras = any(not name.lower().endswith(WITHOUT_KERAS) for name in names)
    if with_keras:
        keras_settings()

    from ferplus_keras.dataset import load_ferplus
    from ferplus_keras.dataset.protocols import PROTOCOLS
    from ferplus_keras.engines.card import Card
    from verify.accuracy import evaluate
    from verify.accuracy_gate import expectations
    from verify.accuracy_result import as_result
    from verify.accuracy_text import as_text
    from verify.predictors import open_predictor

    if options.report:
        from verify.report import ready_folder

        ready_folder(Path(options.report))
    card = Card.of(options.input, options.classes)
    say = Steps(quiet=options.json)
    protocol = PROTOCOLS[options.protocol]
    splits = ["val", "test"] if options.split == "both" else [options.split]
    dataset = load_ferplus(options.data, progress=say.passing)
    if with_keras:
        start_keras()
    predictor = open_predictor(options.model, card) if card else open_predictor(options.model)
    if card and (kept := card.over(Card.beside(predictor.path)).keep(predictor.path)):
        say.line(f"what it takes is kept in {kept}")
    expected = expectations(
        options.expect, options.tolerance, predictor, dataset, protocol, splits, options.limit
    )  # fmt: skip
    other = open_predictor(options.versus) if options.versus else None
    evaluation = evaluate(
        predictor, dataset, protocol, splits=splits, resize=options.resize, compare_resize=options.compare_resize,
        versus=other, limit=options.limit, progress=say.step,
    )  # fmt: skip
    result = as_result(
        evaluation, expected, typed_again("verify accuracy", options, "report"), time.perf_counter() - start
    )
    written = []
    if options.report:
        from verify.report import write_report

        written = write_report(result, Path(options.report), dataset.images)
    if options.json:
        screen.result_json(result)
        return 0 if result["passed"] else 1
    screen.result(*as_text(all_printable(result)).split("\n"))
    images = sum(split["n"] for split in result["splits"])
    screen.news(
        *(str(path) for path in written),
        f"{counted(images, 'image')}, in {duration(time.perf_counter() - start)} altogether",
    )
    if not result["passed"]:
        failed = "; ".join(level["summary"] for level in result["levels"] if not level["passed"])
        raise CheckFailedError(f"{result['model']['name']}: {failed}.")
    return 0


class Steps(Progress):
    """The progress of a network over images."""

    between_glances, at_once = 0.0, True

    def step(self, step: Step) -> None:
        finished = step.done == step.total
        rest = f"in {step.seconds:.0f} s" if finished else f"{duration(step.left)} left"
        text = f"{step.title}: {step.done:,} of {step.total:,} images, {step.per_second:.1f} images/s, {rest}"
        (self.line if finished else self.passing)(text)


_points = number(float, 0, 100, "points of percent, from 0 to 100")
