"""The state of training one model: all that a checkpoint holds."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mixkd_jax.models.network import Variables


@flax.struct.dataclass
class TrainState:
    """What changes from step to step.

    Attributes:
      step: i32, steps done.
      params: trained parameters, float32.
      batch_stats: running statistics of BatchNorm; {} for a model without any.
      opt_state: of the optax optimizer.
      totals: sums of each metric over the steps since the last log line, so that a run that
        stops between two lines goes on to the same line.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    totals: dict[str, jax.Array]

    @property
    def variables(self) -> dict[str, Any]:
        """What the model's `apply` takes."""
        if not self.batch_stats:
            return {"params": self.params}
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    variables: Variables, optimizer: optax.GradientTransformation, metrics: tuple[str, ...]
) -> TrainState:
    """Returns the state before the first step, with `metrics` to be summed."""
    return TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
        totals={name: jnp.float32(0) for name in metrics},
    )
