"""The evaluator: it counts rightly, and what is wrong with a network shows."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from ferplus_keras.dataset import Dataset
from ferplus_keras.dataset.protocols import PROTOCOLS
from ferplus_keras.errors import BadInputError, CheckFailedError
from ferplus_keras.networks.emotions import EMOTIONS
from ferplus_keras.networks.preprocessing import PUBLISHED
from ferplus_keras.networks.resizing import RESIZERS
from tests.conftest import ROOT
from tests.verify.oracles import brightness, painted, seer, swapped
from verify.accuracy import Predictions, Step, agreement, evaluate, run_other_resizers, run_second_network
from verify.accuracy_gate import expectations
from verify.accuracy_result import as_result
from verify.accuracy_text import as_text

ALBANIE = PROTOCOLS["albanie"]
SCHEMA = json.loads((ROOT / "verify/report/accuracy.schema.json").read_text())


def result_of(predictor: Any, dataset: Dataset, expect: str | None = None, **options: Any) -> dict[str, Any]:
    protocol, versus, resizers = (
        options.pop(name, default) for name, default in (("protocol", ALBANIE), ("versus", None), ("resizers", False))
    )
    splits = list(options.get("splits", ("test",)))
    expected = expectations(expect, 0.1, predictor, dataset, protocol, splits, options.get("limit"))
    evaluation = evaluate(predictor, dataset, protocol, **options)
    if resizers:
        run_other_resizers(evaluation)
    if versus:
        run_second_network(evaluation, versus)
    result = as_result(evaluation, expected, "ferplus verify accuracy", 1.0)
    plain = json.loads(json.dumps(result, allow_nan=False))
    jsonschema.validate(plain, SCHEMA)
    assert as_text(plain) == as_text(result)
    return dict(plain)


def test_one_that_is_always_right() -> None:
    dataset = painted([0, 1, 2, 3, 4, 5, 6, 7] * 3)
    split = result_of(seer(), dataset)["splits"][0]
    assert (split["n"], split["correct"], split["accuracy"]) == (24, 24, 1.0)
    assert split["confusion"] == (3 * np.eye(8, dtype=int)).tolist()
    assert split["macro"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0} and split["mistakes"] == []


@pytest.mark.parametrize(("decision", "warned"), [(3, True), (0, True), (None, False)])
def test_one_that_does_not_beat_the_commonest_class_is_said_to_know_nothing(decision: int | None, warned: bool) -> None:
    """Three of ten are class 0: always class 3 is worse, always class 0 the same, and one that is right is better."""
    wanted = seer() if decision is None else seer(lambda logits: np.eye(8)[np.full(len(logits), decision)])
    result = result_of(wanted, painted([0, 0, 0, 1, 2, 3, 4, 5, 6, 7] * 10))
    assert any("always deciding for the commonest class" in note for note in result["notes"]) == warned


@pytest.mark.parametrize("resize", RESIZERS)
def test_images_reach_the_network_as_published(resize: str) -> None:
    """Grey as RGB, less each channel's mean, whatever resizes."""
    seen = []

    def look(logits: np.ndarray) -> np.ndarray:
        return logits

    def run(images: np.ndarray) -> np.ndarray:
        seen.append(images)
        return look(np.zeros((len(images), 8)))

    evaluate(seer(call=run, gives="logits"), painted([3] * 7), ALBANIE, resize=resize)
    grey = seen[0] + np.array(PUBLISHED.mean, np.float32)
    np.testing.assert_allclose(grey[:, 40:-40, 40:-40], 110, atol=1.01)
    np.testing.assert_allclose(grey[..., 0], grey[..., 2], atol=1e-4)
    assert [len(batch) for batch in seen] == [5, 2]


def test_only_what_the_protocol_keeps_counts_and_in_its_own_split() -> None:
    dataset = painted([0, 1, 2, 3, 4, 5], [0, 1, 2, 2, 2, 1])
    dataset.votes[3] = [0, 0, 0, 0, 0, 0, 0, 0, 10, 0]  # nobody knew
    split = result_of(seer(), dataset)["splits"][0]
    assert split["n"] == 2 and [row["support"] for row in split["classes"]] == [0, 0, 1, 0, 1, 0, 0, 0]
    both = result_of(seer(), dataset, splits=("val", "test"))["splits"]
    assert [(each["split"], each["n"]) for each in both] == [("val", 2), ("test", 2)]


def test_mistakes_are_counted_shown_surest_first_and_named() -> None:
    dataset = painted([0, 1, 2, 3, 4])

    def change(logits: np.ndarray) -> np.ndarray:
        logits = logits.copy()
        for row in range(len(logits)):
            if row in (1, 3):
                logits[row] = -3.0 * row * (np.arange(8) != 7)
        return logits

    split = result_of(seer(change), dataset)["splits"][0]
    assert split["correct"] == 3
    assert [(each["name"], each["label"], each["decision"]) for each in split["mistakes"]] == [
        ("fer0000003.png", "sadness", "contempt"), ("fer0000001.png", "happiness", "contempt"),
    ]  # fmt: skip
    assert split["confusion"][1][7] == split["confusion"][3][7] == 1


def test_ties_stand_apart() -> None:
    dataset = painted([3, 4, 0])
    dataset.votes[0] = [0, 0, 0, 5, 5, 0, 0, 0, 0, 0]  # sadness and anger: the label is sadness, and sadness is decided
    dataset.votes[1] = [0, 0, 0, 5, 5, 0, 0, 0, 0, 0]  # the label is sadness, anger is decided
    ties = result_of(seer(), dataset)["splits"][0]["ties"]
    assert (ties["tied"]["n"], ties["tied"]["correct"], ties["tied_either"]["correct"]) == (2, 1, 2)
    assert (ties["untied"]["n"], ties["untied"]["correct"]) == (1, 1)


def test_copies_stand_apart() -> None:
    dataset = painted([0, 1, 0, 1, 2], [0, 1, 2, 2, 2])
    dataset.images[2], dataset.images[3] = dataset.images[0], dataset.images[1]
    result = result_of(seer(), dataset)
    split = result["splits"][0]
    assert (split["copies"]["n"], split["without_copies"]["n"]) == (2, 1)
    assert result["data"]["copies"][0] == {"split": "test", "also_in": "train", "rows": 1, "images": 1}


def test_logits_and_probabilities_are_the_same_network() -> None:
    def softmax(logits: np.ndarray) -> np.ndarray:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    dataset = painted([0, 1, 2, 3] * 4)
    one, other = (result_of(seer(change), dataset) for change in (lambda logits: logits, softmax))
    assert one["splits"][0]["log_loss"] == pytest.approx(other["splits"][0]["log_loss"])
    assert one["splits"][0]["calibration"]["ece"] == pytest.approx(other["splits"][0]["calibration"]["ece"])


def test_a_file_that_says_its_order_is_read_in_it() -> None:
    order = tuple(reversed(EMOTIONS))
    split = result_of(seer(lambda logits: logits[:, ::-1], labels=order), painted([0, 1, 2, 7]))["splits"][0]
    assert split["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("run", "error", "told"),
    [
        (lambda images: np.zeros((len(images), 7)), BadInputError, "gives 7 numbers"),
        (lambda images: np.full((len(images), 8), np.nan), CheckFailedError, "not finite"),
    ],
)
def test_what_is_no_answer_is_said(run: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        evaluate(seer(call=run), painted([0, 1]), ALBANIE)


def test_a_split_without_images_is_said() -> None:
    with pytest.raises(BadInputError, match="no val images"):
        evaluate(seer(), painted([0, 1]), ALBANIE, splits=("val",))


def test_progress_counts_up_and_says_how_long() -> None:
    steps: list[Step] = []
    evaluate(seer(), painted([0] * 12), ALBANIE, progress=steps.append)
    assert [step.done for step in steps] == [5, 10, 12] and {step.total for step in steps} == {12}
    assert steps[-1].left == 0 and all(step.per_second > 0 for step in steps)
    assert Step("x", 50, 100, 10.0).left == pytest.approx(10.0)


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    def peak(count: int) -> int:
        dataset = painted([0] * count)
        evaluate(seer(), dataset, ALBANIE)  # what is imported and cached once
        tracemalloc.start()
        evaluate(seer(), dataset, ALBANIE)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    few, many = peak(10), peak(400)
    assert many - few < 400 * 2_500  # 600 kB an image would be 240 MB; numbers of them are 64 bytes


def test_what_resizing_changes_is_shown_when_asked() -> None:
    result = result_of(seer(), painted([0, 1, 2] * 3), resizers=True)
    assert result["resizers"][0]["name"] == "pillow" and len(result["resizers"]) == 4
    assert [each["used"] for each in result["resizers"]] == [True, False, False, False]
    assert all(each["splits"][0]["accuracy"] == 1.0 for each in result["resizers"])

    def corner(images: np.ndarray) -> np.ndarray:  # decides by a border pixel, where the ways of resizing differ
        grey = images[:, 112, 3, 0] + np.float32(PUBLISHED.mean[0])
        return np.stack([grey - 60, *[np.zeros(len(images))] * 7], axis=1)

    dataset = painted([0] * 6)
    dataset.images[:, :, 0], dataset.images[:, :, 1] = 0, 96
    changed = {each["name"]: each["splits"][0]["changed"] for each in
               result_of(seer(call=corner), dataset, resizers=True)["resizers"]}  # fmt: skip
    assert changed["pillow"] == changed["opencv"] == 0 and changed["align-corners"] == 6


# --- the gate: faults that must turn it red -------------------------------------------------------------------------


def many(count: int = 200) -> Dataset:
    return painted((list(range(8)) * count)[:count])


def test_as_expected_passes_and_says_by_how_much() -> None:
    result = result_of(seer(), many(), "100")
    assert result["passed"] and "100.00 % on test, 100 % expected" in result["levels"][0]["summary"]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(swapped("sadness", "anger"), id="two classes exchanged"),
        pytest.param(lambda logits: logits[:, ::-1], id="classes in reverse"),
        pytest.param(lambda logits: np.roll(logits, 1, axis=1), id="classes shifted by one"),
        pytest.param(lambda logits: -logits, id="sign"),
        pytest.param(lambda logits: np.zeros_like(logits), id="nothing learnt"),
        pytest.param(lambda logits: np.roll(logits, 1, axis=0), id="images out of step"),
    ],
)
def test_a_fault_turns_the_gate_red(fault: Any) -> None:
    result = result_of(seer(fault), many(), "100")
    assert not result["passed"] and not result["levels"][0]["passed"]


def test_images_fed_wrongly_turn_the_gate_red() -> None:
    """A network that was made for 0..1, or for another mean: what it sees here is not what it knows."""

    def scaled(images: np.ndarray) -> np.ndarray:
        return np.asarray(-((brightness(images / 255)[:, None] - 20 - 30 * np.arange(8)) ** 2))

    assert not result_of(seer(call=scaled), many(), "100")["passed"]

    def bgr(images: np.ndarray) -> np.ndarray:
        blue = images[:, 100:124, 100:124, 2].mean(axis=(1, 2)) + PUBLISHED.mean[0]  # 39.6 grey levels brighter
        return np.asarray(-((blue[:, None] - 20 - 30 * np.arange(8)) ** 2))

    assert not result_of(seer(call=bgr), many(), "100")["passed"]


def test_the_wrong_protocol_turns_the_gate_red() -> None:
    """Votes that two protocols read differently: five of ten is not more than half."""
    dataset = many()
    dataset.votes[::2] = 0
    dataset.votes[::2, 7] = 5
    dataset.votes[::2, 0], dataset.votes[::2, 1] = 3, 2
    right = result_of(seer(), dataset, "100")
    assert right["passed"] and right["splits"][0]["n"] == 100
    wrong = result_of(seer(), dataset, "100", protocol=PROTOCOLS["crossentropy"])
    assert not wrong["passed"] and wrong["splits"][0]["n"] == 200


def test_a_permuted_head_is_named() -> None:
    result = result_of(seer(swapped("happiness", "fear")), many())
    order = result["splits"][0]["order"]
    assert order["accuracy"] == 1.0 and order["classes"][1] == "fear" and order["classes"][6] == "happiness"
    assert any("the head may be permuted" in note for note in result["notes"])
    guess = seer(call=lambda images: np.random.default_rng(0).normal(size=(len(images), 8)))
    assert result_of(guess, many())["splits"][0]["order"] is None


def test_nothing_is_concluded_of_a_network_from_a_few_images() -> None:
    result = result_of(seer(swapped("happiness", "fear")), painted([1, 6, 1]))
    assert result["splits"][0]["order"] is None and len(result["notes"]) == 1 and "3 test images" in result["notes"][0]
    one = result_of(seer(), painted([1]))
    assert one["notes"][0].startswith("1 test image, where") and "without the 0" not in as_text(one)


@pytest.mark.parametrize(
    ("off", "passed"), [(0.0, True), (0.1, True), (-0.1, True), (0.11, False), (-0.11, False)]
)  # fmt: skip
def test_the_tolerance_is_meant_in_decimal(off: float, passed: bool) -> None:
    dataset = painted([0] * 250)
    dataset.votes[:31] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0]  # decided neutral, voted happiness: 87.6 % are right
    assert result_of(seer(), dataset, f"{87.6 + off:.2f}")["passed"] is passed


@pytest.mark.parametrize(
    ("expect", "told"),
    [("0.876", "87.6 rather than 0.876"), ("good", "a percentage such as 87.6"), ("187", "a percentage"),
     ("nan", "a percentage")],
)  # fmt: skip
def test_an_expectation_that_is_none_is_refused(expect: str, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        result_of(seer(), many(), expect)


def official(dataset: Dataset) -> Dataset:
    return replace(dataset, label_rows=35_887)


#: As if the published label file had four images in val and four in test.
SMALL_ALBANIE = replace(ALBANIE, kept=(0, 4, 4))


def test_the_published_figure_is_the_manifests() -> None:
    dataset = official(painted([0] * 8, [1, 1, 1, 1, 2, 2, 2, 2]))
    for network, figures in (("resnet50", [89.0, 87.6]), ("senet50", [89.8, 88.8])):
        result = result_of(seer(network=network), dataset, "published", splits=("val", "test"), protocol=SMALL_ALBANIE)
        assert [each["percent"] for each in result["expectations"]] == figures and not result["passed"]
        assert f"{network}_ferplus" in result["expectations"][0]["origin"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"protocol": PROTOCOLS["majority"]}, "cannot be compared"),
        ({"limit": 3}, "leave --limit out"),
        ({"dataset": painted([0])}, "35,887 rows"),
        ({"protocol": replace(ALBANIE, kept=(0, 0, 2))}, "keeps 2 test images of the published votes, but 1 of"),
        ({"predictor": seer(network="")}, "records no accuracy for it"),
    ],
)
def test_what_cannot_be_compared_with_the_published_figure_is_refused(change: dict[str, Any], told: str) -> None:
    asked = {
        "predictor": seer(),
        "dataset": official(painted([0])),
        "protocol": replace(ALBANIE, kept=(0, 0, 1)),
        "limit": None,
    } | change
    with pytest.raises(BadInputError) as caught:
        expectations(
            "published", 0.1, asked["predictor"], asked["dataset"], asked["protocol"], ["test"], asked["limit"]
        )  # fmt: skip
    assert told in str(caught.value)


def test_one_figure_is_not_for_two_splits() -> None:
    with pytest.raises(BadInputError, match="choose a --split"):
        expectations("87.6", 0.1, seer(), painted([0]), ALBANIE, ["val", "test"], None)


# --- two networks -----------------------------------------------------------------------------------------------------


def test_the_same_accuracy_is_not_the_same_decisions() -> None:
    dataset = many(200)

    def wrong_on(rows: slice) -> Any:
        def run(images: np.ndarray) -> np.ndarray:
            grey = brightness(images)
            corner = np.rint(images[:, 0, 0, 0] + np.float32(PUBLISHED.mean[0])).astype(int)
            classes = np.rint((grey - 20) / 30).astype(int)
            hit = np.isin(corner, np.arange(200)[rows])
            return np.eye(8)[np.where(hit, (classes + 1) % 8, classes)]

        return run

    one, other = seer(call=wrong_on(slice(0, 20))), seer(call=wrong_on(slice(20, 40)), path=Path("other.h5"))
    result = result_of(one, dataset, "90", versus=other)
    assert result["expectations"][0]["passed"] and not result["versus"]["passed"] and not result["passed"]
    found = result["versus"]["splits"][0]
    assert (found["same"], found["n"], found["accuracy"]) == (160, 200, 0.9)
    assert found["mcnemar"] == {"only_first": 20, "only_second": 20, "p": 1.0}
    assert result_of(one, dataset, versus=one)["passed"]


def test_one_that_does_better_is_told_by_mcnemar() -> None:
    result = result_of(seer(), many(), versus=seer(swapped("sadness", "anger")))
    found = result["versus"]["splits"][0]
    assert found["mcnemar"]["only_first"] == 50 and found["mcnemar"]["p"] < 1e-10 and "McNemar p" in found["sentence"]


def test_what_rounding_decides_is_no_difference() -> None:
    ours = Predictions(np.array([[0.5, 0.5 - 1e-6], [0.9, 0.1], [0.8, 0.2]]), 0, 0)
    theirs = Predictions(np.array([[0.5 - 1e-6, 0.5], [0.9, 0.1], [0.2, 0.8]]), 0, 0)
    found = agreement(ours, theirs)
    assert (found.same, found.near_ties, found.n, found.passed) == (1, 1, 3, False)


def test_two_networks_that_are_each_undecided_between_two_are_not_near() -> None:
    """Each is on the edge between the two classes; of the other six they have quite different opinions."""
    ours = Predictions(np.array([[0.4, 0.4 - 1e-6, 0.2 + 1e-6]]), 0, 0)
    theirs = Predictions(np.array([[0.35 - 1e-6, 0.35, 0.3 + 1e-6]]), 0, 0)
    found = agreement(ours, theirs)
    assert (found.same, found.near_ties, found.passed) == (0, 0, False)


# --- real faces -------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # trains on thousands of faces
def test_real_faces_teach_a_linear_classifier_more_than_the_commonest_class(ferplus: Dataset) -> None:
    """Fitted on train in a second, judged on val: it learns only where images, votes and splits belong together."""
    targets = ALBANIE.apply(ferplus.votes)
    rows = ferplus.rows_of("train")
    rows = rows[targets.kept[rows]][::4]

    def features(grey: np.ndarray) -> np.ndarray:
        """12 x 12 means, each image's own brightness and contrast taken out."""
        edges = np.linspace(0, grey.shape[1], 13).astype(int)[:-1]
        means = np.add.reduceat(np.add.reduceat(grey.astype(np.float32), edges, axis=1), edges, axis=2)
        flat = means.reshape(len(grey), -1)
        flat = (flat - flat.mean(axis=1, keepdims=True)) / (flat.std(axis=1, keepdims=True) + 1e-3)
        return np.concatenate([flat, np.ones((len(flat), 1), np.float32)], axis=1)

    inputs = features(ferplus.images[rows])
    weights = np.linalg.solve(inputs.T @ inputs + 50 * np.eye(inputs.shape[1]), inputs.T @ targets.distribution[rows])

    def run(images: np.ndarray) -> np.ndarray:
        return 8 * features(images[..., 0] + np.float32(PUBLISHED.mean[0])) @ weights

    result = result_of(seer(call=run, batch=64), ferplus, splits=("val",))
    split = result["splits"][0]
    assert split["complete"] and split["n"] == 3318 and split["copies"]["n"] == 260
    assert split["always_the_commonest"] == pytest.approx(0.3785, abs=1e-4)
    assert split["interval"][0] > split["always_the_commonest"] + 0.05
    shuffled = seer(call=lambda images: run(images)[::-1], batch=64)
    assert result_of(shuffled, ferplus, splits=("val",), limit=960)["splits"][0]["accuracy"] < split["accuracy"] - 0.05
