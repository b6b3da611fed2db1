"""Losses on logits that Keras does not have, and the teachers' answer that one of them takes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="ferplus_keras")
class MultiTargetCrossentropy(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types
    """The cross-entropy of the likeliest of several right answers: -max over the chosen k of log softmax(logits)_k.

    The multi-target loss of Barsoum et al. 2016 (arXiv:1608.01041, equation 5). Read literally, the equation takes the
    maximum of I_k log q_k over all classes, which is 0 wherever a class is not chosen (I_k = 0); what is meant, and
    computed here, is the maximum over the chosen ones. Targets are 0 or 1, any number of ones; a row of zeros (a
    image that does not count) costs nothing.
    """

    def __init__(self, reduction: str = "sum_over_batch_size", name: str = "multi_target", **arguments: Any) -> None:
        super().__init__(name=name, reduction=reduction, **arguments)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        chosen = y_true > 0
        # The chosen ones less everything that is not: a log-softmax is finite, so this is below any that counts.
        likeliest = ops.max(ops.where(chosen, ops.log_softmax(y_pred, axis=-1), -1e30), axis=-1)
        return -ops.where(ops.any(chosen, axis=-1), likeliest, 0.0)


class Distilled(keras.losses.Loss):  # type: ignore[misc]
    """The loss of a student that has a teacher: ``(1 - share) * own + share * cross-entropy against the teacher``.

    Predictions are the student's logits and, behind them, as many log-probabilities of the teacher's; targets are those
    of the loss ``own``. With a temperature T both distributions are those of logits / T, and the teacher's part is
    multiplied by T * T, which keeps its gradients as large as they are without (Hinton et al. 2015).
    """

    def __init__(self, own: keras.losses.Loss, share: float, temperature: float) -> None:
        super().__init__(name="distilled", reduction="sum_over_batch_size")
        self.own, self.share, self.temperature = own, share, temperature

    def call(self, y_true: Any, y_pred: Any) -> Any:
        classes = y_pred.shape[-1] // 2
        student, teacher = y_pred[:, :classes], y_pred[:, classes:]
        likely = ops.softmax(teacher / self.temperature, axis=-1)
        said = ops.log_softmax(student / self.temperature, axis=-1)
        taught = -ops.sum(likely * said, axis=-1) * self.temperature**2
        return (1 - self.share) * self.own.call(y_true, student) + self.share * taught


class AverageAnswer(keras.layers.Layer):  # type: ignore[misc]
    """The logarithm of the mean of several teachers' probabilities, given their logits."""

    def call(self, inputs: Any) -> Any:
        each = [ops.softmax(ops.cast(logits, "float32"), axis=-1) for logits in inputs]
        return ops.log(ops.mean(ops.stack(each), axis=0) + np.float32(1e-8))
