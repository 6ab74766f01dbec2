"""What a benchmark leaves: JSON of what it found, and of the machine that it ran on."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import jax


def write(path: str, found: Mapping[str, Any]) -> None:
    """Writes what was found, after the device, machine, cores, version of JAX and date."""
    about = {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "date": datetime.date.today().isoformat(),
    }
    pathlib.Path(path).write_text(json.dumps({**about, **found}, indent=2) + "\n")
