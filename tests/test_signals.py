"""Signals of which Python drops what they raise."""

import signal
import subprocess
import sys

import pytest
import small

# A callback of the garbage collector, as JAX has one, in which a signal arrives.
PROGRAM = """
import gc, os, signal, sys, time
from mixkd_jax.cli import signals
from mixkd_jax.training.preemption import StopRequest, Stopped

signals.listen()
stop = StopRequest(patience=0.01) if {running} else None
sent = []

def callback(phase, info):
    if not sent:
        sent.append(True)
        os.kill(os.getpid(), {number})
        time.sleep(0.05)

gc.callbacks.append(callback)
try:
    gc.collect()
    assert sent
    time.sleep(20)
except (KeyboardInterrupt, Stopped, SystemExit) as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("number", "running", "raised"),
    [
        (signal.SIGINT, False, "KeyboardInterrupt"),
        (signal.SIGINT, True, "Stopped"),
        (signal.SIGTERM, False, "SystemExit"),
        (signal.SIGTERM, True, "Stopped"),
    ],
)
def test_what_a_callback_drops_is_raised_again(number, running, raised):
    program = PROGRAM.format(number=int(number), running=running)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=small.ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.returncode) == (raised, 0), done.stderr
    assert "Traceback" not in done.stderr
