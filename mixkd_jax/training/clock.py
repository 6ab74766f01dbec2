"""Where the time of a model, and of a whole run, goes."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from mixkd_jax.files import load_json_if_whole, write_json
from mixkd_jax.folder import TIMES


class Clock:
    """Adds up the seconds that a model took, by what they were spent on, over all its sessions."""

    def __init__(self, file: epath.Path):
        """Goes on from `file` if an earlier session saved it."""
        self._file = file
        self.seconds: dict[str, float] = dict.fromkeys(TIMES, 0.0)
        self.seconds |= _read(file, self.seconds)

    @contextlib.contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Counts the time within as `kind`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(kind, time.perf_counter() - start)

    def add(self, kind: str, seconds: float) -> None:
        """Counts seconds as `kind`."""
        self.seconds[kind] += seconds

    def save(self) -> None:
        """Writes the file; process 0 alone does."""
        if jax.process_index() == 0:
            write_json(self._file, self.seconds)


class RunClock:
    """Adds up the wall and CPU seconds of the processes that worked on a run.

    Its file holds {"wall", "cpu": seconds, "sessions": how many processes, one after the other}.
    Of processes side by side it counts the first one.
    """

    def __init__(self, file: epath.Path, started: tuple[float, float]):
        """Goes on from `file`; `started` has this session's first wall and CPU time."""
        self._file = file
        self._started = started
        self._before = {"wall": 0.0, "cpu": 0.0, "sessions": 0}
        self._before |= _read(file, self._before)

    def save(self) -> None:
        """Writes the file with what this session took so far; process 0 alone does."""
        if jax.process_index() == 0:
            before, (wall, cpu) = self._before, self._started
            seconds = {
                "wall": before["wall"] + time.perf_counter() - wall,
                "cpu": before["cpu"] + time.process_time() - cpu,
            }
            write_json(self._file, {**seconds, "sessions": before["sessions"] + 1})


def _read(file: epath.Path, like: dict[str, Any]) -> dict[str, Any]:
    """Returns amounts with names that `like` has, or nothing where the file has others."""

    def is_whole(found: Any) -> bool:
        return (
            isinstance(found, dict)
            and found.keys() <= like.keys()
            and all(type(x) in (int, float) and 0 <= x < math.inf for x in found.values())
        )

    return load_json_if_whole(file, is_whole, "time is counted from now on") or {}
