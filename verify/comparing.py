"""Several networks side by side on FERPlus: one run over the images, scored under several protocols, and a pace.

Every network sees every image once, and each protocol then counts what it keeps; so figures of one protocol are of the
same images for all networks.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ferplus_keras import __version__
from ferplus_keras.dataset import Dataset
from ferplus_keras.dataset.duplicates import find_duplicates
from ferplus_keras.dataset.protocols import PROTOCOLS
from ferplus_keras.errors import BadInputError
from ferplus_keras.files.network_folder import network_name
from ferplus_keras.networks.resizing import DEFAULT_RESIZER
from verify.accuracy import Progress, SplitEvaluation, predict
from verify.cautions import of_decisions, of_images, standing
from verify.predictors import Predictor
from verify.result import Result, versions
from verify.scores import Rate, calibration, mcnemar

#: The protocols that people publish figures under; what is of one protocol alone is of the first.
COMPARED = ("albanie", "majority", "wtomin")

#: Rounds of the measurement of pace, in which the networks take turns, and images that each is shown in one.
ROUNDS, SHOWN = 3, 64


def compare(
    predictors: Sequence[Predictor],
    dataset: Dataset,
    *,
    split: str = "test",
    resize: str = DEFAULT_RESIZER,
    limit: int | None = None,
    command: str = "",
    progress: Progress = lambda _step: None,
) -> Result:
    """``predictors`` on one ``split`` of ``dataset``, as plain data; ``limit``: only this many of its images.

    Raises :class:`BadInputError` when there are no images.
    """
    targets = {name: PROTOCOLS[name].apply(dataset.votes) for name in COMPARED}
    whole = dataset.rows_of(split)
    rows = whole[np.any([each.kept[whole] for each in targets.values()], axis=0)][:limit]
    if not len(rows):
        raise BadInputError(f"{dataset.origin} has no {split} images that these protocols keep.")
    copied = find_duplicates(dataset).seen(split)
    networks: list[dict[str, Any]] = []
    hits: list[np.ndarray] = []
    notes = list(dataset.notes)
    for predictor in predictors:
        found = predict(predictor, dataset.images, rows, resize, progress, network_name(predictor.path))
        scored = {}
        for name, each in targets.items():
            kept = each.kept[rows]
            mine = rows[kept]
            of_protocol = SplitEvaluation(
                split, mine, int(each.kept[whole].sum()),
                replace(found, probabilities=found.probabilities[kept]), each.labels[mine], each.distribution[mine],
                each.most_voted[mine], copied[mine],
            )  # fmt: skip
            judged = standing(of_protocol, PROTOCOLS[name])
            scored[name] = _scored(of_protocol, predictor.missing)
            if not networks:  # the images are the same for all
                notes += of_images(judged, name)
            if name == COMPARED[0]:
                hits.append(of_protocol.correct)
                first, ece = judged, calibration(of_protocol.predictions.probabilities, of_protocol.correct)["ece"]
        networks.append(
            predictor.as_dict()
            | {"name": _name(predictor, predictors)}
            | {"takes": predictor.engine.takes.text, "missing": list(predictor.missing)}
            | {"notes": [*_standin(predictor), *predictor.notes, *of_decisions(first)], "protocols": scored}
            | {"classes": first["classes"], "macro": first["macro"], "ece": ece}
        )
    for network, pace in zip(networks, _paces(predictors, dataset.images, rows, resize), strict=True):
        network["per_second"] = pace
    return {
        "kind": "comparison", "schema": 1, "tool": f"ferplus-keras {__version__}", "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions(), "split": split,
        "data": dataset.origin, "images": len(rows), "resize": resize, "protocols": list(COMPARED),
        "networks": networks, "pairs": _pairs(networks, hits), "notes": notes,
    }  # fmt: skip


def _name(predictor: Predictor, among: Sequence[Predictor]) -> str:
    """Its name, with the name of the folder it is in where another one is called the same."""
    name = network_name(predictor.path)
    alone = [network_name(each.path) for each in among].count(name) == 1
    return name if alone else network_name(predictor.path, 1)


def _standin(predictor: Predictor) -> list[str]:
    return ["its weights are a stand-in's, made-up numbers: its figures mean nothing"] * predictor.standin


def _scored(found: SplitEvaluation, missing: Sequence[str]) -> dict[str, Any]:
    return {
        "all": found.rate.as_dict(),
        "without_copies": Rate.of(found.correct[~found.copied]).as_dict(),
        "without_missing": Rate.of(found.correct[~found.among(missing)]).as_dict(),
    }


def _pairs(networks: list[dict[str, Any]], hits: list[np.ndarray]) -> list[dict[str, Any]]:
    """McNemar's test on each two of the networks, by their places, under the first protocol."""
    return [
        {"first": one, "second": other} | mcnemar(hits[one], hits[other])
        for one, other in combinations(range(len(networks)), 2)
    ]


def _paces(predictors: Sequence[Predictor], images: np.ndarray, rows: np.ndarray, resize: str) -> list[float]:
    """Images per second of each network, taking turns, so that whatever else the machine does falls on all of them."""
    taken: list[list[float]] = [[] for _ in predictors]
    shown = rows[:SHOWN]
    for _ in range(ROUNDS):
        for seconds, predictor in zip(taken, predictors, strict=True):
            start = time.perf_counter()
            predict(predictor, images, shown, resize, lambda _step: None, "")
            seconds.append(max(time.perf_counter() - start, 1e-9))
    return [len(shown) / statistics.median(seconds) for seconds in taken]


def different(networks: Sequence[Path]) -> None:
    """Raises :class:`BadInputError` where fewer than two networks are named, or one of them twice."""
    if len(networks) < 2 or len({os.path.realpath(each) for each in networks}) < len(networks):
        raise BadInputError("Name two or more different networks to compare.")
