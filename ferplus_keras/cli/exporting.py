"""``ferplus export``: a network out to where there is no Keras, checked before the file gets its name."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from convert.targets import EXPORTS, QUANTIZATIONS
from ferplus_keras.cli.accuracy import Steps
from ferplus_keras.cli.parsing import number, option
from ferplus_keras.cli.requirements import need_file, need_network, need_network_before, need_place
from ferplus_keras.cli.shared import CHANNELS, Commands, count, finish, in_the_way, seed, standin_sentence, start_keras
from ferplus_keras.errors import BadInputError
from ferplus_keras.quiet import silent_stderr


def add(commands: Commands) -> None:
    """Declare the command of this module."""
    commands.add(
        "export", _export, "Export a network to ONNX, TensorFlow Lite or SavedModel, and check the result.",
        "ferplus export senet50_ferplus.h5 --to tflite --quantize int8 --calibrate faces/ --fold",
        option("model MODEL", "a checkpoint or model, in any supported format, or the folder of a network"),
        option("out? OUT", "the file or folder (default: beside MODEL)"),
        option("--to", "the format to write", tuple(EXPORTS), required=True),
        option("--quantize", "tflite: float16 weights, or int8 throughout (default: float32)", QUANTIZATIONS[1:],
               QUANTIZATIONS[0]),
        option("--calibrate PATH", "int8: images to calibrate on: a folder, or FERPlus (its train split)"),
        option("--calibration-images N", "how many of them (default: 100)", count, 100),
        option("--fold", "merge batch normalisation into the convolutions"),
        option("--preprocessing", "inside: the model takes RGB bytes and subtracts the mean itself (default: outside)",
               ("outside", "inside"), "outside"),
        option("--batch N", 'images at a time, or "dynamic" (default: dynamic)', _batch),
        option("--output", "what it returns (default: probabilities)", ("probabilities", "logits"), "probabilities"),
        CHANNELS,
        the_check=(
            option("--images DIR", "images to compare on (default: generated ones; int8: others from --calibrate)"),
            option("--n N", "how many images to compare on (default: 16)", count, 16),
            option("--seed SEED", "chooses the images (default: 0)", seed, 0),
            option("--max-changed PERCENT", "write nothing if more decisions than this change (default: float32 0, "
                   "float16 1, int8 10)", number(float, 0, 100, "a percentage from 0 to 100")),
            option("--data PATH", "also measure accuracy and changed decisions on FERPlus"),
            option("--split", "split of --data (default: val)", ("val", "test"), "val"),
            option("--limit N", "only the first N images of the split", count),
        ),
    )  # fmt: skip


def _export(options: argparse.Namespace) -> int:
    from convert.exporters import Recipe, checked, export_path

    default = "first" if options.to == "onnx" else "last"
    recipe = Recipe(
        options.to, options.quantize, folded=options.fold, pixels=options.preprocessing == "inside",
        batch=options.batch, logits=options.output == "logits", channels_first=(options.channels or default) == "first",
    )  # fmt: skip
    checked(recipe, options.calibrate is not None)  # before TensorFlow is imported, which takes seconds
    need_network_before(options.model, filter(None, [options.out]), "ferplus export MODEL OUT")
    need_network(options.model)
    for path in filter(None, (options.images, options.calibrate, options.data)):
        need_file(path, folder=True)
    target = export_path(options.model, recipe, options.out, standin=False)
    need_place(target, folder=options.to == "saved_model")
    replaced = in_the_way(target)
    from verify.exporting import Checks, export_checked

    say = Steps(quiet=options.json)
    checks = Checks(
        options.n, Path(options.images) if options.images else None, options.seed, options.calibrate,
        options.calibration_images, options.max_changed, options.data, options.split, options.limit,
    )  # fmt: skip
    outcome = export_checked(
        options.model, recipe, options.out, checks, quiet=silent_stderr, progress=say.line, steps=say.step,
        start_keras=_tensorflow,
    )  # fmt: skip
    news = [standin_sentence(outcome.source.name)] if outcome.checkpoint.provenance.standin else []
    news += _verdicts(outcome.sentences)
    peak = f", peak {outcome.peak / 1e9:.1f} GB" if outcome.peak else ""
    if outcome.passed:
        news += [
            f"{outcome.path}  {outcome.size / 1e6:.1f} MB  sha256 {outcome.sha256[:12]}...{replaced}",
            f"{outcome.recipe}: exported in {outcome.export_seconds:.0f} s, checked by {outcome.seconds:.0f} s{peak}",
        ]
    failed = "; ".join(sentence for passed, sentence in outcome.sentences if not passed)
    return finish(options.json, outcome.as_dict(), news=news, failed=None if outcome.passed else (
        f"{outcome.path} was not written because it failed its checks: {failed}. --max-changed says how many "
        "decisions may change."
    ))  # fmt: skip


def _verdicts(sentences: Iterable[tuple[bool, str]]) -> list[str]:
    return [f"  {'pass' if passed else 'FAIL'}  {sentence}" for passed, sentence in sentences]


def verify_outputs(options: argparse.Namespace) -> int:
    """``ferplus verify parity`` of a file that has no layers to compare: its output."""
    from convert.readers import read_checkpoint
    from ferplus_keras.engines import open_engine
    from verify.images import Images
    from verify.outputs import compare_outputs

    source = read_checkpoint(options.against, key=options.key)
    folder = Path(options.images) if options.images else None
    images = Images.of(options.n, seed=options.seed, folder=folder, size=source.provenance.side)
    _tensorflow()
    engine = open_engine(options.model)
    found = compare_outputs(engine, source, images)
    lines = (
        f"{Path(options.model).name} against {Path(options.against).name}, {found.origin}, run by {found.by}",
        "  the format has no layers with names, or takes bytes: the output alone is compared",
        *_verdicts(found.sentences),
    )
    wrong = f"{options.model} does not compute what {options.against} computes, or not closely enough."
    return finish(
        options.json, {"model": str(options.model), "source": str(options.against)} | found.as_dict(), lines,
        notes=engine.notes,
        news=[f"the same output, {found.kind}, checked in {found.seconds:.0f} s"] * found.passed,
        failed=None if found.passed else wrong,
    )  # fmt: skip


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
    provenance = own_provenance(path)
    return provenance is not None and provenance.preprocessing_inside


def _tensorflow() -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    start_keras("tensorflow")


def _batch(text: str) -> int | None:
    return None if text == "dynamic" else count(text)
