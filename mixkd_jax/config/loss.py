"""Config fields of the loss; most are options of the losses themselves, declared there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from mixkd_jax import objectives
from mixkd_jax.config import fields, value_types
from mixkd_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Loss:
    """What the arms that distil minimise.

    Its further fields are the options of all losses in `objectives.OBJECTIVES`; one that is not set
    is what the loss's paper has.
    """

    name: str = fields.field("kl", "a loss of mixkd_jax/objectives.py", "the name of a loss", bool)
    teacher_temperature: float | Literal["fit"] = fields.field(
        "1",
        "divides the teacher's logits before anything else, which changes its calibration and not "
        'its accuracy; "fit" takes the temperature that minimises the NLL of the validation images',
        'a number from 1e-06 to 1e+06, or "fit"',
        lambda value: value == "fit" or 1e-6 <= value <= 1e6,
    )
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, kw_only=True)

    @classmethod
    def build(cls, values: Mapping[str, Any], path: str) -> Loss:
        """Builds the section; see `fields.build`."""
        fields.check_section(values, path)
        own = {name: values[name] for name in ("name", "teacher_temperature") if name in values}
        made = fields.build(cls, own, path)
        objective = fields.choose(f"{path}.name", made.name, objectives.OBJECTIVES)
        given = {k: v for k, v in values.items() if k not in own and v is not None}
        return dataclasses.replace(made, options=options(made.name, objective, given, path))

    @staticmethod
    def extra_defaults() -> dict[str, Any]:
        """Returns a placeholder for every option of every loss: not set, but of its type."""
        from ml_collections import config_dict

        kinds: dict[str, set[Any]] = {}
        for objective in objectives.OBJECTIVES.values():
            for name, option in objectives.options(objective).items():
                kinds.setdefault(name, set()).add(option.annotation)
        # What one loss takes words for is text, for all of them.
        return {
            name: config_dict.placeholder(kind.pop() if kind <= {int, float, bool} else str)
            for name, kind in kinds.items()
        }

    @staticmethod
    def extra_rows(path: str) -> Iterator[fields.Row]:
        """Yields the options of all losses."""
        found: dict[str, list[tuple[str, Any, str]]] = {}
        for loss, objective in objectives.OBJECTIVES.items():
            meanings = objectives.describe(objective)
            for name, option in objectives.options(objective).items():
                found.setdefault(name, []).append((loss, option.default, meanings[name]))
        for name, users in found.items():
            default = ", ".join(f"{loss}: {value!r}" for loss, value, _ in users)
            by_text: dict[str, list[str]] = {}
            for loss, _, text in users:
                by_text.setdefault(text.rstrip("."), []).append(loss)
            meaning = "; ".join(f"{', '.join(who)}: {text}" for text, who in by_text.items())
            expected = "what these losses take"
            yield fields.Row(f"{path}.{name}", f"not set ({default})", meaning, expected, "models")


def options(
    loss: str, objective: Callable[..., Any], given: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Returns the given options of a loss in the types of its keyword arguments.

    Args:
      loss: its name, for messages.
      objective: the loss.
      given: values, or their texts.
      path: of the section or arm that gives them.

    Raises:
      ConfigError: for an option that the loss doesn't have, or a value of a wrong type.
    """
    known = objectives.options(objective)
    made = {}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(
                f"{path}.{name}: expected nothing for loss {loss}, got "
                f"{value_types.shown(value)}; its options are {', '.join(known)}"
            )
        try:
            made[name] = value_types.converted(known[name].annotation, value)
        except (TypeError, ValueError):
            expected = value_types.in_words(known[name].annotation)
            got = value_types.shown(value)
            raise ConfigError(f"{path}.{name}: expected {expected}, got {got}") from None
    return made
