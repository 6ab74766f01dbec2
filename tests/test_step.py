import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import ops_reference as reference
import optax
import pytest
import small

from mixkd_jax.data import Split
from mixkd_jax.models.network import Network
from mixkd_jax.training.programs import Programs
from mixkd_jax.training.randomness import stream
from mixkd_jax.training.step import query_teacher, update_student

KEY = jax.random.key(11)
ARM = "mixkd:temperature=3:kd_weight=0.8:ce_weight=0.3"


@dataclasses.dataclass(frozen=True)
class Watched(Network):
    """A network that notes the images that it sees."""

    seen: list = dataclasses.field(default_factory=list, compare=False)

    def logits(self, variables, images):
        self.seen.append(np.asarray(images))
        return super().logits(variables, images)

    def train_logits(self, variables, images, key):
        self.seen.append(np.asarray(images))
        return super().train_logits(variables, images, key)


def _watched(network):
    return Watched(network.module, network.mean, network.std)


KNOWN = Programs()


def _numbers(fit):
    return {name: jnp.float32(value) for name, value in fit.numbers.items()}


def _draw(fit, step, key=KEY):
    feed = fit.images.feeds(stream(key, "order"), small.BATCH, pairs=fit.mixup is not None)(step)
    return KNOWN.draw(fit)(feed, key, np.int32(step), fit.mixing)


def _steps(fit, count, teacher=None):
    """Returns the batches of some steps, and the states before, between and after them."""
    states, batches = [KNOWN.init(fit)(KEY)], []
    for step in range(count):
        batches.append(_draw(fit, step))
        logits = None
        if teacher is not None:
            query = KNOWN.query(teacher.network, fit)
            logits = query(teacher.variables, batches[-1].images)
        states.append(KNOWN.update(fit)(states[-1], batches[-1], logits, KEY, _numbers(fit)))
    return batches, states


def _softmax(logits):
    return np.exp(np.array([reference.log_softmax(row) for row in logits]))


@pytest.mark.parametrize(("text", "scale"), [(ARM, 1.0), (ARM, 0.5), ("mixup", None)])
def test_a_step_is_what_numpy_makes_of_it(text, scale):
    """Two linear models in float64: logits, loss, its gradient by hand, momentum, metrics.

    `scale` divides the teacher's logits before anything else.
    """
    teacher, optimizer = small.teacher(network=small.linear()), optax.sgd(0.5, momentum=0.9)
    fit = small.linear_fit(text=text, optimizer=optimizer, temperature=scale)
    batches, states = _steps(fit, 5, teacher if scale else None)

    def arrays(params):
        dense = params["Dense_0"]
        return [np.asarray(dense[name], np.float64) for name in ("kernel", "bias")]

    (w, b), momentum = arrays(states[0].params), [0.0, 0.0]
    totals = dict.fromkeys(states[0].totals, 0.0)
    for batch, state in zip(batches, states[1:], strict=True):
        images, y = np.asarray(batch.images, np.float64), np.asarray(batch.labels, np.float64)
        x = ((images / 255 - small.MEAN) / small.STD).reshape(len(images), -1)
        s = x @ w + b
        d_ce = _softmax(s) - y
        values = {"ce": reference.cross_entropy(s, y).mean()}
        values["accuracy"] = np.mean(s.argmax(-1) == y.argmax(-1))
        values["entropy"] = -(_softmax(s) * np.log(_softmax(s))).sum(-1).mean()
        if scale:
            kernel, bias = arrays(teacher.variables["params"])
            t = (x @ kernel + bias) / scale
            values["kd"] = reference.distillation_kl(s, t, 3.0).mean()
            values["kl"] = reference.distillation_kl(s, t, 1.0).mean()
            values["agreement"] = np.mean(s.argmax(-1) == t.argmax(-1))
            values["loss"] = 0.8 * values["kd"] + 0.3 * values["ce"]
            d = 0.8 * 3 * (_softmax(s / 3) - _softmax(t / 3)) + 0.3 * d_ce
        else:
            values["loss"], d = values["ce"], d_ce
        grads = [x.T @ d / len(x), d.mean(0)]
        values["updates"] = 1
        values["grad_norm"] = np.sqrt(sum(np.sum(g**2) for g in grads))
        momentum = [0.9 * m + g for m, g in zip(momentum, grads, strict=True)]
        w, b = w - 0.5 * momentum[0], b - 0.5 * momentum[1]
        totals = {name: total + values[name] for name, total in totals.items()}
        for got, want in zip(arrays(state.params), (w, b), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)
    assert int(states[-1].step) == 5
    for name, total in totals.items():
        assert float(states[-1].totals[name]) == pytest.approx(total, rel=1e-4), name


def test_variables_are_drawn_as_with_all_optimizations():
    fit = small.fit()
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        drawn, wanted = Programs().variables(fit)(KEY), jax.jit(fit.create_variables)(KEY)
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
    assert small.bits(drawn) == small.bits(wanted)


def test_images_of_another_shape_and_other_metrics_have_programs_of_their_own():
    fit, known = small.linear_fit(), Programs()
    images = np.zeros((small.BATCH, 3, 5, 1), np.uint8)
    labels = np.zeros(small.BATCH, np.int32)
    other = small.images(fit.recipe.mesh, Split(images, labels))
    fits = [fit, small.linear_fit(split=other), dataclasses.replace(fit, parts=("other",))]
    for each in fits:
        made, wanted = known.init(each)(KEY), each.abstract_state
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, wanted)
    assert len(known) == 5  # the last has the first's variables


def test_metrics_without_a_teacher_name_none():
    fit = small.linear_fit(text="ce")
    totals = fit.abstract_state.totals
    assert set(totals) == {"loss", "ce", "accuracy", "entropy", "grad_norm", "updates"}


def test_the_teacher_is_queried_on_exactly_what_the_student_sees():
    """Without a jit, in which `Watched` can see."""
    student, watched = _watched(small.linear()), _watched(small.linear())
    fit, teacher = small.fit(network=student), small.teacher(network=small.linear())
    batch, start = _draw(fit, 0), fit.create_state(fit.create_variables(KEY))
    logits = query_teacher(watched, fit.recipe.mesh, teacher.variables, batch.images)
    update_student(fit.recipe, start, batch, logits, KEY, _numbers(fit))
    (theirs,), ours = watched.seen, student.seen[-1]
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(ours, batch.images)
    assert np.any(ours % 1)  # they were mixed


def test_a_batch_is_a_function_of_key_and_step():
    fit = small.linear_fit()
    first, again = _draw(fit, 2), _draw(fit, 2)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for other in (_draw(fit, 3), _draw(fit, 2, jax.random.key(12))):
        assert not np.array_equal(first.images, other.images)
    np.testing.assert_allclose(np.sum(first.labels, -1), 1, rtol=1e-6)


def test_without_mixing_a_batch_is_whole_images():
    batch = _draw(small.linear_fit(text="kd"), 0)
    assert set(np.unique(batch.labels)) == {0, 1} and not np.any(np.asarray(batch.images) % 1)


@pytest.mark.parametrize("changes", [{"alpha": 0.3}, {"partial": 0.5}, {"per_example": False}])
def test_the_config_decides_how_images_are_mixed(changes):
    given = ":".join(f"{name}={value}" for name, value in changes.items())
    plain, changed = (_draw(small.linear_fit(text=f"mixkd{more}"), 0) for more in ("", f":{given}"))
    assert not np.array_equal(plain.labels, changed.labels)
    # Each label is λ of one class and 1 - λ of another, or whole.
    largest = np.asarray(changed.labels).max(-1)
    if "partial" in changes:
        assert (largest == 1).any()
    if "per_example" in changes:
        assert len(np.unique(largest[largest < 1].round(5))) == 1


def test_no_gradient_reaches_the_teacher():
    fit, teacher = small.linear_fit(text="kd"), small.teacher(network=small.linear())
    start, batch = KNOWN.init(fit)(KEY), _draw(fit, 0)

    def loss(variables, params):
        logits = query_teacher(teacher.network, fit.recipe.mesh, variables, batch.images)
        state = dataclasses.replace(start, params=params)
        after = update_student(fit.recipe, state, batch, logits, KEY, _numbers(fit))
        return after.totals["loss"]

    of_teacher, of_student = jax.jit(jax.grad(loss, argnums=(0, 1)))(
        teacher.variables, start.params
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_teacher))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(of_student))


def test_the_teacher_is_in_evaluation_mode():
    """Logits depend on their own image alone, so no batch statistics are used or changed."""
    teacher, mesh = small.teacher(), small.one_device()
    before = small.bits(teacher.variables)
    images = jnp.asarray(small.dataset().train.images[:8], jnp.float32)
    query = jax.jit(functools.partial(query_teacher, teacher.network, mesh))
    together = query(teacher.variables, images)
    alone = [query(teacher.variables, image[None]) for image in images]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-5)
    assert small.bits(teacher.variables) == before


def test_the_student_learns_in_training_mode():
    fit = small.fit()
    (batch,), (start, state) = _steps(fit, 1, small.teacher())
    _, want = jax.jit(fit.recipe.network.train_logits)(start.variables, batch.images, KEY)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.batch_stats, want
    )
    assert small.bits(state.batch_stats) != small.bits(start.batch_stats)


def test_an_update_that_is_not_finite_leaves_no_trace_but_its_number():
    fit = small.linear_fit(text="mixup", optimizer=optax.sgd(0.5, momentum=0.9))
    fit = dataclasses.replace(fit, recipe=dataclasses.replace(fit.recipe, skips=True))
    (good, bad), (_, before, _) = _steps(fit, 2)
    bad = bad._replace(images=bad.images.at[0, 0, 0, 0].set(jnp.nan))
    update = KNOWN.update(fit)
    after = update(before, bad, None, KEY, _numbers(fit))
    assert int(after.step) == 2 and float(after.totals["skipped_updates"]) == 1
    kept = dataclasses.replace(after, step=before.step, totals=before.totals)
    assert jax.tree.all(jax.tree.map(np.array_equal, kept, before))
    for name, total in after.totals.items():
        assert name == "skipped_updates" or float(total) == float(before.totals[name])
    plain = dataclasses.replace(fit, recipe=dataclasses.replace(fit.recipe, skips=False))
    # The next one is what it would have been, and what it is without the option.
    again = update(after, good, None, KEY, _numbers(fit))
    totals = {n: t for n, t in before.totals.items() if n != "skipped_updates"}
    same = dataclasses.replace(before, totals=totals)
    other = KNOWN.update(plain)(same, good, None, KEY, _numbers(fit))
    for ours, theirs in zip(
        jax.tree.leaves(again.variables), jax.tree.leaves(other.variables), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
