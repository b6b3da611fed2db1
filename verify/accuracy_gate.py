"""What an accuracy is held against: a published figure, a number, another network's decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from convert.manifest import read_manifest
from ferplus_keras.dataset import Dataset
from ferplus_keras.dataset.protocols import PUBLISHED_PROTOCOL, Protocol
from ferplus_keras.dataset.records import LABEL_FILE, OFFICIAL_ROWS, SPLITS
from ferplus_keras.errors import BadInputError
from ferplus_keras.wording import counted
from verify.accuracy import Evaluation, SplitEvaluation, agreement
from verify.predictors import Predictor
from verify.scores import mcnemar

#: Points of percent by which a figure may be off. Published ones are rounded to 0.1; a test image is 0.03.
TOLERANCE = 0.1

PUBLISHED = "published"


@dataclass(frozen=True)
class Expectation:
    """The accuracy that a split should have, in percent, and where that figure comes from."""

    split: str
    percent: float
    tolerance: float
    origin: str


def check_expect(expect: str | None, splits: Sequence[str], protocol: Protocol, limit: int | None) -> None:
    """Raise :class:`BadInputError` when ``--expect`` cannot be met with these options, whatever network and data."""
    if expect is None:
        return
    if expect != PUBLISHED:
        _percentage(expect)
        if len(splits) > 1:
            raise BadInputError(f"--expect {expect} is one figure for {len(splits)} splits: choose a --split.")
    elif protocol.name != PUBLISHED_PROTOCOL:
        raise BadInputError(
            f"The published accuracies are for the protocol {PUBLISHED_PROTOCOL}; {protocol.name} counts other images, "
            "so the figures cannot be compared. Leave --protocol out, or give --expect a number."
        )
    elif limit is not None:
        raise BadInputError("The published accuracies are for whole splits: leave --limit out.")


def expectations(
    expect: str | None,
    tolerance: float,
    predictor: Predictor,
    dataset: Dataset,
    protocol: Protocol,
    splits: list[str],
    limit: int | None,
) -> list[Expectation]:
    """What ``--expect`` asks for, split by split. Called before the network runs: what cannot be compared is refused.

    Raises :class:`BadInputError` when ``expect`` is neither "published" nor a percentage, or the published figure is
    for another protocol, for other votes or all of the data, or not known.
    """
    if expect is None:
        return []
    check_expect(expect, splits, protocol, limit)
    if expect != PUBLISHED:
        return [Expectation(splits[0], _percentage(expect), tolerance, "the command line")]
    if not dataset.official:
        raise BadInputError(
            f"The published accuracies are for all {OFFICIAL_ROWS:,} rows of {LABEL_FILE}; here the votes are from "
            f"{dataset.labels} with {dataset.label_rows:,} rows. Put {LABEL_FILE} beside the data."
        )
    here = dict(zip(SPLITS, protocol.apply(dataset.votes).counts(dataset.split), strict=True))
    published = dict(zip(SPLITS, protocol.kept, strict=True))
    if wrong := [split for split in splits if here[split] != published[split]]:
        raise BadInputError(
            f"The protocol {protocol.name} keeps {published[wrong[0]]:,} {wrong[0]} images of the published votes, "
            f"but {here[wrong[0]]:,} of these: the label file was changed, or images are missing. Download "
            f"{LABEL_FILE} again from github.com/microsoft/FERPlus."
        )
    known = [entry for entry in read_manifest().values() if entry.network == predictor.network and entry.accuracy]
    if not known:
        name = predictor.network or "an unknown network"
        raise BadInputError(f"{predictor.path} is {name}, and weights/manifest.toml records no accuracy for it.")
    figures = known[0].accuracy or {}
    if missing := [split for split in splits if split not in figures]:
        raise BadInputError(f"weights/manifest.toml has no accuracy for {known[0].name} on {missing[0]}.")
    origin = f"{known[0].name} in weights/manifest.toml"
    return [Expectation(split, figures[split], tolerance, origin) for split in splits]


def _percentage(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise BadInputError(f'--expect takes "{PUBLISHED}" or a percentage such as 87.6, not "{text}".')
    if 0 < value <= 1:
        raise BadInputError(f"--expect takes a percentage: did you mean {100 * value:g} rather than {text}?")
    return value


def judged(expectation: Expectation, evaluation: SplitEvaluation) -> dict[str, Any]:
    """The verdict on one expectation, with the sentence that says it."""
    rate = evaluation.rate
    percent, interval = 100 * (rate.accuracy or 0.0), rate.interval or (0.0, 1.0)
    off = percent - expectation.percent
    # The tolerance is meant in decimal: 87.7 is within 0.1 of 87.6, although not in binary.
    passed = abs(off) <= expectation.tolerance + 1e-9
    inside = 100 * interval[0] <= expectation.percent <= 100 * interval[1]
    sentence = (
        f"{percent:.2f} % on {expectation.split}, {expectation.percent:g} % expected: {abs(off):.2f} points "
        f"{'above' if off > 0 else 'below'}, {expectation.tolerance:g} allowed"
    )
    if not passed:
        sentence += f" (chance alone could{'' if inside else ' hardly'} explain it)"
    return asdict(expectation) | {"accuracy": rate.accuracy, "off": off, "passed": passed, "sentence": sentence}


def compared(evaluation: Evaluation) -> dict[str, Any] | None:
    """The network beside the one it was run against: the same decisions? And if not, does either do better?"""
    if evaluation.versus is None:
        return None
    other, predictions = evaluation.versus
    splits = []
    for each in evaluation.splits:
        theirs = predictions[each.split]
        right = theirs.decisions == each.labels
        found = agreement(each.predictions, theirs)
        test = mcnemar(each.correct, right)
        sentence = f"the same decision on {found.same:,} of {counted(found.n, each.split + ' image')}"
        if found.near_ties:
            sentence += f"; {found.near_ties} more differ by no more than rounding"
        if not found.passed:
            sentence += (
                f"; right where the other is wrong {test['only_first']} times, the reverse {test['only_second']}: "
                f"McNemar p = {test['p']:.2g}"
            )
        splits.append(
            {"split": each.split, "same": found.same, "near_ties": found.near_ties, "n": found.n,
             "passed": found.passed, "correct": int(right.sum()), "accuracy": float(right.mean()),
             "mcnemar": test, "sentence": sentence}
        )  # fmt: skip
    return {"model": other.as_dict(), "splits": splits, "passed": all(split["passed"] for split in splits)}
