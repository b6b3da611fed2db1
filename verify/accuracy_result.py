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
from verify.result import Result, stamp
from verify.scores import Rate, better_order, calibration, guesswork, log_loss, macro, mcnemar, per_class

SCHEMA = 1

#: Another order of the classes is mentioned when it is right this often, and so much more often than the file's own.
#: (The best of 40,320 orders always looks good: a network that guesses reaches 30 % or so with it.)
SENSIBLE, CLEARLY = 0.6, 0.1


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
        "notes": [*evaluation.predictor.notes, *evaluation.dataset.notes, *_cautions(splits)],
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
    classes = per_class(each.confusion)
    official = evaluation.protocol.kept[SPLITS.index(each.split)]
    seconds = each.predictions.data_seconds + each.predictions.network_seconds
    return each.rate.as_dict() | {
        "split": each.split,
        "of_split": each.of_split,
        "official": official,
        "complete": each.complete and each.of_split == official,
        "always_the_commonest": max(row["support"] for row in classes) / len(decisions),
        "ties": {
            "tied": Rate.of(each.correct[several]).as_dict(),
            "tied_either": Rate.of(either[several]).as_dict(),
            "untied": Rate.of(each.correct[~several]).as_dict(),
        },
        "copies": Rate.of(each.correct[each.copied]).as_dict(),
        "without_copies": Rate.of(each.correct[~each.copied]).as_dict(),
        "missing": list(evaluation.predictor.missing),
        "without_missing": Rate.of(each.correct[~each.among(evaluation.predictor.missing)]).as_dict(),
        "classes": [{"name": name} | row for name, row in zip(EMOTIONS, classes, strict=True)],
        "macro": macro(classes),
        "confusion": each.confusion.tolist(),
        "calibration": calibration(probabilities, each.correct),
        "log_loss": log_loss(probabilities, each.distribution),
        "order": _order(each),
        "mistakes": [_mistake(each, int(place), evaluation) for place in each.most_confident_mistakes()],
        "timing": {
            "data_seconds": each.predictions.data_seconds,
            "network_seconds": each.predictions.network_seconds,
            "per_second": len(decisions) / seconds if seconds else None,
        },
    }


def _order(each: SplitEvaluation) -> dict[str, Any] | None:
    """Another order of the classes under which the network would do clearly better: a head that was permuted."""
    found = better_order(each.confusion)
    if found is None or found[1] < max(SENSIBLE, (each.rate.accuracy or 0.0) + CLEARLY):
        return None
    return {"classes": [EMOTIONS[label] for label in found[0]], "accuracy": found[1]}


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


def _cautions(splits: list[dict[str, Any]]) -> list[str]:
    notes = []
    for split in splits:
        where = split["split"]
        if not split["complete"]:
            notes.append(
                f"{split['n']:,} {where} images, where the protocol keeps {split['official']:,} of the published "
                "data: the figure is not comparable with others"
            )
        if split["order"]:
            notes.append(
                f"with the classes in the order {', '.join(split['order']['classes'])}, "
                f"{split['order']['accuracy']:.1%} of {where} would be right: the head may be permuted"
            )
        notes += guesswork(split)
        if sum(bool(row["decided"]) for row in split["classes"]) == 1:
            notes.append(f"every {where} image gets the same decision")
    return notes


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
