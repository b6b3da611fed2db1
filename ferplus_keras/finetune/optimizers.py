"""The optimizers of the recipes: Keras's own, with a learning-rate factor for each variable.

One class for every backend and every optimizer: the variables are grouped by factor, and Keras's own step is taken
once a group. Weight decay goes by the group's learning rate too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import keras

from ferplus_keras.finetune.settings import OptimizerSettings


class LearningRateFactors:
    """Mixed into a Keras optimizer: the learning rate of each variable is the optimizer's times a factor of its own.

    ``factor_of`` maps a variable to its factor. Keras's exponential moving average is not used here (see
    :mod:`ferplus_keras.finetune.averaging`).
    """

    factor_of: Callable[[Any], float] = staticmethod(lambda _variable: 1.0)
    _current_factor = 1.0

    def _groups(self, variables: Sequence[Any]) -> dict[float, list[int]]:
        groups: dict[float, list[int]] = {}
        for index, variable in enumerate(variables):
            groups.setdefault(self.factor_of(variable), []).append(index)
        return groups

    def _backend_update_step(self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any) -> Any:
        step = super()._backend_update_step  # type: ignore[misc]
        for factor, members in self._groups(trainable_variables).items():
            rate = learning_rate if factor == 1.0 else learning_rate * factor
            step([grads[index] for index in members], [trainable_variables[index] for index in members], rate)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        decay = super()._apply_weight_decay  # type: ignore[misc]
        for factor, members in self._groups(variables).items():
            self._current_factor = factor  # what `learning_rate` yields meanwhile, below
            try:
                decay([variables[index] for index in members])
            finally:
                self._current_factor = 1.0

    def _get_current_learning_rate(self) -> Any:
        rate = super()._get_current_learning_rate()  # type: ignore[misc]
        return rate if self._current_factor == 1.0 else rate * self._current_factor


@cache
def with_factors(base: type[Any]) -> type[Any]:
    """The Keras optimizer class ``base`` with :class:`LearningRateFactors`."""
    return type(f"{base.__name__}WithFactors", (LearningRateFactors, base), {})


def make_optimizer(settings: OptimizerSettings, learning_rate: Any, factor_of: Callable[[Any], float]) -> Any:
    """The optimizer that ``settings`` ask for. ``learning_rate`` is a number or a Keras schedule."""
    shared: dict[str, Any] = {
        "learning_rate": learning_rate,
        "weight_decay": settings.weight_decay or None,
        "global_clipnorm": settings.clip_norm or None,
        "gradient_accumulation_steps": settings.accumulate if settings.accumulate > 1 else None,
    }
    if settings.name == "sgd":
        base, own = keras.optimizers.SGD, {"momentum": settings.momentum, "nesterov": settings.nesterov}
    else:
        base = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}[settings.name]
        own = {"beta_1": settings.beta_1, "beta_2": settings.beta_2}
        if settings.name == "adamw":
            shared["weight_decay"] = settings.weight_decay
    optimizer = with_factors(base)(**shared, **own)
    optimizer.factor_of = factor_of
    if settings.weight_decay:  # shrinks kernels; the others are left alone (He et al. 2019)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def factors_by_layer(settings: OptimizerSettings, layers: Sequence[str], head: str) -> dict[str, float]:
    """Layer -> factor: 1 for the ``head``, ``body_factor`` elsewhere, unless a pattern says otherwise."""
    factors = {name: 1.0 if name == head else settings.body_factor for name in layers}
    for pattern, factor in settings.layer_factors.items():
        for name in layers:
            if fnmatchcase(name, pattern):
                factors[name] = factor
    return factors


def unmatched(settings: OptimizerSettings, layers: Sequence[str]) -> list[str]:
    """The patterns of ``layer_factors`` that fit no layer: a slip, as a rule."""
    return [pattern for pattern in settings.layer_factors if not any(fnmatchcase(name, pattern) for name in layers)]
