"""Arguments of a config file: `--config=configs/cifar.py:cifar10,teacher=resnet56`."""

import difflib
import itertools
from collections.abc import Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

from mixkd_jax import objectives

# Arms that decide the paper's claims C1 to C6 in one run: distillation over the temperature, and
# from a teacher whose calibration is changed at the same accuracy, each on clean and mixed inputs.
CLAIMS = (
    *("ce", "mixup", "kd", "mixkd"),
    *(f"{base}:temperature={t}" for base in ("kd", "mixkd") for t in (1, 4, 8, "std")),
    *(f"{base}:teacher_temperature={t}" for base in ("kd", "mixkd") for t in (0.5, 0.7, 1.4, 2)),
)
ARMS = {"arms": ("standard", "claims")}  # an argument of all configs that can train so many


def parse(text: str, choices: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Reads "value,name=value,...", where a value without a name belongs to the name that has it.

    Args:
      text: behind the colon of `--config=file:text`; may be empty.
      choices: the allowed values of each name.

    Returns:
      The names that were given, with their values.

    Raises:
      ValueError: naming the right ones, for a wrong name or value, or a name given twice.
    """
    if text and not choices:
        raise ValueError(f"config argument: expected none for this config, got {text!r}")
    given: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        name, equals, value = item.partition("=")
        if not equals:
            value, name = item, _name_of(item, choices)
        one_of("", name, choices)
        one_of(name, value, choices[name])
        if name in given:
            raise ValueError(f"config argument {name}: expected once, got it twice")
        given[name] = value
    return given


def _name_of(value: str, choices: Mapping[str, Collection[str]]) -> str:
    """Returns the first name that has a value."""
    for name, values in choices.items():
        if value in values:
            return name
    close = difflib.get_close_matches(value, itertools.chain(*choices.values()), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(choices)}"
    raise ValueError(
        f"config argument: expected name=value, or a known value, got {value!r}; {hint}"
    )


def one_of(name: str, value: str, choices: Collection[str]) -> str:
    """Returns `value`; raises ValueError if it is none of `choices` of the argument `name`."""
    if value in choices:
        return value
    close = difflib.get_close_matches(value, choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    what = f"config argument {name}".rstrip()
    raise ValueError(f"{what}: expected one of {', '.join(choices)}, got {value!r}{hint}")


def apply(config: ConfigDict, given: Mapping[str, str]) -> None:
    """Sets what the arguments `claims` and `loss=` name, if they are given."""
    if given.get("arms") == "claims":
        config.arms = CLAIMS
    if "loss" in given:
        name, options = objectives.preset(given["loss"])
        loss: Any = config.loss
        loss.update(name=name, **{k: _as(loss, k, v) for k, v in options.items()})


def _as(section: ConfigDict, name: str, value: float | str) -> float | str:
    """Returns an option in the type of its field: what one loss takes words for is text."""
    return str(value) if section.get_type(name) is str else value
