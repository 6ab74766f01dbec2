"""Signals that end a command: none gets lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import FrameType

_AGAIN = 0.1  # seconds


def listen(*, alone: bool = True) -> None:
    """Makes SIGTERM end the process as Ctrl-C does, until there is a run that can save.

    A second signal ends it at once, without a word.

    What a signal raises may come up within a callback, such as JAX's of the garbage collector,
    where Python drops it and goes on: it is then raised again. Other errors that are dropped are
    printed, but for those of a save that has failed, whose waiting writes find its loop closed.

    Args:
      alone: whether this is no process of many, whose SIGTERM is JAX's.
    """
    for number in (signal.SIGINT, signal.SIGTERM) if alone else (signal.SIGINT,):
        signal.signal(number, _end)
    sys.unraisablehook = _raise_again


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    for each in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(each) is _end:
            signal.signal(each, leave)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


def leave(number: int, frame: FrameType | None) -> None:
    """Ends the process at once; a handler of signals."""
    del frame
    os._exit(128 + number)


def _raise_again(dropped: UnraisableHookArgs) -> None:
    kind = dropped.exc_type.__name__
    if kind in ("KeyboardInterrupt", "SystemExit"):
        number = signal.SIGINT if kind == "KeyboardInterrupt" else signal.SIGTERM
        if signal.getsignal(number) is leave:
            signal.signal(number, _end)
        main = threading.main_thread().ident
        threading.Timer(_AGAIN, signal.pthread_kill, (main, number)).start()
    elif kind == "Stopped":  # of preemption.StopRequest, whose alarm it is
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)
    elif str(dropped.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(dropped)
