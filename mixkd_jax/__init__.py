"""Mixup-based knowledge distillation in JAX (arXiv:2606.12171).

The ops are pure functions in five modules, which need jax and numpy alone:

* `mixkd_jax.mixup`: mixing of examples and labels;
* `mixkd_jax.losses`: distillation losses;
* `mixkd_jax.calibration`: calibration errors, proper scores, temperature fit;
* `mixkd_jax.vicinal`: how a model behaves between two inputs;
* `mixkd_jax.representation`: how alike two models' features are.

Models, data, training and evaluation are in `mixkd_jax.models`, `.data`,
`.training` and `.evaluation`; they need the extra `mixkd-jax[train]`.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixkd_jax import calibration, losses, mixup, representation, vicinal

__all__ = ["calibration", "losses", "mixup", "representation", "vicinal"]
__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    """Imports a module of ops when it is first used: a command's `--help` doesn't wait for jax."""
    if name in __all__:
        return importlib.import_module(f"mixkd_jax.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
