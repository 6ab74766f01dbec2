"""Whether the weights of a file are those of a model, and their values if they are."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mixkd_jax.weights.errors import WeightsError

Path = tuple[str, ...]  # of a variable, from its collection on


class Stored(NamedTuple):
    """A weight in a file, not read yet.

    Attributes:
        name: As the file has it.
        shape: As the file declares it.
        dtype: Its name.
        floating: Whether it holds floats that NumPy can read.
        read: Returns the values.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    floating: bool
    read: Callable[[], np.ndarray]


class Target(NamedTuple):
    """What a model needs of a file.

    Attributes:
        paths: The variables that one weight of the file holds: one, or an attention's three.
        place: Where the file has it.
        shape: Its shape there.
        convert: From the values there to those of each variable.
    """

    paths: Sequence[Path]
    place: str
    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], Sequence[np.ndarray]]


def read_all(
    targets: Iterable[Target], stored: Mapping[str, Stored], hint: str = ""
) -> dict[Path, np.ndarray]:
    """Returns the float32 values of every variable; arrays are read when all of them fit.

    Args:
        targets: All that the model needs.
        stored: All that the file has, by place.
        hint: What the file seems to hold instead, if anything is known of it.

    Raises:
        WeightsError: With one line for each weight that is missing, extra, misshapen, of integers,
            or has values that aren't finite.
    """
    targets = list(targets)
    _check_fit({target.place: target for target in targets}, stored, hint)
    values, problems = {}, []
    for target in targets:
        source = stored[target.place]
        with np.errstate(over="ignore"):  # float64 beyond float32's range: not finite either
            array = source.read().astype(np.float32)
        if bad := int(np.count_nonzero(~np.isfinite(array))):
            problems.append(
                f"not finite: {source.name} has {bad} of {array.size} values NaN or inf"
            )
        values.update(zip(target.paths, target.convert(array), strict=True))
    if problems:
        raise WeightsError(
            f"weights that aren't finite: {len(problems)}\n  " + "\n  ".join(problems)
        )
    return values


def _check_fit(expected: Mapping[str, Target], stored: Mapping[str, Stored], hint: str) -> None:
    problems = []
    for place, target in expected.items():
        name = ", ".join("/".join(path) for path in target.paths)
        if place not in stored:
            problems.append(f"missing: {name} {list(target.shape)}, as {place}")
        elif stored[place].shape != target.shape:
            got = f"{stored[place].name} {list(stored[place].shape)}"
            problems.append(f"shape: {name} needs {list(target.shape)}, the file has {got}")
        elif not stored[place].floating:
            problems.append(
                f"dtype: {name} needs floats of 16 to 64 bits, the file has {stored[place].dtype}"
            )
    for place in stored.keys() - expected.keys():
        problems.append(f"extra: {stored[place].name} {list(stored[place].shape)}")
    if problems:
        hint = hint or "is it another architecture, head, number of classes or image size?"
        raise WeightsError(
            f"weights that don't fit the model: {len(problems)} ({hint})\n  "
            + "\n  ".join(sorted(problems))
        )
