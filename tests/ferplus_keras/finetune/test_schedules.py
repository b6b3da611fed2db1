"""The learning rate, the plateau and the early stop: as functions of the step and of the epochs so far."""

from __future__ import annotations

import numpy as np
import pytest

from ferplus_keras.finetune.schedules import Rate, RateSchedule, Row, standing
from ferplus_keras.finetune.settings import ScheduleSettings


def rows(*accuracies: float) -> list[Row]:
    return [{"val_accuracy": each, "val_loss": 1 - each} for each in accuracies]


@pytest.mark.parametrize(
    "settings",
    [
        ScheduleSettings(epochs=6, kind="cosine", warmup_epochs=1.5, final_factor=0.1),
        ScheduleSettings(epochs=6, kind="cosine"),
        ScheduleSettings(epochs=6, kind="step", step_epochs=(2, 4), step_factor=0.1, warmup_epochs=1.0),
        ScheduleSettings(epochs=6, kind="constant", warmup_epochs=0.5),
    ],
)
def test_the_optimizer_sees_the_plain_functions_rate(settings: ScheduleSettings) -> None:
    rate = Rate(settings, 0.2, 10)
    live = RateSchedule(rate)
    seen, wanted = [float(live(step)) for step in range(61)], [rate.at(step) for step in range(61)]
    np.testing.assert_allclose(seen, wanted, rtol=1e-5, atol=1e-7)
    assert max(rate.at(step) for step in range(60)) == pytest.approx(0.2)


def test_the_shapes_of_the_schedules() -> None:
    cosine = Rate(ScheduleSettings(epochs=10, kind="cosine", warmup_epochs=2), 1.0, 10)
    assert [cosine.at(step) for step in (0, 9, 19)] == [0.05, 0.5, 1.0]
    assert cosine.at(60) == pytest.approx(0.5) and cosine.at(100) == pytest.approx(0.0)
    step = Rate(ScheduleSettings(epochs=180, kind="step", step_epochs=(60, 120)), 0.01, 2)
    assert [round(step.at(each), 6) for each in (0, 119, 120, 239, 240)] == [0.01, 0.01, 0.001, 0.001, 0.0001]


def test_a_plateau_halves_the_rate_and_the_early_stop_ends_it() -> None:
    settings = ScheduleSettings(epochs=100, kind="plateau", plateau_patience=3, early_stop=8)
    history = rows(0.5, 0.6, *[0.6] * 3)
    assert standing(settings, 1.0, history).learning_rate == 0.5
    assert standing(settings, 1.0, history[:-1]).learning_rate == 1.0
    history += rows(*[0.6] * 5)
    place = standing(settings, 1.0, history)
    assert (place.stop, place.best_epoch, place.learning_rate) == (True, 2, 0.25) and "8 epochs" in place.reason
    assert not standing(settings, 1.0, [*history[:-1], *rows(0.61)]).stop


def test_a_figure_that_is_no_number_is_never_the_best() -> None:
    settings = ScheduleSettings(epochs=3, monitor="loss")
    history: list[Row] = [{"val_accuracy": 0.0, "val_loss": None}, {"val_accuracy": 0.1, "val_loss": float("nan")}]
    assert standing(settings, 1.0, history).best_epoch == 0
    assert standing(settings, 1.0, [*history, {"val_accuracy": 0.1, "val_loss": 2.0}]).best_epoch == 3


def test_stages_share_one_cosine_by_their_pixels() -> None:
    settings = ScheduleSettings(epochs=6, kind="cosine", warmup_epochs=1.0)
    work = (4 * 0.25, 2 * 1.0)  # four epochs at half the side, two at the full one
    small = Rate(settings, 1.0, 10, weight=0.25, first_weight=0.25, total=sum(work))
    large = Rate(settings, 1.0, 20, 40, 4, 1.0, 0.25, work[0], sum(work))
    assert small.at(9) == pytest.approx(1.0) and small.at(40) == pytest.approx(large.at(40))
    assert large.at(40) == pytest.approx(0.5 * (1 + np.cos(np.pi * 0.75 / 2.75)))
    assert large.at(80) == pytest.approx(0.0, abs=1e-9)
    for rate, steps in ((small, range(40)), (large, range(40, 81))):
        live = RateSchedule(rate)
        np.testing.assert_allclose([float(live(s)) for s in steps], [rate.at(s) for s in steps], rtol=1e-4, atol=1e-6)


def test_another_stage_begins_with_no_best_epoch() -> None:
    settings = ScheduleSettings(epochs=4)
    history = [row | {"stage": 1} for row in rows(0.5, 0.6)] + [row | {"stage": 2} for row in rows(0.4)]
    assert standing(settings, 1.0, history[:2]).best_epoch == 2
    assert standing(settings, 1.0, history).best_epoch == 3


def test_the_plateau_may_watch_another_figure_than_the_early_stop() -> None:
    settings = ScheduleSettings(epochs=9, kind="plateau", plateau_patience=2, plateau_monitor="loss", early_stop=9)
    history: list[Row] = [{"val_accuracy": 0.1 * n, "val_loss": 1.0} for n in range(1, 4)]  # better, and no better
    place = standing(settings, 1.0, history)
    assert (place.best_epoch, place.learning_rate) == (3, 0.5)
