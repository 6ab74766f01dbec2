"""How long a run will still take, learned from what its models took so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, MutableMapping

# Until a model is analysed, the analysis is taken to last as long as this many evaluations.
_EVALUATIONS = 10.0
# The first time that something is measured it is compiled, too, which is most of that time.
_WITHOUT_COMPILING = 0.2


@dataclasses.dataclass
class Work:
    """What is done and left of one model.

    Attributes:
      role: "teacher" or "student"; models of one role take alike.
      total: steps of its training.
      step: that it has taken.
      seconds: that it took so far, by kind, as its `Clock` counts them.
      trained: whether it is trained and evaluated.
      analysed: whether it is analysed, or is not to be.
    """

    role: str
    total: int
    step: int
    seconds: MutableMapping[str, float]
    trained: bool
    analysed: bool


def seconds_left(works: Iterable[Work]) -> float | None:
    """Returns the seconds that models still take; None as long as none has taken a step."""
    works = list(works)
    speeds = {role: _step_seconds(works, role) for role in ("teacher", "student")}
    known = [speed for speed in speeds.values() if speed is not None]
    if not known:
        return None
    analysis = _analysis_seconds(works)
    left = 0.0
    for role, speed in speeds.items():
        alike = [work for work in works if work.role == role and not work.trained]
        if not alike:
            continue
        left += max(0.0, _compile_seconds(works, role))
        once = _once_seconds(works, role)
        for work in alike:
            left += (work.total - work.step) * (known[0] if speed is None else speed)
            left += max(0.0, once - _once(work))
    return left + analysis * sum(not work.analysed for work in works)


def _step_seconds(works: Iterable[Work], role: str) -> float | None:
    """Returns the seconds of a step of a role's models, if any has taken one."""
    taken = [w for w in works if w.role == role and w.step and w.seconds["train"] > 0]
    steps = sum(work.step for work in taken)
    return sum(work.seconds["train"] for work in taken) / steps if steps else None


def _compile_seconds(works: Iterable[Work], role: str) -> float:
    """Returns the seconds of compiling for a role: what the other's took, if none of it has."""
    seconds = {work.role: 0.0 for work in works}
    for work in works:
        seconds[work.role] += work.seconds["compile"]
    return 0.0 if seconds[role] else max(seconds.values())


def _once_seconds(works: Iterable[Work], role: str) -> float:
    """Returns what a model takes beside steps and compiling, as those of its role took."""
    trained = [work for work in works if work.trained]
    alike = [work for work in trained if work.role == role] or trained
    return _again([_once(work) for work in alike])


def _analysis_seconds(works: Iterable[Work]) -> float:
    analysed = [s for work in works if (s := work.seconds["analyse"])]
    if analysed:
        return _again(analysed)
    return _EVALUATIONS * _again([w.seconds["evaluate"] for w in works if w.trained])


def _again(seconds: list[float]) -> float:
    """Returns how long something takes again, from what it took: the longest time was the first."""
    if len(seconds) < 2:
        return _WITHOUT_COMPILING * sum(seconds)
    return (sum(seconds) - max(seconds)) / (len(seconds) - 1)


def _once(work: Work) -> float:
    return work.seconds["evaluate"] + work.seconds["checkpoint"]


class Smooth:
    """A time left that runs down with the clock and follows its estimates slowly."""

    def __init__(self, over: float):
        """Follows by 63 % in `over` seconds."""
        self._over = over
        self._value: float | None = None
        self._time = 0.0

    def update(self, estimate: float | None, now: float) -> float | None:
        """Returns the seconds left at `now`, after an estimate of them; None before any."""
        if estimate is not None:
            passed = now - self._time
            if self._value is None:
                self._value = estimate
            else:
                expected = max(self._value - passed, 0.0)
                weight = 1 - math.exp(-passed / self._over)
                self._value = expected + weight * (estimate - expected)
            self._time = now
        return self._value
