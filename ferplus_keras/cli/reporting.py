"""``ferplus report``: faces to look at."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ferplus_keras.cli.accuracy import PROTOCOL_NAMES
from ferplus_keras.cli.parsing import option
from ferplus_keras.cli.progress import Progress
from ferplus_keras.cli.requirements import need_network, need_page
from ferplus_keras.cli.shared import DATA, Commands, count, finish, in_the_way, need_keras, typed_again
from ferplus_keras.durations import duration
from ferplus_keras.packages import need
from ferplus_keras.wording import counted

if TYPE_CHECKING:
    from verify.accuracy import Step


def add(commands: Commands) -> None:
    """Declare the command of this module."""
    commands.add(
        "report", _report, "Make a web page of FERPlus faces: probabilities, votes and heat maps.",
        "ferplus report senet50_ferplus.h5 --data fer2013/ --out faces.html",
        option("model MODEL", "a network in any supported format, or its folder"),
        DATA,
        option("--split", "default: test", ("train", "val", "test"), "test"),
        option("--protocol", "default: albanie", PROTOCOL_NAMES, PROTOCOL_NAMES[0]),
        option("--limit N", "only the first N images of the split", count),
        option("--out FILE", "default: MODEL.faces.html, in this folder", Path),
    )  # fmt: skip


def _report(options: argparse.Namespace) -> int:
    start = time.perf_counter()
    need_network(options.model)
    target: Path = options.out or Path(f"{Path(options.model).name}.faces.html")
    need_page(target, options.model)
    need("PIL", "jinja2")

    from datetime import UTC, datetime

    from ferplus_keras.dataset import load_ferplus
    from ferplus_keras.dataset.protocols import PROTOCOLS
    from ferplus_keras.files.atomic import write_text
    from verify.gallery import groups, look, open_network
    from verify.report.gallery_page import gallery_page
    from verify.report.page import render_page

    say = Progress()
    dataset = load_ferplus(options.data, progress=say.passing)
    replaced = in_the_way(target)
    need_keras()
    network = open_network(options.model)

    def tell(step: Step) -> None:
        say.passing(f"{step.title}: {step.done:,} of {counted(step.total, 'image')}, {duration(step.left)} left")

    protocol = PROTOCOLS[options.protocol]
    looks = look(network, dataset, protocol, options.split, limit=options.limit, progress=tell)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    page = gallery_page(looks, network, dataset, protocol, options.split, typed_again("report", options, "out"), now)
    write_text(target, render_page(page))
    right, shown = int(looks.correct.sum()), sum(len(group.indices) for group in groups(looks))
    standin = "; STAND-IN weights, which mean nothing" if network.standin else ""
    found = {"page": str(target), "images": len(looks.rows), "correct": right, "shown": shown,
             "standin": network.standin}  # fmt: skip
    return finish(options.json, found, notes=network.provenance.notes, news=(
        f"{target}{replaced}",
        f"{right:,} of {counted(len(looks.rows), 'image')} right{standin}; {shown} shown, "
        f"in {duration(time.perf_counter() - start)} altogether",
    ))  # fmt: skip
