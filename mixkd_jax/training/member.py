"""A fit while its group trains: its state, its clock, its log and its checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mixkd_jax.files import DamagedError, load_json, write_json
from mixkd_jax.folder import ModelFolder
from mixkd_jax.training import sharding
from mixkd_jax.training.checkpoint import CheckpointError, Checkpoints
from mixkd_jax.training.clock import Clock
from mixkd_jax.training.fit import Fit
from mixkd_jax.training.metrics import ModelLog
from mixkd_jax.training.programs import Programs
from mixkd_jax.training.state import TrainState
from mixkd_jax.training.step import SKIPPED, TAKEN

if TYPE_CHECKING:
    from mixkd_jax.training.group import Session


class Diverged(ValueError):
    """A loss, a gradient or a parameter that is not finite."""


@dataclasses.dataclass
class Member:
    """A fit that is being trained.

    Attributes:
      fit: that is trained.
      state: after `step` steps.
      step: how many steps it has taken.
      clock: what its time is counted on.
      checkpoints: of it.
      log: of it.
      numbers: the fit's, on every device.
      line: its last log line.
    """

    fit: Fit
    state: TrainState
    step: int
    clock: Clock
    checkpoints: Checkpoints
    log: ModelLog
    numbers: dict[str, jax.Array]
    line: dict[str, float] = dataclasses.field(default_factory=dict)

    def pause(self, stop: bool) -> None:
        """Does what is due after a step at which the group pauses: logs, validates, saves.

        Args:
          stop: whether the group stops here.

        Raises:
          Diverged: if a metric or a parameter is not finite.
        """
        steps, last = self.fit.steps, self.step == self.fit.steps.total
        means = self._means()
        if self.step % steps.log == 0 or last:
            self.line = self._line(means)
            self.log.write(self.step, self.line)
            zeros = jax.tree.map(jnp.zeros_like, self.state.totals)
            self.state = dataclasses.replace(self.state, totals=zeros)
        if stop or self.step % steps.checkpoint == 0 or last:
            self.save()

    def save(self) -> None:
        """Saves the state, if all its parameters are finite."""
        with self.clock.measure("checkpoint"):
            check_finite(self.fit.name, self.step, self.state.variables)
            self.checkpoints.save(self.state)
        self.clock.save()
        self.log.write_skipped(sharding.union(self.fit.images.skipped))

    def _means(self) -> dict[str, float]:
        """Returns each metric's mean since the last log line, and how many updates it lacks."""
        totals = {name: float(x) for name, x in jax.device_get(self.state.totals).items()}
        skipped = {SKIPPED: totals.pop(SKIPPED)} if SKIPPED in totals else {}
        taken = int(totals.pop(TAKEN))
        count = taken + int(sum(skipped.values()))
        if not taken:
            raise Diverged(
                f"{self.fit.name}: none of the last {count:,} updates before step {self.step:,} "
                f"was finite; the checkpoints before stay. {ADVICE}"
            )
        values = {name: total / taken for name, total in totals.items()} | skipped
        wrong = [f"{name} {value}" for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise Diverged(
                f"{self.fit.name}: not finite within the last {count:,} steps before step "
                f"{self.step:,}: {', '.join(wrong)}; the checkpoints before stay. {ADVICE}"
            )
        return values

    def _line(self, means: dict[str, float]) -> dict[str, float]:
        """Returns what is logged."""
        fit, step = self.fit, self.step
        line = {"epoch": step / fit.steps.per_epoch, **means}
        line["learning_rate"] = float(np.asarray(fit.schedule(self._updates() - 1)))
        if fit.validate is not None and (step % fit.steps.validate == 0 or step == fit.steps.total):
            with self.clock.measure("evaluate"):
                measured = fit.validate(self.state.variables)
            line |= {f"validation_{name}": value for name, value in measured.items()}
            if fit.best:
                self._keep_best(measured)
        return line

    def _updates(self) -> int:
        """Returns how many updates the optimizer has counted, which doesn't count skipped ones."""
        counts = optax.tree.get_all_with_path(self.state.opt_state, "count")
        return int(counts[0][1]) if counts else self.step

    def _keep_best(self, measured: dict[str, float]) -> None:
        """Saves the state if no earlier one did as well on the validation images."""
        fit, folder = self.fit, self.fit.folder.best
        known = read_best(folder)
        sign = 1 if fit.best == "accuracy" else -1
        better = known is None or sign * (measured[fit.best] - known["metrics"][fit.best]) > 0
        if not sharding.agreed(better):
            return
        with self.clock.measure("checkpoint"):
            check_finite(fit.name, self.step, self.state.variables)
            with fit.best_checkpoints() as checkpoints:
                checkpoints.save(self.state)
            if jax.process_index() == 0:
                content = {"step": self.step, "chosen_by": fit.best, "metrics": measured}
                write_json(folder.validation, content)
            sharding.barrier("best")


def read_best(folder: ModelFolder) -> dict[str, Any] | None:
    """Returns {"step", "chosen_by", "metrics"} of the state that a `best` folder keeps, if any.

    Raises:
      CheckpointError: if the file is damaged: what is kept can't be compared without it.
    """

    def is_whole(found: Any) -> bool:
        return isinstance(found, dict) and {"step", "chosen_by", "metrics"} <= found.keys()

    try:
        return load_json(folder.validation, is_whole)
    except DamagedError as error:
        raise CheckpointError(
            f"{error}; move {folder.path} away, and the best is chosen among states to come"
        ) from None


ADVICE = (
    "Lower the learning rate or clip the gradient (optimizer.clip_norm) in a new --workdir, or "
    "look at the data"
)


def check_finite(name: str, step: int, variables: Mapping[str, Any]) -> None:
    """Raises Diverged, naming the first parameter that is not finite, if there is one."""
    finite = jax.device_get(_all_finite(variables))
    wrong = [path for path, fine in jax.tree_util.tree_leaves_with_path(finite) if not fine]
    if wrong:
        raise Diverged(
            f"{name}: {jax.tree_util.keystr(wrong[0])} is not finite after step {step:,}, and so "
            f"are {len(wrong)} of {len(jax.tree.leaves(finite))} parameters; the checkpoints "
            f"before stay. {ADVICE}"
        )


@jax.jit
def _all_finite(variables: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), variables)


@contextlib.contextmanager
def opened(fit: Fit, session: Session) -> Iterator[Member]:
    """Gives a fit's member from its newest checkpoint, or from the start."""
    clock = fit.clock()
    with fit.checkpoints() as checkpoints:
        with clock.measure("checkpoint"):
            if checkpoints.latest() is None:
                state = _first_state(fit, session.programs)
            else:
                state = checkpoints.restore(fit.abstract_state)
        step = int(state.step)
        numbers = {name: np.float32(value) for name, value in fit.numbers.items()}
        numbers = jax.device_put(numbers, sharding.replicated(fit.recipe.mesh))
        with contextlib.closing(session.metrics.start(fit.name, step)) as log:
            member = Member(fit, state, step, clock, checkpoints, log, numbers)
            if not fit.steps.total:
                member.save()
            yield member


def _first_state(fit: Fit, programs: Programs) -> TrainState:
    state = programs.init(fit)(fit.key)
    if fit.start is None:
        return state
    return dataclasses.replace(
        state,
        params=_replaced(state.params, fit.start["params"]),
        batch_stats=_replaced(state.batch_stats, fit.start.get("batch_stats", {})),
    )


def _replaced(tree: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `tree` with copies of the branches that are `given`, laid out as it is."""

    def copy(old: jax.Array, new: Any) -> jax.Array:
        return jnp.copy(jax.device_put(new, old.sharding))

    return {**tree, **{name: jax.tree.map(copy, tree[name], new) for name, new in given.items()}}
