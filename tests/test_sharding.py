import collections
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from mixkd_jax import mixup
from mixkd_jax.config import ConfigError
from mixkd_jax.data import device
from mixkd_jax.models import create_model
from mixkd_jax.training import sharding
from mixkd_jax.training.programs import Programs
from mixkd_jax.training.randomness import stream

COUNTS = (1, 2, 8)
STEPS = 6
SHAPE = (16, 16, 3)
SPLIT = small.dataset(train=48, shape=SHAPE).train
COLLECTIVE = re.compile(
    r"= (?P<result>.+?) (?P<name>all-gather|all-reduce|all-to-all|collective-permute"
    r"|collective-broadcast|reduce-scatter|ragged-all-to-all)(?:-start)?\("
)


def _mesh(count):
    return sharding.data_mesh(jax.devices()[:count])


def _largest_collective(hlo, devices):
    """Elements of the largest array that a program's collectives move; 0 without any."""
    largest = 0
    for found in COLLECTIVE.finditer(hlo):
        sizes = [
            math.prod(int(n) for n in axes.split(",") if n)
            for axes in re.findall(r"\w+\[([\d,]*)\]", found["result"])
        ]
        factor = devices if found["name"] == "reduce-scatter" else 1  # of what goes in
        largest = max(largest, factor * max(sizes))
    return largest


def _fit(count, **options):
    mesh = _mesh(count)
    return small.fit(mesh=mesh, split=small.images(mesh, SPLIT), **options)


def _run(fit, teacher):
    """Returns the totals after each step, the last state, and the step's HLO by program."""
    programs, mesh = Programs(), fit.recipe.mesh
    feed = fit.images.feeds(stream(fit.key, "order"), small.BATCH, pairs=True)
    numbers = {name: np.float32(value) for name, value in fit.numbers.items()}
    numbers = jax.device_put(numbers, sharding.replicated(mesh))
    state, totals, compiled = programs.init(fit)(fit.key), [], {}

    def call(name, program, *args):
        if name not in compiled:
            compiled[name] = program.lower(*args).compile()
        return compiled[name](*args)

    for step in range(STEPS):
        at = jax.device_put(np.int32(step), sharding.replicated(mesh))
        batch = call("draw", programs.draw(fit), feed(step), fit.key, at, fit.mixing)
        query = programs.query(teacher.network, fit)
        logits = call("query", query, teacher.variables, batch.images)
        state = call("update", programs.update(fit), state, batch, logits, fit.key, numbers)
        totals.append({name: float(total) for name, total in state.totals.items()})
    return totals, state, {name: program.as_text() for name, program in compiled.items()}


@pytest.fixture(scope="module")
def runs():
    """What `_run` returns for each number of devices."""
    return {n: _run(_fit(n), small.teacher(_mesh(n), shape=SHAPE)) for n in COUNTS}


def test_eight_devices_are_there():
    assert jax.device_count() == 8
    assert sharding.data_mesh().size == 8 and sharding.data_mesh().axis_names == ("data",)


@pytest.mark.parametrize("count", COUNTS[1:])
def test_losses_are_the_same_on_any_number_of_devices(runs, count):
    for one, many in zip(runs[1][0], runs[count][0], strict=True):
        for name in ("loss", "kd", "ce", "grad_norm"):
            assert many[name] == pytest.approx(one[name], rel=2e-5), name
    losses = [totals["loss"] for totals in runs[1][0]]
    assert np.diff(losses).min() > 0  # totals grow, so these are of different steps


@pytest.mark.parametrize("count", COUNTS[1:])
def test_parameters_and_statistics_are_too(runs, count):
    for field in ("params", "batch_stats"):
        one, many = getattr(runs[1][1], field), getattr(runs[count][1], field)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-4, atol=2e-5), one, many)


def test_the_state_lies_on_every_device(runs):
    for count in COUNTS:
        for leaf in jax.tree.leaves(runs[count][1]):
            assert leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == count


def test_mixed_batches_are_identical_on_any_number_of_devices():
    batches = {}
    for count in COUNTS:
        fit = _fit(count)
        feed = fit.images.feeds(stream(fit.key, "order"), small.BATCH, pairs=True)(0)
        draw = Programs().draw(fit)
        drawn = [draw(feed, fit.key, np.int32(step), fit.mixing) for step in range(3)]
        for leaf in jax.tree.leaves(drawn):
            assert len(leaf.addressable_shards) == count
            assert leaf.addressable_shards[0].data.shape[0] == small.BATCH // count
        batches[count] = small.bits(drawn)
    assert batches[1] == batches[2] == batches[8]


def _share(count):
    """Elements of one device's share of a batch of images."""
    return small.BATCH * math.prod(SHAPE) // count


@pytest.mark.parametrize("count", COUNTS[1:])
def test_the_step_moves_no_images_between_devices(runs, count):
    for name, hlo in runs[count][2].items():
        assert _largest_collective(hlo, count) < _share(8), name
        # Nor any in fewer bits: pixels are gathered as bytes.
        assert not re.search(r"u8\[[\d,]*\]\S* (all-|collective-|reduce-scatter)", hlo), name
    params = max(leaf.size for leaf in jax.tree.leaves(runs[count][1].params))
    assert params <= _largest_collective(runs[count][2]["update"], count)  # gradients are


def test_one_device_needs_no_collective(runs):
    assert all(_largest_collective(hlo, 1) == 0 for hlo in runs[1][2].values())


@pytest.fixture(scope="module")
def split():
    """What `_run` returns with all parameters split, by Adam; and with all of them whole."""
    mesh, options = _mesh(8), {"network": small.cnn(width=8), "optimizer": optax.adam(0.01)}
    teacher = small.teacher(mesh, shape=SHAPE)
    places = sharding.parameters(mesh, teacher.variables["params"], "sharded")
    params = jax.device_put(teacher.variables["params"], places)
    parts = teacher._replace(variables={**teacher.variables, "params": params})
    return _run(_fit(8, parameters="sharded", **options), parts), _run(_fit(8, **options), teacher)


def _share_of_bytes(tree):
    """The largest part of an array tree that a device holds."""
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    parts = collections.Counter()
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            parts[shard.device] += shard.data.nbytes
    return max(parts.values()) / whole


def test_split_parameters_learn_the_same(split):
    (parts, state, _), (whole, want, _) = split
    for one, many in zip(whole, parts, strict=True):
        for name in ("loss", "kd", "ce", "grad_norm"):
            assert many[name] == pytest.approx(one[name], rel=1e-4), name
    same = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(same, state.params, want.params)


def test_split_parameters_and_their_optimizer_take_an_eighth(split):
    (_, state, _), (_, want, _) = split
    for part in ("params", "opt_state"):
        assert _share_of_bytes(getattr(want, part)) == 1
        assert _share_of_bytes(getattr(state, part)) < 1.1 / 8  # a few biases are whole


def test_split_parameters_are_gathered_and_no_images(split):
    (_, state, programs), _ = split
    params = max(leaf.size for leaf in jax.tree.leaves(state.params))
    assert "all-gather" in programs["query"] and "all-gather" in programs["update"]
    assert params <= _largest_collective(programs["update"], 8)
    assert max(_largest_collective(hlo, 8) for hlo in programs.values()) < _share(8)


def test_a_split_teacher_gives_the_same_logits_and_takes_an_eighth():
    mesh, network = _mesh(8), small.cnn(width=16)
    whole = small.teacher(mesh, network).variables
    places = sharding.parameters(mesh, whole["params"], "sharded")
    split = {**whole, "params": jax.device_put(whole["params"], places)}
    assert _share_of_bytes(split["params"]) < 1.2 / 8  # a few biases are on every device
    pixels = small.images(mesh).take(np.arange(16)).astype(np.float32)
    query = Programs().query(network, small.linear_fit(mesh=mesh))
    logits = [query(variables, pixels) for variables in (whole, split)]
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-5, atol=1e-5)


def test_the_largest_teacher_falls_to_an_eighth():
    module = create_model("convnext_large", num_classes=100)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    sizes = {}
    for how in ("replicated", "sharded"):
        places = sharding.parameters(_mesh(8), params, how)
        parts = jax.tree.map(lambda leaf, place: place.shard_shape(leaf.shape), params, places)
        shapes = jax.tree.leaves(parts, is_leaf=lambda value: isinstance(value, tuple))
        sizes[how] = sum(4 * math.prod(shape) for shape in shapes)
    assert sizes["replicated"] > 4 * 196e6  # its parameters are 196 million
    assert sizes["sharded"] <= 1.1 / 8 * sizes["replicated"]


@pytest.mark.parametrize("count", COUNTS[1:])
def test_mixing_a_sharded_batch_would_move_its_images(count):
    """What the pipeline avoids, and that the test above would notice it."""
    fit = _fit(count)
    mesh, how = fit.recipe.mesh, fit.batching

    @jax.jit
    def naive(key, feed):
        batch = sharding.over_data(mesh, feed.batch(how, key, jnp.int32(0), None))
        plan = mixup.sample_mixup(key, how.batch_size)
        return sharding.over_data(mesh, mixup.apply_mixup(plan, batch.images))

    feed = fit.images.feeds(fit.key, how.batch_size, pairs=True)(0)
    assert isinstance(feed, device.Shuffled)
    hlo = naive.lower(fit.key, feed).compile().as_text()
    assert _largest_collective(hlo, count) >= _share(8)


@pytest.mark.parametrize(
    ("line", "elements"),
    [
        ("%a = f32[16,3]{1,0} all-gather(%p), dimensions={0}", 48),
        ("%a = (f32[2,5]{1,0}, u8[8]{0}) all-reduce-start(%p, %q)", 10),
        ("%a = f32[4]{0} reduce-scatter(%p), to_apply=%add", 32),
        ("%a = pred[] all-reduce(%p)", 1),
        ("%a = f32[99]{0} add(%all-reduce.1, %q)", 0),
    ],
)
def test_collectives_are_measured(line, elements):
    assert _largest_collective(line, 8) == elements


def test_a_batch_that_devices_cannot_share_is_refused():
    mesh = _mesh(4)
    sharding.check_divisible("config.student.batch_size", 12, mesh)
    with pytest.raises(ConfigError) as caught:
        sharding.check_divisible("config.student.batch_size", 13, mesh)
    want = "config.student.batch_size: expected a multiple of the 4 devices, got 13; try 12 or 16"
    assert str(caught.value) == want
    with pytest.raises(ConfigError, match="got 3; try 4$"):
        sharding.check_divisible("config.student.batch_size", 3, mesh)


def test_one_process_agrees_with_itself():
    assert sharding.agreed(True) is True and sharding.agreed(False) is False
    sharding.barrier("alone")
