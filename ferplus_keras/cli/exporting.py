"""``ferplus export``: a network out to where there is no Keras, checked before the file gets its name."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ferplus_keras.cli import screen
from ferplus_keras.cli.accuracy import Steps
from ferplus_keras.cli.parsing import number
from ferplus_keras.cli.requirements import need_file, need_network_before
from ferplus_keras.cli.shared import Commands, add_channels, count, in_the_way, seed, silent_stderr, start_keras
from ferplus_keras.errors import BadInputError, CheckFailedError

#: Names of ``convert.exporters.TARGETS`` and ``QUANTIZATIONS``; a test holds them together.
TARGET_NAMES = ("onnx", "tflite", "saved_model")
QUANTIZATION_NAMES = ("float16", "int8")


def add(commands: Commands) -> None:
    """Declare the command of this module."""
    export = commands.add(
        "export", _export, "Export a network to ONNX, TensorFlow Lite or SavedModel, and check the result.",
        "ferplus export senet50_ferplus.h5 --to tflite --quantize int8 --calibrate faces/ --fold",
    )  # fmt: skip
    export.add_argument("model", metavar="MODEL", help="a checkpoint or model, in any supported format")
    export.add_argument("out", metavar="OUT", nargs="?", help="the file or folder (default: beside MODEL)")
    export.add_argument("--to", choices=TARGET_NAMES, required=True, help="the format to write")
    export.add_argument(
        "--quantize", choices=QUANTIZATION_NAMES, default="none",
        help="tflite: float16 weights, or int8 throughout (default: float32)",
    )  # fmt: skip
    export.add_argument(
        "--calibrate", metavar="PATH", help="int8: images to calibrate on: a folder, or FERPlus (its train split)"
    )
    export.add_argument(
        "--calibration-images",
        type=count,
        default=100,
        metavar="N",
        help="how many of them (default: 100)",
    )
    export.add_argument("--fold", action="store_true", help="merge batch normalisation into the convolutions")
    export.add_argument(
        "--preprocessing", choices=("outside", "inside"), default="outside",
        help="inside: the model takes RGB bytes and subtracts the mean itself (default: outside)",
    )  # fmt: skip
    export.add_argument("--batch", type=_batch, metavar="N", help='images at a time, or "dynamic" (default: dynamic)')
    export.add_argument("--output", choices=("probabilities", "logits"), default="probabilities")
    add_channels(export)
    checks = export.add_argument_group("the check")
    checks.add_argument(
        "--images",
        metavar="DIR",
        help="images to compare on (default: generated ones; int8: others from --calibrate)",
    )
    checks.add_argument("--n", type=count, default=16, metavar="N", help="how many images to compare on (default: 16)")
    checks.add_argument("--seed", type=seed, default=0, help="chooses the images (default: 0)")
    checks.add_argument(
        "--max-changed", type=_percentage, metavar="PERCENT",
        help="write nothing if more decisions than this change (default: float32 0, float16 1, int8 10)",
    )  # fmt: skip
    checks.add_argument("--data", metavar="PATH", help="also measure accuracy and changed decisions on FERPlus")
    checks.add_argument("--split", choices=("val", "test"), default="val", help="split of --data (default: val)")
    checks.add_argument("--limit", type=count, metavar="N", help="only the first N images of the split")


def _export(options: argparse.Namespace) -> int:
    from convert.exporters import Recipe, checked, export_path

    default = "first" if options.to == "onnx" else "last"
    recipe = Recipe(
        options.to, options.quantize, folded=options.fold, pixels=options.preprocessing == "inside",
        batch=options.batch, logits=options.output == "logits", channels_first=(options.channels or default) == "first",
    )  # fmt: skip
    checked(recipe, options.calibrate is not None)  # all of these before TensorFlow is waited for
    need_network_before(options.model, filter(None, [options.out]), "ferplus export MODEL OUT")
    need_file(options.model, folder=True)
    for path in filter(None, (options.images, options.calibrate, options.data)):
        need_file(path, folder=True)
    replaced = in_the_way(export_path(options.model, recipe, options.out, standin=False))
    _tensorflow()
    from verify.exporting import Checks, export_checked

    say = Steps(quiet=options.json)
    checks = Checks(
        options.n, Path(options.images) if options.images else None, options.seed, options.calibrate,
        options.calibration_images, options.max_changed, options.data, options.split, options.limit,
    )  # fmt: skip
    outcome = export_checked(
        options.model, recipe, options.out, checks, quiet=silent_stderr, progress=say.line, steps=say.step
    )
    if options.json:
        screen.result_json(outcome.as_dict())
        return 0 if outcome.passed else 1
    if outcome.checkpoint.provenance.standin:
        screen.news(f"{outcome.source.name} is a STAND-IN with made-up weights: its predictions mean nothing.")
    screen.news(*(f"  {'pass' if passed else 'FAIL'}  {sentence}" for passed, sentence in outcome.sentences))
    if not outcome.passed:
        failed = "; ".join(sentence for passed, sentence in outcome.sentences if not passed)
        raise CheckFailedError(
            f"{outcome.path} was not written, for it is not what was asked for: {failed}. --max-changed says how many "
            "decisions may change."
        )
    peak = f", peak {outcome.peak / 1e9:.1f} GB" if outcome.peak else ""
    screen.news(
        f"{outcome.path}  {outcome.size / 1e6:.1f} MB  sha256 {outcome.sha256[:12]}...{replaced}",
        f"{outcome.recipe}: exported in {outcome.export_seconds:.0f} s, checked by {outcome.seconds:.0f} s{peak}",
    )
    return 0


def verify_outputs(options: argparse.Namespace) -> int:
    """``ferplus verify parity`` of a file that has no layers to compare: its output."""
    _tensorflow()
    from convert.readers import read_checkpoint
    from ferplus_keras.engines import open_engine
    from verify.images import Images
    from verify.outputs import compare_outputs

    source = read_checkpoint(options.against)
    folder = Path(options.images) if options.images else None
    images = Images.of(options.n, seed=options.seed, folder=folder, size=source.provenance.side)
    found = compare_outputs(open_engine(options.model), source, images)
    if options.json:
        told: dict[str, Any] = {"model": str(options.model), "source": str(options.against)}
        screen.result_json(told | found.as_dict())
        return 0 if found.passed else 1
    screen.result(
        f"{Path(options.model).name} against {Path(options.against).name}, {found.origin}, run by {found.by}",
        "  the format has no layers with names, or takes bytes: the output alone is compared",
        *(f"  {'pass' if passed else 'FAIL'}  {sentence}" for passed, sentence in found.sentences),
    )
    if not found.passed:
        raise CheckFailedError(
            f"{options.model} does not do what {options.against} does, or not as nearly as it should."
        )
    screen.news(f"the same output, {found.kind}, checked in {found.seconds:.0f} s")
    return 0


def outputs_only(model: str) -> bool:
    """Whether a file can be compared by its output alone: an export, or an ONNX file with its preprocessing inside."""
    from convert.readers import own_provenance
    from convert.readers.exports import is_saved_model, is_tflite
    from ferplus_keras.files.opening import is_file, is_folder, open_regular

    path = Path(model)
    if is_folder(path):
        return is_saved_model(path)
    with suppress(BadInputError), open_regular(path) as stream:
        if is_tflite(stream.read(8)):
            return True
    if path.suffix.lower() != ".onnx" or not is_file(path):
        return False
    told = own_provenance(path)
    return told is not None and told.preprocessing_inside


def _tensorflow() -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    start_keras("tensorflow")


def _batch(text: str) -> int | None:
    return None if text == "dynamic" else count(text)


_percentage = number(float, 0, 100, "a percentage from 0 to 100")
