"""Weight files with bytes changed at random: read as they are, or refused with a message."""

import collections
import random

import jax
import keras_files
import numpy as np
import pytest
import torch_files
import trials

from mixkd_jax.weights import WeightsError

pytestmark = pytest.mark.stress
FORMATS = {
    "a.keras": (keras_files.write_keras, keras_files.load),
    "a.weights.h5": (keras_files.write_h5, keras_files.load),
    "a.h5": (keras_files.write_legacy, keras_files.load),
    "a.safetensors": (
        lambda path: torch_files.write(path, torch_files.state()),
        torch_files.load,
    ),
}


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_changed_file_is_read_or_refused(name, tmp_path, capsys):
    write, load = FORMATS[name]
    whole = write(tmp_path / name).read_bytes()
    chance, outcomes = random.Random(trials.SEED), collections.Counter()
    for _ in range(trials.COUNT):
        what, content = trials.changed(chance, whole)
        path = tmp_path / f"changed-{name}"
        path.write_bytes(content)
        try:
            loaded = load(path)
        except WeightsError as error:
            assert str(path) in str(error), what
            outcomes["refused"] += 1
            outcomes["crashed or stalled the HDF5 library"] += "the HDF5 library" in str(error)
            continue
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loaded)), what
        outcomes["read"] += 1
    with capsys.disabled():
        print(f"\n{name}: {trials.COUNT} files, seed {trials.SEED}: {dict(outcomes)}")
