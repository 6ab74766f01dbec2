"""SIGTERM where nothing asks for it, and twice; `test_group` has it while a group trains."""

import os
import signal
import subprocess
import sys
import time

import pytest
import small

from mixkd_jax.training.preemption import Stopped, StopRequest


def test_sigterm_ends_also_what_never_asks():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    try:
        stop = StopRequest(patience=0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop(1)
        time.sleep(0.3)  # who has asked may take its time
        signal.signal(signal.SIGTERM, before[0])

        StopRequest(patience=0.1)
        with pytest.raises(Stopped, match="done again"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGALRM, before[1])


def test_a_second_sigterm_ends_the_process_at_once():
    program = (
        "import os, signal, time\n"
        "from mixkd_jax.training.preemption import StopRequest\n"
        "stop = StopRequest()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "assert stop(1)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "time.sleep(30)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=small.ROOT, timeout=25)
    assert done.returncode == -signal.SIGTERM
