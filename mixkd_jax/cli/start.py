"""How this process was started, so that messages can give commands that work as they stand."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence


def command(flags: Sequence[str]) -> str:
    """Returns the command with these flags: python run.py, or mixkd, or by their paths."""
    return shlex.join([*_program(), *flags])


def _program() -> list[str]:
    name = sys.argv[0]
    if is_installed():
        short = os.path.basename(name)
        return [short if shutil.which(short) == name else name]
    python = next((p for p in ("python", "python3") if _is_this(shutil.which(p))), sys.executable)
    return [python, name]


def is_installed() -> bool:
    """Whether it was started as `mixkd`, and not from a file of Python."""
    return not sys.argv[0].endswith(".py")


def _is_this(python: str | None) -> bool:
    """Whether a Python is that of this process, in its environment."""
    return python is not None and os.path.dirname(python) == os.path.dirname(sys.executable)
