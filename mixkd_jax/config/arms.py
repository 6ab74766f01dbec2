"""Arms: ways of training a student, written `base[:field=value[:field=value...]]`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

from mixkd_jax import objectives
from mixkd_jax.config import fields, loss, value_types
from mixkd_jax.config.data import Mixup
from mixkd_jax.config.experiment import Experiment
from mixkd_jax.config.loss import Loss
from mixkd_jax.errors import ConfigError

# base -> whether its inputs are mixed, and whether it learns from the teacher
BASES = {"ce": (False, False), "mixup": (True, False), "kd": (False, True), "mixkd": (True, True)}
_LARGEST = 1e6  # of weights and temperatures: float32 losses overflow beyond


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way of training a student.

    Attributes:
      text: as the config writes it; the arm's name.
      base: "ce", "mixup", "kd" or "mixkd".
      loss: what is minimised with the teacher; None without one, for the cross-entropy alone.
      mixup: how inputs and labels are mixed; None doesn't mix them.
    """

    text: str
    base: str
    loss: Loss | None
    mixup: Mixup | None

    @property
    def objective(self) -> Callable[..., Any]:
        """The function of logits and labels that is minimised."""
        if self.loss is None:
            return objectives.cross_entropy
        return objectives.OBJECTIVES[self.loss.name]

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """All keyword arguments of the objective: those that are set, and its own defaults."""
        known = objectives.options(self.objective)
        given = self.loss.options if self.loss else {}
        return {name: given.get(name, option.default) for name, option in known.items()}

    def describe(self) -> dict[str, Any]:
        """Returns what the arm's students were trained with, as `evaluation.json` holds it."""
        return {
            "base": self.base,
            "loss": self.loss.name if self.loss else "ce",
            "options": self.options,
            "teacher_temperature": self.loss.teacher_temperature if self.loss else None,
            "mixup": dataclasses.asdict(self.mixup) if self.mixup else None,
        }


def resolve(settings: Experiment) -> tuple[Arm, ...]:
    """Returns the arms of a config, checked: every loss is traced on a small batch.

    Raises:
      ConfigError: for an unknown base or field, a value out of range, or a loss that returns
        something else than a loss and its parts.
    """
    arms = tuple(parse(text, settings) for text in settings.arms)
    for arm in arms:
        _check(arm)
    return arms


def parse(text: str, settings: Experiment) -> Arm:
    """Reads one arm, whose text changes the config's `loss` and `mixup` for this arm alone."""
    base, *changes = text.split(":")
    path = f'config.arms["{text}"]'
    mixes, distils = fields.choose("config.arms", base, BASES)
    given: dict[str, str] = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{path}: expected field=value behind each colon, got {change!r}")
        if name in given:
            raise ConfigError(f"{path}: expected {name} once, got it twice")
        given[name] = value
    of_mixup = {name: given.pop(name) for name in _mixup_types() if name in given}
    if of_mixup and not mixes:
        raise ConfigError(f"{path}: expected no {', '.join(of_mixup)}: {base} mixes nothing")
    if given and not distils:
        raise ConfigError(f"{path}: expected no {', '.join(given)}: {base} has no teacher")
    return Arm(
        text,
        base,
        _loss(settings.loss, given, path) if distils else None,
        _mixup(settings.mixup, of_mixup, path) if mixes else None,
    )


def _mixup_types() -> dict[str, Any]:
    return get_type_hints(Mixup)


def _mixup(common: Mixup, given: Mapping[str, str], path: str) -> Mixup:
    values = dataclasses.asdict(common)
    for name, text in given.items():
        kind = _mixup_types()[name]
        try:
            values[name] = value_types.converted(kind, text)
        except (TypeError, ValueError):
            expected = value_types.in_words(kind)
            raise ConfigError(f"{path}: {name}: expected {expected}, got {text!r}") from None
    return fields.build(Mixup, values, path)


def _loss(common: Loss, given: Mapping[str, str], path: str) -> Loss:
    """Returns the config's loss with what an arm changes; `loss=` sets all of it anew."""
    changes = dict(given)
    name, own = common.name, dict(common.options)
    if "loss" in changes:
        known = dict.fromkeys(objectives.preset_names())
        chosen = changes.pop("loss")
        fields.choose(f"{path}: loss", chosen, known)
        name, own = objectives.preset(chosen)
    temperature = changes.pop("teacher_temperature", str(common.teacher_temperature))
    made = Loss.build({"name": name, "teacher_temperature": temperature}, path)
    table = dict.fromkeys([*objectives.options(objectives.OBJECTIVES[name])])
    for option in changes:
        if option not in table:
            known = {**table, "loss": None, "teacher_temperature": None, **_mixup_types()}
            fields.choose(path, option, known)  # says what was meant, or falls through
    own = {**own, **loss.options(name, objectives.OBJECTIVES[name], changes, path)}
    return dataclasses.replace(made, options=own)


def _check(arm: Arm) -> None:
    if arm.loss is None:
        return
    path = f'config.arms["{arm.text}"]' if ":" in arm.text else "config.loss"
    for name, value in arm.options.items():
        least = {"weight": 0.0, "temperature": 1 / _LARGEST}.get(name.rpartition("_")[2])
        if least is not None and isinstance(value, float) and not least <= value <= _LARGEST:
            raise ConfigError(
                f"{path}.{name}: expected a number from {least:g} to {_LARGEST:g}, got {value:g}"
            )
    weights = [value for name, value in arm.options.items() if name in ("kd_weight", "ce_weight")]
    if weights and not any(weights):
        raise ConfigError(f"{path}: expected a kd_weight or a ce_weight above 0, got 0 for both")
    try:
        objectives.check(arm.loss.name, arm.objective, arm.options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
