"""A TorchScript file by PyTorch, in a process of its own: it is a program, and nothing in it says what images it takes.

That process has bounds of memory and time, and no more than these: give it files from somebody you trust.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ferplus_keras.engines.card import GRAY, NO_CARD, Card
from ferplus_keras.engines.engine import Engine
from ferplus_keras.engines.record import FileFacts
from ferplus_keras.engines.tflite_engine import LiteProcess
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.zips import names_in


def is_torchscript(file: MappedFile) -> bool:
    """Whether ``file`` is an archive that torch.jit.save wrote: one with code in it."""
    return any("/code/" in name for name in names_in(file))


def open_torchscript(path: Path, threads: int | None = None, card: Card = NO_CARD) -> Engine:
    """The module in the file at ``path``. Raises :class:`BadInputError` when it cannot be run, or nothing says on what.

    It is run only where ``card`` tells its input: whoever wrote that has looked at what it is.
    """
    said = card.input
    if said is None or said.side is None or said.order is None:
        raise BadInputError(
            f"{path} is a TorchScript file, which does not say what images it takes: give their channels, size and "
            'range with --input, such as "rgb 224x224 0..1 mean 0.485,0.456,0.406 std 0.229,0.224,0.225". It is a '
            "program, and is run."
        )
    process = LiteProcess(path, threads or os.cpu_count(), script=True)
    facts = FileFacts.of(path, None, card)
    channels = 1 if said.order == GRAY else 3
    first = said.first is not False
    black = np.zeros((1, channels, said.side, said.side) if first else (1, said.side, said.side, channels), np.float32)
    process.output, notes = facts.output_of(process.outputs(black))  # how many it has is known when it has run
    return facts.engine(
        process.by, process.run, None, side=said.side, order=said.order, channels_first=first,
        batch=8, close=process.end, notes=notes,
    )  # fmt: skip
