"""``.tflite`` by LiteRT, in a process of its own, once this project's bounded reader has understood the file.

LiteRT is made for files that are trusted. What a reader cannot foresee (an error of the library's on odd sizes) ends
that process and not this one, which says so; memory and time have bounds there.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import weakref
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras import PROVENANCE_KEY
from ferplus_keras.engines.card import NO_CARD, Card
from ferplus_keras.engines.engine import Engine
from ferplus_keras.engines.record import FileFacts
from ferplus_keras.engines.tflite_policy import check_model
from ferplus_keras.engines.tflite_process import receive, send
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.mapped_file import MappedFile
from ferplus_keras.files.provenance import provenance_of
from ferplus_keras.files.tflite_file import read_tflite

#: Seconds for the library to be imported and the file to be opened; for a run, and for each image in it.
START, RUN, EACH = 300.0, 60.0, 10.0

#: What runs the interpreter.
WORKER = "ferplus_keras.engines.tflite_process"

#: The kinds of numbers of inputs: of networks that take the mean off outside, or are quantised; and bytes.
INPUTS = ("float32", "uint8", "int8", "int16")


def open_tflite(file: MappedFile, threads: int | None = None, card: Card = NO_CARD) -> Engine:
    """The network in ``file``.

    Raises :class:`BadInputError` when the file is damaged, takes anything but images, or is not for us to run.
    """
    path = file.path
    model = read_tflite(file, PROVENANCE_KEY)
    check_model(path, model)
    facts = FileFacts.of(path, provenance_of(path, model.texts.get(PROVENANCE_KEY)), card)
    taken, given = model.tensors[model.inputs[0]], [model.tensors[each] for each in model.outputs]
    place, notes = facts.output_of([(f"number {at}", each.signature) for at, each in enumerate(given, 1)])
    signature = given[place].signature
    shape = [None if each < 0 else each for each in taken.signature]
    layout = facts.layout(shape if taken.dtype in INPUTS else None, taken.dtype)
    process = LiteProcess(path, threads or os.cpu_count())
    process.output = place
    dtypes = {each.dtype for each in model.tensors if each.constant}
    return facts.engine(
        process.by, process.run, signature[-1] if signature and signature[-1] > 0 else None,
        side=facts.side_for(*layout.extents), fixed=shape[0], channels_first=layout.first, order=layout.order,
        dtype="uint8" if taken.dtype == "uint8" and not process.quantized else "float32",
        numbers="int8" if dtypes & {"int8", "uint8"} else "float16" if "float16" in dtypes else "float32",
        batch=8, close=process.end, notes=notes,
    )  # fmt: skip


class LiteProcess:
    """The interpreter of one file, in a process that ends with this one: LiteRT, or for a ``script`` PyTorch."""

    def __init__(self, path: Path, threads: int | None, *, script: bool = False) -> None:
        self.path, self.name = path, "PyTorch" if script else "LiteRT"
        if script and not find_spec("torch"):
            raise BadInputError(f"{path} is run by PyTorch, which is not installed: pip install torch.")
        if not script and not (find_spec("ai_edge_litert") or find_spec("tensorflow")):
            raise BadInputError(f"{path} is run by LiteRT, which is not installed: pip install ai-edge-litert.")
        command = [sys.executable, "-m", WORKER, os.path.abspath(path)]  # noqa: PTH100
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(each for each in sys.path if each), "TF_CPP_MIN_LOG_LEVEL": "3"
        }  # fmt: skip
        # A session of its own: Ctrl-C is for this process, which then ends that one.
        process = subprocess.Popen(
            [*command, str(threads or 0), *["script"] * script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, env=environment, start_new_session=True,
        )  # fmt: skip
        self.process = process
        self.end = weakref.finalize(self, _end, process)
        answer, _ = self._answer(START)
        self.output = 0  #: which one is given
        self.by: str = answer["by"]
        self.quantized: bool = answer["quantized"]

    def run(self, images: np.ndarray) -> np.ndarray:
        """What the network gives for a batch, dequantised."""
        _, found = self._asked(images)
        assert found is not None
        return found

    def outputs(self, images: np.ndarray) -> list[tuple[str, list[int | None]]]:
        """What it gives for a batch: a name and the shape of each."""
        shapes = self._asked(images)[0]["outputs"]
        return [(f"number {at}", shape) for at, shape in enumerate(shapes, 1)]

    def _asked(self, images: np.ndarray) -> tuple[dict[str, Any], np.ndarray | None]:
        assert self.process.stdin is not None
        try:
            send(self.process.stdin, images, output=self.output)  # type: ignore[arg-type]
        except (OSError, ValueError):  # it is gone, or was ended
            raise self._ended() from None
        return self._answer(RUN + EACH * len(images))

    def _answer(self, seconds: float) -> tuple[dict[str, Any], np.ndarray | None]:
        """What it says next, waited for no longer than that."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            self.end()
            raise BadInputError(f"{self.name} gave no answer for {self.path} in {seconds:.0f} s, and was ended.")
        answer, array = receive(self.process.stdout)  # type: ignore[arg-type]
        if not answer:
            raise self._ended()
        if answer.get("short"):
            raise MemoryError
        if problem := answer.get("problem"):
            raise BadInputError(f"{self.name} cannot run {self.path}: {problem}")
        return answer, array

    def _ended(self) -> BadInputError:
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            code = 0
        self.end()
        how = f"by the signal {-code}" if code < 0 else f"with the exit code {code}"
        return BadInputError(f"{self.name} ended {how} while running {self.path}: the file is damaged or unsuitable.")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):  # what was not sent any more
                stream.close()
