import json

import pytest
from etils import epath

from mixkd_jax.training import progress
from mixkd_jax.training.progress import Clock, Progress, duration


class Time:
    """A clock that tests set."""

    now = 100.0

    def monotonic(self):
        return self.now

    perf_counter = monotonic


@pytest.fixture
def clock(monkeypatch):
    clock = Time()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (4.21, "4.2 s"),
        (59.94, "59.9 s"),
        (59.96, "1:00 min"),
        (60, "1:00 min"),
        (185, "3:05 min"),
        (3599.7, "1:00:00 h"),
        (7385, "2:03:05 h"),
    ],
)
def test_durations_for_people(seconds, text):
    assert duration(seconds) == text


def test_a_line_tells_rate_and_time_left(clock, capsys):
    shown = Progress(every=10)
    shown.start(["arms/ce/0"], 1000, 5000, 64)
    clock.now += 9.9
    shown.update(1500)
    assert capsys.readouterr().err == ""
    clock.now += 0.1
    shown.update(2000)
    want = "arms/ce/0: step 2,000 of 5,000, 100.0 steps/s, 6,400 images/s, 30.0 s left\n"
    assert capsys.readouterr().err == want
    clock.now += 20
    shown.update(2200)  # the rate is of the time since the last line
    assert "2,200 of 5,000, 10.0 steps/s, 640 images/s, 4:40 min left" in capsys.readouterr().err


def test_the_end_counts_the_steps_of_this_session(clock, capsys):
    shown = Progress(every=1e9)
    shown.start(["teacher"], 100, 300, 64)
    clock.now += 4
    shown.finish(300)
    assert capsys.readouterr().err == "teacher: 200 steps in 4.0 s, 50.0 steps/s\n"


def test_a_line_names_all_that_train_together(clock, capsys):
    shown = Progress(every=0)
    shown.start(["arms/ce/0", "arms/kd/0"], 0, 10, 64)
    clock.now += 1
    shown.update(5)
    assert capsys.readouterr().err.startswith("arms/ce/0, arms/kd/0: step 5 of 10, 5.0 steps/s")


def test_one_that_is_not_enabled_says_nothing(clock, capsys):
    shown = Progress(every=0, enabled=False)
    shown.start(["teacher"], 0, 10, 64)
    clock.now += 5
    shown.update(5)
    shown.finish(10)
    shown.say("hello")
    assert capsys.readouterr() == ("", "")


def test_time_adds_up_by_kind_and_over_sessions(clock, tmp_path):
    file = epath.Path(tmp_path) / "teacher" / "time.json"
    for session in range(2):
        times = Clock(file)
        with times.measure("compile"):
            clock.now += 2
        with pytest.raises(KeyError), times.measure("train"):
            clock.now += 5
            raise KeyError  # a session that is stopped counts too
        assert not file.exists() or session
        times.save()
    seconds = json.loads(file.read_text())
    assert seconds == dict.fromkeys(Clock.KINDS, 0) | {"compile": 4, "train": 10}
