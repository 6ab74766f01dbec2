"""Configs as frozen dataclasses: checked once, before anything is loaded or compiled.

The fields are documented where they get their defaults, in configs/default.py.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints


class ConfigError(ValueError):
    """A mistake in a config; the message names the field, what was expected and what came."""


@dataclasses.dataclass(frozen=True)
class Duration:
    """A length of training, such as "240 epochs", "1500 steps" or "2e6 examples"."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Reads `text`; raises ValueError if it is not a number and a unit."""
        match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*(epochs?|steps?|examples?)\s*", text)
        if not match or math.isinf(float(match[1])):
            raise ValueError(text)
        return cls(float(match[1]), match[2].rstrip("s") + "s")

    def steps(self, *, num_examples: int, batch_size: int) -> int:
        """Returns whole steps, the nearest; an epoch has `num_examples // batch_size` of them."""
        per_unit = {
            "steps": 1.0,
            "epochs": num_examples // batch_size,
            "examples": 1 / batch_size,
        }[self.unit]
        return math.floor(self.amount * per_unit + 0.5)


_LARGEST_SEED = 2**32 - 3  # 1 + seed is folded into a key as 32 bits; 2^32 - 1 is taken
_T = TypeVar("_T")
_DURATION = 'duration such as "10 epochs", "500 steps" or "2e6 examples"'


def _field(expected: str, valid: Callable[[Any], bool] = lambda value: True) -> Any:
    """A dataclass field whose value satisfies `valid`, which in words is `expected`."""
    return dataclasses.field(metadata={"expected": expected, "valid": valid})


def _one_of(*names: str) -> Any:
    return _field(f"one of {', '.join(names)}", lambda value: value in names)


def _integer(smallest: int, largest: float = math.inf) -> Any:
    limit = "" if largest == math.inf else f" and at most {largest}"
    return _field(
        f"an integer of at least {smallest}{limit}", lambda value: smallest <= value <= largest
    )


def _count() -> Any:
    return _field("a positive integer, or -1 for all", lambda value: value == -1 or value > 0)


def _number(smallest: float = 0.0, largest: float = math.inf, *, above: bool = False) -> Any:
    bound = f"above {smallest:g}" if above else f"of at least {smallest:g}"
    limit = "" if largest == math.inf else f" and at most {largest:g}"

    def valid(value):
        enough = value > smallest if above else value >= smallest
        return math.isfinite(value) and enough and value <= largest

    return _field(f"a number {bound}{limit}", valid)


def _duration(*, zero: bool = False) -> Any:
    """A duration; `zero` tells whether it may be none at all."""
    size = "" if zero else "positive "
    return _field(f"a {size}{_DURATION}", lambda value: zero or value.amount > 0)


def _several(expected: str, valid: Callable[[Any], bool]) -> Any:
    """A tuple of different values that all satisfy `valid`."""
    return _field(
        f"a tuple of {expected}, each once",
        lambda values: values and len(set(values)) == len(values) and all(map(valid, values)),
    )


def _is_temperature(text: str) -> bool:
    try:
        return text == "std" or 0 < float(text) < math.inf
    except ValueError:
        return False


@dataclasses.dataclass(frozen=True)
class Data:
    """Where images come from and what is done to them."""

    name: str = _field("the name of a data set", bool)
    dir: str = _field("a folder")
    download: bool = _field("True or False")
    pipeline: str = _one_of("auto", "device", "stream")
    workers: int = _integer(0)
    prefetch: int = _integer(1)
    crop: str = _one_of("random_resized_crop", "resize_crop")
    broken: str = _one_of("stop", "skip")
    teacher_examples: int = _count()
    student_examples: int = _count()
    validation_examples: int = _integer(0)
    test_examples: int = _count()
    noise: float = _number(largest=1)
    image_size: int = _integer(0)
    resize: int = _integer(0)
    crop_padding: int = _integer(0)
    flip: bool = _field("True or False")
    mean: tuple[float, ...] = _field(
        "a tuple of numbers, one per channel",
        lambda values: values and all(map(math.isfinite, values)),
    )
    std: tuple[float, ...] = _field(
        "a tuple of positive numbers, one per channel",
        lambda values: values and all(0 < value < math.inf for value in values),
    )


@dataclasses.dataclass(frozen=True)
class Mixup:
    """How the arms that mix do it; the arguments of `mixkd_jax.mixup.sample_mixup`."""

    alpha: float = _number()
    partial: float = _number(largest=1)
    per_example: bool = _field("True or False")


@dataclasses.dataclass(frozen=True)
class Loss:
    """What the arms that distil minimise."""

    name: str = _field("the name of a loss", bool)
    temperature: str = _field('a positive number, or "std"', _is_temperature)
    kd_weight: float = _number()
    ce_weight: float = _number()
    ddof: int = _field("0 or 1", lambda value: value in (0, 1))
    target_weight: float = _number()
    nontarget_weight: float = _number()
    confidence_weight: float = _number()
    confidence_temperature: float = _number(above=True)
    inter_weight: float = _number()
    intra_weight: float = _number()


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """From gradients to updates."""

    name: str = _field("the name of an optimizer", bool)
    momentum: float = _number(largest=1)
    nesterov: bool = _field("True or False")
    b1: float = _number(largest=1)
    b2: float = _number(largest=1)
    eps: float = _number(above=True)
    weight_decay: float = _number()
    clip_norm: float = _number()


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of a learning-rate table: towards `learning_rate`, reached at `end`."""

    end: Duration = _duration()
    shape: str = _one_of("linear", "cosine")
    learning_rate: float = _number(above=True)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate over the steps."""

    name: str = _field("the name of a schedule", bool)
    learning_rate: float = _number(above=True)
    warmup: Duration = _duration(zero=True)
    end: float = _number()
    milestones: tuple[Duration, ...] = _field(f"a tuple of texts, each a {_DURATION}")
    factor: float = _number(above=True)
    pieces: tuple[Piece, ...] = _field(
        'a tuple of pieces such as ("10 epochs", "cosine", 1e-4), at least one', bool
    )
    once_per_epoch: bool = _field("True or False")


@dataclasses.dataclass(frozen=True)
class Training:
    """How one model is trained."""

    model: str = _field("the name of a model", bool)
    head: str = _one_of("", "student", "teacher", "imagenet")
    dtype: str = _one_of("float32", "bfloat16")
    pixels: str = _one_of("data", "paper", "keras")
    weights: str = _field("a file, or nothing")
    backbone_weights: str = _field("a file, or nothing")
    head_duration: Duration = _duration(zero=True)
    head_learning_rate: float = _number(above=True)
    batch_size: int = _integer(1)
    duration: Duration = _duration(zero=True)
    optimizer: Optimizer = _field("a section")
    schedule: Schedule = _field("a section")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a trained model is measured."""

    batch_size: int = _integer(1)
    num_bins: int = _integer(1)


@dataclasses.dataclass(frozen=True)
class Analysis:
    """How a trained model is analysed."""

    pairs: int = _field("0, or an integer of at least 2", lambda value: value == 0 or value > 1)
    path_pairs: int = _integer(1)
    corrupted_images: int = _integer(0)


@dataclasses.dataclass(frozen=True)
class Log:
    """What is written while a model trains."""

    every: Duration = _duration()
    validate_every: Duration = _duration()
    progress_seconds: float = _number()
    steps_per_dispatch: int = _integer(0)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What is kept of a model's training."""

    every: Duration = _duration()
    keep: int = _integer(1)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A whole run; see configs/default.py for the meaning of every field."""

    seed: int = _integer(0, _LARGEST_SEED)
    seeds: tuple[int, ...] = _several(
        f"integers of at least 0 and at most {_LARGEST_SEED}",
        lambda value: 0 <= value <= _LARGEST_SEED,
    )
    arms: tuple[str, ...] = _several("names of arms", bool)
    data: Data = _field("a section")
    mixup: Mixup = _field("a section")
    loss: Loss = _field("a section")
    teacher: Training = _field("a section")
    teacher_parameters: str = _one_of("replicated", "sharded")
    student: Training = _field("a section")
    evaluation: Evaluation = _field("a section")
    analysis: Analysis = _field("a section")
    log: Log = _field("a section")
    checkpoint: Checkpoint = _field("a section")


def parse(values: Mapping[str, Any]) -> Experiment:
    """Checks a config's values and returns them as an `Experiment`.

    Args:
      values: the fields of configs/default.py, as a `ConfigDict` or nested dictionaries.

    Raises:
      ConfigError: at the first field that is missing, unknown, of a wrong type or out of range.
    """
    return _section(Experiment, values, "config")


def _section(cls: type, values: Mapping[str, Any], path: str) -> Any:
    """Builds the dataclass `cls` from the fields at `path`."""
    if not isinstance(values, Mapping) and not hasattr(values, "to_dict"):
        raise ConfigError(f"{path}: expected a section with fields, got {values!r}")
    types = get_type_hints(cls)
    for name in values:
        if name not in types:
            raise ConfigError(unknown_field(f"{path}.{name}", types))
    built = {}
    for field in dataclasses.fields(cls):
        where = f"{path}.{field.name}"
        if field.name not in values:
            raise ConfigError(f"{where}: missing; expected {field.metadata['expected']}")
        value, kind = values[field.name], types[field.name]
        if dataclasses.is_dataclass(kind) and kind is not Duration:
            built[field.name] = _section(kind, value, where)  # pyright: ignore[reportArgumentType]
            continue
        try:
            built[field.name] = _typed(kind, value, where)
            if not field.metadata["valid"](built[field.name]):
                raise ValueError
        except ConfigError:
            raise
        except (TypeError, ValueError):
            expected = field.metadata["expected"]
            raise ConfigError(f"{where}: expected {expected}, got {value!r}") from None
    return cls(**built)


def unknown_field(path: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """Returns the message for the field at `path`, which is not among the `known` names."""
    parent, _, name = path.rpartition(".")
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {parent}.{close[0]}? " if close else ""
    return f"{path}: there is no such field; {hint}{parent} has {', '.join(sorted(known))}"


def choose(path: str, name: str, table: Mapping[str, _T]) -> _T:
    """Returns `table[name]`; raises ConfigError for the field at `path` if there is none."""
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, n=1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    raise ConfigError(f'{path}: expected one of {", ".join(table)}, got "{name}"{hint}')


def _typed(kind: Any, value: Any, path: str) -> Any:
    """Returns `value` as a `kind`; raises ValueError or TypeError if it isn't one."""
    if kind is Duration:
        return Duration.parse(value)
    if kind is Piece:
        names = [field.name for field in dataclasses.fields(Piece)]
        return _section(Piece, dict(zip(names, value, strict=True)), path)
    if getattr(kind, "__origin__", None) is tuple:
        if not isinstance(value, tuple | list):
            raise TypeError
        return tuple(_typed(kind.__args__[0], item, path) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise TypeError
    return value
