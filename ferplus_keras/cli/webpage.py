"""``ferplus webpage``: a network as one page for the browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from ferplus_keras.cli import screen
from ferplus_keras.cli.requirements import need, need_file
from ferplus_keras.cli.shared import Commands, in_the_way


def add(commands: Commands) -> None:
    """Declare the command of this module."""
    page = commands.add(
        "webpage", _webpage, "Make one HTML file that runs a network in the browser, offline.",
        "ferplus webpage resnet50_ferplus.onnx --out emotions.html",
    )  # fmt: skip
    page.add_argument(
        "model", metavar="MODEL", nargs="?",
        help="an .onnx file from `ferplus convert` (default: the network that comes with the package)",
    )  # fmt: skip
    page.add_argument(
        "--out", metavar="FILE", type=Path, default=Path("emotions.html"), help="default: emotions.html, in this folder"
    )
    page.add_argument(
        "--runtime", metavar="FILE", type=Path,
        help="npm's onnxruntime-web-1.30.0.tgz (default: downloaded by npm once)",
    )  # fmt: skip


def _webpage(options: argparse.Namespace) -> int:
    for each in filter(None, (options.model, options.runtime)):
        need_file(str(each))
    need("onnx", "onnxruntime")
    from convert.webpage import write_webpage

    target: Path = options.out
    replaced = in_the_way(target)
    write_webpage(Path(options.model) if options.model else None, target, options.runtime)
    size = target.stat().st_size
    if options.json:
        screen.result_json({"page": str(target), "bytes": size})
    else:
        screen.news(f"{target}{replaced}", f"{size / 1e6:.1f} MB; open it in a browser, no server is needed")
    return 0
