import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as reference
import optax
import pytest
import small

from mixkd_jax.models.network import Network
from mixkd_jax.training import objectives, sharding
from mixkd_jax.training.dispatch import compile_trainer, feeds
from mixkd_jax.training.objectives import create_objective
from mixkd_jax.training.state import create_state
from mixkd_jax.training.step import draw_batch, query_teacher, train_step

KEY = jax.random.key(11)


@dataclasses.dataclass(frozen=True)
class Watched(Network):
    """A network that notes the images it was asked about."""

    seen: list = dataclasses.field(default_factory=list, compare=False)

    def logits(self, variables, images):
        self.seen.append(np.asarray(images))
        return super().logits(variables, images)

    def train_logits(self, variables, images, key):
        self.seen.append(np.asarray(images))
        return super().train_logits(variables, images, key)


def _watched(network):
    return Watched(network.module, network.mean, network.std)


def _start(how):
    return create_state(jax.random.key(1), how.student, small.SHAPE, how.optimizer, how.metrics)


def _steps(how, state, count, teacher=None):
    """Takes steps without a jit, in which `Watched` can see; returns the states after each."""
    feed = feeds(how, small.images(how.mesh), KEY)
    states = []
    for step in range(count):
        state = train_step(how, state, feed(step).feed, teacher, KEY)
        states.append(state)
    return states


def _softmax(logits):
    return np.exp(np.array([reference.log_softmax(row) for row in logits]))


@pytest.mark.parametrize("distils", [True, False])
def test_a_step_is_what_numpy_makes_of_it(distils):
    """Two linear models in float64: logits, loss, its gradient by hand, momentum, metrics."""
    student, labels = _watched(small.linear()), []
    inner = create_objective(small.loss(kd_weight=0.8, ce_weight=0.3, temperature="3"))
    inner = inner if distils else objectives.cross_entropy

    def objective(s, t, y):
        labels.append(np.asarray(y, np.float64))
        return inner(s, t, y)

    how = small.recipe(
        student=student,
        teacher=_watched(small.linear()) if distils else None,
        objective=objective,
        optimizer=optax.sgd(0.5, momentum=0.9),
    )
    teacher, start = small.teacher_variables(how), _start(how)
    states = _steps(how, start, 5, teacher)

    def arrays(params):
        dense = params["Dense_0"]
        return [np.asarray(dense[name], np.float64) for name in ("kernel", "bias")]

    (w, b), momentum = arrays(start.params), [0.0, 0.0]
    totals = dict.fromkeys(how.metrics, 0.0)
    for images, y, state in zip(student.seen, labels, states, strict=True):
        x = ((images.astype(np.float64) / 255 - small.MEAN) / small.STD).reshape(len(images), -1)
        s = x @ w + b
        d_ce = _softmax(s) - y
        values = {"ce": reference.cross_entropy(s, y).mean()}
        values["accuracy"] = np.mean(s.argmax(-1) == y.argmax(-1))
        values["entropy"] = -(_softmax(s) * np.log(_softmax(s))).sum(-1).mean()
        if distils:
            kernel, bias = arrays(teacher["params"])  # pyright: ignore[reportOptionalSubscript]
            t = x @ kernel + bias
            values["kd"] = reference.distillation_kl(s, t, 3.0).mean()
            values["kl"] = reference.distillation_kl(s, t, 1.0).mean()
            values["agreement"] = np.mean(s.argmax(-1) == t.argmax(-1))
            values["loss"] = 0.8 * values["kd"] + 0.3 * values["ce"]
            d = 0.8 * 3 * (_softmax(s / 3) - _softmax(t / 3)) + 0.3 * d_ce
        else:
            values["loss"], d = values["ce"], d_ce
        grads = [x.T @ d / len(x), d.mean(0)]
        values["grad_norm"] = np.sqrt(sum(np.sum(g**2) for g in grads))
        momentum = [0.9 * m + g for m, g in zip(momentum, grads, strict=True)]
        w, b = w - 0.5 * momentum[0], b - 0.5 * momentum[1]
        totals = {name: total + values[name] for name, total in totals.items()}
        for got, want in zip(arrays(state.params), (w, b), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)
    assert set(states[-1].totals) == set(totals) and int(states[-1].step) == 5
    for name, total in totals.items():
        assert float(states[-1].totals[name]) == pytest.approx(total, rel=1e-4), name


def test_the_teacher_is_asked_about_exactly_what_the_student_sees():
    student, teacher = _watched(small.linear()), _watched(small.linear())
    how = small.recipe(student=student, teacher=teacher)
    _steps(how, _start(how), 3, small.teacher_variables(how))
    assert len(student.seen) == len(teacher.seen) == 3
    for ours, theirs in zip(student.seen, teacher.seen, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert any(np.any(images % 1) for images in student.seen)  # they were mixed
    assert not np.array_equal(student.seen[0], student.seen[1])


def test_a_batch_is_a_function_of_key_and_step():
    how = small.recipe()
    feed = feeds(how, small.images(how.mesh), KEY)(0).feed

    def draw(key, step):
        return draw_batch(how, jax.random.fold_in(key, step), step, feed)

    first, again = draw(KEY, 2), draw(KEY, 2)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for other in (draw(KEY, 3), draw(jax.random.key(12), 2)):
        assert not np.array_equal(first.images, other.images)
    np.testing.assert_allclose(np.sum(first.labels, -1), 1, rtol=1e-6)


def test_without_mixing_a_batch_is_whole_images():
    how = small.recipe(mixing=None, teacher=None, objective=objectives.cross_entropy)
    feed = feeds(how, small.images(how.mesh), KEY)(0).feed
    batch = draw_batch(how, KEY, jnp.int32(0), feed)
    assert set(np.unique(batch.labels)) == {0, 1} and not np.any(np.asarray(batch.images) % 1)


def test_no_gradient_reaches_the_teacher():
    how = small.linears(mixing=None)
    teacher, start = small.teacher_variables(how), _start(how)
    feed = feeds(how, small.images(how.mesh), KEY)(0).feed

    def loss(teacher, params):
        state = dataclasses.replace(start, params=params)
        return train_step(how, state, feed, teacher, KEY).totals["loss"]

    of_teacher, of_student = jax.jit(jax.grad(loss, argnums=(0, 1)))(teacher, start.params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_teacher))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(of_student))


def test_the_teacher_answers_in_evaluation_mode():
    """Each answer depends on its own image alone, so no batch statistics are used or changed."""
    how = small.recipe()
    variables = small.teacher_variables(how)
    before = small.bits(variables)
    images = jnp.asarray(small.dataset().train.images[:8], jnp.float32)
    together = query_teacher(how, variables, images)
    alone = [query_teacher(how, variables, image[None]) for image in images]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-5)  # pyright: ignore
    assert small.bits(variables) == before
    assert query_teacher(dataclasses.replace(how, teacher=None), variables, images) is None


def test_the_student_learns_in_training_mode():
    student = _watched(small.cnn())
    how = small.recipe(student=student)
    start = _start(how)
    (state,) = _steps(how, start, 1, small.teacher_variables(how))
    _, want = student.train_logits(start.variables, jnp.asarray(student.seen[0]), KEY)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.batch_stats, want
    )
    assert small.bits(state.batch_stats) != small.bits(start.batch_stats)


def test_metrics_without_a_teacher_name_none():
    how = small.recipe(teacher=None, objective=objectives.cross_entropy)
    (state,) = _steps(how, _start(how), 1)
    assert set(state.totals) == {"loss", "ce", "accuracy", "entropy", "grad_norm"}
    assert float(state.totals["loss"]) == float(state.totals["ce"])


def test_steps_in_one_dispatch_are_the_same_steps():
    how = small.linears()
    teacher, images = small.teacher_variables(how), small.images(how.mesh)
    key = jax.device_put(KEY, sharding.replicated(how.mesh))
    ends = []
    for together in (1, 5):
        trainer = compile_trainer(how, images, teacher, steps_per_dispatch=together)
        state, step, feed = trainer.init(key), 0, feeds(how, images, key)
        while step < 10:
            portion = feed(step)
            count = min(10 - step, portion.steps, together)
            state, step = trainer.advance(state, portion.feed, key, count), step + count
        ends.append(state)
    assert int(ends[0].step) == int(ends[1].step) == 10
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *ends)
