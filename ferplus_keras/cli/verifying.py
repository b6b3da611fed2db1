"""``ferplus verify``: a file held against its source."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ferplus_keras.cli import screen
from ferplus_keras.cli.parsing import option, repeated
from ferplus_keras.cli.progress import Progress
from ferplus_keras.cli.requirements import need_file, need_folder, need_network
from ferplus_keras.cli.shared import (
    DATA,
    KEY,
    REPORTS,
    Commands,
    count,
    finish,
    keras_settings,
    progress_printer,
    report,
    reports_folder_of,
    seed,
    spelled,
    start_keras,
    tolerance,
    verify_group,
)
from ferplus_keras.errors import BadInputError
from ferplus_keras.packages import BACKENDS, backend_of_environment, need
from ferplus_keras.wording import all_printable

#: Options of a parity check that change its result.
RELEVANT = ("n", "seed", "images", "reference_code", "key", "float64", "float32", "no_onnx")

SEED = option("--seed SEED", "seed of the generated images (default: 0)", seed, 0)


def add(commands: Commands) -> None:
    """Declare the commands of this module."""
    checks = verify_group(commands)
    checks.add(
        "all", _verify_all, "Check every file in weights/output against its source (what `make verify` runs).",
        "ferplus verify all", REPORTS,
    )  # fmt: skip
    checks.add(
        "parity", _verify_parity, "Run a converted file beside its source and compare every layer.",
        "ferplus verify parity resnet50_ferplus.h5 --against resnet50_ferplus_dag.pth",
        option("model MODEL", ".h5, .keras, .weights.h5, .onnx, .tflite, a SavedModel or a training run's folder"),
        option("--against SOURCE", "the checkpoint it was made from, or the folder of a network", required=True),
        option("--images DIR", "a folder of images (default: generated ones)"),
        option("--n N", "how many images (default: 4)", count, 4),
        SEED,
        option("--float64 TOL", "relative tolerance in float64 (default: 1e-12)", tolerance),
        option("--float32 TOL", "relative tolerance in float32 (default: 5e-5)", tolerance),
        repeated("--backend", "Keras's backend; may be repeated (default: $KERAS_BACKEND, else tensorflow)",
                 (*BACKENDS, "all")),
        option("--reference-code FILE", "also compare with this PyTorch code, such as a *_dag.py: IT IS EXECUTED"),
        KEY,
        option("--no-onnx", "skip the comparison with ONNX Runtime"),
        option("--shown-as PATH", argparse.SUPPRESS),  # a file that waits for its name
        option("--report DIR", "write parity.json, junit.xml, report.md and report.html to DIR"),
    )  # fmt: skip
    checks.add(
        "same", _verify_same, "Tell whether two files, of any formats, hold the same network.",
        "ferplus verify same resnet50_ferplus_dag.pth resnet50_ferplus.onnx",
        option("a A", "a checkpoint or model, in any supported format, or the folder of a network"),
        option("b B", "the file to compare it with"),
        option("--n N", "images to run if the numbers differ (default: 2)", count, 2),
        SEED,
        KEY,
    )  # fmt: skip
    checks.add(
        "trained", _verify_trained, "Measure the accuracy of the shipped networks again, and compare with the record.",
        "ferplus verify trained --data fer2013",
        DATA,
        option("--record", "print the entries for weights/manifest.toml instead"),
    )  # fmt: skip
    commands.add(
        "release", _release, "Ship a finished run's network with the package, in float16 (for maintainers).",
        "ferplus release runs/scratch --out weights/trained/resnet50_ferplus",
        option("folder RUN", "the folder of a finished run", Path),
        option("--out DIR", "such as weights/trained/NAME", Path, required=True),
        DATA,
    )  # fmt: skip


def _release(options: argparse.Namespace) -> int:
    keras_settings()
    from ferplus_keras.cli.accuracy import Steps
    from ferplus_keras.dataset import load_ferplus
    from verify.shipping import record_of, ship

    record_of(options.folder)
    say = Steps(quiet=options.json)
    dataset = load_ferplus(options.data, progress=say.passing)
    start_keras()
    made = ship(options.folder, options.out, dataset, say.step)
    lines = *map(str, made.halving), "this belongs in weights/manifest.toml:", "", *made.manifest.split("\n")
    return finish(options.json, made.as_dict(), lines)


def _verify_trained(options: argparse.Namespace) -> int:
    from ferplus_keras.cli.accuracy import Steps
    from ferplus_keras.dataset import load_ferplus
    from ferplus_keras.files.shipped import shipped
    from verify.predictors import open_predictor
    from verify.trained import as_toml, measure, repeat, table

    if not options.record:
        need("onnx", "onnxruntime")
    say = Steps(quiet=options.json)
    dataset = load_ferplus(options.data, progress=say.passing)
    if options.record:
        start_keras()
        for network in shipped().values():
            found = measure(open_predictor(network.path), dataset, progress=say.step)
            screen.result(f"[trained.{network.name}]", *as_toml(found).split("\n"))
        return 0
    repeated = [each for network in shipped().values() for each in repeat(network, dataset, say.step)]
    passed = all(each.passed for each in repeated)
    figures = {"passed": passed, "figures": [each.as_dict() for each in repeated]}
    wrong = None if passed else "The accuracy of a trained network differs from the record."
    return finish(options.json, figures, table(repeated).split("\n"), failed=wrong)


def _verify_same(options: argparse.Namespace) -> int:
    need_network(options.a)
    need_network(options.b)
    from verify.same import check_same

    result = check_same(
        options.a, options.b, key=options.key, images=options.n, seed=options.seed,
        progress=Progress(quiet=options.json).line,
    )  # fmt: skip
    numbers = [f"numbers   {result.tensors.summary}"] if result.tensors and not result.tensors.passed else []
    return finish(
        options.json, result.as_dict(), [*numbers, f"verdict   {result.summary}"],
        notes=result.notes, news=[f"checked in {result.seconds:.1f} s"] * result.passed,
        failed=None if result.passed else f"{result.a.name} and {result.b.name} are not the same network.",
    )  # fmt: skip


def _verify_all(options: argparse.Namespace) -> int:
    from convert.pipeline import verify_all

    return report(verify_all(reports=reports_folder_of(options), say=progress_printer(options.json)), options.json)


def _verify_parity(options: argparse.Namespace) -> int:
    backends = list(BACKENDS) if "all" in options.backend else options.backend or [backend_of_environment()]
    need_network(options.model)
    need_network(options.against)
    for path in filter(None, (options.images, options.reference_code)):
        need_file(path, folder=path == options.images)
    from ferplus_keras.cli.exporting import outputs_only, verify_outputs

    if outputs_only(options.model):
        for name in ("report", "reference_code", "float64", "float32"):
            if getattr(options, name):
                said = f"--{name.replace('_', '-')}"
                raise BadInputError(f"{options.model} is compared by its output alone, for which there is no {said}.")
        return verify_outputs(options)
    from verify.text import as_text

    if options.report:
        need_folder(Path(options.report))  # before minutes of work, not after
    onnx = Path(options.model).suffix.lower() == ".onnx"
    backends = backends[:1] if onnx else backends  # ONNX Runtime runs it, whatever Keras is on
    engine = ["onnx", "onnxruntime"] if onnx else ["keras", *backends]
    need(*engine, "torch", *(["jinja2"] if options.report else []))
    result = _parity_here(options, backends[0]) if len(backends) == 1 else _parity_on_each(options, backends)
    reports = []
    if options.report:
        from verify.report import write_report

        reports = write_report(result, Path(options.report))
    news = [f"  report: {path}" for path in reversed(reports)]
    news += [f"the same function, checked in {result['seconds']:.0f} s"] * result["passed"]
    wrong = f"{result['model']['name']} is not the same function as {result['source']['name']}."
    return finish(
        options.json, result, as_text(all_printable(result)).split("\n"), news=news,
        failed=None if result["passed"] else wrong,
    )  # fmt: skip


def _parity_here(options: argparse.Namespace, backend: str) -> dict[str, Any]:
    """The check in this process, which has not imported Keras yet and so can still choose its backend."""
    keras_settings(backend)
    # Two or three libraries take turns on the same cores: threads that wait in a busy loop would double the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from verify.parity import ParityOptions, check_parity
    from verify.result import as_result

    chosen = (("float64", options.float64), ("float32", options.float32))
    asked = ParityOptions(
        images=options.n,
        folder=Path(options.images) if options.images else None,
        seed=options.seed,
        tolerances={dtype: value for dtype, value in chosen if value},
        reference_code=Path(options.reference_code) if options.reference_code else None,
        key=options.key,
        onnx=not options.no_onnx and find_spec("onnxruntime") is not None and find_spec("onnx") is not None,
    )
    parity = check_parity(options.model, options.against, asked, Progress(quiet=options.json).line)
    return as_result(parity, Path(options.against), _command(options))


def _parity_on_each(options: argparse.Namespace, backends: Sequence[str]) -> dict[str, Any]:
    """The same check on several backends; Keras has one for each process."""
    from convert.pipeline import parity_in_own_process
    from verify.result import merged

    results = []
    for backend in backends:
        if not options.json:
            screen.notice(f"{Path(options.model).name}: Keras on {backend}")
        extra = [*spelled(vars(options), RELEVANT), *["--no-onnx"] * (backend != backends[0] and not options.no_onnx)]
        results.append(parity_in_own_process(Path(options.model), Path(options.against), backend, extra))
    return merged(results) | {"command": _command(options)}


def _command(options: argparse.Namespace) -> str:
    """What to type to repeat the check."""
    again = spelled(vars(options), ("against", *RELEVANT, "backend"))
    return shlex.join(["ferplus", "verify", "parity", options.shown_as or options.model, *again])
