"""Predictions on many machines, by Ray Data: nothing lost and nothing twice, whatever dies on the way.

The driver hands out pieces of work, some names or a row group of a Parquet file, and the workers read the images
themselves: names must mean the same file everywhere. Ray runs a piece again when its worker dies. What comes back are
probabilities, which the driver writes down, each image's once; a run whose driver dies is continued by ``--resume``.
"""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ferplus_keras.errors import CheckFailedError, NetworkWarning
from ferplus_keras.predict.records import Answer
from ferplus_keras.predict.seen import Seen
from ferplus_keras.predict.sources import RowGroup, Source, find_places, rows_of

#: Images in a piece of work: what is done again when a worker dies.
PIECE = 64

#: Pieces in one run of Ray Data. The names of this many are in memory at a time.
WINDOW = 512

#: Shared memory for a Ray that is started here; names and probabilities need little.
OBJECT_STORE_BYTES = 256 << 20


@dataclass(frozen=True)
class Piece:
    """Names of images, or some rows of one row group."""

    sources: tuple[Source, ...] = ()
    group: RowGroup | None = None
    rows: frozenset[int] = frozenset()

    @property
    def names(self) -> list[str]:
        if self.group is None:
            return [source.name for source in self.sources]
        return [self.group.name(row) for row in sorted(self.rows)]

    def read(self) -> Iterator[Source]:
        """Its images; those of a row group are read now."""
        if self.group is None:
            yield from self.sources
            return
        for row, source in enumerate(rows_of(self.group), self.group.first):
            if row in self.rows:
                yield source


def predict_with_ray(
    model: str, inputs: Sequence[str], *, workers: int = 2, batch: int = 32, done: Seen | None = None
) -> Iterator[list[Answer]]:
    """Answers as they come, in no order, each image once; ``done`` are left out, and those that come are added.

    Runs on the Ray that this process or ``RAY_ADDRESS`` is connected to, or on one of its own that ends with it.
    ``workers`` copies of the network work at a time, one processor each.
    """
    import ray

    seen = Seen() if done is None else done
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    own = not ray.is_initialized()
    if own:
        _start(workers)
    try:
        pieces = iter(find_pieces(inputs, seen))
        while window := list(islice(pieces, WINDOW)):
            yield from _run(os.path.abspath(model), window, workers, batch)  # noqa: PTH100
    finally:
        if own:
            ray.shutdown()


def find_pieces(inputs: Sequence[str], seen: Seen) -> Iterator[Piece]:
    """The work, piece by piece; what is in ``seen`` is left out, and what comes is added."""
    waiting: list[Source] = []
    for place in find_places(inputs):
        if isinstance(place, RowGroup):
            rows = range(place.first, place.first + place.rows)
            wanted = [row for row in rows if seen.add(place.name(row))]
            for start in range(0, len(wanted), 8 * PIECE):  # each reads the group's pages once more
                yield Piece(group=place, rows=frozenset(wanted[start : start + 8 * PIECE]))
        elif seen.add(place.name):
            waiting.append(place)
            if len(waiting) == PIECE:
                yield Piece(tuple(waiting))
                waiting = []
    if waiting:
        yield Piece(tuple(waiting))


def _start(workers: int) -> None:
    import ray

    logging.getLogger("ray").setLevel(logging.WARNING)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        return
    ray.init(
        num_cpus=max(workers, os.cpu_count() or 1), object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False,
        log_to_driver=False, logging_level=logging.WARNING,
    )  # fmt: skip


def _run(model: str, window: list[Piece], workers: int, batch: int) -> Iterator[list[Answer]]:
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray.data", "ray.data._internal.execution.streaming_executor"):
        logging.getLogger(name).setLevel(logging.WARNING)
    items = [{"number": number, "work": pickle.dumps(piece)} for number, piece in enumerate(window)]
    data = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        Worker, fn_constructor_args=(model, batch), batch_size=1, num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(items))),
    )  # fmt: skip
    expected = {number: set(piece.names) for number, piece in enumerate(window)}
    for row in data.iter_rows():
        names = expected.pop(int(row["number"]), None)
        if names is None:  # Ray promises each once; this is where it would be seen
            continue
        answers: list[Answer] = pickle.loads(row["answers"])
        if {answer.input for answer in answers} != names or len(answers) != len(names):
            raise CheckFailedError("A worker returned results for the wrong images. Run it again with --resume.")
        yield answers
    if expected:
        lost = sum(map(len, expected.values()))
        raise CheckFailedError(f"Ray ended without {lost:,} of the images. Run it again with --resume.")


class Worker:
    """One copy of the network, in a process of its own. Called with a batch of one piece of work."""

    def __init__(self, model: str, batch: int) -> None:
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # a worker has one processor, whatever the machine has
        os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
        from ferplus_keras.predict.classifier import EmotionClassifier

        warnings.simplefilter("ignore", NetworkWarning)  # the command says it once, not each worker
        self.classifier, self.batch = EmotionClassifier(model, threads=1), batch

    def __call__(self, pieces: dict[str, Any]) -> dict[str, Any]:
        answers = [pickle.dumps(self.answer(pickle.loads(work))) for work in pieces["work"]]
        return {"number": pieces["number"], "answers": answers}

    def answer(self, piece: Piece) -> list[Answer]:
        """The answers to the images of one piece."""
        from ferplus_keras.predict.streaming import Preparation, answer, stream

        sources: Iterable[Source] = piece.read()
        return [
            answer(prepared.item.name, prepared, found)
            for answers in stream(
                sources,
                Preparation(Source.read, side=self.classifier.side),
                self.classifier,
                batch=self.batch,
                threads=1,
            )
            for prepared, found in answers
        ]
