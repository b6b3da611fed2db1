"""The ``ferplus`` command: parses, calls, prints; the work is done elsewhere.

Nothing heavy is imported before it is needed: ``--help`` answers in a tenth of a second.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ferplus_keras import __version__
from ferplus_keras.architecture import NETWORKS
from ferplus_keras.errors import CheckFailedError, FerplusError

if TYPE_CHECKING:
    from convert.pipeline import Made

#: Target formats by name; ``convert.writers.FORMATS`` has the same, and a test holds the two together.
FORMAT_NAMES = ("h5", "keras", "weights.h5", "pth", "safetensors")

#: Keras 3's backends that can run these networks.
BACKENDS = ("tensorflow", "jax", "torch")

EXIT_CODES = """\
exit codes:
  0    done
  1    the check ran and failed
  2    bad input or a wrong command line; nothing was written
  3    a result could not be written; what was there before is unchanged
  4    a download failed
  130  interrupted (143: terminated)"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments`` (default: the process's) and return the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except FerplusError as error:
        if error.details:
            print(error.details, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        # A file that a library could not finish complains once more when it is collected; all has been said.
        sys.unraisablehook = lambda _unraisable: None
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: unfinished files were removed, finished ones are complete.", file=sys.stderr)
        return 130
    except _Terminated:
        print("terminated: unfinished files were removed, finished ones are complete.", file=sys.stderr)
        return 143
    except MemoryError:
        print("error: not enough memory; converting takes about twice the checkpoint's size.", file=sys.stderr)
        return 3
    except BrokenPipeError:  # `ferplus ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


class _Terminated(BaseException):
    """SIGTERM, as an exception: what is open is closed and removed on the way out."""


def _terminated(_signal: int, _frame: Any) -> NoReturn:
    raise _Terminated


# --- the commands -------------------------------------------------------------------------------------------------


def _convert(options: argparse.Namespace) -> int:
    _light_keras()
    gc.disable()  # a conversion lives for half a second, of which looking for garbage would take a tenth
    from convert.conversion import convert, default_target

    targets = list(options.targets) + [default_target(options.source, format) for format in options.to]
    conversion = convert(
        options.source,
        targets or [default_target(options.source, "h5")],
        network=options.arch,
        logits={"logits": True, "probabilities": False, None: None}[options.output],
        dropout=options.dropout,
        top=not options.no_top,
        allow_missing=options.allow_missing,
        allow_unexpected=options.allow_unexpected,
        progress=lambda line: None if options.json else print(line, file=sys.stderr),
    )
    provenance = conversion.provenance
    if options.json:
        written = [asdict(each) | {"path": str(each.path)} for each in conversion.written]
        report = {"source": str(conversion.source), "written": written, "seconds": conversion.seconds}
        print(json.dumps(report | {"provenance": asdict(provenance)}, indent=2))
        return 0
    if provenance.standin:
        print(f"{conversion.source.name} is a STAND-IN with made-up weights: its predictions mean nothing.")
    for note in provenance.notes:
        print(f"note: {note}")
    for each in conversion.written:
        print(f"{each.path}  {each.size / 1e6:.1f} MB  sha256 {each.sha256[:12]}...  read back and equal bit for bit")
    print(f"{provenance.network}, {len(conversion.written)} file(s) in {conversion.seconds:.1f} s")
    return 0


def _light_keras() -> None:
    """To write Keras 3's own files any backend will do, and NumPy's starts in a second. Parity picks its own."""
    os.environ["KERAS_BACKEND"] = "numpy"


def _convert_all(options: argparse.Namespace) -> int:
    _light_keras()
    from convert.pipeline import convert_all

    made = convert_all(formats=tuple(options.to) or ("h5",), offline=options.offline, say=_sayer(options.json))
    return _report(made, options.json)


def _verify_all(options: argparse.Namespace) -> int:
    from convert.pipeline import verify_all

    return _report(verify_all(say=_sayer(options.json)), options.json)


def _report(made: list[Made], as_json: bool) -> int:
    from convert.pipeline import failed, table

    if as_json:
        print(json.dumps([_plain(asdict(each)) for each in made], indent=2))
    else:
        print(f"\n{table(made)}")
    if failed(made):
        raise CheckFailedError("A converted file is not the same function as its source: do not use it.")
    return 0


def _sayer(as_json: bool) -> Callable[[str], None]:
    """Progress lines go to the screen, or beside it when standard output is for a machine."""
    return lambda line: print(line, file=sys.stderr if as_json else sys.stdout, flush=True)


def _inspect(options: argparse.Namespace) -> int:
    from convert.inspection import as_text, inspect

    result = inspect(options.file)
    print(json.dumps(result, indent=2) if options.json else as_text(result))
    return 2 if result["problems"] else 0


def _fetch(options: argparse.Namespace) -> int:
    from convert.fetch import fetch
    from convert.manifest import downloads_folder, read_manifest
    from ferplus_keras.errors import BadInputError, DownloadError

    manifest = read_manifest()
    names = options.names or [name for name, known in manifest.items() if known.default]
    if unknown := [name for name in names if name not in manifest]:
        raise BadInputError(f"The manifest has no {unknown[0]!r}; it has {', '.join(manifest)}.")
    results, errors = [], []
    for name in names:
        try:
            fetched = fetch(manifest[name], downloads_folder(), progress=None if options.json else _progress(name))
        except DownloadError as error:
            errors.append(f"{name}: {error}")
            continue
        results.append(_plain(asdict(fetched)) | {"name": name})
        if not options.json:
            print(f"{name}: {fetched.path}  {fetched.size:,} bytes  sha256 {fetched.sha256}  ({fetched.status})")
    if options.json:
        print(json.dumps({"fetched": results, "errors": errors}, indent=2))
    if errors:
        raise DownloadError("\n".join(errors))
    return 0


def _verify_parity(options: argparse.Namespace) -> int:
    from verify.text import as_text

    backends = options.backend or [os.environ.get("KERAS_BACKEND", "tensorflow")]
    if "all" in backends:
        backends = list(BACKENDS)
    result = _parity_here(options, backends[0]) if len(backends) == 1 else _parity_on_each(options, backends)
    reports = []
    if options.report:
        from verify.report import write_report

        reports = write_report(result, Path(options.report))
    if options.json:
        print(json.dumps(result, indent=2, allow_nan=False))
        return 0 if result["passed"] else 1
    print(as_text(result))
    for path in reports:
        print(path)
    if not result["passed"]:
        raise CheckFailedError(f"{result['model']['name']} is not the same function as {result['source']['name']}.")
    print(f"the same function, checked in {result['seconds']:.0f} s")
    return 0


def _parity_here(options: argparse.Namespace, backend: str) -> dict[str, Any]:
    """The check in this process, which has not imported Keras yet and so can still choose its backend."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _silent_stderr():  # TensorFlow greets there before it can be told not to
        from verify.parity import check_parity
        from verify.result import as_result

        with suppress(ImportError):  # said in a sentence later, where it is needed
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
        onnx=not options.no_onnx and find_spec("onnxruntime") is not None and find_spec("onnx") is not None,
        progress=lambda line: None if options.json else print(line, file=sys.stderr),
    )
    command = f"ferplus verify parity {options.model} --against {options.against}"
    return as_result(parity, Path(options.against), f"{command}{_passed_on(options)}")


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Nothing that libraries write to standard error meanwhile is seen; exceptions are."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _parity_on_each(options: argparse.Namespace, backends: Sequence[str]) -> dict[str, Any]:
    """The same check on several backends; Keras has one for each process."""
    from convert.pipeline import parity_in_own_process
    from verify.result import merged

    results = []
    for backend in backends:
        if not options.json:
            print(f"{Path(options.model).name}: Keras on {backend}", file=sys.stderr)
        extra = _passed_on(options).split() if backend == backends[0] else [*_passed_on(options).split(), "--no-onnx"]
        results.append(parity_in_own_process(Path(options.model), Path(options.against), backend, extra))
    return merged(results)


def _passed_on(options: argparse.Namespace) -> str:
    """The options of a parity check that change its result, as they are typed."""
    typed = [f"--n {options.n}", f"--seed {options.seed}"]
    for name in ("images", "reference_code", "float64", "float32"):
        if value := getattr(options, name):
            typed.append(f"--{name.replace('_', '-')} {value}")
    if options.no_onnx:
        typed.append("--no-onnx")
    return "".join(f" {each}" for each in typed)


def _progress(name: str) -> Any:
    def show(done: int, total: int | None) -> None:
        share = f" of {total / 1e6:.1f} MB ({done / total:.0%})" if total else " MB"
        end = "\n" if done == total else "\r"
        print(f"{name}: {done / 1e6:.1f}{share}", end=end, file=sys.stderr, flush=True)

    return show


def _plain(value: Any) -> Any:
    """``value`` with its paths as text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, os.PathLike) else value


# --- the command line ---------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ferplus",
        description="Albanie's FERPlus networks as exact Keras models.",
        epilog=f"example:\n  ferplus convert resnet50_ferplus_dag.pth resnet50_ferplus.h5\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ferplus-keras {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str, example: str, to: Any = commands) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = to.add_parser(
            name, help=summary, description=summary, epilog=f"example:\n  {example}\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        added.add_argument("--json", action="store_true", help="print the result as JSON")
        added.set_defaults(run=run)
        return added

    convert = command(
        "convert", _convert, "Convert a checkpoint to one or several files.",
        "ferplus convert resnet50_ferplus_dag.pth resnet50_ferplus.h5 resnet50_ferplus.keras",
    )  # fmt: skip
    convert.add_argument("source", metavar="SOURCE", help=".pth, .safetensors, .h5, .weights.h5 or .keras")
    convert.add_argument("targets", metavar="TARGET", nargs="*", help="files to write; the suffix chooses the format")
    convert.add_argument(
        "--to", choices=FORMAT_NAMES, action="append", default=[],
        help="write that format beside the source (may be repeated; default: h5)",
    )  # fmt: skip
    convert.add_argument(
        "--arch", choices=("auto", *NETWORKS), default="auto", help="the network (default: recognised)"
    )
    convert.add_argument(
        "--output", choices=("probabilities", "logits"),
        help="what Keras models return (default: as the source's Keras model, else probabilities)",
    )  # fmt: skip
    convert.add_argument(
        "--dropout", type=_rate, metavar="RATE", help="dropout where the published networks had it (0.5)"
    )
    convert.add_argument("--no-top", action="store_true", help="leave the classifier out")
    for kind, verb in (("missing", "be absent"), ("unexpected", "be present and left out")):
        convert.add_argument(
            f"--allow-{kind}", metavar="NAME", action="append", default=[],
            help=f"let tensors of that name or pattern {verb} (may be repeated)",
        )  # fmt: skip

    everything = command(
        "convert-all", _convert_all, "Fetch, convert and check the default checkpoints: what `make convert` runs.",
        "ferplus convert-all --to h5 --to keras",
    )  # fmt: skip
    everything.add_argument("--to", choices=FORMAT_NAMES, action="append", default=[], help="formats (default: h5)")
    everything.add_argument("--offline", action="store_true", help="do not try to download")

    inspect = command(
        "inspect", _inspect, "Say what a checkpoint or Keras file is, and what is wrong with it.",
        "ferplus inspect resnet50_ferplus_dag.pth",
    )  # fmt: skip
    inspect.add_argument("file", metavar="FILE")

    fetch = command(
        "fetch", _fetch, "Download known checkpoints (weights/manifest.toml) to weights/downloads.",
        "ferplus fetch resnet50_ferplus",
    )  # fmt: skip
    fetch.add_argument("names", metavar="NAME", nargs="*", help="entries of the manifest (default: the FERPlus two)")

    verify = commands.add_parser("verify", help="Hold a converted file against its source.")
    checks = verify.add_subparsers(title="checks", required=True, metavar="CHECK")
    command(
        "all", _verify_all, "Check every file in weights/output against its source: what `make verify` runs.",
        "ferplus verify all", to=checks,
    )  # fmt: skip
    parity = command(
        "parity", _verify_parity, "Run a Keras file and its source on the same images and compare every layer.",
        "ferplus verify parity resnet50_ferplus.h5 --against resnet50_ferplus_dag.pth", to=checks,
    )  # fmt: skip
    parity.add_argument("model", metavar="MODEL", help=".h5, .keras or .weights.h5")
    parity.add_argument("--against", metavar="SOURCE", required=True, help="the checkpoint it was made from")
    parity.add_argument(
        "--images", metavar="DIR", help="a folder of pictures (default: seeded natural-statistics images)"
    )
    parity.add_argument("--n", type=_count, default=4, metavar="N", help="number of images (default: 4)")
    parity.add_argument("--seed", type=int, default=0, help="seed of the images (default: 0)")
    parity.add_argument("--float64", type=float, metavar="TOL", help="relative tolerance in float64 (default: 1e-12)")
    parity.add_argument("--float32", type=float, metavar="TOL", help="relative tolerance in float32 (default: 5e-5)")
    parity.add_argument(
        "--backend", choices=(*BACKENDS, "all"), action="append", default=[],
        help="Keras's backend; may be repeated (default: $KERAS_BACKEND, else tensorflow)",
    )  # fmt: skip
    parity.add_argument(
        "--reference-code", metavar="FILE",
        help="the *_dag.py that was published with the checkpoint, as a further reference: IT IS EXECUTED",
    )  # fmt: skip
    parity.add_argument("--no-onnx", action="store_true", help="leave ONNX Runtime out as a further reference")
    parity.add_argument("--report", metavar="DIR", help="write parity.json, junit.xml, report.md and report.html there")
    return parser


def _rate(text: str) -> float:
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"a rate is at least 0 and below 1, not {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
