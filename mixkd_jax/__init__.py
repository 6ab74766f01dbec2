"""Mixup-based knowledge distillation in JAX (arXiv:2606.12171).

The ops are pure functions in five modules, which need jax and numpy alone:

* `mixkd_jax.mixup`: mixing of examples and labels;
* `mixkd_jax.losses`: distillation losses;
* `mixkd_jax.calibration`: calibration errors, proper scores, temperature fit;
* `mixkd_jax.vicinal`: how a model behaves between two inputs;
* `mixkd_jax.representation`: how alike two models' features are.

`load_model` opens a model that a run has trained, to use it elsewhere.

Models, data, training and evaluation are in `mixkd_jax.models`, `.data`,
`.training` and `.evaluation`; they need the extra `mixkd-jax[train]`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixkd_jax import calibration, losses, mixup, representation, vicinal
    from mixkd_jax.model import load_model

__all__ = ["calibration", "load_model", "losses", "mixup", "representation", "vicinal"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports what is used when it is: a command's `--help` doesn't wait for jax."""
    if name == "load_model":
        return importlib.import_module("mixkd_jax.model").load_model
    if name in __all__:
        return importlib.import_module(f"mixkd_jax.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
