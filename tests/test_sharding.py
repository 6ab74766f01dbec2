import collections
import dataclasses
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
from mixkd_jax.training import sharding
from mixkd_jax.training.dispatch import compile_trainer, feeds
from mixkd_jax.training.step import draw_batch

COUNTS = (1, 2, 4, 8)
KEY = jax.random.key(3)
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


def _run(how, teacher):
    """Returns the totals after each step, the last state, and the step's HLO."""
    compiled = []
    compile_lowered = jax.stages.Lowered.compile

    def noted(lowered, *args, **kwargs):
        compiled.append(compile_lowered(lowered, *args, **kwargs))
        return compiled[-1]

    images = small.images(how.mesh, SPLIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", noted)
        trainer = compile_trainer(how, images, teacher)
    key = jax.device_put(KEY, sharding.replicated(how.mesh))
    feed, state, totals = feeds(how, images, key), trainer.init(key), []
    for step in range(STEPS):
        state = trainer.advance(state, feed(step).feed, key, 1)
        totals.append({name: float(total) for name, total in state.totals.items()})
    (step,) = compiled
    return totals, state, step.as_text()


@pytest.fixture(scope="module")
def runs():
    """What `_run` returns for each number of devices."""
    recipes = {count: small.recipe(_mesh(count)) for count in COUNTS}
    return {n: _run(how, small.teacher_variables(how, SHAPE)) for n, how in recipes.items()}


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
        how = small.recipe(_mesh(count))
        key = jax.device_put(KEY, sharding.replicated(how.mesh))
        feed = feeds(how, small.images(how.mesh, SPLIT), key)(0).feed
        draw = jax.jit(functools.partial(draw_batch, how))
        drawn = [draw(jax.random.fold_in(key, s), jnp.int32(s), feed) for s in range(3)]
        for leaf in jax.tree.leaves(drawn):
            assert len(leaf.addressable_shards) == count
            assert leaf.addressable_shards[0].data.shape[0] == how.batch_size // count
        batches[count] = small.bits(drawn)
    assert batches[1] == batches[2] == batches[4] == batches[8]


def _share(count):
    """Elements of one device's share of a batch of images."""
    return small.recipe(_mesh(count)).batch_size * math.prod(SHAPE) // count


@pytest.mark.parametrize("count", COUNTS[1:])
def test_the_step_moves_no_images_between_devices(runs, count):
    hlo = runs[count][2]
    largest = _largest_collective(hlo, count)
    params = max(leaf.size for leaf in jax.tree.leaves(runs[count][1].params))
    assert params <= largest < _share(8)  # gradients, and nothing larger
    # Nor any in fewer bits: pixels are gathered as bytes.
    assert not re.search(r"u8\[[\d,]*\]\S* (all-|collective-|reduce-scatter)", hlo)


def test_one_device_needs_no_collective(runs):
    assert _largest_collective(runs[1][2], 1) == 0


@pytest.fixture(scope="module")
def split():
    """What `_run` returns with all parameters split, by Adam; and with all of them whole."""
    how = small.recipe(_mesh(8), student=small.cnn(width=8), optimizer=optax.adam(0.01))
    teacher = small.teacher_variables(how, SHAPE)
    assert teacher is not None
    places = sharding.parameters(how.mesh, teacher["params"], "sharded")
    parts = {**teacher, "params": jax.device_put(teacher["params"], places)}
    return _run(dataclasses.replace(how, parameters="sharded"), parts), _run(how, teacher)


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
    (_, state, hlo), _ = split
    params = max(leaf.size for leaf in jax.tree.leaves(state.params))
    assert "all-gather" in hlo
    assert params <= _largest_collective(hlo, 8) < _share(8)


@pytest.mark.parametrize("count", COUNTS[1:])
def test_mixing_a_sharded_batch_would_move_its_images(count):
    """What the pipeline avoids, and that the test above would notice it."""
    how = small.recipe(_mesh(count))

    @jax.jit
    def naive(key, examples, indices):
        views = device.sample_views(key, how.batch_size, how.augmentation)
        batch = device.load_batch(
            examples, indices, views, None, augmentation=how.augmentation, num_classes=3
        )
        batch = sharding.over_data(how.mesh, batch)
        plan = mixup.sample_mixup(key, how.batch_size)
        return sharding.over_data(how.mesh, mixup.apply_mixup(plan, batch.images))

    examples = small.images(how.mesh, SPLIT).examples
    hlo = naive.lower(KEY, examples, jnp.arange(16)).compile().as_text()
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
