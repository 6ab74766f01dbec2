import json

import pytest
from etils import epath

from mixkd_jax.training import clock
from mixkd_jax.training.clock import Clock, RunClock


class Time:
    now = 100.0

    def perf_counter(self):
        return self.now

    def process_time(self):
        return 2 * self.now


@pytest.fixture
def time(monkeypatch):
    made = Time()
    monkeypatch.setattr(clock, "time", made)
    return made


def test_time_adds_up_by_kind_and_over_sessions(time, tmp_path):
    file = epath.Path(tmp_path) / "teacher" / "time.json"
    for session in range(2):
        times = Clock(file)
        with times.measure("compile"):
            time.now += 2
        with pytest.raises(KeyError), times.measure("train"):
            time.now += 5
            raise KeyError  # a session that is stopped counts too
        assert not file.exists() or session
        times.save()
    seconds = json.loads(file.read_text())
    assert seconds == dict.fromkeys(Clock.KINDS, 0) | {"compile": 4, "train": 10}


def test_a_run_adds_up_its_sessions(time, tmp_path):
    file = epath.Path(tmp_path) / "time.json"
    for _ in range(2):
        session = RunClock(file, (time.perf_counter(), time.process_time()))
        time.now += 3
        session.save()
        time.now += 1
        session.save()  # of one session, the last counts
    assert json.loads(file.read_text()) == {"wall": 8, "cpu": 16, "sessions": 2}
