"""JSON of unknown origin: read without surprises, and checked to have the shape that is needed."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

_LONGEST_INTEGER = 18  # digits; longer ones don't fit int64
_LARGEST = 1e100  # whose square is finite; no measure of a model is larger


class ShapeError(ValueError):
    """A value is not what is expected at its place; the message says where, and what came."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A value without parts.

    Attributes:
      expected: what it must be, in words.
      types: of which it must be; a bool is no number.
      lowest: the least that a number may be.
      optional: whether it may be null or absent.
    """

    expected: str
    types: tuple[type, ...]
    lowest: float = -math.inf
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Each:
    """An object whose values all have one shape, whatever their names."""

    shape: Any


@dataclasses.dataclass(frozen=True)
class Optional:
    """What may be null or absent, and has a shape otherwise."""

    shape: Any


ANYTHING = Leaf("anything", (object,), optional=True)
NUMBER = Leaf("a number or null", (int, float), optional=True)
AMOUNT = Leaf("a number of at least 0", (int, float), lowest=0)
COUNT = Leaf("an integer of at least 0", (int,), lowest=0)
TEXT = Leaf("a text", (str,))


def load(path: epath.Path) -> Any:
    """Reads a JSON file; numbers that are not finite, or are absurd, become None.

    Raises:
      ShapeError: it isn't JSON, is nested too deeply, or can't be read.
    """
    try:
        return parse(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError:
        raise ShapeError("is not UTF-8") from None
    except OSError as error:
        raise ShapeError(f"can't be read ({error.strerror or error})") from None


def parse(text: str) -> Any:
    """Reads JSON as `load` does."""
    try:
        value = json.loads(
            text, parse_constant=lambda _: None, parse_float=_finite, parse_int=_integer
        )
        return _encodable(value) if "\\u" in text else value
    except RecursionError:
        raise ShapeError("is nested too deeply") from None
    except ValueError as error:
        raise ShapeError(f"is not JSON ({error})") from None


def check(value: Any, shape: Any, place: str = "") -> None:
    """Raises ShapeError unless `value` has the shape.

    Args:
      value: as `load` returns it.
      shape: a `Leaf`; a dictionary of the shapes of an object's entries, which may have others
        beside them; a list of one shape, for a list; an `Each`, or an `Optional`.
      place: of the value, for the message.
    """
    if isinstance(shape, Optional):
        if value is not None:
            check(value, shape.shape, place)
    elif isinstance(shape, Leaf):
        _check_leaf(value, shape, place)
    elif isinstance(shape, list):
        _require(isinstance(value, list), "a list", value, place)
        for index, entry in enumerate(value):
            check(entry, shape[0], f"{place}[{index}]")
    else:
        _require(isinstance(value, Mapping), "an object", value, place)
        entries = dict.fromkeys(value, shape.shape) if isinstance(shape, Each) else shape
        for name, part in entries.items():
            check(value.get(name), part, f"{place}.{name}" if place else name)


def _check_leaf(value: Any, leaf: Leaf, place: str) -> None:
    if value is None and leaf.optional:
        return
    right = isinstance(value, leaf.types) and (leaf is ANYTHING or not isinstance(value, bool))
    if isinstance(value, int | float):
        right = right and value >= leaf.lowest
    _require(right, leaf.expected, value, place)


def _require(right: bool, expected: str, value: Any, place: str) -> None:
    if not right:
        came = "nothing" if value is None else f"{value!r:.40}"
        raise ShapeError(f"{place or 'content'}: expected {expected}, got {came}")


def _finite(text: str) -> float | None:
    value = float(text)
    return value if abs(value) <= _LARGEST else None


def _integer(text: str) -> int | None:
    return int(text) if len(text) <= _LONGEST_INTEGER else None


def _encodable(value: Any) -> Any:
    """Returns `value` with half characters (lone surrogates) replaced: no file takes them."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_encodable(entry) for entry in value]
    if isinstance(value, dict):
        return {_encodable(name): _encodable(entry) for name, entry in value.items()}
    return value
