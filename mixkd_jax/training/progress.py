"""What a person sees while a model trains, and where the time goes."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence

import jax
from etils import epath

from mixkd_jax.files import write_json


class Clock:
    """Adds up the seconds that a model took, by what they were spent on, over all its sessions."""

    KINDS = ("compile", "train", "evaluate", "checkpoint", "analyse")

    def __init__(self, file: epath.Path):
        """Goes on from `file` if an earlier session saved it."""
        self._file = file
        self.seconds: dict[str, float] = dict.fromkeys(self.KINDS, 0.0)
        if file.exists():
            self.seconds |= json.loads(file.read_text())

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


class Progress:
    """Prints lines to standard error; process 0 alone should have one enabled."""

    def __init__(self, *, every: float, enabled: bool = True):
        """Prints at most one line of progress in `every` seconds, or nothing if not `enabled`."""
        self._every = every
        self._enabled = enabled

    def say(self, text: str) -> None:
        """Prints a line at once."""
        if self._enabled:
            print(text, file=sys.stderr, flush=True)

    def start(self, models: Sequence[str], step: int, total: int, batch_size: int) -> None:
        """Begins to follow the training of models side by side, from `step` of `total`."""
        self._run, self._total, self._batch_size = ", ".join(models), total, batch_size
        self._first = self._last = (step, time.monotonic())

    def update(self, step: int) -> None:
        """Tells how far the training is, if it is time to."""
        now = time.monotonic()
        if now - self._last[1] < self._every:
            return
        rate = (step - self._last[0]) / (now - self._last[1])
        self._last = (step, now)
        self.say(
            f"{self._run}: step {step:,} of {self._total:,}, {rate:,.1f} steps/s, "
            f"{rate * self._batch_size:,.0f} images/s, "
            f"{duration((self._total - step) / max(rate, 1e-9))} left"
        )

    def finish(self, step: int) -> None:
        """Sums up the training."""
        steps, seconds = step - self._first[0], time.monotonic() - self._first[1]
        rate = f"{steps / max(seconds, 1e-9):,.1f} steps/s"
        self.say(f"{self._run}: {steps:,} steps in {duration(seconds)}, {rate}")


def duration(seconds: float) -> str:
    """Returns seconds as "4.2 s", "3:05 min" or "2:03:05 h"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
