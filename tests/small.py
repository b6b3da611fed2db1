"""The networks in small: the published ones' kinds of layers, under their names, a sixteenth as wide and fewer blocks.

A file of one has some 500 KB, and Keras makes one in a third of the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from ferplus_keras.networks.architecture import BODIES, Body

#: As far as can be: squeeze and excitation leaves one channel of the second stage's.
NARROWER = 16

#: Blocks of each stage: with a projection and without, and up to conv5_3, behind which the published dropout is.
BLOCKS = (3, 2, 2, 3)

PUBLISHED = dict(BODIES)


def small(body: Body) -> Body:
    stages = tuple(
        replace(stage, blocks=blocks, mid=stage.mid // NARROWER, out=stage.out // NARROWER)
        for stage, blocks in zip(body.stages, BLOCKS, strict=True)
    )
    return replace(body, stem=body.stem // NARROWER, stages=stages)


def make_small() -> None:
    """From now on all that this process makes, writes, reads and runs is small."""
    BODIES.update({name: small(body) for name, body in BODIES.items()})


@contextmanager
def small_networks() -> Iterator[None]:
    with patch.dict(BODIES):
        make_small()
        yield


def python_path() -> str:
    """PYTHONPATH for another Python: its networks, and those of all that it starts, have the size in use here."""
    here = Path(__file__).resolve().parent
    folders = [here.parent] if BODIES == PUBLISHED else [here / "small_site", here.parent]
    return os.pathsep.join(map(str, folders))
