"""Stopping on request: by SIGTERM, as a machine that is taken away says so, or by Ctrl-C."""

from __future__ import annotations

import os
import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class Stopped(Exception):
    """A run stopped on request, with a checkpoint of its last step if it was training."""


class StopRequest:
    """Notes SIGTERM or SIGINT, so that the loop can save before it stops.

    Where nothing asks for `patience` seconds, as while a large model is analysed, `Stopped` is
    raised: the run then goes on from its last checkpoint. A second signal ends the process.

    On many hosts JAX's own preemption service notes SIGTERM, and all processes agree on a step;
    SIGINT ends the process that it is sent to.

    Attributes:
      interrupted: whether it was SIGINT.
    """

    def __init__(self, patience: float = 20.0) -> None:
        """Begins to listen; from the main thread only."""
        self.interrupted = False
        self._received = False
        self._asked = 0
        self._patience = patience
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._receive)
            signal.signal(signal.SIGINT, self._receive)
            signal.signal(signal.SIGALRM, self._leave)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._received = True
        self.interrupted = number == signal.SIGINT
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, self._patience)
        if self.interrupted:  # print() may be in the middle of something
            os.write(2, b"\nstopping; Ctrl-C again leaves at once\n")

    def _leave(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        raise Stopped("what was being done is done again")

    def __call__(self, step: int) -> bool:
        """Whether to stop after `step`; every process must ask equally often."""
        del step
        if jax.process_count() > 1:
            # The service expects to be asked about 1, 2, 3, ..., and says yes to one of them only;
            # steps begin anew with every model, and a dispatch may take many.
            self._asked += 1
            self._received |= multihost_utils.reached_preemption_sync_point(self._asked)
        if self._received and jax.process_count() == 1:
            signal.setitimer(signal.ITIMER_REAL, 0)  # whoever asks saves, however long that takes
        return self._received
