"""The time left: of the epoch by its steps, of the run by the sizes of the epochs to come."""

from __future__ import annotations

import pytest

from ferplus_keras.finetune import progress
from ferplus_keras.finetune.progress import Meter, Moment


def test_epochs_of_larger_images_count_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now)
    told: list[Moment] = []
    meter = Meter(told.append, epoch=2, epochs=4, steps=11, batch=8, later=5.0)
    meter.between_epochs = 10.0
    for step in range(6):
        now += 100.0 if step == 0 else 2.0  # the first step is compiled
        meter.on_train_batch_end(step, {"loss": 1.0})
    assert told[-1].epoch_left == 5 * 2.0
    assert told[-1].run_left == 5 * 2.0 + 10 + 5 * (11 * 2.0 + 10)
