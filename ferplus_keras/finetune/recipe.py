"""Recipes as data: every value that decides how a network is trained, in one typed object.

The recipes that ship with the package are the TOML files in ``recipes/``; one of your own may name another as its
``base`` and say only what differs. Each value has one place, ``section.key``. The resolved recipe, all values in
full, is written beside every result, and is itself a recipe again.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ferplus_keras.errors import BadInputError
from ferplus_keras.files.opening import is_file, read_text
from ferplus_keras.finetune.settings import (
    AugmentationSettings,
    DataSettings,
    NetworkSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainingSettings,
)
from ferplus_keras.networks.architecture import NETWORKS

#: The recipes that ship with the package.
RECIPES = ("albanie", "wtomin", "scratch", "compact")

#: What may differ from one stage to the next; everything else makes another network or another run.
STAGE_KEYS = (
    "network.size", "training.batch", "optimizer.learning_rate", "data.mixup",
    "data.teacher_share", *(f"augmentation.{each.name}" for each in fields(AugmentationSettings)),
)  # fmt: skip

#: Section -> key -> value.
Values = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Stage:
    """So many epochs with other values than the recipe's own: :data:`STAGE_KEYS`, the size of the images above all."""

    epochs: int
    values: Values = field(default_factory=dict)

    def without(self, section: str, key: str) -> Stage:
        """This stage with the recipe's own value of ``key``."""
        kept = {
            name: {k: v for k, v in each.items() if (name, k) != (section, key)} for name, each in self.values.items()
        }
        return Stage(self.epochs, {name: each for name, each in kept.items() if each})


@dataclass(frozen=True)
class Leg:
    """A stage with all of its values: epochs ``first_epoch`` (from 0) to ``first_epoch + epochs``."""

    first_epoch: int
    epochs: int
    recipe: Recipe


@dataclass(frozen=True)
class Recipe:
    """All values. ``name`` is the recipe that they began with, ``summary`` says in a line what it is."""

    name: str
    summary: str = ""
    data: DataSettings = field(default_factory=DataSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    #: One after the other; ``schedule.epochs`` is their sum. Without any, the recipe is its one stage.
    stages: tuple[Stage, ...] = ()

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The stages in full. The schedule goes over all of them: its epochs are those of the whole run."""
        found, first = [], 0
        for stage in self.stages or (Stage(self.schedule.epochs),):
            values = {name: replace(getattr(self, name), **each) for name, each in stage.values.items()}
            found.append(Leg(first, stage.epochs, replace(self, stages=(), **values)))
            first += stage.epochs
        return tuple(found)

    def leg_of(self, epoch: int) -> Leg:
        """The stage of ``epoch`` (from 0); epochs beyond the last are its."""
        return next(leg for leg in reversed(self.legs) if epoch >= leg.first_epoch)

    def epochs_after(self, epoch: int) -> float:
        """How many epochs as long as ``epoch`` (from 0) are to come: at twice the side, one counts for four."""
        here = self.leg_of(epoch).recipe.network.size
        later = ((max(0, leg.first_epoch + leg.epochs - max(leg.first_epoch, epoch + 1)), leg) for leg in self.legs)
        return sum(epochs * (leg.recipe.network.size / here) ** 2 for epochs, leg in later)

    def to_toml(self) -> str:
        """Every value, as a TOML document that :func:`load_recipe` reads back to an equal recipe."""
        lines = [f"name = {_toml(self.name)}", f"summary = {_toml(self.summary)}"]
        for section in SECTIONS:
            values = getattr(self, section)
            lines += ["", f"[{section}]"]
            lines += [f"{each.name} = {_toml(getattr(values, each.name))}" for each in fields(values)]
        for stage in self.stages:
            lines += ["", "[[stage]]", f"epochs = {stage.epochs}"]
            lines += [
                f"{section}.{key} = {_toml(v)}" for section, each in stage.values.items() for key, v in each.items()
            ]
        return "\n".join(lines) + "\n"


SECTIONS = tuple(each.name for each in fields(Recipe) if each.name not in ("name", "summary", "stages"))


def load_recipe(name: str | Path, overrides: Iterable[str] = (), *, network: str = "") -> Recipe:
    """The recipe of that name, or in the TOML file at that path, with ``overrides`` ("key=value") applied in order.

    A key is ``section.key``, or the key alone; a value is TOML, and a bare word is taken as a string. Where a recipe
    has values for one network only (``[for.senet50.data]``), those of ``network`` are taken.
    Raises :class:`BadInputError` on an unknown key (with what was probably meant) and on a value that cannot be.
    """
    recipe = _named(str(name), network) if str(name) in RECIPES else _of_file(Path(name), network)
    given: list[tuple[str, str, str]] = []
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign:
            raise BadInputError(f'--set takes KEY=VALUE, and "{override}" has no equals sign.')
        given.append((*_place(key.strip(), "--set"), text.strip()))
    # First the epochs, with which the rest of the schedule goes in proportion, unless it is given.
    for section, key, text in sorted(given, key=lambda each: each[:2] != ("schedule", "epochs")):
        recipe = _with(recipe, {section: {key: _parsed(text)}}, f"--set {key}")
    _checked(recipe)
    return recipe


def _named(name: str, network: str) -> Recipe:
    text = resources.files("ferplus_keras.finetune").joinpath("recipes", f"{name}.toml").read_text("utf-8")
    return _of_table(tomllib.loads(text), f"the recipe {name}", network)


def _of_file(path: Path, network: str) -> Recipe:
    if not is_file(path):
        raise BadInputError(
            f'There is no recipe "{path}"{_meant(str(path), RECIPES)} A recipe is one of {", ".join(RECIPES)}, or a '
            "TOML file."
        )
    try:
        table = tomllib.loads(read_text(path))
    except UnicodeDecodeError:
        raise BadInputError(f"{path} is not in UTF-8. Save the recipe as plain text in UTF-8.") from None
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path} is not TOML: {error}") from None
    if not table:  # an empty file is TOML, too
        raise BadInputError(f'{path} gives no value. A recipe begins with a line such as base = "scratch".')
    return _of_table(table, str(path), network, default_name=path.stem)


def _of_table(table: dict[str, Any], where: str, network: str, default_name: str = "") -> Recipe:
    table = dict(table)
    base, particular, stages = table.pop("base", None), table.pop("for", {}), table.pop("stage", None)
    if not isinstance(particular, dict) or not set(particular) <= set(NETWORKS):
        raise BadInputError(f"{where}: [for.NETWORK.section] is for {' or '.join(NETWORKS)}.")
    if base is not None and base not in RECIPES:
        raise BadInputError(f"{where}: base is {_toml(base)}; it may be {', '.join(RECIPES)}.")
    name, summary = table.pop("name", default_name), table.pop("summary", "")
    if not isinstance(name, str) or not isinstance(summary, str):
        raise BadInputError(f"{where}: name and summary must be text.")
    recipe = _named(base, network) if base is not None else Recipe(name)
    recipe = replace(recipe, name=name or recipe.name, summary=summary or recipe.summary)
    own = [_with(recipe, table, where)]
    if stages is not None:
        own = [_staged(own[0], stages, where, wanted=table.get("schedule", {}).get("epochs"))]
    for each, values in particular.items():  # all are checked, one is taken
        if not isinstance(values, dict):
            raise BadInputError(f"{where}: [for.{each}.section] holds values, not {_toml(values)}.")
        own.append(_with(own[0], values, f"{where}: for.{each}"))
    return own[1 + list(particular).index(network)] if network in particular else own[0]


def _with(recipe: Recipe, table: Mapping[str, Any], where: str) -> Recipe:
    """``recipe`` with the values of ``table`` (section -> key -> value), each checked."""
    for section, values in table.items():
        if section not in SECTIONS:
            _, key = _place(section, where)
            raise BadInputError(f"{where}: {section} stands outside its section; write it below [{_}] as {key}.")
        if not isinstance(values, dict):
            raise BadInputError(f"{where}: [{section}] is a section of values, not {_toml(values)}.")
        new = _values(section, values, where)
        if section == "schedule" and "epochs" in new:
            recipe, new = _lasting(recipe, new)
        if section == "network" and "size" in new:
            recipe = replace(recipe, stages=())  # one size, one stage
        for key in new:  # what is said of the whole run holds in each of its stages
            recipe = replace(recipe, stages=tuple(stage.without(section, key) for stage in recipe.stages))
        recipe = replace(recipe, **{section: replace(getattr(recipe, section), **new)})
    return recipe


def _values(section: str, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The checked values of one section."""
    kind = _section_kinds()[section]
    kinds, known = get_type_hints(kind), {each.name: each for each in fields(kind)}
    for key in values:
        if key not in known:
            _place(f"{section}.{key}", where)
    return {
        key: _value(value, kinds[key], known[key].metadata, f"{where}: {section}.{key}")
        for key, value in values.items()
    }


def _lasting(recipe: Recipe, schedule: dict[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """``recipe`` with stages, and ``schedule`` with a warm-up and steps, that fit other ``epochs``: in proportion.

    Stages that would have no epoch are left out.
    """
    epochs, before = schedule["epochs"], recipe.schedule.epochs
    if "step_epochs" not in schedule and (steps := recipe.schedule.step_epochs):
        scaled = {max(1, round(step * epochs / before)) for step in steps}  # two may fall on one epoch
        schedule = schedule | {"step_epochs": tuple(sorted(scaled))}
    if "warmup_epochs" not in schedule and epochs < before:
        schedule = schedule | {"warmup_epochs": recipe.schedule.warmup_epochs * epochs / before}
    ends, done = [], 0
    for stage in recipe.stages:
        done += stage.epochs
        ends.append(round(done * epochs / before))
    lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    stages = (replace(stage, epochs=length) for stage, length in zip(recipe.stages, lengths, strict=True) if length)
    return replace(recipe, stages=tuple(stages)), schedule


def _staged(recipe: Recipe, tables: Any, where: str, *, wanted: int | None) -> Recipe:
    """``recipe`` with the stages of a TOML document's ``[[stage]]`` tables."""
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise BadInputError(f"{where}: stages are written as tables, each below a line [[stage]].")
    stages = []
    for number, table in enumerate(tables, 1):
        here = f"{where}: stage {number}"
        epochs = _value(table.get("epochs"), int, {"range": (1, 100_000, False)}, f"{here}: epochs")
        found: dict[str, dict[str, Any]] = {}
        for name, value in table.items():
            if name == "epochs":
                continue
            section, values = name, value
            if name not in SECTIONS:
                section, key = _place(name, here)
                values = {key: value}
            if not isinstance(values, dict):
                raise BadInputError(f"{here}: {section} is a section of values, not {_toml(values)}.")
            found.setdefault(section, {}).update(_values(section, values, here))
        for section, values in found.items():
            for key in values:
                if f"{section}.{key}" not in STAGE_KEYS:
                    raise BadInputError(
                        f"{here}: {section}.{key} is the same in all stages. What may differ is network.size, "
                        "training.batch, optimizer.learning_rate, data.mixup, data.teacher_share and the augmentation."
                    )
        stages.append(Stage(epochs, found))
    total = sum(stage.epochs for stage in stages)
    if wanted is not None and wanted != total:
        raise BadInputError(
            f"{where}: schedule.epochs is {wanted}, and the stages have {total} together. Leave it out."
        )
    recipe = replace(recipe, stages=tuple(stages), schedule=replace(recipe.schedule, epochs=total))
    for leg in recipe.legs:
        _checked(leg.recipe)
    return recipe


def _place(key: str, where: str) -> tuple[str, str]:
    """Section and key of a dotted or bare key. Raises :class:`BadInputError` with the nearest that there are."""
    places = [(section, each.name) for section, kind in _section_kinds().items() for each in fields(kind)]
    found = [place for place in places if key in (f"{place[0]}.{place[1]}", place[1])]
    if len(found) == 1:
        return found[0]
    dotted = [f"{section}.{name}" for section, name in places]
    if found:
        raise BadInputError(f"{where}: {key} may be {' or '.join(f'{s}.{n}' for s, n in found)}; write it in full.")
    tail = key.rpartition(".")[2]
    close = get_close_matches(tail, [name for _, name in places], 2, 0.6)
    near = [f"{section}.{name}" for section, name in places if name in close]
    near += get_close_matches(key, dotted, 1, 0.8)
    meant = list(dict.fromkeys(near))[:3]
    hint = f" Did you mean {' or '.join(meant)}?" if meant else f" Sections are {', '.join(SECTIONS)}."
    raise BadInputError(f'{where}: there is no value "{key}" in a recipe.{hint}')


def _section_kinds() -> dict[str, type[Any]]:
    hints = get_type_hints(Recipe)
    return {section: hints[section] for section in SECTIONS}


def _value(value: Any, kind: Any, metadata: Mapping[str, Any], where: str) -> Any:
    """``value`` as the field's ``kind``. Raises :class:`BadInputError` when it is of another, or out of range."""
    origin = get_origin(kind)
    if origin is tuple:
        inner = get_args(kind)[0]
        if not isinstance(value, list):
            raise BadInputError(f"{where} is a list, not {_toml(value)}.")
        found = tuple(_value(each, inner, {}, where) for each in value)
        highest = metadata.get("highest")
        if highest and (len(found) != 2 or not 0 < found[0] <= found[1] <= highest):
            raise BadInputError(
                f"{where} is a list of 2 numbers, from and to, above 0 and at most {highest:g}, not {_toml(value)}."
            )
        return found
    if origin is dict:
        if not isinstance(value, dict):
            raise BadInputError(f'{where} is a table such as {{"conv5_*" = 0.5}}, not {_toml(value)}.')
        return {str(key): _value(each, float, {"range": (0.0, 1e6, False)}, where) for key, each in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        words = {float: "a number", int: "a whole number", str: "a text", bool: "true or false"}
        raise BadInputError(f"{where} is {words[kind]}, not {_toml(value)}.")
    if kind is float and not abs(value) < float("inf"):
        raise BadInputError(f"{where} is a finite number, not {value}.")
    if (choices := metadata.get("choices")) and value not in choices:
        raise BadInputError(f"{where} is {_toml(value)}, and may be {', '.join(choices)}{_meant(value, choices)}")
    if limits := metadata.get("range"):
        low, high, open_end = limits
        if not low <= value <= high or (open_end and value == high):
            raise BadInputError(f"{where} is {value}; it lies from {low:g} to {'below ' if open_end else ''}{high:g}.")
    return value


def _meant(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, known, 1)
    return f"; did you mean {near[0]}?" if near else "."


def _parsed(text: str) -> Any:
    """The value that ``text`` is in TOML; what is not TOML is a string."""
    try:
        value = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return value["value"] if set(value) == {"value"} else text


def _checked(recipe: Recipe) -> None:
    """What several values say together."""
    schedule = recipe.schedule
    if schedule.kind == "step" and not schedule.step_epochs:
        raise BadInputError("schedule.kind is step, and schedule.step_epochs names no epoch at which to step down.")
    if list(schedule.step_epochs) != sorted(set(schedule.step_epochs)):
        raise BadInputError(f"schedule.step_epochs rise from one to the next, unlike {list(schedule.step_epochs)}.")
    if schedule.kind == "plateau" and recipe.stages:
        raise BadInputError(
            "schedule.kind plateau does not go with stages: results at different sizes cannot be compared. Choose "
            "one size: --set size=64."
        )
    if schedule.kind == "plateau" and schedule.warmup_epochs:
        raise BadInputError(
            "schedule.warmup_epochs goes with constant, cosine and step, not with plateau: set it to 0."
        )
    if schedule.early_stop and recipe.stages:
        raise BadInputError(
            "schedule.early_stop does not go with stages: the run would end at the size of an early one. Choose one "
            "size: --set size=64."
        )
    if recipe.data.target == "multi_target" and recipe.data.mixup:
        raise BadInputError("data.mixup does not go with multi_target: both images' emotions would be fully right.")
    if schedule.warmup_epochs >= schedule.epochs and schedule.warmup_epochs:
        raise BadInputError("schedule.warmup_epochs must be fewer than schedule.epochs.")
    if any(weight <= 0 for weight in recipe.data.class_weights):
        raise BadInputError("data.class_weights are factors above 0.")
    augmentation = recipe.augmentation
    if (augmentation.rotation and augmentation.rotation_range) or (augmentation.skew and augmentation.skew_range):
        raise BadInputError(
            "augmentation.rotation and augmentation.skew list what is chosen from, rotation_range and skew_range give "
            "a range: set one of the two."
        )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    return repr(value)
