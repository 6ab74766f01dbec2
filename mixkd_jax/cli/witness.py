"""Last words of a process of many, which another process says for it.

JAX ends a process from C++ when another one is lost, and the system kills one that takes too much
memory: nothing in that process can speak then.
"""

from __future__ import annotations

import atexit
import subprocess
import sys

# It reads nothing but the end of a process that didn't say that it ends.
_WITNESS = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.stdin.read(1) or sys.stderr.write(sys.argv[1])
"""
_witnesses: list[subprocess.Popen[bytes]] = []


def release() -> None:
    """Says that this process ends knowing why, and needs no other words than its own."""
    while _witnesses:
        _witnesses.pop().communicate(b".")


def be_witnessed(words: str) -> None:
    """Starts a small process that writes `words` to standard error if this one ends unreleased."""
    command = [sys.executable, "-I", "-S", "-c", _WITNESS, words]
    _witnesses.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))


def release_at_exit() -> None:
    """Calls `release` at this process's own end, after all that is registered from now on."""
    atexit.register(release)
