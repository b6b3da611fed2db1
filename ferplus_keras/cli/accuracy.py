"""``ferplus verify accuracy``: how often a network is right on FERPlus."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ferplus_keras.cli.parsing import number, option
from ferplus_keras.cli.progress import Progress
from ferplus_keras.cli.requirements import need_file, need_folder, need_page
from ferplus_keras.cli.shared import (
    DATA,
    Commands,
    count,
    finish,
    need_keras,
    typed_again,
    verify_group,
)
from ferplus_keras.durations import duration
from ferplus_keras.packages import need
from ferplus_keras.wording import all_printable, counted

if TYPE_CHECKING:
    from verify.accuracy import Step

#: Names of :data:`ferplus_keras.dataset.protocols.PROTOCOLS` and
#: :data:`ferplus_keras.networks.resizing.RESIZERS`, so that
#: ``--help`` need not import NumPy; a test holds them together.
PROTOCOL_NAMES = ("albanie", "wtomin", "majority", "probability", "crossentropy", "multi_target")
RESIZER_NAMES = ("pillow", "align-corners", "opencv", "tensorflow")
RESIZE = option("--resize", "default: pillow", RESIZER_NAMES, RESIZER_NAMES[0])

_points = number(float, 0, 100, "points of percent, from 0 to 100")

#: Suffixes of files that are run by something else than Keras.
WITHOUT_KERAS = (".pth", ".safetensors", ".onnx", ".mat")


def add(commands: Commands) -> None:
    """Declare the commands of this module."""
    checks = verify_group(commands)
    checks.add(
        "accuracy", _accuracy, "Measure a network's accuracy on FERPlus, under a named protocol.",
        "ferplus verify accuracy senet50_ferplus.h5 --data fer2013/ --split both --expect published",
        option("model MODEL", "a checkpoint, a Keras, ONNX, .tflite or TorchScript file, a SavedModel or a run's "
               "folder"),
        option("--input LINE", 'the input of a network from elsewhere, such as "gray 48x48 0..1" or "bgr 224x224 mean '
               '103.9,116.8,123.7"; kept in MODEL.toml (docs/field.md)'),
        option("--classes NAMES", 'its classes in order: "angry,disgust,fear,happy,sad,surprise,neutral"'),
        DATA,
        option("--split", "default: test", ("val", "test", "both"), "test"),
        option("--protocol", "which images count, and with which label (docs/accuracy.md; default: albanie, as "
               "published)", PROTOCOL_NAMES, PROTOCOL_NAMES[0]),
        option("--expect FIGURE", 'exit with 1 unless the accuracy is this percentage, or "published"'),
        option("--tolerance POINTS", "allowed distance from it (default: 0.1)", _points, 0.1),
        option("--versus MODEL", "exit with 1 unless this second network decides the same on every image"),
        RESIZE,
        option("--compare-resize", "also run with each other --resize, and report what changes"),
        option("--limit N", "only the first N images of each split", count),
        option("--report DIR", "write accuracy.json, junit.xml, report.md and report.html to DIR"),
    )  # fmt: skip
    checks.add(
        "compare", _compare, "Compare several networks on FERPlus, under three protocols.",
        "ferplus verify compare a.h5 b.onnx c.tflite --data fer2013/ --html field.html",
        option("models+ MODEL", "two or more networks (docs/field.md for those from elsewhere)"),
        DATA,
        option("--split", "default: test", ("val", "test"), "test"),
        RESIZE,
        option("--limit N", "only the first N images", count),
        option("--html FILE", "write the comparison as a web page", Path),
    )  # fmt: skip


def _compare(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    with_keras = _need_networks(options.models)
    if options.html:
        need_page(options.html, *options.models)
        need("jinja2")

    from ferplus_keras.dataset import load_ferplus
    from verify.accuracy_text import compared_text
    from verify.comparing import compare, different
    from verify.predictors import open_predictor, recognised

    different([Path(name) for name in options.models])
    say = Steps(quiet=options.json)
    dataset = load_ferplus(options.data, progress=say.passing)
    for name in options.models:
        recognised(name)  # all of them, before the first is opened
    if with_keras:
        need_keras()
    result = compare(
        [open_predictor(name) for name in options.models], dataset, split=options.split, resize=options.resize,
        limit=options.limit, command=typed_again("verify compare", options, "html"), progress=say.step,
    )  # fmt: skip
    if options.html:
        from ferplus_keras.files.atomic import write_text
        from verify.report.comparison_page import comparison_page
        from verify.report.page import render_page

        write_text(options.html, render_page(comparison_page(result)))
    return finish(options.json, result, compared_text(all_printable(result)).split("\n"), news=(
        *([str(options.html)] if options.html else []), _altogether(result["images"], start)
    ))  # fmt: skip


def _accuracy(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    names = [name for name in (options.model, options.versus) if name]
    with_keras = _need_networks(names)

    from ferplus_keras.dataset import load_ferplus
    from ferplus_keras.dataset.protocols import PROTOCOLS
    from ferplus_keras.engines.card import Card
    from verify.accuracy import evaluate, run_other_resizers, run_second_network
    from verify.accuracy_gate import check_expect, expectations
    from verify.accuracy_result import as_result
    from verify.accuracy_text import as_text
    from verify.predictors import open_predictor, recognised

    protocol = PROTOCOLS[options.protocol]
    splits = ["val", "test"] if options.split == "both" else [options.split]
    check_expect(options.expect, splits, protocol, options.limit)
    card = Card.of(options.input, options.classes)
    if options.report:
        need_folder(Path(options.report))
        need("jinja2")
    say = Steps(quiet=options.json)
    dataset = load_ferplus(options.data, progress=say.passing)
    for name in names:
        recognised(name)  # both, before the first is opened
    if with_keras:
        need_keras()
    predictor = open_predictor(options.model, card) if card else open_predictor(options.model)
    if card and (kept := card.over(Card.beside(predictor.path)).keep(predictor.path)):
        say.line(f"the description of its input was saved in {kept}")
    expected = expectations(options.expect, options.tolerance, predictor, dataset, protocol, splits, options.limit)
    other = open_predictor(options.versus) if options.versus else None
    evaluation = evaluate(
        predictor, dataset, protocol, splits=splits, resize=options.resize, limit=options.limit, progress=say.step
    )
    if options.compare_resize:
        run_other_resizers(evaluation, say.step)
    if other is not None:
        run_second_network(evaluation, other, say.step)
    result = as_result(
        evaluation, expected, typed_again("verify accuracy", options, "report"), time.perf_counter() - start
    )
    written = []
    if options.report:
        from verify.report import write_report

        written = write_report(result, Path(options.report), dataset.images)
    images = sum(split["n"] for split in result["splits"])
    failed = "; ".join(level["summary"] for level in result["levels"] if not level["passed"])
    return finish(
        options.json, result, as_text(all_printable(result)).split("\n"),
        news=(*map(str, written), _altogether(images, start)),
        failed=None if result["passed"] else f"{result['model']['name']}: {failed}.",
    )  # fmt: skip


def _altogether(images: int, start: float) -> str:
    return f"{counted(images, 'image')}, in {duration(time.perf_counter() - start)} altogether"


def _need_networks(names: list[str]) -> bool:
    """Whether Keras runs one of them. Raises :class:`BadInputError` when one is not there."""
    for name in names:
        need_file(name, folder=True)
    return any(not name.lower().endswith(WITHOUT_KERAS) for name in names)


class Steps(Progress):
    """The progress of a network over images."""

    between_glances, at_once = 0.0, True

    def step(self, step: Step) -> None:
        finished = step.done == step.total
        rest = f"in {step.seconds:.0f} s" if finished else f"{duration(step.left)} left"
        text = f"{step.title}: {step.done:,} of {counted(step.total, 'image')}, {step.per_second:.1f} images/s, {rest}"
        (self.line if finished else self.passing)(text)
