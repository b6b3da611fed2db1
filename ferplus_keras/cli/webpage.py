"""``ferplus webpage``: a network as one page for the browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from ferplus_keras.cli.parsing import option
from ferplus_keras.cli.requirements import need_file, need_network, need_page
from ferplus_keras.cli.shared import Commands, finish, in_the_way
from ferplus_keras.packages import need


def add(commands: Commands) -> None:
    """Declare the command of this module."""
    commands.add(
        "webpage", _webpage, "Make one HTML file that runs a network in the browser, offline.",
        "ferplus webpage resnet50_ferplus.onnx --out emotions.html",
        option("model? MODEL", "a network that `ferplus convert` reads, or its folder (default: the compact network "
               "that comes with the package)"),
        option("--out FILE", "default: emotions.html, in this folder", Path, Path("emotions.html")),
        option("--runtime FILE", "npm's onnxruntime-web-1.30.0.tgz (default: downloaded by npm once)", Path),
    )  # fmt: skip


def _webpage(options: argparse.Namespace) -> int:
    if options.model is not None:
        need_network(options.model)
    if options.runtime is not None:
        need_file(str(options.runtime))
    need_page(options.out, options.model, options.runtime)
    need("onnx", "onnxruntime")
    from convert.webpage import write_webpage

    target: Path = options.out
    replaced = in_the_way(target)
    notes = write_webpage(Path(options.model) if options.model else None, target, options.runtime)
    size = target.stat().st_size
    news = f"{target}{replaced}", f"{size / 1e6:.1f} MB; open it in a browser, no server is needed"
    return finish(options.json, {"page": str(target), "bytes": size}, notes=notes, news=news)
