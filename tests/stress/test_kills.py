"""Runs killed, stopped and interrupted at random moments end as if never disturbed."""

import os
import random
import shutil
import signal
import statistics
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
    """Sends a signal after some seconds.

    Returns the seconds until the first line of training, or None, and those from the signal to the
    end, or None if it came too late.
    """
    log = workdir / "metrics.jsonl"
    before, resumed = _size(log), None
    process, began = _start(workdir), time.monotonic()
    while process.poll() is None and time.monotonic() - began < seconds:
        time.sleep(0.02)
        if resumed is None and _size(log) > before:
            resumed = time.monotonic() - began
    if process.poll() is not None:
        _, said = process.communicate()
        assert process.returncode == 0, said
        return resumed, None
    process.send_signal(number)
    sent = time.monotonic()
    _, said = process.communicate(timeout=60)
    taken = time.monotonic() - sent
    # All may have been done, and Python have put the system's own handlers back.
    done = (0, -number) if "\nreport: " in said else ()
    assert process.returncode in (STATUS[number], *done), said
    assert "Traceback" not in said, said
    return resumed, None if "\nreport: " in said else taken


def _size(file):
    return file.stat().st_size if file.exists() else 0


def _told(seconds):
    return f"median {statistics.median(seconds):.1f}, at most {max(seconds):.1f}"


def test_a_disturbed_run_ends_as_an_undisturbed_one(tmp_path, capsys):
    for name in ("first", "undisturbed"):  # whose programs the first one has compiled
        began = time.monotonic()
        _start(tmp_path / name).communicate(timeout=600)
        whole = time.monotonic() - began
    want = small.outcome(tmp_path / "undisturbed", MODELS, 200)
    chance, ended, resumed, finished = random.Random(trials.SEED), {}, [], 0
    workdir = tmp_path / "disturbed"
    while sum(map(len, ended.values())) < trials.COUNT:
        number = chance.choice(list(STATUS))
        # In its first moments a process is Python's own. Later ones are rarer, for what is left of
        # a run that was stopped is shorter.
        first, taken = _disturb(workdir, number, chance.triangular(1, whole, 1))
        if first is not None:
            resumed.append(first)
        if taken is not None:
            ended.setdefault(number.name, []).append(taken)
        if (workdir / "report.html").exists():
            assert small.outcome(workdir, MODELS, 200) == want
            shutil.rmtree(workdir)
            finished += 1
    _, said = _start(workdir).communicate(timeout=600)
    assert small.outcome(workdir, MODELS, 200) == want, said
    with capsys.disabled():
        print(f"\nseed {trials.SEED}: {finished + 1} runs finished, all equal")
        print(f"seconds from the command to the first line of training: {_told(resumed)}")
        for name, seconds in ended.items():
            print(f"{len(seconds)} {name}, seconds until the end: {_told(seconds)}")
