import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from mixkd_jax import config
from mixkd_jax.config import ConfigError
from mixkd_jax.training.schedules import SCHEDULES, create_schedule

PER_EPOCH = 10  # 163 examples are 10 batches of 16


def _schedule(total=500, **changes) -> Any:
    values = small.default_values(**{f"student__schedule__{k}": v for k, v in changes.items()})
    schedule = config.parse(values).student.schedule
    return create_schedule(
        schedule, path="student.schedule", num_examples=163, batch_size=16, total=total
    )


def _rates(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


def test_constant_after_a_linear_warmup():
    schedule = _schedule(name="constant", learning_rate=0.5, warmup="1 epochs")
    want = [0.5 * min(step / 10, 1) for step in range(15)]
    np.testing.assert_allclose(_rates(schedule, range(15)), want, rtol=1e-6)


def test_cosine_falls_to_its_end_after_the_warmup():
    schedule = _schedule(120, name="cosine", learning_rate=0.4, warmup="20 steps", end=0.1)

    def want(step):
        if step < 20:
            return 0.4 * step / 20
        return 0.1 + 0.3 * (1 + math.cos(math.pi * (step - 20) / 100)) / 2

    steps = range(121)
    np.testing.assert_allclose(_rates(schedule, steps), list(map(want, steps)), rtol=1e-5)
    assert float(schedule(500)) == pytest.approx(0.1)


def test_multistep_is_the_schedule_of_the_kd_literature():
    schedule = _schedule(240 * PER_EPOCH, name="multistep", learning_rate=0.05)
    epochs = [0, 149, 150, 179, 180, 209, 210, 239]
    want = [0.05, 0.05, 0.005, 0.005, 5e-4, 5e-4, 5e-5, 5e-5]
    first = [epoch * PER_EPOCH for epoch in epochs]
    last = [step + PER_EPOCH - 1 for step in first]
    np.testing.assert_allclose(_rates(schedule, first), want, rtol=1e-5)
    np.testing.assert_allclose(_rates(schedule, last), want, rtol=1e-5)


def test_milestones_are_counted_from_step_0_whatever_the_warmup():
    schedule = _schedule(
        name="multistep",
        learning_rate=1.0,
        warmup="8 steps",
        milestones=("4 steps", "20 steps"),
        factor=0.5,
    )
    np.testing.assert_allclose(_rates(schedule, [4, 8, 19, 20]), [0.5, 0.5, 0.5, 0.25], rtol=1e-6)


def test_milestones_that_meet_all_count():
    schedule = _schedule(
        name="multistep", learning_rate=1.0, milestones=("1 epochs", "10 steps"), factor=0.1
    )
    np.testing.assert_allclose(_rates(schedule, [9, 10]), [1.0, 0.01], rtol=1e-5)


PAPER = (
    ("10 epochs", "linear", 5e-4),
    ("50 epochs", "cosine", 1e-4),
    ("200 epochs", "cosine", 5e-5),
    ("500 epochs", "cosine", 1e-5),
)


def _paper_rate(epoch):
    """As the released code computes it."""
    if epoch < 10:
        return 1e-5 + (5e-4 - 1e-5) * epoch / 10
    pieces = ((10, 50, 5e-4, 1e-4), (50, 200, 1e-4, 5e-5), (200, 500, 5e-5, 1e-5))
    for start, end, high, low in pieces:
        if epoch < end:
            return (
                low + (high - low) * (1 + math.cos(math.pi * (epoch - start) / (end - start))) / 2
            )
    return 1e-5


def test_the_papers_table_once_per_epoch():
    schedule = _schedule(
        500 * PER_EPOCH, name="table", learning_rate=1e-5, pieces=PAPER, once_per_epoch=True
    )
    published = {1: 5.9e-5, 2: 1.08e-4, 10: 5e-4, 11: 4.99383e-4}
    for epoch, rate in published.items():
        assert float(schedule(epoch * PER_EPOCH)) == pytest.approx(rate, rel=2e-6)
    epochs = np.array([0, 1, 5, 9, 10, 11, 49, 50, 51, 199, 200, 350, 499, 500, 600])
    want = [_paper_rate(epoch) for epoch in epochs]
    for offset in (0, PER_EPOCH // 2, PER_EPOCH - 1):  # held for the whole epoch
        got = _rates(schedule, epochs * PER_EPOCH + offset)
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_table_moves_with_every_step_unless_told_otherwise():
    schedule = _schedule(name="table", learning_rate=0.1, pieces=(("2 epochs", "linear", 0.3),))
    np.testing.assert_allclose(_rates(schedule, [0, 5, 10, 20, 99]), [0.1, 0.15, 0.2, 0.3, 0.3])


def test_a_piece_that_ends_too_early_is_refused():
    pieces = (("2 epochs", "linear", 0.3), ("20 steps", "cosine", 0.1))
    with pytest.raises(
        ConfigError, match="schedule.pieces: expected every piece to end after .*20"
    ):
        _schedule(name="table", pieces=pieces)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ConfigError, match=r"schedule.name: expected one of constant, .*cosin"):
        _schedule(name="cosin")


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("once_per_epoch", [False, True])
def test_schedules_are_finite_from_the_first_step_to_the_last(name, once_per_epoch):
    for total in (1, 3, 40):
        schedule = _schedule(total, name=name, warmup="20 steps", once_per_epoch=once_per_epoch)
        rates = _rates(schedule, range(total + 1))
        assert np.isfinite(rates).all() and (rates >= 0).all()


def test_schedules_take_the_traced_step_of_an_optimizer():
    schedule = _schedule(name="cosine", warmup="2 steps", once_per_epoch=True)
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.arange(60)), _rates(schedule, range(60)))
