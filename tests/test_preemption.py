"""SIGTERM and SIGINT where nothing asks for them, and twice; `test_group` has it in training."""

import os
import signal
import subprocess
import sys
import time

import pytest
import small

from mixkd_jax.training.preemption import Stopped, StopRequest


def _run(program):
    return subprocess.run(
        [sys.executable, "-c", program], cwd=small.ROOT, timeout=25, capture_output=True, text=True
    )


BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


@pytest.fixture(autouse=True)
def handlers():
    """Puts the handlers back that a request replaces."""
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@BOTH
def test_who_asks_is_told_and_may_take_its_time(number):
    stop = StopRequest(patience=0.1)
    assert not stop(1)
    os.kill(os.getpid(), number)
    assert stop(2)
    assert stop.interrupted == (number == signal.SIGINT)
    time.sleep(0.3)


@BOTH
def test_a_signal_ends_also_what_python_waits_for(number):
    """As XLA does when it compiles, the digest keeps the main thread from its handlers."""
    program = (
        "import hashlib, os, threading\n"
        "from mixkd_jax.training.preemption import StopRequest\n"
        "stop = StopRequest(patience=0.1, last_words=lambda: 'go on')\n"
        f"threading.Timer(0.2, os.kill, (os.getpid(), {int(number)})).start()\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    done = _run(program)
    assert done.returncode == 128 + number
    assert done.stderr == "\nstopped; go on\n"


@BOTH
def test_a_signal_ends_also_what_never_asks(number):
    StopRequest(patience=0.1)
    with pytest.raises(Stopped, match="done again"):
        os.kill(os.getpid(), number)
        time.sleep(30)


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        ("SIGTERM", "SIGTERM", 143),
        ("SIGINT", "SIGTERM", 143),
        ("SIGINT", "SIGINT", 130),
        ("SIGTERM", "SIGINT", 130),
    ],
)
def test_a_second_signal_ends_the_process_at_once(first, second, status):
    program = (
        "import os, signal, sys, time\n"
        "from mixkd_jax.training.preemption import StopRequest\n"
        "stop = StopRequest()\n"
        f"os.kill(os.getpid(), signal.{first})\n"
        "assert stop(1)\n"
        "try:\n"
        f"    os.kill(os.getpid(), signal.{second})\n"
        "    time.sleep(30)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    done = _run(program)
    assert done.returncode == status
    assert ("Ctrl-C again leaves at once" in done.stderr) == (first == "SIGINT")
