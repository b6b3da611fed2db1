"""``ferplus verify``: a file held against its source."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ferplus_keras.cli import screen
from ferplus_keras.cli.requirements import BACKENDS, backend_of_environment, need, need_file
from ferplus_keras.cli.shared import (
    Commands,
    add_key,
    add_reports,
    count,
    keras_settings,
    progress,
    report,
    reports_folder_of,
    sayer,
    seed,
    silent_stderr,
    start_keras,
    tolerance,
    verify_group,
)
from ferplus_keras.errors import BadInputError, CheckFailedError
from ferplus_keras.wording import all_printable


def add(commands: Commands) -> None:
    """Declare the commands of this module."""
    checks = verify_group(commands)
    everything = checks.add(
        "all", _verify_all, "Check every file in weights/output against its source (what `make verify` runs).",
        "ferplus verify all",
    )  # fmt: skip
    add_reports(everything)
    parity = checks.add(
        "parity", _verify_parity, "Run a converted file beside its source and compare every layer.",
        "ferplus verify parity resnet50_ferplus.h5 --against resnet50_ferplus_dag.pth",
    )  # fmt: skip
    parity.add_argument("model", metavar="MODEL", help=".h5, .keras, .weights.h5, .onnx, .tflite or a SavedModel")
    parity.add_argument("--against", metavar="SOURCE", required=True, help="the checkpoint it was made from")
    parity.add_argument("--images", metavar="DIR", help="a folder of images (default: generated ones)")
    parity.add_argument("--n", type=count, default=4, metavar="N", help="how many images (default: 4)")
    parity.add_argument("--seed", type=seed, default=0, help="seed of the generated images (default: 0)")
    parity.add_argument(
        "--float64", type=tolerance, metavar="TOL", help="relative tolerance in float64 (default: 1e-12)"
    )
    parity.add_argument(
        "--float32", type=tolerance, metavar="TOL", help="relative tolerance in float32 (default: 5e-5)"
    )
    parity.add_argument(
        "--backend", choices=(*BACKENDS, "all"), action="append", default=[],
        help="Keras's backend; may be repeated (default: $KERAS_BACKEND, else tensorflow)",
    )  # fmt: skip
    parity.add_argument(
        "--reference-code", metavar="FILE",
        help="also compare with this PyTorch code, such as a *_dag.py: IT IS EXECUTED",
    )  # fmt: skip
    add_key(parity)
    parity.add_argument("--no-onnx", action="store_true", help="do not compare with ONNX Runtime too")
    parity.add_argument("--shown-as", metavar="PATH", help=argparse.SUPPRESS)  # a file that waits for its name
    parity.add_argument(
        "--report", metavar="DIR", help="write parity.json, junit.xml, report.md and report.html to DIR"
    )

    same = checks.add(
        "same", _verify_same, "Tell whether two files, of any formats, hold the same network.",
        "ferplus verify same resnet50_ferplus_dag.pth resnet50_ferplus.onnx",
    )  # fmt: skip
    same.add_argument("a", metavar="A", help="a checkpoint or model, in any supported format")
    same.add_argument("b", metavar="B", help="the file to compare it with")
    same.add_argument(
        "--n", type=count, default=2, metavar="N", help="images to run if the numbers differ (default: 2)"
    )
    same.add_argument("--seed", type=seed, default=0, help="seed of the generated images (default: 0)")

    trained = checks.add(
        "trained", _verify_trained, "Measure the accuracy of the shipped networks again, and compare with the record.",
        "ferplus verify trained --data fer2013",
    )  # fmt: skip
    trained.add_argument("--data", metavar="PATH", help="FERPlus (default: $FERPLUS_DATA)")
    trained.add_argument("--record", action="store_true", help="print the entries for weights/manifest.toml instead")

    release = commands.add(
        "release", _release, "Ship a finished run's network with the package, in float16 (for maintainers).",
        "ferplus release runs/scratch --out weights/trained/resnet50_ferplus",
    )  # fmt: skip
    release.add_argument("folder", metavar="RUN", type=Path, help="the folder of a finished run")
    release.add_argument("--out", metavar="DIR", type=Path, required=True, help="such as weights/trained/NAME")
    release.add_argument("--data", metavar="PATH", help="FERPlus (default: $FERPLUS_DATA)")


def _release(options: argparse.Namespace) -> int:
    need_file(str(options.folder), folder=True)
    keras_settings()
    from ferplus_keras.cli.accuracy import Steps
    from ferplus_keras.dataset import load_ferplus
    from verify.shipping import ship

    say = Steps(quiet=options.json)
    dataset = load_ferplus(options.data, progress=say.passing)
    start_keras()
    made = ship(options.folder, options.out, dataset, say.step)
    if options.json:
        screen.result_json(made.as_dict())
        return 0
    screen.result(made.changed, "this belongs in weights/manifest.toml:", "", *made.manifest.split("\n"))
    return 0


def _verify_trained(options: argparse.Namespace) -> int:
    keras_settings()
    from ferplus_keras.cli.accuracy import Steps
    from ferplus_keras.dataset import load_ferplus
    from ferplus_keras.files.shipped import shipped
    from verify.predictors import open_predictor
    from verify.trained import as_toml, measure, repeat, table

    say = Steps(quiet=options.json)
    dataset = load_ferplus(options.data, progress=say.passing)
    start_keras()
    if options.record:
        for network in shipped().values():
            found = measure(open_predictor(network.path), dataset, progress=say.step)
            screen.result(f"[trained.{network.name}]", *as_toml(found).split("\n"))
        return 0
    repeated = [each for network in shipped().values() for each in repeat(network, dataset, say.step)]
    passed = all(each.passed for each in repeated)
    if options.json:
        screen.result_json({"passed": passed, "figures": [each.as_dict() for each in repeated]})
        return 0 if passed else 1
    screen.result(*table(repeated).split("\n"))
    if not passed:
        raise CheckFailedError("A trained network is not as often right as was recorded of it.")
    return 0


def _verify_same(options: argparse.Namespace) -> int:
    need_file(options.a, folder=True)
    need_file(options.b, folder=True)
    from verify.same import check_same

    result = check_same(
        options.a, options.b, images=options.n, seed=options.seed,
        progress=progress(options.json),
    )  # fmt: skip
    if options.json:
        screen.result_json(result.as_dict())
        return 0 if result.passed else 1
    if result.tensors is not None and not result.tensors.passed:
        screen.result(f"numbers   {result.tensors.summary}")
    screen.result(f"verdict   {result.summary}")
    if not result.passed:
        raise CheckFailedError(f"{result.a.name} and {result.b.name} are not the same network.")
    screen.news(f"checked in {result.seconds:.1f} s")
    return 0


def _verify_all(options: argparse.Namespace) -> int:
    from convert.pipeline import verify_all

    return report(verify_all(reports=reports_folder_of(options), say=sayer(options.json)), options.json)


def _verify_parity(options: argparse.Namespace) -> int:
    backends = list(BACKENDS) if "all" in options.backend else options.backend or [backend_of_environment()]
    need_file(options.model, folder=True)
    need_file(options.against)
    for path in filter(None, (options.images, options.reference_code)):
        need_file(path, folder=path == options.images)
    from ferplus_keras.cli.exporting import outputs_only, verify_outputs

    if outputs_only(options.model):
        if options.report:
            raise BadInputError(f"{options.model} is compared by its output alone, of which there is no --report.")
        return verify_outputs(options)
    from verify.text import as_text

    if options.report:
        from verify.report import ready_folder

        ready_folder(Path(options.report))  # before minutes of work, not after
    onnx = Path(options.model).suffix.lower() == ".onnx"
    backends = backends[:1] if onnx else backends  # ONNX Runtime runs it, whatever Keras is on
    engine = ["onnx", "onnxruntime"] if onnx else ["keras", *backends]
    need(*engine, "torch", *(["jinja2"] if options.report else []))
    result = _parity_here(options, backends[0]) if len(backends) == 1 else _parity_on_each(options, backends)
    reports = []
    if options.report:
        from verify.report import write_report

        reports = write_report(result, Path(options.report))
    if options.json:
        screen.result_json(result)
        return 0 if result["passed"] else 1
    screen.result(*as_text(all_printable(result)).split("\n"))
    screen.news(*(f"  report: {path}" for path in reversed(reports)))
    if not result["passed"]:
        raise CheckFailedError(f"{result['model']['name']} is not the same function as {result['source']['name']}.")
    screen.news(f"the same function, checked in {result['seconds']:.0f} s")
    return 0


def _parity_here(options: argparse.Namespace, backend: str) -> dict[str, Any]:
    """The check in this process, which has not imported Keras yet and so can still choose its backend."""
    keras_settings(backend)
    # Two or three libraries take turns on the same cores: threads that wait in a busy loop would double the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with silent_stderr():  # TensorFlow greets there before it can be told not to
        from verify.parity import check_parity
        from verify.result import as_result

        with suppress(ImportError):  # an ONNX file needs none
            import keras  # noqa: F401

    chosen = (("float64", options.float64), ("float32", options.float32))
    parity = check_parity(
        options.model,
        options.against,
        images=options.n,
        folder=Path(options.images) if options.images else None,
        seed=options.seed,
        tolerances={dtype: value for dtype, value in chosen if value},
        reference_code=Path(options.reference_code) if options.reference_code else None,
        key=options.key,
        onnx=not options.no_onnx and find_spec("onnxruntime") is not None and find_spec("onnx") is not None,
        progress=progress(options.json),
    )
    return as_result(parity, Path(options.against), _command(options))


def _parity_on_each(options: argparse.Namespace, backends: Sequence[str]) -> dict[str, Any]:
    """The same check on several backends; Keras has one for each process."""
    from convert.pipeline import parity_in_own_process
    from verify.result import merged

    results = []
    for backend in backends:
        if not options.json:
            screen.notice(f"{Path(options.model).name}: Keras on {backend}")
        extra = _passed_on(options) if backend == backends[0] else [*_passed_on(options), "--no-onnx"]
        results.append(parity_in_own_process(Path(options.model), Path(options.against), backend, extra))
    return merged(results) | {"command": _command(options)}


def _command(options: argparse.Namespace) -> str:
    """What to type to repeat the check."""
    backends = [word for backend in options.backend for word in ("--backend", backend)]
    typed = ["ferplus", "verify", "parity", options.shown_as or options.model, "--against", options.against]
    return shlex.join([*typed, *_passed_on(options), *backends])


def _passed_on(options: argparse.Namespace) -> list[str]:
    """The options of a parity check that change its result."""
    typed = ["--n", str(options.n), "--seed", str(options.seed)]
    for name in ("images", "reference_code", "key", "float64", "float32"):
        if value := getattr(options, name):
            typed += [f"--{name.replace('_', '-')}", str(value)]
    if options.no_onnx:
        typed.append("--no-onnx")
    return typed
