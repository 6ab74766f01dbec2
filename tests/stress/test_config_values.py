"""Configs with fields set to values of all kinds: refused in one line, or ready to be compiled."""

import collections
import random

import pytest
import small
import trials

from configs import digits
from mixkd_jax import config, experiment
from mixkd_jax.config import ConfigError, value_types
from mixkd_jax.data import DataError
from mixkd_jax.data.digits import load_digits
from mixkd_jax.training import programs

pytestmark = pytest.mark.stress
NASTY = [
    *(0, 1, -1, 2, 3, 10**9, 2**31, 2**63, 2**64, 10**400, 10**5000, True, False, None),
    *(0.0, -0.0, 0.5, 1.0, 1e-320, 1e-12, 1e30, 3e38, float("nan"), float("inf"), -float("inf")),
    *("", " ", "std", "fit", "0 epochs", "1e9 epochs", "3 epochs", "-1 steps", "1e400 examples"),
    *("wrn-40-2", "wrn-41-2", "resnet20", "a.b:c", "kl", "\x00", "caf\udce9", "日本", "x" * 5000),
    *((), (1,), (1, 2, 3), ("ce",), ("ce", "ce"), ("mixkd:temperature=4", "kd:alpha=1"), [1], {}),
    *(
        ("mixkd:temperature=1e30",),
        ("mixkd:temperature=nan",),
        ("kd:",),
        (":",),
        b"bytes",
        object(),
    ),
]


class _Compiles(Exception):
    """What a run would compile is accepted."""


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch):
    def compile(*_):
        raise _Compiles

    monkeypatch.setattr(programs.Programs, "_once", compile)
    monkeypatch.setattr("mixkd_jax.run.measure.create_predict", compile)
    mesh = small.one_device()  # which any size of batch can be divided over
    monkeypatch.setattr("mixkd_jax.training.sharding.data_mesh", lambda: mesh)


def _changed(chance):
    values, done = digits.get_config().to_dict(), []
    paths = [row.path.split(".")[1:] for row in config.rows()]
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        path, value = chance.choice(paths), chance.choice(NASTY)
        section = values
        for name in path[:-1]:
            section = section[name]
        section[path[-1]] = value
        done.append((".".join(path), value_types.shown(value)))
    return values, done


def test_a_value_is_refused_before_anything_is_compiled(tmp_path, capsys):
    chance, outcomes = random.Random(trials.SEED), collections.Counter()
    dataset, failed = load_digits(), []
    for trial in range(20 * trials.COUNT):
        values, done = _changed(chance)
        given = None if "data.name" in dict(done) or "data.dir" in dict(done) else dataset
        folder = tmp_path / str(trial)
        try:
            experiment.run(values, folder, dataset=given)
        except (ConfigError, DataError) as error:
            assert isinstance(error, DataError) or "\n" not in str(error), done
            assert not folder.exists(), done
            outcomes["refused"] += 1
        except _Compiles:
            outcomes["taken"] += 1
        except Exception as error:
            failed.append(f"{done}: {error!r}")
    capsys.readouterr()
    with capsys.disabled():
        print(f"\n{20 * trials.COUNT} configs, seed {trials.SEED}: {dict(outcomes)}")
    assert not failed, "\n".join(failed)
