"""How long a run will still take, learned from what its models took so far."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, MutableMapping

# Until a model is analysed, the analysis is taken to last as long as this many evaluations.
_EVALUATIONS = 10.0
_ONCE = ("compile", "evaluate", "checkpoint")  # what a model's training takes beside its steps


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
    once = {role: _once_seconds(works, role) for role in speeds}
    analysis = _analysis_seconds(works)
    left = 0.0
    for work in works:
        if not work.trained:
            speed = speeds[work.role]
            left += (work.total - work.step) * (known[0] if speed is None else speed)
            left += max(0.0, once[work.role] - _sum(work.seconds))
        if not work.analysed:
            left += analysis
    return left


def _step_seconds(works: Iterable[Work], role: str) -> float | None:
    """Returns the seconds of a step of a role's models, if any has taken one."""
    taken = [w for w in works if w.role == role and w.step and w.seconds["train"] > 0]
    steps = sum(work.step for work in taken)
    return sum(work.seconds["train"] for work in taken) / steps if steps else None


def _once_seconds(works: Iterable[Work], role: str) -> float:
    """Returns what a model of a role takes beside its steps, as those did that are trained."""
    trained = [work for work in works if work.trained]
    alike = [work for work in trained if work.role == role] or trained
    return sum(_sum(work.seconds) for work in alike) / len(alike) if alike else 0.0


def _analysis_seconds(works: Iterable[Work]) -> float:
    analysed = [s for work in works if (s := work.seconds["analyse"])]
    if analysed:
        return sum(analysed) / len(analysed)
    evaluated = [work.seconds["evaluate"] for work in works if work.trained]
    return _EVALUATIONS * sum(evaluated) / len(evaluated) if evaluated else 0.0


def _sum(seconds: Mapping[str, float]) -> float:
    return sum(seconds[kind] for kind in _ONCE)


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
