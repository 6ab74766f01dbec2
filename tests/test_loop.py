import dataclasses
import json
import os
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from etils import epath

from mixkd_jax import config
from mixkd_jax.training import sharding
from mixkd_jax.training.checkpoint import Checkpoints
from mixkd_jax.training.dispatch import abstract_state, compile_trainer
from mixkd_jax.training.loop import Diverged, Run, Steps, Surroundings, train
from mixkd_jax.training.metrics import MetricsLog
from mixkd_jax.training.preemption import Stopped, StopRequest
from mixkd_jax.training.progress import Clock, Progress

NAME = "arms/mixkd/0"
STEPS = Steps(total=14, per_epoch=4, log=4, validate=8, checkpoint=8)  # 64 images, 16 at once
SCHEDULE = optax.linear_schedule(0.05, 0.01, 14)


def _trainer(how, **options):
    return compile_trainer(how, small.images(how.mesh), small.teacher_variables(how), **options)


@pytest.fixture(scope="module")
def trainer():
    return _trainer(small.recipe(optimizer=optax.sgd(SCHEDULE, momentum=0.9)))


def _train(
    folder, trainer, *, stop=lambda step: False, steps=STEPS, validate=None, keep=2, start=None
):
    folder = epath.Path(folder)
    key = jax.device_put(jax.random.key(5), sharding.replicated(trainer.recipe.mesh))
    around = Surroundings(MetricsLog(folder), Progress(every=1e9), stop)
    with Checkpoints(folder / NAME, keep=keep, config={}) as checkpoints:
        clock = Clock(folder / NAME / "time.json")
        run = Run(NAME, key, steps, SCHEDULE, checkpoints, clock, validate, start)
        return train(run, trainer, around)


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _kept(folder):
    return sorted(int(p.name) for p in (folder / NAME).iterdir() if p.name.isdigit())


def _restored(folder, trainer):
    with Checkpoints(epath.Path(folder) / NAME, keep=2, config={}) as checkpoints:
        return checkpoints.restore(abstract_state(trainer.recipe, trainer.images))


@pytest.fixture(scope="module")
def undisturbed(trainer, tmp_path_factory):
    """The folder and the last state of a run that nothing stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, _train(folder, trainer)


def test_a_run_logs_saves_and_ends_on_time(undisturbed, trainer):
    folder, state = undisturbed
    assert int(state.step) == 14
    assert [(line["run"], line["step"]) for line in _lines(folder)] == [
        (NAME, step) for step in (4, 8, 12, 14)
    ]
    assert _kept(folder) == [8, 14]
    assert small.bits(_restored(folder, trainer)) == small.bits(state)
    seconds = json.loads((folder / NAME / "time.json").read_text())
    assert seconds["train"] > 0 and seconds["checkpoint"] > 0 and seconds["evaluate"] == 0
    assert not any(np.any(total) for total in state.totals.values())


def test_lines_are_means_since_the_last_one(undisturbed, trainer):
    """Against steps that are taken one by one."""
    key = jax.random.key(5)
    how = trainer.recipe
    feed = trainer.images.feeds(key, how.batch_size, pairs=True)
    state, before = trainer.init(key), dict.fromkeys(how.metrics, 0.0)
    for line in _lines(undisturbed[0]):
        count = line["step"] - int(state.step)
        for step in range(int(state.step), line["step"]):
            state = trainer.advance(state, feed(step).feed, key, 1)
        totals = {name: float(np.asarray(total)) for name, total in state.totals.items()}
        for name in how.metrics:
            want = (totals[name] - before[name]) / count
            assert line[name] == pytest.approx(want, rel=1e-4, abs=1e-6), name
        before = totals
        assert line["epoch"] == line["step"] / 4
        assert line["learning_rate"] == pytest.approx(float(SCHEDULE(line["step"] - 1)))  # pyright: ignore
    jax.tree.map(np.testing.assert_array_equal, state.params, undisturbed[1].params)


@pytest.mark.parametrize("at", [[1], [4], [6], [8], [13], [2, 3, 9], list(range(1, 14))], ids=str)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(undisturbed, trainer, tmp_path, at):
    for step in at:
        with pytest.raises(Stopped, match=f"^{NAME}: stopped at step {step} of 14 and saved$"):
            _train(tmp_path, trainer, stop=lambda now, step=step: now == step)
        assert _kept(tmp_path)[-1] == step
    state = _train(tmp_path, trainer)
    assert small.bits(state) == small.bits(undisturbed[1])
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == (undisturbed[0] / "metrics.jsonl").read_text()
    assert _kept(tmp_path)[-1] == 14


def test_a_run_whose_last_steps_were_lost_takes_them_again(undisturbed, trainer, tmp_path):
    """As after a kill: lines and steps that came after the checkpoint are done over."""
    with pytest.raises(ZeroDivisionError):
        _train(tmp_path, trainer, stop=lambda step: step == 13 and 1 / 0)
    assert _kept(tmp_path) == [8] and len(_lines(tmp_path)) == 3
    state = _train(tmp_path, trainer)
    assert small.bits(state) == small.bits(undisturbed[1])
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == (undisturbed[0] / "metrics.jsonl").read_text()


def test_a_finished_run_takes_no_step(undisturbed, trainer):
    folder, state = undisturbed
    idle = dataclasses.replace(trainer, advance=lambda *_: 1 / 0)
    assert small.bits(_train(folder, idle)) == small.bits(state)
    assert len(_lines(folder)) == 4


def test_a_stop_at_the_last_step_is_no_stop(undisturbed, trainer, tmp_path):
    state = _train(tmp_path, trainer, stop=lambda step: step == 14)
    assert small.bits(state) == small.bits(undisturbed[1])


def test_events_are_written_whatever_ends_the_run(trainer, tmp_path):
    with pytest.raises(ZeroDivisionError):
        _train(tmp_path, trainer, stop=lambda step: step == 5 and 1 / 0)
    (events,) = (tmp_path / "tensorboard" / NAME).iterdir()
    assert b"grad_norm" in events.read_bytes()


def test_validation_is_at_its_steps_and_the_last(undisturbed, trainer, tmp_path):
    seen = []

    def validate(variables):
        seen.append(small.bits(variables))
        return {"accuracy": len(seen) / 10}

    state = _train(tmp_path, trainer, validate=validate)
    found = {line["step"]: line.get("validation_accuracy") for line in _lines(tmp_path)}
    assert found == {4: None, 8: 0.1, 12: None, 14: 0.2}
    assert seen[1] == small.bits(state.variables)
    assert small.bits(state) == small.bits(undisturbed[1])  # looking changes nothing


def test_no_steps_leave_the_given_variables_as_they_are(trainer, tmp_path):
    start = trainer.init(jax.random.key(99)).variables
    given = small.bits(start)
    none = dataclasses.replace(STEPS, total=0)
    for _ in range(2):  # and again, when it is finished
        state = _train(tmp_path, trainer, steps=none, start=start)
        assert small.bits(state.variables) == given and int(state.step) == 0
        assert small.bits(_restored(tmp_path, trainer).variables) == given


def test_a_run_begins_with_given_variables(trainer, tmp_path):
    start = trainer.init(jax.random.key(99)).variables
    given = small.bits(start)
    stop_at_1 = lambda step: step == 1  # noqa: E731
    with pytest.raises(Stopped):
        _train(tmp_path, trainer, start=start, stop=stop_at_1)
    assert small.bits(start) == given  # still there for the next seed: not donated
    steps = [_restored(tmp_path, trainer).params]
    state = dataclasses.replace(trainer.init(jax.random.key(5)), params=start["params"])
    key = jax.random.key(5)
    feed = trainer.images.feeds(key, trainer.recipe.batch_size, pairs=True)(0).feed
    steps.append(trainer.advance(state, feed, key, 1).params)
    assert small.bits(steps[0]) == small.bits(steps[1])


@pytest.fixture(scope="module")
def linear_trainer():
    return _trainer(small.linears(optimizer=optax.sgd(SCHEDULE)))


def test_a_dispatch_crosses_no_line_epoch_or_end(linear_trainer, tmp_path):
    """And its number of steps changes no result but by rounding."""
    one = _train(tmp_path / "one", linear_trainer)
    many = _trainer(linear_trainer.recipe, steps_per_dispatch=3)
    counts, advance = [], many.advance

    def counted(state, feed, key, count):
        counts.append(count)
        return advance(state, feed, key, count)

    steps = dataclasses.replace(STEPS, log=6, checkpoint=6)
    state = _train(tmp_path / "many", dataclasses.replace(many, advance=counted), steps=steps)
    assert counts == [3, 1, 2, 2, 3, 1, 2]  # epochs end at 4, 8, 12; lines are at 6, 12
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        state.params,
        one.params,
    )


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    """At the first line after it; the last good checkpoint is kept, and still good."""
    rate = lambda step: jnp.where(step < 9, 0.01, jnp.inf)  # noqa: E731
    trainer = _trainer(small.linears(optimizer=optax.sgd(rate)))
    with pytest.raises(Diverged) as caught:
        _train(tmp_path, trainer)
    message = str(caught.value)
    assert message.startswith(f"{NAME}: not finite within the last 4 steps before step 12: ")
    assert "loss " in message and "clip_norm" in message
    assert _kept(tmp_path) == [8]
    assert [line["step"] for line in _lines(tmp_path)] == [4, 8]
    restored = _restored(tmp_path, trainer)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored.params))


def test_a_gradient_that_is_not_finite_stops_it_too(tmp_path):
    def objective(student, teacher, labels):
        loss = jnp.sqrt(jnp.sum(0 * student, -1))  # 0, with the gradient 0 * inf
        return loss, {"ce": loss, "kd": loss}

    with pytest.raises(Diverged, match="grad_norm nan"):
        _train(tmp_path, _trainer(small.linears(objective=objective)))
    assert _kept(tmp_path) == []


def test_sigterm_asks_for_a_stop(linear_trainer, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop = StopRequest()
        assert not stop(1)

        def at_6(step):
            if step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return stop(step)

        with pytest.raises(Stopped, match="stopped at step [67] of 14"):
            _train(tmp_path, linear_trainer, stop=at_6)
        assert stop(1)  # and the next model's first step is its last
    finally:
        signal.signal(signal.SIGTERM, before)


def _resolved(num_examples=100, **changes):
    settings: Any = config.parse(small.default_values(**changes))
    return Steps.resolve(settings.student, settings.log, settings.checkpoint, num_examples)


def test_durations_are_resolved_to_multiples_of_the_line():
    steps = _resolved(
        student__batch_size=16,
        student__duration="10 epochs",
        log__every="4 steps",
        log__validate_every="1 epochs",
        checkpoint__every="12 steps",
    )
    assert steps == Steps(total=60, per_epoch=6, log=4, validate=8, checkpoint=12)


def test_a_short_training_has_one_line():
    steps = _resolved(student__batch_size=16, student__duration="3 steps")
    assert (steps.total, steps.log) == (3, 3) and steps.checkpoint >= 3
    steps = _resolved(student__batch_size=64, student__duration="1 examples")
    assert steps.total == 1
