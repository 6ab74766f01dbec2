"""How a command ends by what isn't the user's mistake: a full disk, a lost process."""

import argparse
import os
import subprocess
import sys

import pytest
import small

from mixkd_jax.cli import messages

PROGRAM = """
import argparse
from mixkd_jax.cli import messages

options = argparse.Namespace(
    workdir="runs/a", config=None, mode="train", distributed={distributed}, coordinator=None,
    num_processes=None, process_id=None, heartbeat=1,
)
with messages.told(options):
    try:
        raise {first}
    except Exception as error:
        raise RuntimeError("saving failed") from error
"""

LIMITED = """
import os, resource, sys

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
os.execv(sys.argv[1], sys.argv[1:])
"""


def _ended(first, distributed=False):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(first=first, distributed=distributed)],
        cwd=small.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize(
    "first",
    [
        "OSError(28, 'No space left on device')",
        "ValueError('RESOURCE_EXHAUSTED: Error writing local file: Disk quota exceeded')",
        "OSError(30, 'Read-only file system')",
    ],
)
def test_what_storage_lacks_is_one_line(first):
    said = _ended(first)
    assert said.startswith("error: --workdir: runs/a: ") and said.count("\n") == 1, said


@pytest.mark.parametrize(
    ("model", "role"),
    [
        ("teacher", "teacher"),
        ("head/teacher", "teacher"),
        ("arms/mixkd~teacher_temperature=0.5/0", "student"),
        ("head/student/1", "student"),
    ],
)
def test_what_diverged_is_trained_more_carefully(model, role):
    command = messages._anew(argparse.Namespace(workdir="runs/a"), f"{model}: not finite")
    assert f"--config.{role}.optimizer.clip_norm=1" in command


def test_a_lost_process_is_told_to_the_others():
    lost = "ValueError('UNKNOWN: Gloo AllGather failed: Connection closed by peer [::1]:1')"
    first, last = _ended(lost, distributed=True).splitlines()
    assert first.startswith("lost another process of this run (Connection closed by peer); ")
    assert last.startswith("error: lost another process of this run; ")
    assert "Traceback" in _ended(lost)  # nothing of the kind is known of one process


def test_sigterm_before_there_is_a_run_is_one_line():
    program = PROGRAM.format(first="SystemExit(143)", distributed=False).replace(
        "except Exception as error", "except ImportError as error"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=small.ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (143, "stopped; nothing was written yet\n")


def test_a_fault_of_the_program_keeps_its_traceback():
    for distributed in (False, True):
        said = _ended("TypeError('a fault')", distributed)
        assert said.count("Traceback") and "a fault" in said


@pytest.mark.slow
def test_checkpoints_that_find_no_room_end_a_run_in_one_line(tmp_path):
    """A limit of the size of files stands for a full disk, which needs a mount."""
    done = subprocess.run(
        [
            *(sys.executable, "-c", LIMITED),
            *(sys.executable, "run.py"),
            "--config=configs/digits.py",
            "--config.teacher.duration=60 steps",
            "--config.log.every=10 steps",
            "--config.checkpoint.every=10 steps",
            "--config.compilation_cache=",
            f"--workdir={tmp_path / 'run'}",
        ],
        cwd=small.ROOT,
        env=os.environ | {"XLA_FLAGS": ""},  # one device
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "Event loop" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: --workdir: {tmp_path / 'run'}: File too large; go on with: ")
