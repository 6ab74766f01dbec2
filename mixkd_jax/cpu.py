"""Makes JAX fast on CPUs; what it sets changes nothing of programs on other devices.

The commands of this package call `tune` themselves. In a program of your own, before the first
array is made:

    from mixkd_jax import cpu

    cpu.tune()
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform

# jaxlib 0.10 and 0.11 hand convolutions to YNNPACK, whose gradients in the weights take up to
# eleven times as long as those of the path before it (jax-ml/jax#37465); with that of 0.12 a
# bfloat16 network can give NaN. An empty list of what is handed over is the path before. XLA aborts
# at a flag that it doesn't know, as later versions may not.
_XLA_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_KNOWN = ((0, 10), (0, 11), (0, 12))
SWITCH = "MIXKD_TUNE_CPU"
NOTE = f"cpu: faster convolutions, and memory is kept; {SWITCH}=0 leaves JAX as it is"
# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def tune() -> None:
    """Sets what makes XLA's programs fast on a CPU, for this process and those that it starts.

    The flag of XLA is left as it is where XLA_FLAGS has it already. glibc keeps the memory of
    large arrays instead of giving it back to the system, which would clear it before each use.
    With MIXKD_TUNE_CPU=0 in the environment nothing is set.
    """
    if os.environ.get(SWITCH) == "0":
        return
    flags = os.environ.get("XLA_FLAGS", "")
    if is_needed() and _XLA_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_XLA_FLAG}=".strip()
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)


def is_needed() -> bool:
    """Whether jaxlib is of the versions that know XLA's flag and are slow or wrong without it."""
    version = importlib.metadata.version("jaxlib").split(".")[:2]
    return tuple(map(int, version)) in _KNOWN


def is_tuned() -> bool:
    """Whether XLA was told to leave YNNPACK out, by `tune` or by the user."""
    return f"{_XLA_FLAG}=" in os.environ.get("XLA_FLAGS", "").split()
