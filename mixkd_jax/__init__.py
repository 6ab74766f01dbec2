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

from mixkd_jax import calibration, losses, mixup, representation, vicinal

__all__ = ["calibration", "losses", "mixup", "representation", "vicinal"]
__version__ = "0.1.0"
