"""Stopping on request: a machine that is taken away says so with SIGTERM."""

from __future__ import annotations

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
    """Training stopped on request, with a checkpoint of its last step."""


class StopRequest:
    """Notes SIGTERM, so that the loop can save before it stops.

    On many hosts JAX's own preemption service notes it, and all processes agree on a step.
    """

    def __init__(self) -> None:
        """Begins to listen; from the main thread only."""
        self._received = False
        self._asked = 0
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._received = True

    def __call__(self, step: int) -> bool:
        """Whether to stop after `step`; every process must ask equally often."""
        del step
        if jax.process_count() > 1:
            # The service expects to be asked about 1, 2, 3, ..., and says yes to one of them only;
            # steps begin anew with every model, and a dispatch may take many.
            self._asked += 1
            self._received |= multihost_utils.reached_preemption_sync_point(self._asked)
        return self._received
