import dataclasses
import json
import os
import random
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from mixkd_jax import config, objectives
from mixkd_jax.training import group, programs
from mixkd_jax.training.fit import Steps
from mixkd_jax.training.member import Diverged
from mixkd_jax.training.preemption import Stopped, StopRequest
from mixkd_jax.training.programs import Programs
from mixkd_jax.training.randomness import stream
from mixkd_jax.training.step import TAKEN

NAME = "arms/mixkd~ce_weight=0.5/0"
SCHEDULE = optax.linear_schedule(0.05, 0.01, 14)
OPTIMIZER = optax.sgd(SCHEDULE, momentum=0.9)
TEACHER = small.teacher(network=small.linear())
# All of one group: they differ in numbers, in kind, and in whether they learn from the teacher.
ARMS = (
    "mixkd",
    "mixup",
    "mixkd:temperature=4",
    "mixkd:temperature=std",
    "mixkd:loss=dkd:kd_weight=0.5",
)


def _fit(folder, text="mixkd:ce_weight=0.5", **options):
    options = {"optimizer": OPTIMIZER, "schedule": SCHEDULE} | options
    return small.linear_fit(folder, text, **options)


def _train(folder, *fits, stop=lambda step: False, known=None, teacher=TEACHER):
    """Trains a group and returns its last states."""
    states = []
    session = small.session(folder, stop=stop, programs=known)
    group.train(fits, teacher, session, lambda member: states.append(member.state))
    return states


def _stop_at(step):
    return lambda now: now == step


def _kept(folder, name=NAME):
    return sorted(int(p.name) for p in (folder / name).iterdir() if p.name.isdigit())


def _restored(fit):
    with fit.checkpoints() as checkpoints:
        return checkpoints.restore(fit.abstract_state)


def _by_name(folder):
    """{name: its log lines}"""
    found = {}
    for line in small.lines(folder):
        found.setdefault(line.pop("run"), []).append(line)
    return found


@pytest.fixture(scope="module")
def known():
    """What is compiled for one test needn't be for the next."""
    return Programs()


@pytest.fixture(scope="module")
def undisturbed(known, tmp_path_factory):
    """The folder, the fit and the last state of a training that nothing stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    fit = _fit(folder)
    (state,) = _train(folder, fit, known=known)
    return folder, fit, state


@pytest.fixture(scope="module")
def together(known, tmp_path_factory):
    """The folder and the last states, by arm, of a group that nothing stops."""
    folder = tmp_path_factory.mktemp("together")
    states = _train(folder, *(_fit(folder, arm) for arm in ARMS), known=known)
    return folder, dict(zip(ARMS, states, strict=True))


# One model


def test_a_training_logs_saves_and_ends_on_time(undisturbed):
    folder, fit, state = undisturbed
    assert int(state.step) == 14
    assert [(line["run"], line["step"]) for line in small.lines(folder)] == [
        ("arms/mixkd~ce_weight=0.5/0", step) for step in (4, 8, 12, 14)
    ]
    assert _kept(folder) == [8, 14]
    assert small.bits(_restored(fit)) == small.bits(state)
    seconds = json.loads((folder / NAME / "time.json").read_text())
    assert seconds["train"] > 0 and seconds["compile"] > 0 and seconds["checkpoint"] > 0
    assert seconds["evaluate"] == 0
    assert not any(np.any(total) for total in state.totals.values())


def test_lines_are_means_since_the_last_one(undisturbed, known):
    """Against steps that are taken one by one."""
    folder, fit, last = undisturbed
    feed = fit.images.feeds(stream(fit.key, "order"), small.BATCH, pairs=True)
    state, before = known.init(fit)(fit.key), None
    numbers = {name: jnp.float32(value) for name, value in fit.numbers.items()}
    for line in small.lines(folder):
        before = {name: float(np.asarray(total)) for name, total in state.totals.items()}
        count = line["step"] - int(state.step)
        for step in range(int(state.step), line["step"]):
            batch = known.draw(fit)(feed(step), fit.key, np.int32(step), fit.mixing)
            logits = known.query(TEACHER.network, fit)(TEACHER.variables, batch.images)
            state = known.update(fit)(state, batch, logits, fit.key, numbers)
        assert float(state.totals[TAKEN]) - before[TAKEN] == count
        for name, total in state.totals.items():
            if name == TAKEN:
                continue
            want = (float(np.asarray(total)) - before[name]) / count
            assert line[name] == pytest.approx(want, rel=1e-4, abs=1e-6), name
        assert line["epoch"] == line["step"] / 4
        assert line["learning_rate"] == pytest.approx(float(SCHEDULE(line["step"] - 1)))  # pyright: ignore
    jax.tree.map(np.testing.assert_array_equal, state.params, last.params)


@pytest.mark.parametrize("at", [[1], [4], [6], [8], [13], [2, 3, 9], list(range(1, 14))], ids=str)
def test_a_training_that_was_stopped_goes_on_bit_for_bit(undisturbed, known, tmp_path, at):
    fit = _fit(tmp_path)
    for step in at:
        with pytest.raises(Stopped, match=f"^{NAME} at step {step} of 14$"):
            _train(tmp_path, fit, stop=_stop_at(step), known=known)
        assert _kept(tmp_path)[-1] == step
    (state,) = _train(tmp_path, fit, known=known)
    assert small.bits(state) == small.bits(undisturbed[2])
    assert small.lines(tmp_path) == small.lines(undisturbed[0])
    assert _kept(tmp_path)[-1] == 14


def test_lines_stay_means_when_they_come_at_other_steps(undisturbed, known, tmp_path):
    """As they do when `config.log.every` is changed before a run goes on."""
    fit = _fit(tmp_path)
    with pytest.raises(Stopped):
        _train(tmp_path, fit, stop=_stop_at(6), known=known)
    steps = dataclasses.replace(fit.steps, log=7)
    _train(tmp_path, dataclasses.replace(fit, steps=steps), known=known)
    lines = {line["step"]: line for line in small.lines(tmp_path)}
    assert list(lines) == [4, 7, 14]
    whole = {line["step"]: line for line in small.lines(undisturbed[0])}
    for name in ("loss", "accuracy", "entropy", "kl"):
        want = sum(count * whole[step][name] for step, count in ((4, 4), (8, 4), (12, 4), (14, 2)))
        found = sum(count * lines[step][name] for step, count in ((4, 4), (7, 3), (14, 7)))
        assert found == pytest.approx(want, rel=1e-4)


def test_a_training_whose_last_steps_were_lost_takes_them_again(undisturbed, known, tmp_path):
    """As after a kill: lines and steps that came after the checkpoint are done over."""
    fit = _fit(tmp_path)
    with pytest.raises(ZeroDivisionError):
        _train(tmp_path, fit, stop=lambda step: step == 13 and 1 / 0, known=known)
    assert _kept(tmp_path) == [8] and len(small.lines(tmp_path)) == 3
    (state,) = _train(tmp_path, fit, known=known)
    assert small.bits(state) == small.bits(undisturbed[2])
    assert small.lines(tmp_path) == small.lines(undisturbed[0])


class Idle(Programs):
    """Programs of which none may be used."""

    def _once(self, kind, make):
        raise AssertionError(f"needed {kind[0]}")


def test_a_finished_training_takes_no_step(undisturbed):
    folder, fit, state = undisturbed
    (again,) = _train(folder, fit, known=Idle())
    assert small.bits(again) == small.bits(state)
    assert len(small.lines(folder)) == 4 and _kept(folder) == [8, 14]


def test_a_stop_at_the_last_step_is_no_stop(undisturbed, known, tmp_path):
    (state,) = _train(tmp_path, _fit(tmp_path), stop=_stop_at(14), known=known)
    assert small.bits(state) == small.bits(undisturbed[2])


def test_events_are_written_whatever_ends_the_training(known, tmp_path):
    with pytest.raises(ZeroDivisionError):
        _train(tmp_path, _fit(tmp_path), stop=lambda step: step == 5 and 1 / 0, known=known)
    (events,) = (tmp_path / "tensorboard" / NAME).iterdir()
    assert b"grad_norm" in events.read_bytes()


def test_validation_is_at_its_steps_and_the_last(undisturbed, known, tmp_path):
    seen = []

    def validate(variables):
        seen.append(small.bits(variables))
        return {"accuracy": len(seen) / 10}

    (state,) = _train(tmp_path, _fit(tmp_path, validate=validate), known=known)
    found = {line["step"]: line.get("validation_accuracy") for line in small.lines(tmp_path)}
    assert found == {4: None, 8: 0.1, 12: None, 14: 0.2}
    assert seen[1] == small.bits(state.variables)
    assert small.bits(state) == small.bits(undisturbed[2])  # looking changes nothing


def test_no_steps_leave_the_given_variables_as_they_are(known, tmp_path):
    start = known.init(_fit(tmp_path))(jax.random.key(99)).variables
    given = small.bits(start)
    none = dataclasses.replace(small.STEPS, total=0)
    for _ in range(2):  # and again, when it is finished
        fit = _fit(tmp_path, steps=none, start=start)
        (state,) = _train(tmp_path, fit, known=known)
        assert small.bits(state.variables) == given and int(state.step) == 0
        assert small.bits(_restored(fit).variables) == given


def test_a_training_begins_with_given_variables(known, tmp_path):
    start = known.init(_fit(tmp_path))(jax.random.key(99)).variables
    given = small.bits(start)
    still = optax.sgd(0.0)
    fit = _fit(tmp_path, start=start, optimizer=still)
    with pytest.raises(Stopped):
        _train(tmp_path, fit, stop=_stop_at(1))
    assert small.bits(start) == given  # still there for the next seed: not donated
    assert small.bits(_restored(fit).variables) == given


def test_a_part_that_the_given_variables_lack_is_random(known, tmp_path):
    still = {"optimizer": optax.sgd(0.0), "steps": dataclasses.replace(small.STEPS, total=1)}
    kernel = {"Dense_0": {"kernel": np.zeros((64, 3), np.float32), "bias": np.ones(3, np.float32)}}
    states = [
        _train(tmp_path / name, _fit(tmp_path / name, start=start, **still))[0]
        for name, start in (("none", None), ("empty", {"params": {}}), ("all", {"params": kernel}))
    ]
    none, empty, given = (small.bits(state.params) for state in states)
    assert none == empty and given == small.bits(kernel)


# Several


def test_a_model_is_the_same_alone_and_among_others(together, known, tmp_path):
    """To the last bit: parameters, what the optimizer keeps, and log lines."""
    folder, states = together
    logged = _by_name(folder)
    assert len(logged) == len(ARMS)
    for arm in ("mixkd", "mixup"):
        fit = _fit(tmp_path, arm)
        (state,) = _train(tmp_path, fit, known=known)
        assert small.bits(state) == small.bits(states[arm])
        assert _by_name(tmp_path)[fit.name] == logged[fit.name]
    assert len({small.bits(s.params)["['Dense_0']['kernel']"] for s in states.values()}) == 5


@pytest.mark.slow
def test_a_convolutional_model_with_statistics_is_the_same_alone_and_among_others(tmp_path):
    known, teacher = Programs(), small.teacher()
    steps = dataclasses.replace(small.STEPS, total=5)
    states = {}
    for arms in (("mixkd",), ("mixkd:temperature=4", "mixkd", "mixup")):
        folder = tmp_path / str(len(arms))
        fits = [small.fit(folder, arm, steps=steps) for arm in arms]
        ends = _train(folder, *fits, known=known, teacher=teacher)
        states[len(arms)] = small.bits(ends[arms.index("mixkd")])
    assert states[1] == states[3]
    assert _by_name(tmp_path / "1") == {"arms/mixkd/0": _by_name(tmp_path / "3")["arms/mixkd/0"]}


def test_the_teacher_is_queried_once_a_step(known, monkeypatch, tmp_path):
    counts = dict.fromkeys(("draw", "query", "update"), 0)

    class Counted(Programs):
        def _once(self, kind, make):
            counts[kind[0]] = counts.get(kind[0], 0) + 1
            return known._once(kind, make)

        def __len__(self):
            return len(known)

    _train(tmp_path, *(_fit(tmp_path, arm) for arm in ARMS), known=Counted())
    assert (counts["draw"], counts["query"], counts["update"]) == (14, 14, 14 * len(ARMS))
    counts["query"] = 0
    _train(tmp_path, *(_fit(tmp_path, arm, seed=1) for arm in ("ce", "mixup")), known=Counted())
    assert counts["query"] == 0  # nobody learns from it


def test_steps_pass_nothing_between_host_and_devices(known, monkeypatch, tmp_path):
    take_step, guarded = group.take_step, []

    def guard(step, *args):
        # The first step of an epoch draws its order.
        if step % small.STEPS.per_epoch == 0:
            return take_step(step, *args)
        guarded.append(step)
        with jax.transfer_guard("disallow_explicit"):
            return take_step(step, *args)

    monkeypatch.setattr(group, "take_step", guard)
    _train(tmp_path, *(_fit(tmp_path, arm) for arm in ARMS), known=known)
    assert len(guarded) >= small.STEPS.total // 2
    with pytest.raises(Exception, match="host-to-device"), jax.transfer_guard("disallow"):
        jax.jit(lambda x: x + 1)(np.int32(0))


def test_a_program_is_compiled_for_each_kind_and_not_for_each_number(tmp_path, monkeypatch):
    traced = []
    update = programs.update_student

    def noted(recipe, *args):
        traced.append(recipe.words)
        return update(recipe, *args)

    monkeypatch.setattr(programs, "update_student", noted)
    known = Programs()
    arms = ("mixkd", "mixkd:temperature=4", "mixkd:teacher_temperature=2", "mixkd:kd_weight=0")
    steps = dataclasses.replace(small.STEPS, total=2, log=2)
    for seed in (0, 1):
        fits = [_fit(tmp_path, arm, seed=seed, steps=steps) for arm in arms]
        _train(tmp_path, *fits, known=known)
    assert len(traced) == 1
    assert len(known) == 5  # draw, query, variables, state, update
    _train(tmp_path, _fit(tmp_path, "mixkd:temperature=std", steps=steps), known=known)
    assert len(traced) == 2 and len(known) == 7  # its own update, and state


def test_fits_are_divided_by_what_they_see(tmp_path):
    arms = ("ce", "mixkd", "kd", "mixup", "mixkd:alpha=0.3", "mixkd:temperature=4")
    fits = [_fit(tmp_path, arm, seed=seed) for seed in (0, 1) for arm in arms]
    names = [[fit.name for fit in fits] for fits in group.divide(fits)]
    assert names == [
        [f"arms/{arm}/{seed}" for arm in arms]
        for seed in (0, 1)
        for arms in (
            ("ce", "kd"),
            ("mixkd", "mixup", "mixkd~temperature=4"),
            ("mixkd~alpha=0.3",),
        )
    ]


def test_a_group_that_is_stopped_at_any_steps_goes_on_bit_for_bit(together, known, tmp_path):
    folder, states = together
    fits = [_fit(tmp_path, arm) for arm in ARMS]
    at = sorted(random.SystemRandom().sample(range(1, 14), 3))
    for step in at:
        with pytest.raises(Stopped) as stopped:
            _train(tmp_path, *fits, stop=_stop_at(step), known=known)
        names = ", ".join(fit.name for fit in fits)
        assert str(stopped.value) == f"{names} at step {step} of 14"
    for arm, state in zip(ARMS, _train(tmp_path, *fits, known=known), strict=True):
        assert small.bits(state) == small.bits(states[arm]), (arm, at)
    assert _by_name(tmp_path) == _by_name(folder), at


@pytest.mark.parametrize("at", [3, 4, 8, 14])
def test_one_that_comes_later_catches_up_and_the_others_repeat_nothing(
    together, known, tmp_path, at
):
    folder, states = together
    early, late = ARMS[:2], ARMS[2:4]
    try:
        _train(tmp_path, *(_fit(tmp_path, arm) for arm in early), stop=_stop_at(at), known=known)
    except Stopped:
        assert at < 14
    taken = dict.fromkeys(ARMS, 0)

    class Counted(Programs):
        def update(self, fit):
            taken[fit.name.split("/")[1].replace("~", ":")] += 1
            return known.update(fit)

        def _once(self, kind, make):
            return known._once(kind, make)

    fits = [_fit(tmp_path, arm) for arm in (*early, *late)]
    ended = _train(tmp_path, *fits, known=Counted())
    for arm, state in zip((*early, *late), ended, strict=True):
        assert small.bits(state) == small.bits(states[arm]), arm
        assert taken[arm] == (14 - at if arm in early else 14)
    want = _by_name(folder)
    assert _by_name(tmp_path) == {fit.name: want[fit.name] for fit in fits}
    for fit in fits:
        assert _kept(tmp_path, fit.name)[-1] == 14


# What goes wrong


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    """At the first line after it; the last good checkpoint is kept, and still good."""
    rate = lambda step: jnp.where(step < 9, 0.01, jnp.inf)  # noqa: E731
    fit = _fit(tmp_path, optimizer=optax.sgd(rate))
    with pytest.raises(Diverged) as caught:
        _train(tmp_path, fit)
    message = str(caught.value)
    assert message.startswith(f"{NAME}: not finite within the last 4 steps before step 12: ")
    assert "loss " in message and "clip_norm" in message
    assert _kept(tmp_path) == [8]
    assert [line["step"] for line in small.lines(tmp_path)] == [4, 8]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(_restored(fit).params))


def test_updates_that_are_not_finite_can_be_left_out_and_are_counted(tmp_path, monkeypatch):
    broken = []  # by batch: whether its loss is NaN

    def sometimes(student_logits, teacher_logits, labels):
        loss = jnp.mean(student_logits**2, -1)
        bad = jnp.sum(labels[:, 0]) > small.BATCH / small.CLASSES
        jax.debug.callback(lambda value: broken.append(bool(value)), bad)
        return jnp.where(bad, jnp.nan, loss), {"ce": loss}

    monkeypatch.setitem(objectives.OBJECTIVES, "sometimes", sometimes)
    fit = _fit(tmp_path, "mixkd:loss=sometimes")
    fit = dataclasses.replace(fit, recipe=dataclasses.replace(fit.recipe, skips=True))
    (state,) = _train(tmp_path, fit)
    assert len(broken) == 14 and 0 < sum(broken) < 14
    lines = small.lines(tmp_path)
    assert sum(line["skipped_updates"] for line in lines) == sum(broken)
    assert all(np.isfinite(line["loss"]) and line["loss"] < 10 for line in lines)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    for line in lines:  # the rate is that of the updates that were taken
        rate = float(SCHEDULE(line["step"] - 1 - sum(broken[: line["step"]])))  # pyright: ignore
        assert line["learning_rate"] == pytest.approx(rate)


def test_a_training_of_which_nothing_is_finite_ends_all_the_same(tmp_path):
    fit = _fit(tmp_path, optimizer=optax.sgd(jnp.inf))
    fit = dataclasses.replace(fit, recipe=dataclasses.replace(fit.recipe, skips=True))
    with pytest.raises(Diverged, match="none of the last 4 updates before step 4 was finite"):
        _train(tmp_path, fit)


def test_a_gradient_that_is_not_finite_stops_it_too(tmp_path, monkeypatch):
    def endless(student_logits, teacher_logits, labels):
        loss = jnp.sqrt(jnp.sum(0 * student_logits, -1))  # 0, with the gradient 0 * inf
        return loss, {"ce": loss}

    monkeypatch.setitem(objectives.OBJECTIVES, "endless", endless)
    with pytest.raises(Diverged, match="grad_norm nan"):
        _train(tmp_path, _fit(tmp_path, "mixkd:loss=endless"))
    assert _kept(tmp_path, "arms/mixkd~loss=endless/0") == []


def test_a_parameter_that_is_not_finite_is_named_and_not_saved(tmp_path):
    rate = lambda step: jnp.where(step < 3, 0.01, jnp.inf)  # noqa: E731
    with pytest.raises(Diverged, match=r"\['params'\]\['Dense_0'\].* not finite after step 4"):
        _train(tmp_path, _fit(tmp_path, optimizer=optax.sgd(rate)), stop=_stop_at(4))
    assert _kept(tmp_path) == []


def test_sigterm_asks_for_a_stop(known, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    try:
        stop = StopRequest()
        assert not stop(1)

        def at_6(step):
            if step == 6:
                os.kill(os.getpid(), signal.SIGTERM)
            return stop(step)

        with pytest.raises(Stopped, match="at step [67] of 14"):
            _train(tmp_path, _fit(tmp_path), stop=at_6, known=known)
        assert stop(1)  # and the next model's first step is its last
    finally:
        signal.signal(signal.SIGTERM, before)


# Durations


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
