"""Groups: fits that see the same batches and query the same teacher, trained side by side.

In every step the batch is drawn and the teacher queried once, and then each student is updated. A
fit that has a checkpoint joins when the group comes to its step, so that none repeats what it has.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence

import jax

from mixkd_jax.data.device import Feed
from mixkd_jax.folder import split_name
from mixkd_jax.models.network import Teacher
from mixkd_jax.training import member
from mixkd_jax.training.fit import Fit
from mixkd_jax.training.member import Member
from mixkd_jax.training.metrics import MetricsLog
from mixkd_jax.training.preemption import Stopped
from mixkd_jax.training.programs import Programs
from mixkd_jax.training.progress import Progress
from mixkd_jax.training.randomness import stream


@dataclasses.dataclass(frozen=True)
class Session:
    """What all trainings of a process share.

    Attributes:
      programs: that were compiled.
      metrics: where log lines go.
      progress: what a person sees meanwhile.
      stop: from a step to whether to stop after it.
    """

    programs: Programs
    metrics: MetricsLog
    progress: Progress
    stop: Callable[[int], bool]


def divide(fits: Sequence[Fit]) -> list[list[Fit]]:
    """Returns the fits by group: of one seed, with the same images and mixup."""
    groups: dict[tuple, list[Fit]] = {}
    for fit in fits:
        kind = (fit.seed, fit.mixup, fit.batching, id(fit.images), fit.steps)
        groups.setdefault(kind, []).append(fit)
    return list(groups.values())


def label(fits: Sequence[Fit]) -> str:
    """Returns what people call a group: its model's name, or its seed, its inputs and its arms."""
    split = split_name(fits[0].name)
    if len(fits) == 1 or split is None:
        return fits[0].name
    arms = [arm for arm, _ in filter(None, (split_name(fit.name) for fit in fits))]
    more = f" and {len(arms) - 3} more" if len(arms) > 4 else ""
    inputs = "mixed" if fits[0].mixup else "clean"
    return f"seed {split[1]}, {inputs}: {', '.join(arms[:3] if more else arms)}{more}"


def train(
    fits: Sequence[Fit],
    teacher: Teacher | None,
    session: Session,
    finish: Callable[[Member], None],
) -> None:
    """Trains a group to its last step, each fit from its newest checkpoint or from the start.

    Args:
      fits: as `divide` puts them together.
      teacher: that those which distil learn from.
      session: see there.
      finish: what is done with each fit after its last step.

    Raises:
      Diverged: if a loss or a parameter is not finite; the checkpoints before it stay.
      Stopped: on request, after a checkpoint of every fit.
    """
    first = fits[0]
    with contextlib.ExitStack() as stack:
        members = [stack.enter_context(member.opened(fit, session)) for fit in fits]
        step = min(m.step for m in members)
        session.progress.start(
            label(fits),
            {m.fit.name: m.clock.seconds for m in members},
            step=step,
            total=first.steps.total,
            per_epoch=first.steps.per_epoch,
            batch_size=first.batching.batch_size,
        )
        feed = first.images.feeds(
            stream(first.key, "order"), first.batching.batch_size, pairs=first.mixup is not None
        )
        while step < first.steps.total:
            before = [m.step for m in members]
            step, stop = _until_line(step, members, feed, teacher, session)
            moved = [m for m, was in zip(members, before, strict=True) if m.step > was]
            with session.progress.during("saving"):
                for m in moved:
                    m.pause(stop)
            if stop and step < first.steps.total:
                names = ", ".join(m.fit.name for m in moved)
                raise Stopped(f"{names} at step {step:,} of {first.steps.total:,}")
        session.progress.finish(step, [m.line for m in members])
        for m in members:
            finish(m)


def _until_line(
    step: int,
    members: Sequence[Member],
    feed: Callable[[int], Feed],
    teacher: Teacher | None,
    session: Session,
) -> tuple[int, bool]:
    """Takes steps up to the next log line, or fewer if told to stop.

    Returns (step, whether to stop). The host waits for the device once in about a quarter of a
    second: rarely enough not to slow it down, often enough to tell progress and to stop.
    """
    steps = members[0].fit.steps
    line = min((step // steps.log + 1) * steps.log, steps.total)
    ahead, taken, programs, waited = 1, 0, len(session.programs), time.perf_counter()
    while True:
        take_step(step, members, feed(step), teacher, session.programs)
        step, taken = step + 1, taken + 1
        if taken >= ahead or step == line:
            active = [m for m in members if m.step == step]
            for m in active:
                jax.block_until_ready(m.state.step)
            now = time.perf_counter()
            kind = "train" if len(session.programs) == programs else "compile"
            for m in active:  # what they share is shared out
                m.clock.add(kind, (now - waited) / len(active))
            ahead = max(1, int(0.25 * taken / max(now - waited, 1e-6)))
            taken, programs, waited = 0, len(session.programs), now
            lines = [m.line for m in members]
            session.progress.update(step, lines, compiled=kind == "compile")
        stop = session.stop(step)
        if stop or step == line:
            for m in members:
                if m.step == step:
                    jax.block_until_ready(m.state.step)
            return step, stop


def take_step(
    step: int,
    members: Sequence[Member],
    feed: Feed,
    teacher: Teacher | None,
    programs: Programs,
) -> None:
    """Draws a step's batch, queries the teacher once, and updates the members that are at it."""
    active = [m for m in members if m.step == step]
    fit = active[0].fit
    # The step is the state's own, so that the host passes nothing to the devices.
    batch = programs.draw(fit)(feed, fit.key, active[0].state.step, fit.mixing)
    logits = None
    if teacher is not None and any(m.fit.recipe.distils for m in active):
        logits = programs.query(teacher.network, fit)(teacher.variables, batch.images)
    for m in active:
        own = logits if m.fit.recipe.distils else None
        m.state = programs.update(m.fit)(m.state, batch, own, fit.key, m.numbers)
        m.step += 1
