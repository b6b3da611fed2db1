"""The outcome of an accuracy check as plain data, for JSON and for every report: schema 1 (docs/accuracy.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ferplus_keras.dataset.records import SPLITS
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.preprocessing import PUBLISHED
from ferplus_keras.networks.resizing import RESIZERS
from verify.accuracy import Evaluation, Predictions, SplitEvaluation
from verify.accuracy_gate import Expectation, compared, judged
from verify.cautions import of_decisions, of_images, standing
from verify.result import Result, stamp
from verify.scores import Rate, calibration, log_loss, mcnemar

SCHEMA = 1


def as_result(evaluation: Evaluation, expected: list[Expectation], command: str, seconds: float) -> Result:
    """``evaluation`` as plain data, with the verdicts on what was ``expected`` of it."""
    splits = [_split(each, evaluation) for each in evaluation.splits]
    verdicts = [judged(each, _of(evaluation, each.split)) for each in expected]
    versus = compared(evaluation)
    result: Result = {
        "kind": "accuracy",
        "schema": SCHEMA,
        "passed": all(each["passed"] for each in verdicts) and (versus is None or versus["passed"]),
        **stamp(command, seconds),
        "model": evaluation.predictor.as_dict(),
        "standin": evaluation.predictor.standin,
        "data": _data(evaluation),
        "protocol": _protocol(evaluation),
        "preprocessing": _preprocessing(evaluation),
        "classes": list(EMOTIONS),
        "splits": splits,
        "expectations": verdicts,
        "versus": versus,
        "resizers": _resizers(evaluation),
        "notes": [
            *evaluation.predictor.notes,
            *evaluation.dataset.notes,
            *(note for each in splits for note in (*of_images(each, evaluation.protocol.name), *of_decisions(each))),
        ],
    }
    return result | {"levels": _levels(result)}


def _of(evaluation: Evaluation, split: str) -> SplitEvaluation:
    return next(each for each in evaluation.splits if each.split == split)


def _data(evaluation: Evaluation) -> dict[str, Any]:
    dataset, duplicates = evaluation.dataset, evaluation.duplicates
    assert duplicates is not None
    copies = []
    for split, other in (("test", "train"), ("test", "val"), ("val", "train")):
        rows, images = duplicates.counts(split, other)
        copies.append({"split": split, "also_in": other, "rows": rows, "images": images})
    return {
        "origin": dataset.origin,
        "rows": len(dataset),
        "labels": dataset.labels,
        "label_rows": dataset.label_rows,
        "official": dataset.official,
        "copies": copies,
    }


def _protocol(evaluation: Evaluation) -> dict[str, Any]:
    protocol = evaluation.protocol
    return {
        "name": protocol.name,
        "title": protocol.title,
        "source": protocol.source,
        "rule": protocol.text,
        "kept": dict(zip(SPLITS, protocol.kept, strict=True)),
        "dropped": protocol.dropped,
    }


def _preprocessing(evaluation: Evaluation) -> dict[str, Any]:
    """As published, or what the network takes instead."""
    takes = evaluation.predictor.engine.takes
    mean, std = (list(each) if len(each) == 3 else list(each) * 3 for each in (takes.mean, takes.std))
    return PUBLISHED.as_dict() | {
        "channel_order": takes.order, "pixel_range": list(takes.range), "mean": mean, "std": std,
        "size": [takes.side] * 2, "text": takes.text, "resize": _resizer(evaluation.resize),
    }  # fmt: skip


def _resizer(name: str) -> dict[str, str]:
    resizer = RESIZERS[name]
    return {"name": name, "title": resizer.title, "text": resizer.text}


def _split(each: SplitEvaluation, evaluation: Evaluation) -> dict[str, Any]:
    probabilities, decisions = each.predictions.probabilities, each.predictions.decisions
    several = each.most_voted.sum(axis=1) > 1
    either = each.most_voted[np.arange(len(decisions)), decisions]
    seconds = each.predictions.data_seconds + each.predictions.network_seconds
    return standing(each, evaluation.protocol) | {
        "ties": {
            "tied": Rate.of(each.correct[several]).as_dict(),
            "tied_either": Rate.of(either[several]).as_dict(),
            "untied": Rate.of(each.correct[~several]).as_dict(),
        },
        "copies": Rate.of(each.correct[each.copied]).as_dict(),
        "without_copies": Rate.of(each.correct[~each.copied]).as_dict(),
        "missing": list(evaluation.predictor.missing),
        "without_missing": Rate.of(each.correct[~each.among(evaluation.predictor.missing)]).as_dict(),
        "confusion": each.confusion.tolist(),
        "calibration": calibration(probabilities, each.correct),
        "log_loss": log_loss(probabilities, each.distribution),
        "mistakes": [_mistake(each, int(place), evaluation) for place in each.most_confident_mistakes()],
        "timing": {
            "data_seconds": each.predictions.data_seconds,
            "network_seconds": each.predictions.network_seconds,
            "per_second": len(decisions) / seconds if seconds else None,
        },
    }


def _mistake(each: SplitEvaluation, place: int, evaluation: Evaluation) -> dict[str, Any]:
    row, decision = int(each.rows[place]), int(each.predictions.decisions[place])
    label = int(each.labels[place])
    return {
        "row": row,
        "name": evaluation.dataset.names[row],
        "label": EMOTIONS[label],
        "decision": EMOTIONS[decision],
        "confidence": float(each.predictions.probabilities[place, decision]),
        "label_probability": float(each.predictions.probabilities[place, label]),
        "votes": [int(votes) for votes in evaluation.dataset.votes[row]],
        "copied": bool(each.copied[place]),
    }


def _resizers(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Each way of resizing beside the one that was used; empty unless that was asked for."""
    if not evaluation.resized:
        return []
    own = {each.split: each.predictions for each in evaluation.splits}
    return [
        _resizer(name)
        | {"used": name == evaluation.resize}
        | {"splits": [_resized(each, predictions[each.split]) for each in evaluation.splits]}
        for name, predictions in {evaluation.resize: own, **evaluation.resized}.items()
    ]


def _resized(each: SplitEvaluation, predictions: Predictions) -> dict[str, Any]:
    right = predictions.decisions == each.labels
    changed = int((predictions.decisions != each.predictions.decisions).sum())
    test = mcnemar(each.correct, right)
    return Rate.of(right).as_dict() | {"split": each.split, "changed": changed, "mcnemar": test}


def _levels(result: Result) -> list[dict[str, Any]]:
    """What was asked of the network, each with a verdict; None where nothing was."""
    levels: list[dict[str, Any]] = [
        {
            "name": f"expected-{each['split']}",
            "title": f"Accuracy on {each['split']}",
            "question": f"Is it the {each['percent']:g} % of {each['origin']}?",
            "passed": each["passed"],
            "summary": each["sentence"],
        }
        for each in result["expectations"]
    ]
    if versus := result["versus"]:
        levels += [
            {
                "name": f"decisions-{each['split']}",
                "title": f"Decisions on {each['split']}",
                "question": f"The same as those of {versus['model']['name']}?",
                "passed": each["passed"],
                "summary": each["sentence"],
            }
            for each in versus["splits"]
        ]
    return levels
