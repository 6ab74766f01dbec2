"""Runs killed, stopped and interrupted at random moments end as if never disturbed."""

import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import small
import trials

pytestmark = [
    pytest.mark.stress,
    pytest.mark.filterwarnings("ignore:Sharding info not provided"),  # there is one device
]
FLAGS = [
    "--config=configs/digits.py",
    "--config.seeds=0",
    "--config.arms=ce,mixkd",
    "--config.teacher.duration=200 steps",
    "--config.student.duration=200 steps",
    "--config.log.every=20 steps",
    "--config.checkpoint.every=20 steps",
    "--config.analysis.pairs=20",
]
MODELS = ("teacher", "arms/ce/0", "arms/mixkd/0")
STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}


def _start(workdir):
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "run.py", *FLAGS, f"--workdir={workdir}"]
    return subprocess.Popen(
        command,
        cwd=small.ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _disturb(workdir, number, seconds):
    """Sends a signal after some seconds; returns whether it came in time, and how long it took."""
    process = _start(workdir)
    try:
        _, said = process.communicate(timeout=seconds)
        assert process.returncode == 0, said
        return False, 0.0
    except subprocess.TimeoutExpired:
        pass
    process.send_signal(number)
    sent = time.monotonic()
    _, said = process.communicate(timeout=60)
    taken = time.monotonic() - sent
    # All may have been done, and Python have put the system's own handlers back.
    done = (0, -number) if "\nreport: " in said else ()
    assert process.returncode in (STATUS[number], *done), said
    assert "Traceback" not in said, said
    return "\nreport: " not in said, taken


def test_a_disturbed_run_ends_as_an_undisturbed_one(tmp_path, capsys):
    began = time.monotonic()
    _, said = _start(tmp_path / "undisturbed").communicate(timeout=600)
    whole = time.monotonic() - began
    want = small.outcome(tmp_path / "undisturbed", MODELS, 200)
    chance, sent, slowest, finished = random.Random(trials.SEED), collections.Counter(), {}, 0
    workdir = tmp_path / "disturbed"
    for _ in range(trials.COUNT):
        number = chance.choice(list(STATUS))
        # In its first moments a process is Python's own.
        came, taken = _disturb(workdir, number, chance.uniform(1, whole))
        if came:
            sent[number.name] += 1
            slowest[number.name] = max(slowest.get(number.name, 0), round(taken, 1))
        if (workdir / "report.html").exists():
            assert small.outcome(workdir, MODELS, 200) == want
            shutil.rmtree(workdir)
            finished += 1
    _, said = _start(workdir).communicate(timeout=600)
    assert small.outcome(workdir, MODELS, 200) == want, said
    with capsys.disabled():
        print(
            f"\nseed {trials.SEED}: signals {dict(sent)}, seconds until the end at most {slowest}, "
            f"{finished + 1} runs finished, all equal"
        )
