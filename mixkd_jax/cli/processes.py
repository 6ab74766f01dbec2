"""One process of many: `--distributed`."""

from __future__ import annotations

import argparse
import os
import platform

import jax

from mixkd_jax.cli import witness
from mixkd_jax.cli.messages import fail

HEARTBEAT = 60  # seconds of silence, after which a process counts as lost
SHUTDOWN = 300  # seconds that one which is done waits for the others at most
_WORDS = (
    "error: process {} of {} on {} was ended from outside, or by JAX because another is lost: the "
    "task that its lines above name, or process 0 if they name none; the same command, on all of "
    "them, goes on\n"
)


def join(options: argparse.Namespace) -> bool:
    """Makes this process one of many, before any device is asked for.

    Where the flags don't say who the others are, JAX's environment variables do
    (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID), or else the cluster does.

    Returns:
      Whether it is the first one.
    """
    if not options.workdir:
        fail("--workdir: expected a folder that all processes reach with --distributed, got none")
    witness.release_at_exit()  # after JAX, whose own end waits for the other processes
    try:
        jax.distributed.initialize(
            options.coordinator,
            _number(options.num_processes, "JAX_NUM_PROCESSES"),
            _number(options.process_id, "JAX_PROCESS_ID"),
            heartbeat_timeout_seconds=options.heartbeat or HEARTBEAT,
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except (RuntimeError, ValueError) as error:
        fail(
            f"--distributed: expected one process of many on a TPU pod slice, Slurm, Open MPI or "
            f"Kubernetes, or --coordinator=HOST:PORT --num_processes=N --process_id=I, got: "
            f"{error} Leave it out to use the devices of this machine alone"
        )
    here = jax.process_index(), jax.process_count(), platform.node()
    witness.be_witnessed(_WORDS.format(*here))
    return jax.process_index() == 0


def _number(given: int | None, variable: str) -> int | None:
    text = os.environ.get(variable, "")
    if given is None and text:
        if not text.isdecimal():
            fail(f"{variable}: expected an integer, got {text!r}")
        return int(text)
    return given
