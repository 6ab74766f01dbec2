import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small
from flax import serialization

from mixkd_jax.training import checkpoint, sharding
from mixkd_jax.training.checkpoint import CheckpointError, Checkpoints

ADAM, ADAM_16 = optax.adamw(1e-3), optax.adamw(1e-3, mu_dtype=jnp.bfloat16)


def _mesh(count):
    return sharding.data_mesh(jax.devices()[:count])


def _fit(count=1, **options):
    return small.fit(mesh=_mesh(count), **({"optimizer": ADAM} | options))


def _open(folder, keep=2):
    return Checkpoints(folder, keep=keep, config={"seed": 3})


@pytest.mark.parametrize("fit", [_fit(), small.linear_fit(text="ce")], ids=["cnn", "linear"])
def test_a_state_is_restored_exactly(tmp_path, fit):
    state = small.drawn_state(fit, 7)
    with _open(tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(state)
    with _open(tmp_path) as checkpoints:
        assert checkpoints.latest() == 7
        restored = checkpoints.restore(fit.abstract_state)
    assert type(restored) is type(state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert small.bits(restored) == small.bits(state)


@pytest.mark.parametrize("fit", [_fit(), small.linear_fit(text="ce")], ids=["cnn", "linear"])
def test_variables_are_restored_exactly_and_alone(tmp_path, fit, monkeypatch):
    state, read = small.drawn_state(fit, 7), []
    with _open(tmp_path) as checkpoints:
        checkpoints.save(state)
    fingerprints = checkpoint.fingerprints
    monkeypatch.setattr(checkpoint, "fingerprints", lambda x: read.append(x) or fingerprints(x))
    with _open(tmp_path) as checkpoints:
        step, variables = checkpoints.restore_variables(fit.abstract_state.variables)
    assert step == 7
    assert jax.tree.structure(variables) == jax.tree.structure(state.variables)
    assert small.bits(variables) == small.bits(state.variables)
    (tree,) = read
    assert tree.keys() == {"params", "batch_stats"}


def test_variables_are_restored_whatever_the_optimizer_was(tmp_path):
    fit, other = _fit(optimizer=optax.sgd(0.1)), _fit()
    state = small.drawn_state(fit, 7)
    with _open(tmp_path) as checkpoints:
        checkpoints.save(state)
    with _open(tmp_path) as checkpoints:
        _, variables = checkpoints.restore_variables(other.abstract_state.variables)
        with pytest.raises(CheckpointError, match="opt_state/.* is not in it"):
            checkpoints.restore(other.abstract_state)
    assert small.bits(variables) == small.bits(state.variables)


def test_a_state_with_a_part_that_is_unknown_is_refused(tmp_path, monkeypatch):
    fit = _fit()
    state = small.drawn_state(fit, 7)
    tree = {**serialization.to_state_dict(state), "ema": {"kernel": jnp.ones(3)}}
    with monkeypatch.context() as patched, _open(tmp_path) as checkpoints:
        patched.setattr(checkpoint.serialization, "to_state_dict", lambda state: tree)
        checkpoints.save(state)
    with _open(tmp_path) as checkpoints:
        assert checkpoints.restore_variables(fit.abstract_state.variables)[0] == 7
        with pytest.raises(CheckpointError, match="ema/kernel is not in the model"):
            checkpoints.restore(fit.abstract_state)


@pytest.mark.parametrize("wrong", ["missing", "more", "shape", "dtype"])
def test_variables_that_differ_are_refused_by_name(tmp_path, wrong):
    fit = _fit()
    with _open(tmp_path) as checkpoints:
        checkpoints.save(small.drawn_state(fit, 7))
    like = dict(fit.abstract_state.variables)
    path, *_ = jax.tree_util.tree_leaves_with_path(like["params"])[0]
    first, second = (part.key for part in path)
    leaf, other = like["params"][first][second], dict(like["params"][first])
    if wrong == "missing":
        del other[second]
    elif wrong == "more":
        other["gain"] = leaf
    elif wrong == "shape":
        other[second] = jax.ShapeDtypeStruct((*leaf.shape, 2), leaf.dtype, sharding=leaf.sharding)
    else:
        other[second] = jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16, sharding=leaf.sharding)
    name = f"params/{first}/{'gain' if wrong == 'more' else second}"
    like["params"] = {**like["params"], first: other}
    with _open(tmp_path) as checkpoints, pytest.raises(CheckpointError, match=f"fit: {name} is"):
        checkpoints.restore_variables(like)


def test_awkward_numbers_survive(tmp_path):
    fit = _fit()
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, np.pi], np.float32)
    state = small.drawn_state(fit, 1)
    totals = {
        name: jnp.float32(x)
        for name, x in zip(state.totals, np.resize(odd, len(state.totals)), strict=True)
    }
    state = dataclasses.replace(state, totals=totals)
    with _open(tmp_path) as checkpoints:
        checkpoints.save(state)
    with _open(tmp_path) as checkpoints:
        assert small.bits(checkpoints.restore(fit.abstract_state).totals) == small.bits(totals)


def test_a_state_may_be_donated_once_save_returns(tmp_path):
    fit = _fit()
    state = small.drawn_state(fit, 1)
    before = small.bits(state)
    with _open(tmp_path) as checkpoints:
        checkpoints.save(state)
        jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)(state)
    with _open(tmp_path) as checkpoints:
        assert small.bits(checkpoints.restore(fit.abstract_state)) == before


@pytest.mark.parametrize(("saved", "restored"), [(1, 8), (8, 1), (8, 2)])
def test_a_state_is_restored_on_another_number_of_devices(tmp_path, saved, restored):
    state = small.drawn_state(_fit(saved), 5)
    with _open(tmp_path) as checkpoints:
        checkpoints.save(state)
    fit = _fit(restored)
    with _open(tmp_path) as checkpoints:
        got = checkpoints.restore(fit.abstract_state)
    assert small.bits(got) == small.bits(state)
    for leaf in jax.tree.leaves(got):
        assert leaf.sharding.is_equivalent_to(sharding.replicated(fit.recipe.mesh), leaf.ndim)


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_are_kept(tmp_path, keep):
    fit = small.linear_fit()
    with _open(tmp_path, keep) as checkpoints:
        for step in (3, 6, 9, 10):
            checkpoints.save(small.drawn_state(fit, step))
    kept = sorted(int(path.name) for path in tmp_path.iterdir())
    assert kept == [3, 6, 9, 10][-keep:]
    with _open(tmp_path) as checkpoints:
        restored = checkpoints.restore(fit.abstract_state)
        assert small.bits(restored) == small.bits(small.drawn_state(fit, 10))


def test_the_config_lies_beside_the_state(tmp_path):
    with _open(tmp_path) as checkpoints:
        checkpoints.save(small.drawn_state(small.linear_fit(), 1))
    assert json.loads((tmp_path / "1" / "config" / "metadata").read_text()) == {"seed": 3}


def test_what_does_not_fit_is_named(tmp_path):
    def refusal(fit):
        with _open(tmp_path) as checkpoints, pytest.raises(CheckpointError) as caught:
            checkpoints.restore(fit.abstract_state)
        message = str(caught.value)
        assert message.startswith(f"checkpoint {tmp_path / '4'} doesn't fit: ")
        return message

    with _open(tmp_path) as checkpoints:
        checkpoints.save(small.drawn_state(_fit(), 4))
    message = refusal(_fit(network=small.cnn(width=5)))
    want = "params/convs_0/Dense_0/kernel is float32[9, 4], expected float32[9, 5]"
    assert want in message and "batch_stats/norms_0/mean is float32[4]" in message
    message = refusal(small.linear_fit(optimizer=ADAM))
    assert "params/Dense_0/kernel is not in it" in message
    assert "params/classifier/kernel is not in the model" in message
    message = refusal(_fit(optimizer=ADAM_16))
    assert "mu/classifier/bias is float32[3], expected bfloat16[3]" in message
    assert "params" not in message and "nu/" not in message
    message = refusal(_fit(optimizer=optax.sgd(0.1)))
    assert "is not in the model" in message and "is not in it" not in message
    message = refusal(_fit(text="mixup"))
    assert "totals/kd is not in the model" in message
    assert "totals/agreement is not in the model" in message


def test_an_empty_folder_says_that_it_has_none(tmp_path):
    with _open(tmp_path) as checkpoints, pytest.raises(CheckpointError) as caught:
        checkpoints.restore(small.linear_fit().abstract_state)
    assert str(caught.value) == f"expected a checkpoint in {tmp_path}, found none"


def test_a_save_that_was_killed_is_no_checkpoint(tmp_path):
    fit = small.linear_fit()
    with _open(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(small.drawn_state(fit, step))
    # What orbax leaves when it dies before its last act, which is to rename the folder.
    (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp")
    with _open(tmp_path) as checkpoints:
        assert checkpoints.latest() == 1
        restored = checkpoints.restore(fit.abstract_state)
        assert small.bits(restored) == small.bits(small.drawn_state(fit, 1))
        checkpoints.save(small.drawn_state(fit, 2))
    with _open(tmp_path) as checkpoints:
        restored = checkpoints.restore(fit.abstract_state)
        assert small.bits(restored) == small.bits(small.drawn_state(fit, 2))
