"""Checkpoints with files damaged at random: the newest whole one is restored, or none."""

import collections
import gc
import random
import shutil

import jax
import pytest
import small
import trials

from mixkd_jax.training import sharding
from mixkd_jax.training.checkpoint import CheckpointError, Checkpoints

pytestmark = [
    pytest.mark.stress,
    # Orbax leaves coroutines behind where reading fails.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def _damage(chance, folder):
    """Damages something in a checkpoint's folder; returns what, in words."""
    paths = sorted(folder.rglob("*"))
    path = chance.choice(paths)
    if path.is_dir():
        if chance.random() < 0.5:
            shutil.rmtree(path)
            return f"{path.name}/ deleted"
        for file in [file for file in path.rglob("*") if file.is_file()]:
            file.unlink()
        return f"{path.name}/ emptied"
    if chance.random() < 0.1 or not path.stat().st_size:
        path.unlink()
        return f"{path.name} deleted"
    what, content = trials.changed(chance, path.read_bytes())
    path.write_bytes(content)
    return f"{path.name}: {what}"


def test_a_damaged_checkpoint_is_never_restored(tmp_path, capsys):
    fit = small.linear_fit(text="ce", mesh=sharding.data_mesh(jax.devices()[:1]))
    with Checkpoints(tmp_path / "whole", keep=2, config={}) as checkpoints:
        for step in (1, 2):
            checkpoints.save(small.drawn_state(fit, step))
    states = {step: small.bits(small.drawn_state(fit, step)) for step in (1, 2)}
    chance, outcomes = random.Random(trials.SEED), collections.Counter()
    for trial in range(trials.COUNT):
        folder = tmp_path / f"trial{trial}"
        shutil.copytree(tmp_path / "whole", folder)
        whats = [_damage(chance, folder / "2")]
        if both := chance.random() < 0.2:
            whats.append(_damage(chance, folder / "1"))
        try:
            with Checkpoints(folder, keep=2, config={}) as checkpoints:
                restored = checkpoints.restore(fit.abstract_state)
        except CheckpointError:
            assert both, whats
            outcomes["none left"] += 1
        else:
            step = int(restored.step)
            assert small.bits(restored) == states[step], whats
            kept = [path.name for path in folder.iterdir() if path.name.startswith("damaged-2")]
            assert (step == 1) == bool(kept) or not (folder / "2").exists(), whats
            outcomes[f"restored step {step}"] += 1
        shutil.rmtree(folder)
    gc.collect()  # what orbax has left, within this test's filter
    capsys.readouterr()
    with capsys.disabled():
        print(f"\n{trials.COUNT} checkpoints, seed {trials.SEED}: {dict(outcomes)}")
