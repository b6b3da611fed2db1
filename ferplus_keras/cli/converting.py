"""``ferplus convert``, ``convert-all``, ``inspect`` and ``fetch``."""

from __future__ import annotations

import argparse
import atexit
import gc
import math
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict

from convert.targets import FORMATS
from ferplus_keras.cli import screen
from ferplus_keras.cli.parsing import did_you_mean, number, option, repeated
from ferplus_keras.cli.progress import Progress
from ferplus_keras.cli.requirements import need_network, need_network_before
from ferplus_keras.cli.shared import (
    CHANNELS,
    KEY,
    REPORTS,
    Commands,
    finish,
    in_the_way,
    plain,
    progress_printer,
    report,
    reports_folder_of,
    standin_sentence,
)
from ferplus_keras.errors import BadInputError
from ferplus_keras.networks.architecture import KNOWN
from ferplus_keras.packages import backend_of_environment, need
from ferplus_keras.wording import all_printable, counted

#: Threads that compute outside of the interpreter come back to it often, and shall not wait for its usual 5 ms.
SWITCH_SECONDS = 0.0005

#: Layouts of Keras files, the usual one first.
LAYOUT_NAMES = ("albanie", "keras-vggface")

_rate = number(float, 0.0, math.nextafter(1.0, 0.0), "a rate is at least 0 and below 1")


def add(commands: Commands) -> None:
    """Declare the commands of this module."""
    commands.add(
        "convert", _convert, "Convert a checkpoint to one or several files.",
        "ferplus convert resnet50_ferplus_dag.pth resnet50_ferplus.h5 resnet50_ferplus.keras",
        option("source SOURCE", ".pth, .safetensors, .h5, .weights.h5, .keras, .onnx, .mat or a network's folder"),
        option("targets* TARGET", "files to write; the suffix chooses the format"),
        repeated("--to", "write this format beside the source (may be repeated; default: h5)", tuple(FORMATS)),
        option("--arch", "the network (default: detected)", ("auto", *KNOWN), "auto"),
        option("--output", "what Keras and ONNX models return (default: what the source returns, else probabilities)",
               ("probabilities", "logits")),
        option("--dropout RATE", "add dropout where the published networks had it (theirs: 0.5)", _rate),
        CHANNELS,
        option("--fold", "merge batch normalisation into the convolutions (for inference only)"),
        option("--layout", "keras-vggface: write a .h5 that existing keras_vggface 0.6 code loads by name (never "
               "exact: docs/swap-in.md)", LAYOUT_NAMES, LAYOUT_NAMES[0]),
        option("--preprocessing", "inside: the model takes RGB bytes and subtracts the mean itself (.h5 and .keras)",
               ("outside", "inside"), "outside"),
        KEY,
        option("--geometry", "confirm that a file with torchvision's layer names has Albanie's strides and padding",
               ("published",)),
        option("--no-top", "leave the classifier out"),
        repeated("--allow-missing NAME", "let tensors with this name or pattern be missing (may be repeated)"),
        repeated("--allow-unexpected NAME", "let tensors with this name or pattern be ignored (may be repeated)"),
    )  # fmt: skip
    commands.add(
        "convert-all", _convert_all, "Download, convert and check both FERPlus checkpoints (what `make convert` runs).",
        "ferplus convert-all --to h5 --to keras",
        repeated("--to", "may be repeated (default: h5)", tuple(FORMATS)),
        option("--offline", "do not try to download"),
        REPORTS,
    )  # fmt: skip
    commands.add(
        "inspect", _inspect, "Show what a file is, and what is wrong with it.",
        "ferplus inspect resnet50_ferplus_dag.pth",
        option("file FILE", "a checkpoint or model, in any supported format, or the folder of a network"),
        KEY,
    )  # fmt: skip
    commands.add(
        "roundtrip", _roundtrip, "Convert a file through every pair of formats and back, and compare all numbers.",
        "ferplus roundtrip resnet50_ferplus_dag.pth",
        option("source SOURCE", "a checkpoint or model, in any supported format, or the folder of a network"),
        repeated("--to", "may be repeated (default: all formats)", tuple(FORMATS)),
        KEY,
    )  # fmt: skip
    commands.add(
        "fetch", _fetch, "Download published checkpoints to weights/downloads.",
        "ferplus fetch resnet50_ferplus",
        option("names* NAME", "from weights/manifest.toml (default: both FERPlus networks)"),
    )  # fmt: skip


def _convert(options: argparse.Namespace) -> int:
    _source_first(options)
    _in_haste()
    from ferplus_keras.files.network_folder import open_checkpoint

    source = open_checkpoint(options.source)
    source.begin_sha256()  # which takes as long as importing NumPy
    from convert.conversion import convert, default_target

    chosen = options.to or ([] if options.targets else ["h5"])
    beside = [default_target(options.source, format, folded=options.fold) for format in chosen]
    replaced = {os.fspath(target): in_the_way(target) for target in (*options.targets, *beside)}
    conversion = convert(
        source, [*options.targets, *beside], network=options.arch,
        logits={"logits": True, "probabilities": False, None: None}[options.output], dropout=options.dropout,
        top=not options.no_top, channels_last=options.channels == "last", folded=options.fold, layout=options.layout,
        pixels=options.preprocessing == "inside", allow_missing=options.allow_missing,
        allow_unexpected=options.allow_unexpected, key=options.key, geometry=options.geometry,
        progress=Progress(quiet=options.json).line,
    )  # fmt: skip
    provenance = conversion.provenance
    written = [asdict(each) | {"path": str(each.path)} for each in conversion.written]
    data = {"source": str(conversion.source), "written": written, "seconds": conversion.seconds}
    news = [standin_sentence(conversion.source.name)] if provenance.standin else []
    news += [f"note: {note}" for note in provenance.notes]
    if options.layout != LAYOUT_NAMES[0]:
        from ferplus_keras.networks.keras_vggface import PADDING_NOTE

        news.append(
            f"note: NOT EXACT: {PADDING_NOTE}. Feed it BGR: keras_vggface.utils.preprocess_input(images, version=2)"
        )
    news += [
        f"{each.path}  {each.size / 1e6:.1f} MB  sha256 {each.sha256[:12]}...  read back and equal bit for bit"
        f"{replaced.get(os.fspath(each.path), '')}"
        for each in conversion.written
    ]
    news.append(f"{provenance.network}, {counted(len(conversion.written), 'file')} in {conversion.seconds:.1f} s")
    return finish(options.json, data | {"provenance": asdict(provenance)}, news=news)


def _source_first(options: argparse.Namespace) -> None:
    """Raise :class:`BadInputError` when there is no source, and say so when a target seems to be it."""
    need_network_before(options.source, options.targets, "ferplus convert SOURCE TARGET")
    if not os.path.lexists(options.source) and (found := next(filter(os.path.isfile, options.targets), None)):
        raise BadInputError(
            f"There is no file {options.source}, and {found} is there: the source comes first, "
            f"`ferplus convert {shlex.join([found, options.source])}`."
        )
    need_network(options.source)


def _in_haste() -> None:
    """Set the interpreter up for a process that lives for half a second."""
    gc.disable()  # looking for garbage would take a tenth of that,
    atexit.register(gc.freeze)  # and once more at the end
    sys.setswitchinterval(SWITCH_SECONDS)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the others would spin on the core that hashes


def _convert_all(options: argparse.Namespace) -> int:
    need("keras", backend_of_environment(), "torch", "jinja2")  # to check what is converted, and to show it
    from convert.pipeline import convert_all

    reports = reports_folder_of(options)
    formats = tuple(options.to) or ("h5",)
    made = convert_all(formats=formats, offline=options.offline, reports=reports, say=progress_printer(options.json))
    return report(made, options.json)


def _inspect(options: argparse.Namespace) -> int:
    need_network(options.file)
    from convert.inspection import as_text, inspect

    result = inspect(options.file, key=options.key)
    if options.json:
        screen.result_json(result)
    else:
        problems = result["problems"].split("\n")  # lines of ours, in which the names are printable already
        shown = as_text(all_printable(result | {"problems": ""})).split("\n")
        screen.result(*(shown[:-1] + problems if result["problems"] else shown))
    return 2 if result["problems"] else 0


def _roundtrip(options: argparse.Namespace) -> int:
    need_network(options.source)
    from verify.roundtrip import roundtrip

    progress = Progress(quiet=options.json).line
    result = roundtrip(options.source, formats=options.to or None, key=options.key, progress=progress)
    off = [way for way in result.ways if not way.passed]
    done = (
        f"{counted(len(result.ways), 'path')} back to {result.home}, {counted(result.files, 'temporary file')} written "
        f"and read in {result.seconds:.0f} s"
    )
    wrong = None
    if off:
        wrong = (
            f"{len(off)} of {counted(len(result.ways), 'path')} changed values of {result.source.name}, the first by "
            f"{off[0].first} and {off[0].second}: {off[0].verdict}."
        )
    return finish(options.json, result.as_dict(), result.as_text().split("\n"), news=[done] * (not off), failed=wrong)


def _fetch(options: argparse.Namespace) -> int:
    from convert.fetch import fetch
    from convert.manifest import downloads_folder, read_manifest
    from ferplus_keras.errors import DownloadError

    manifest = read_manifest()
    names = options.names or [name for name, known in manifest.items() if known.default]
    if unknown := [name for name in names if name not in manifest]:
        guess = did_you_mean(unknown[0], manifest)
        raise BadInputError(f'The manifest has no "{unknown[0]}"; it has {", ".join(manifest)}{guess or "."}')
    results, errors = [], []
    for name in names:
        try:
            fetched = fetch(manifest[name], downloads_folder(), progress=None if options.json else _loading(name))
        except DownloadError as error:
            errors.append(f"{name}: {error}")
            continue
        results.append(plain(asdict(fetched)) | {"name": name})
        if not options.json:
            screen.news(f"{name}: {fetched.path}  {fetched.size:,} bytes  sha256 {fetched.sha256}  ({fetched.status})")
    if errors:
        done = [f"{each['name']}: {each['path']}" for each in results] if options.json else []
        raise DownloadError(errors[-1], "\n".join([*done, *(f"error: {error}" for error in errors[:-1])]))
    if options.json:
        screen.result_json({"fetched": results})
    return 0


def _loading(name: str) -> Callable[[int, int | None], None]:
    say = Progress()

    def show(done: int, total: int | None) -> None:
        share = f" of {total / 1e6:.1f} MB ({100 * done / total:.0f} %)" if total else " MB"
        (say.line if done == total else say.passing)(f"{name}: {done / 1e6:.1f}{share}")

    return show
