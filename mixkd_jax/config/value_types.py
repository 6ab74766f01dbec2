"""Values of config fields: which there are, from text or not, and how messages show them."""

from __future__ import annotations

from typing import Any, get_args

# Sizes of numbers that float32 has, with some room for squares and sums.
SMALLEST, LARGEST = 1e-30, 1e30


def shown(value: Any) -> str:
    """Returns a value as a message shows it: in one line, and not for ever."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        text = f"{type(value).__name__} of many digits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"


def words(kind: Any) -> set[str]:
    """Returns the words that a type such as `float | Literal["std"]` takes beside numbers."""
    return {word for part in get_args(kind) for word in get_args(part)}


def converted(kind: Any, value: Any) -> Any:
    """Returns a value, or its text, as a bool, an int, a float, or a float or one of a few words.

    Raises:
      ValueError, TypeError: if it isn't one.
    """
    if isinstance(value, str) and value in words(kind):
        return value
    if kind is bool:
        if str(value) not in ("True", "False"):
            raise ValueError(value)
        return str(value) == "True"
    if isinstance(value, bool):
        raise TypeError(value)
    try:
        made = float(value)
    except OverflowError as error:
        raise ValueError(value) from error
    if not has_float32(made) or (kind is int and made != int(made)):
        raise ValueError(value)
    return int(made) if kind is int else made


def has_float32(value: float) -> bool:
    """Whether float32 can tell a number from 0 and from infinity."""
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def in_words(kind: Any) -> str:
    """Returns what `converted` takes, in words."""
    what = {int: "an integer", bool: "True or False"}.get(kind, "a finite number")
    return what + "".join(f', or "{word}"' for word in sorted(words(kind)))
