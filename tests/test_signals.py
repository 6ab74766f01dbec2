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


START = """
import os, sys, time
from mixkd_jax.cli import signals

signals.listen()
if {running}:
    from mixkd_jax.training.preemption import StopRequest
    stop = StopRequest(patience=0.05)
print("on", flush=True)
deadline = time.monotonic() + 20
try:
    while time.monotonic() < deadline:
        [str(n) for n in range(1000)]
except BaseException as error:
    print(type(error).__name__, file=sys.stderr, flush=True)
    os._exit(143 if isinstance(error, SystemExit) else 130)
"""


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_two_signals_at_once_end_the_process(first, running):
    other = signal.SIGINT if first == signal.SIGTERM else signal.SIGTERM
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", START.format(running=running)],
            cwd=small.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "on\n"
        process.send_signal(first)
        process.send_signal(other)
        said = process.communicate(timeout=10)[1]
        assert process.returncode in (130, 143), said
        assert "Traceback" not in said and "race condition" not in said, said
