"""`make convert`: from the manifest's default checkpoints, wherever they are found, to checked Keras files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convert.checkpoint import STANDIN
from convert.conversion import convert
from convert.manifest import Known, downloads_folder, output_folder, read_manifest
from convert.readers import own_provenance
from convert.standin import standin_path, write_standin
from convert.targets import FORMATS
from convert.writers import Written
from ferplus_keras import __version__
from ferplus_keras.errors import BadInputError, CheckFailedError, DownloadError, OutputError
from ferplus_keras.files.hashing import sha256_of
from ferplus_keras.files.provenance import Provenance, named_standin
from ferplus_keras.files.shipped import Shipped, shipped
from ferplus_keras.wording import in_columns

#: Suffixes of files that are verified by running them.
CHECKED = (".h5", ".keras", ".onnx")

#: The folder in which files wait to be verified; the number is the process that made it.
STAGING = ".partial-{}-convert-all"

TOOL = f"ferplus-keras {__version__}"

#: What files made from a network that was trained here have in their name.
TRAINED = "trained"

#: Seconds to wait for a server that has probably been gone since 2020.
CONNECT_TIMEOUT = 10.0


@dataclass(frozen=True)
class Made:
    """A row of the final table. ``parity`` is the verifier's result, ``report`` the page that shows it."""

    written: Written
    source: Path
    standin: bool
    parity: dict[str, Any]
    report: Path | None = None


def convert_all(
    *,
    formats: tuple[str, ...] = ("h5",),
    offline: bool = False,
    reports: Path | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> list[Made]:
    """Convert the manifest's default checkpoints into ``weights/output`` and check each result's parity.

    The source is the file in ``weights/downloads``, or else the network that was trained here, if the package has one,
    or else the downloaded file, unless ``offline``, or else a seeded stand-in. Names say ``trained`` or ``standin``.
    Each file's report goes into its own folder in ``reports``, if that is given. A file gets its name only after it has
    passed; one that has, from the same source, is not made again. Raises :class:`FerplusError` when a step fails.
    """
    start = time.perf_counter()
    made = []
    with _staging() as staging:
        for known in read_manifest().values():
            if not known.default:
                continue
            source = _source(known, offline, say)
            digest = sha256_of(source)
            kind = STANDIN if named_standin(source.name) else TRAINED if shipped_as(source) else ""
            name = f"{known.name}-{kind}" if kind else known.name
            todo = []
            for target in (output_folder() / f"{name}{FORMATS[format].suffix}" for format in formats):
                if (done := _finished(target, source, digest, reports)) is None:
                    todo.append(target)
                else:
                    say(f"{known.name}: {target.name} is up to date")
                    made.append(done)
            if todo:
                say(f"{known.name}: converting {source.name} to {', '.join(target.name for target in todo)}")
                conversion = convert(source, [staging / target.name for target in todo])
                for written, target in zip(conversion.written, todo, strict=True):
                    made.append(_verified(written, target, source, reports, say))
    say(f"done in {time.perf_counter() - start:.0f} s")
    return made


@contextmanager
def _staging() -> Iterator[Path]:
    """A folder on the results' disk where files wait to be verified. Removes the folders of killed runs."""
    output = output_folder()
    try:
        for left in output.glob(f"{STAGING.format('*')}"):
            if not _alive(int(left.name.split("-")[1])):
                shutil.rmtree(left)
        folder = output / STAGING.format(os.getpid())
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output} cannot be written to: {error.strerror}.") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # else it is another user's
    return True


def _finished(target: Path, source: Path, digest: str, reports: Path | None) -> Made | None:
    """What an earlier run of this version made from the same source and verified; None if there is none."""
    try:
        provenance = own_provenance(target)
        if provenance is None or provenance.source.sha256 != digest or provenance.tool != TOOL:
            return None
        written = Written(target, provenance.source.format, target.stat().st_size, sha256_of(target))
        if not target.name.endswith(CHECKED):
            return Made(written, source, provenance.standin, {})
        if reports is None:
            return None
        parity = json.loads((_report_folder(reports, target) / "parity.json").read_text(encoding="utf-8"))
        about = (parity["model"]["sha256"], parity["source"]["sha256"], parity["tool"])
        if not parity["passed"] or about != (written.sha256, digest, TOOL):
            return None
    except (BadInputError, OSError, ValueError, KeyError, TypeError):  # missing, or not ours
        return None
    return Made(written, source, provenance.standin, parity, _report_folder(reports, target) / "report.html")


def _verified(written: Written, target: Path, source: Path, reports: Path | None, say: Callable[[str], None]) -> Made:
    """Check a file in the staging folder; it and its report are moved into place only if it passes."""
    final, standin = replace(written, path=target), named_standin(source.name)
    if not target.name.endswith(CHECKED):
        written.path.replace(target)
        return Made(final, source, standin, {})
    say(f"{target.name}: running it against its source in float64 and float32")
    aside = written.path.parent / "reports" / target.name
    options = ["--shown-as", str(target), *(("--report", str(aside)) if reports else ())]
    parity = parity_in_own_process(written.path, source, options=options)
    if not reports:
        if parity["passed"]:
            written.path.replace(target)
        return Made(final, source, standin, parity)
    folder = _report_folder(reports, target)
    if not parity["passed"]:
        folder = folder.with_name(f"{folder.name}-refused")
        say(f"{target.name}: DIFFERENT from its source: the new file was discarded; an older one is unchanged")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():  # first, so that no report is ever about another file
            shutil.rmtree(folder)
        if parity["passed"]:
            written.path.replace(target)
        shutil.move(aside, folder)
    except OSError as error:
        raise OutputError(f"{folder} could not be written: {error.strerror}.") from None
    return Made(final, source, standin, parity, folder / "report.html")


def _report_folder(reports: Path, target: Path) -> Path:
    return reports / target.name.replace(".", "-")  # one per format: a.h5 and a.keras


def _source(known: Known, offline: bool, say: Callable[[str], None]) -> Path:
    from convert.fetch import fetch

    folder = downloads_folder()
    path = folder / known.file
    trained = shipped().get(known.name)
    if trained and not path.exists():
        say(f"{known.name}: using the {trained.title}")
        return trained.path
    if offline and not path.exists():
        say(f"{known.name}: {path} is not there and --offline was given")
    else:
        try:
            return fetch(known, folder, timeout=CONNECT_TIMEOUT).path
        except DownloadError as error:
            if path.exists():  # a wrong file is an error, not a reason for a stand-in
                raise
            say(f"{known.name}: {error}")
    substitute = standin_path(known, folder)
    if not substitute.exists():
        say(f"{known.name}: making {substitute.name}, a STAND-IN with made-up weights and the published size and names")
        write_standin(known, substitute)
    say(f"{known.name}: using the STAND-IN {substitute.name}: its predictions mean nothing")
    return substitute


def verify_all(*, reports: Path | None = None, say: Callable[[str], None] = lambda _line: None) -> list[Made]:
    """Check every Keras file in ``weights/output`` against the checkpoint that its provenance names.

    Each file's report goes into its own folder in ``reports``, if that is given. Raises :class:`BadInputError` if the
    checkpoint of any of them is not there, before any is checked.
    """
    files = sorted(path for path in output_folder().glob("[!.]*") if path.name.endswith(CHECKED))
    if not files:
        raise BadInputError(f"There is no converted file in {output_folder()}. Run `make convert` first.")
    made = []
    for path, (provenance, source) in [(path, _made_from(path)) for path in files]:
        say(f"{path.name}: against {source.name}")
        written = Written(path, provenance.source.format, path.stat().st_size, sha256_of(path))
        folder = _report_folder(reports, path) if reports else None
        parity = parity_in_own_process(path, source, options=("--report", str(folder)) if folder else ())
        made.append(Made(written, source, provenance.standin, parity, folder and folder / "report.html"))
    return made


def _made_from(path: Path) -> tuple[Provenance, Path]:
    """What the file ``path`` says about its making, and the checkpoint that it was made from."""
    if (provenance := own_provenance(path)) is None:
        raise BadInputError(f"{path} does not record what it was made from. Run `make convert` again.")
    sources = [downloads_folder() / provenance.source.name, *(each.path for each in shipped().values())]
    for source in sources:
        if source.exists() and sha256_of(source) == provenance.source.sha256:
            return provenance, source
    raise BadInputError(
        f"{path} was made from {provenance.source.name}, which is no longer in {downloads_folder()}, or has changed. "
        "Run `make convert` again."
    )


def parity_in_own_process(
    model: Path, source: Path, backend: str = "tensorflow", options: Sequence[str] = ()
) -> dict[str, Any]:
    """The parity report of ``model`` against ``source`` as plain data (docs/parity.md).

    TensorFlow and PyTorch are large, so they run in a separate process. ``options`` are further options of ``ferplus
    verify parity``. Raises :class:`FerplusError` if the check cannot be run or its report not written; a failed check
    is not an error but a result.
    """
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "verify", "parity", str(model), "--against", str(source), "--json"]
    command += ["--backend", backend, *options]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        report = json.loads(run.stdout)
        assert isinstance(report, dict)
        error = report.get("error")
    except ValueError:  # it crashed or was killed (-9: usually for lack of memory)
        said = [line for line in run.stderr.strip().splitlines() if line.strip()]
        reason = f"it ended with code {run.returncode} ({said[-1][:200] if said else 'no output'})"
        error = {"code": run.returncode, "message": reason}
    if error:
        kind = {OutputError.exit_code: OutputError, BadInputError.exit_code: BadInputError}.get(error["code"])
        raise (kind or CheckFailedError)(f"The parity check of {model.name} could not be run: {error['message']}")
    result: dict[str, Any] = report
    return result


def table(made: list[Made]) -> str:
    """The closing table: file, size, SHA-256, parity, and what to do next."""
    rows: list[tuple[str, ...]] = [("file", "size", "sha256", "float64", "float32", "verdict", "weights")]
    for each in made:
        figures = {dtype: _worst_logits(each.parity.get("runs", []), dtype) for dtype in ("float64", "float32")}
        verdict = {True: "same function", False: "DIFFERENT", None: "bits compared"}[each.parity.get("passed")]
        rows.append(
            (
                _shown(each.written.path), f"{each.written.size / 1e6:.1f} MB", each.written.sha256[:12],
                figures["float64"], figures["float32"], verdict, _weights(each),
            )
        )  # fmt: skip
    rows.insert(1, tuple("-" * max(map(len, column)) for column in zip(*rows, strict=True)))
    return "\n".join([*in_columns(rows), "", *_next_steps(made)])


def shipped_as(source: Path) -> Shipped | None:
    """The trained network whose file is ``source``; None if there is none."""
    return next((each for each in shipped().values() if each.path == source), None)


def _weights(made: Made) -> str:
    """Whose weights they are, and how good."""
    if made.standin:
        return "STAND-IN"
    if trained := shipped_as(made.source):
        return f"trained here: {trained.figure}"
    known = next((each for each in read_manifest().values() if each.file == made.source.name), None)
    return f"published: {known.accuracy['test']} % on FERPlus Test" if known and known.accuracy else "published"


def _worst_logits(runs: list[dict[str, Any]], dtype: str) -> str:
    """The largest difference from any reference."""
    logits = [run["logits"] for run in runs if run["dtype"] == dtype]
    if not logits:
        return "-"
    return f"{max(each['relative'] for each in logits):.1e}" if all(each["finite"] for each in logits) else "none"


def _next_steps(made: list[Made]) -> list[str]:
    lines = ["float64, float32: largest difference between a logit and any reference's, relative to the largest logit."]
    standins = [each for each in made if each.standin]
    if standins:
        lines.append(f"STAND-INS: {len(standins)} of {len(made)} files have made-up weights. For the real ones, put")
        files = sorted({each.source.name.replace(f"-{STANDIN}", "") for each in standins})
        lines += [f"    {_shown(downloads_folder() / file)}" for file in files]
        lines.append("in place and run `make convert` again.")
    lines += [f"Report: {_shown(each.report)}" for each in made if each.report]
    if made:
        lines.append(f'Next: keras.models.load_model("{_shown(made[0].written.path)}")')
    return lines


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def failed(made: list[Made]) -> bool:
    """Whether any file is not the same function as its source."""
    return any(each.parity and not each.parity["passed"] for each in made)
