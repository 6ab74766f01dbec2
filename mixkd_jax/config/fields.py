"""Fields of a config: each is declared once, with its default, its meaning and its bounds.

A section is a frozen dataclass whose fields are made by the functions here. From the declarations
come the checks (`build`), the defaults (`defaults`) and the list that people read (`rows`).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, get_type_hints

from mixkd_jax.config import value_types
from mixkd_jax.config.duration import Duration
from mixkd_jax.errors import ConfigError

# What a field changes in a run: its trained models, which there are, what is measured, or nothing.
Changes = Literal["models", "which models", "measures", "nothing"]
_T = TypeVar("_T")


_MOST = 2**31 - 1  # integers are 32 bits on devices
_DURATION = 'duration such as "10 epochs", "500 steps" or "2e6 examples"'


def field(
    default: Any,
    meaning: str,
    expected: str,
    valid: Callable[[Any], Any] = lambda value: True,
    *,
    changes: Changes | None = None,
) -> Any:
    """A field of a section.

    Args:
      default: as a config holds it: durations are text, sections are their dataclass.
      meaning: what it is, with its unit, for people.
      expected: what `valid` asks for, in words.
      valid: whether a value, of the right type already, may be taken.
      changes: what depends on the field; None is what depends on its section.
    """
    told = {"default": default, "meaning": meaning, "expected": expected, "valid": valid}
    return dataclasses.field(metadata={**told, "changes": changes})


def section(cls: type, meaning: str, *, changes: Changes | None = None, **defaults: Any) -> Any:
    """A section of fields, some of which may have other defaults here."""
    return field((cls, defaults), meaning, "a section", changes=changes)


def flag(default: bool, meaning: str, **kwargs: Any) -> Any:
    """A field that is True or False."""
    return field(default, meaning, "True or False", **kwargs)


def one_of(names: Sequence[str], meaning: str, default: str | None = None, **kwargs: Any) -> Any:
    """A field that is one of a few words; the default is the first of them, unless it is given."""
    default = names[0] if default is None else default
    expected = "one of " + ", ".join(name or '""' for name in names)
    return field(default, meaning, expected, lambda value: value in names, **kwargs)


def integer(default: int, meaning: str, smallest: int, largest: int = _MOST, **kwargs: Any) -> Any:
    """A field that is an integer within bounds."""
    limit = "" if largest == _MOST else f" and at most {largest}"
    expected = f"an integer of at least {smallest}{limit}"
    return field(default, meaning, expected, lambda value: smallest <= value <= largest, **kwargs)


def count(default: int, meaning: str) -> Any:
    """A field that is a number of images, or -1 for all."""
    expected = "a positive integer, or -1 for all"
    return field(default, meaning, expected, lambda value: value == -1 or 0 < value <= _MOST)


def number(
    default: float,
    meaning: str,
    smallest: float = 0.0,
    largest: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    **kwargs: Any,
) -> Any:
    """A field that is a number of float32 within bounds, which `above` and `below` leave out."""
    bound = f"above {smallest:g}" if above else f"of at least {smallest:g}"
    limit = f" and below {largest:g}" if below else f" and at most {largest:g}"

    def valid(value: float) -> bool:
        enough = value > smallest if above else value >= smallest
        few = value < largest if below else value <= largest
        return enough and few and value_types.has_float32(value)

    expected = f"a number {bound}{'' if largest == math.inf else limit}"
    return field(default, meaning, expected, valid, **kwargs)


def duration(default: str, meaning: str, *, zero: bool = False, **kwargs: Any) -> Any:
    """A field that is a duration; `zero` tells whether it may be none at all."""
    expected = f"a {'' if zero else 'positive '}{_DURATION}"
    return field(default, meaning, expected, lambda value: zero or value.amount > 0, **kwargs)


def durations(default: tuple[str, ...], meaning: str) -> Any:
    """A field that is a tuple of durations."""
    return field(default, meaning, f"a tuple of texts, each a {_DURATION}")


def several(
    default: tuple, meaning: str, expected: str, valid: Callable[[Any], Any], **kwargs: Any
) -> Any:
    """A field that is a tuple of different values, all of which satisfy `valid`."""

    def all_valid(values: tuple) -> bool:
        return bool(values) and len(set(values)) == len(values) and all(map(valid, values))

    return field(default, meaning, f"a tuple of {expected}, each once", all_valid, **kwargs)


def numbers(default: tuple[float, ...], meaning: str, *, positive: bool = False) -> Any:
    """A field that is a tuple of finite numbers, one for each channel."""
    low = 0 if positive else -math.inf
    expected = f"a tuple of {'positive ' if positive else ''}numbers, one per channel"
    return field(
        default,
        meaning,
        expected,
        lambda values: values and all(low < value <= value_types.LARGEST for value in values),
    )


def build(cls: type, values: Mapping[str, Any], path: str) -> Any:
    """Builds the section `cls` from the values at `path`.

    Raises:
      ConfigError: at the first field that is missing, unknown, of a wrong type or out of range.
    """
    check_section(values, path)
    types, declarations = get_type_hints(cls), _declarations(cls)
    for name in values:
        if name not in types:
            raise ConfigError(unknown(f"{path}.{name}", types))
    built = {}
    for declared in declarations:
        where, told = f"{path}.{declared.name}", declared.metadata
        if declared.name not in values:
            raise ConfigError(f"{where}: missing; expected {told['expected']}")
        value, kind = values[declared.name], types[declared.name]
        if _is_section(told["default"]):
            make = getattr(kind, "build", None) or (lambda v, w, kind=kind: build(kind, v, w))
            built[declared.name] = make(value, where)
            continue
        try:
            built[declared.name] = _typed(kind, value, where)
            if not told["valid"](built[declared.name]):
                raise ValueError
        except ConfigError:
            raise
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(
                f"{where}: expected {told['expected']}, got {value_types.shown(value)}"
                f"{_limits(value)}"
            ) from None
    return cls(**built)


def _limits(value: Any) -> str:
    """Returns what a message adds of a number that no field takes."""
    if type(value) is int and abs(value) > _MOST:
        return f"; integers are at most {_MOST:,}"
    if type(value) is float and math.isfinite(value) and not value_types.has_float32(value):
        return f"; numbers are 0, or {value_types.SMALLEST:g} to {value_types.LARGEST:g} in size"
    return ""


def check_section(values: Any, path: str) -> None:
    """Raises ConfigError if what is at `path` has no fields."""
    if not isinstance(values, Mapping) and not hasattr(values, "to_dict"):
        raise ConfigError(
            f"{path}: expected a section with fields, got {value_types.shown(values)}"
        )


def _declarations(cls: type) -> list[dataclasses.Field]:
    """Returns the fields that are declared by a function of this module."""
    return [declared for declared in dataclasses.fields(cls) if declared.metadata]


def _is_section(default: Any) -> bool:
    return isinstance(default, tuple) and len(default) == 2 and isinstance(default[0], type)


def _typed(kind: Any, value: Any, path: str) -> Any:
    """Returns `value` as a `kind`; raises ValueError or TypeError if it isn't one."""
    if kind is Duration:
        return Duration.parse(value)
    if dataclasses.is_dataclass(kind):  # written as a tuple of its fields
        names = [declared.name for declared in _declarations(kind)]  # pyright: ignore[reportArgumentType]
        return build(kind, dict(zip(names, value, strict=True)), path)  # pyright: ignore[reportArgumentType]
    if getattr(kind, "__origin__", None) is tuple:
        if not isinstance(value, tuple | list):
            raise TypeError
        return tuple(_typed(kind.__args__[0], item, path) for item in value)
    if value_types.words(kind):
        return value_types.converted(kind, value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is str and "\0" in value):  # which no path can have
        raise TypeError
    return value


def defaults(cls: type, **changed: Any) -> dict[str, Any]:
    """Returns a section's defaults as nested dictionaries, with some of them changed."""
    made = {}
    for declared in _declarations(cls):
        default = changed.get(declared.name, declared.metadata["default"])
        if _is_section(default):
            inner, inner_changed = default
            extra = getattr(inner, "extra_defaults", dict)()
            default = {**defaults(inner, **inner_changed), **extra}
        made[declared.name] = default
    return made


class Row(NamedTuple):
    """A field as people read of it."""

    path: str
    default: str
    meaning: str
    expected: str
    changes: Changes


def rows(cls: type, path: str = "config", changes: Changes = "models") -> Iterator[Row]:
    """Yields all fields of a section and of those within it, in the order of their declaration."""
    types = get_type_hints(cls)
    for declared in _declarations(cls):
        told, where = declared.metadata, f"{path}.{declared.name}"
        own = told["changes"] or changes
        if _is_section(told["default"]):
            kind = types[declared.name]
            yield from rows(kind, where, own)
            yield from getattr(kind, "extra_rows", lambda _: ())(where)
        else:
            yield Row(where, repr(told["default"]), told["meaning"], told["expected"], own)


def unknown(path: str, known: Sequence[str] | Mapping[str, Any]) -> str:
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
