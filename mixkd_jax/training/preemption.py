"""Stopping on request: by SIGTERM, as a machine that is taken away says so, or by Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

import jax
from jax.experimental import multihost_utils

_GRACE = 1.0  # seconds


class Stopped(Exception):
    """A run stopped on request, with a checkpoint of its last step if it was training."""


class StopRequest:
    """Notes SIGTERM or SIGINT, so that the loop can save before it stops.

    Where nothing asks for `patience` seconds, as while a large model is analysed, `Stopped` is
    raised: the run then goes on from its last checkpoint. Where Python itself is not heard, as
    while a large model is compiled, the process ends a second later. A second signal ends it at
    once.

    On many hosts JAX's own preemption service notes SIGTERM, and all processes agree on a step;
    SIGINT ends the process that it is sent to.

    Attributes:
      interrupted: whether it was SIGINT.
    """

    def __init__(self, patience: float = 20.0, last_words: Callable[[], str] = str) -> None:
        """Begins to listen; from the main thread only.

        Args:
          patience: seconds.
          last_words: what is said where the process ends outside of Python.
        """
        self.interrupted = False
        self._received = self._heard = False
        self._asked = 0
        self._patience = patience
        self._last_words = last_words
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._receive)
            signal.signal(signal.SIGINT, self._receive)
            signal.signal(signal.SIGALRM, self._leave)
            # Python writes the number of each signal there, whatever its main thread is doing.
            signals, written = os.pipe()
            os.set_blocking(written, False)
            signal.set_wakeup_fd(written, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(signals,), daemon=True).start()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._received:
            self._end(number)
        self._received = True
        self.interrupted = number == signal.SIGINT
        signal.setitimer(signal.ITIMER_REAL, self._patience)
        if self.interrupted:  # print() may be in the middle of something
            os.write(2, b"\nstopping; Ctrl-C again leaves at once\n")

    def _leave(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._heard = True
        raise Stopped("what was being done is done again")

    def _watch(self, signals: int) -> None:
        """Ends the process where the main thread is deaf, or is asked twice."""
        number = _next_of(signals, None)
        second = _next_of(signals, self._patience + _GRACE)
        if self._heard and not second:
            second = _next_of(signals, None)
        if second:
            number = second
            time.sleep(_GRACE)  # for the main thread to end in its own way
        self._end(number)

    def _end(self, number: int) -> None:
        os.write(2, f"\nstopped; {self._last_words()}\n".encode())
        os._exit(128 + number)

    def __call__(self, step: int) -> bool:
        """Whether to stop after `step`; every process must ask equally often."""
        del step
        if jax.process_count() > 1:
            # The service expects to be asked about 1, 2, 3, ..., and says yes to one of them only;
            # steps begin anew with every model, and a dispatch may take many.
            self._asked += 1
            self._received |= multihost_utils.reached_preemption_sync_point(self._asked)
        if self._received and jax.process_count() == 1:
            self._heard = True
            signal.setitimer(signal.ITIMER_REAL, 0)  # whoever asks saves, however long that takes
        return self._received


def _next_of(signals: int, seconds: float | None) -> int:
    """Returns the next SIGTERM or SIGINT that is read, or 0 if none came for some seconds."""
    while select.select([signals], [], [], seconds)[0]:
        if (number := os.read(signals, 1)[0]) in (signal.SIGTERM, signal.SIGINT):
            return number
    return 0
