import json
import time as real_time

import pytest
from etils import epath
from rich.console import Console

from mixkd_jax.folder import TIMES
from mixkd_jax.training import clock as clocks
from mixkd_jax.training import progress
from mixkd_jax.training.clock import Clock, RunClock
from mixkd_jax.training.forecast import Work
from mixkd_jax.training.progress import Progress, about, clock


class Time:
    """A clock that tests set."""

    now = 100.0

    def monotonic(self):
        return self.now

    perf_counter = monotonic

    def process_time(self):
        return self.now / 2


@pytest.fixture
def time(monkeypatch):
    time = Time()
    monkeypatch.setattr(progress, "time", time)
    monkeypatch.setattr(clocks, "time", time)
    return time


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0:00"),
        (20, "0:20"),
        (59.6, "1:00"),
        (185, "3:05"),
        (3599.7, "1:00:00"),
        (7385, "2:03:05"),
    ],
)
def test_durations_for_people(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.1, "about 5 s"),
        (38, "about 40 s"),
        (58, "about 1 min"),
        (370, "about 6 min"),
        (5400, "about 90 min"),
        (9000, "about 2.5 h"),
        (400_000, "about 5 days"),
    ],
)
def test_guesses_have_few_digits(seconds, text):
    assert about(seconds) == text


def _seconds():
    return dict.fromkeys(TIMES, 0.0)


def _work(role="student", **changes):
    work = Work(role, 100, 0, _seconds(), trained=False, analysed=True)
    for name, value in changes.items():
        setattr(work, name, value)
    return work


def _start(shown, names=("arms/ce/1",), label="arms/ce/1", step=0):
    seconds = {name: _seconds() for name in names}
    shown.start(label, seconds, step=step, total=80, per_epoch=10, batch_size=64)
    return seconds


def test_a_line_tells_the_epoch_the_metrics_the_speed_and_the_time_left(time):
    shown = Progress()
    shown.plan({"teacher": _work("teacher", trained=True, step=100), "arms/ce/1": _work(total=80)})
    seconds = _start(shown)
    assert shown.line() == "[2/2] arms/ce/1   epoch 0.0/8"
    shown.compiling()
    time.now += 3
    assert shown.line() == "[2/2] arms/ce/1   compiling ... 0:03"
    shown.update(1, [{}], compiled=True)  # so slow a step says nothing of the others
    assert shown.line() == "[2/2] arms/ce/1   epoch 0.1/8"
    time.now += 10
    seconds["arms/ce/1"]["train"] = 11.0
    shown.update(34, [{"loss": 1.6123, "validation_accuracy": 0.414}], compiled=False)
    want = "[2/2] arms/ce/1   epoch 3.4/8   loss 1.61   val 41 %   211 images/s   this model 0:14"
    assert shown.line() == f"{want}, the run about 15 s"
    time.now += 4  # the time left runs down between updates
    assert "this model 0:10, the run about 10 s" in shown.line()


def test_models_side_by_side_are_one_line(time):
    shown = Progress()
    names = ("arms/ce/0", "arms/kd/0")
    works = {"teacher": _work("teacher", trained=True)} | {name: _work() for name in names}
    shown.plan(works | {"arms/mixup/0": _work()})
    _start(shown, names, "seed 0, clean: ce, kd")
    time.now += 1
    lines = [{"loss": 0.5, "validation_accuracy": 0.41}, {"loss": 1.25, "validation_accuracy": 0.5}]
    shown.update(10, lines, compiled=False)
    assert shown.line().startswith(
        "[2-3/4] seed 0, clean: ce, kd   epoch 1.0/8   loss 0.5-1.25   val 41-50 %   640 images/s"
        "   these 0:07"
    )


def test_less_than_an_epoch_is_told_in_steps(time):
    shown = Progress()
    shown.start("teacher", {"teacher": _seconds()}, step=0, total=30, per_epoch=781, batch_size=64)
    time.now += 1
    shown.update(12, [{"loss": 0.5}], compiled=False)
    assert "step 12/30" in shown.line()


def test_a_narrow_terminal_keeps_the_name_and_the_time_left(time):
    shown = Progress()
    _start(shown)
    time.now += 1
    shown.update(10, [{"loss": 0.5, "validation_accuracy": 0.41}], compiled=False)
    whole = shown.line()
    assert shown.line(len(whole)) == whole
    assert shown.line(len(whole) - 1) == whole.replace("   640 images/s", "")
    assert shown.line(40) == "arms/ce/1   epoch 1.0/8   this model 0:07"


def test_what_is_done_is_told_and_what_is_short_is_not(time):
    shown = Progress()
    assert shown.line() == ""
    with shown.during("loading data"):
        time.now += 2
        assert shown.line() == "loading data ... 0:02"
        with shown.during("listing files"):
            assert shown.line() == "listing files ... 0:00"
        assert shown.line() == "loading data ... 0:02"
    _start(shown)
    with shown.during("validating"):
        assert "epoch" in shown.line()
        time.now += 1
        assert shown.line() == "arms/ce/1   validating ... 0:01"


def test_the_end_sums_up(time, capsys):
    shown = Progress()
    _start(shown, step=20)
    time.now += 65
    shown.finish(80, [{"loss": 0.5, "grad_norm": 3.0, "validation_accuracy": 0.25}])
    assert capsys.readouterr().err == "arms/ce/1   60 steps in 1:05   loss 0.5   val 25 %\n"
    assert shown.line() == ""


def test_one_that_is_not_enabled_says_nothing(capsys):
    with Progress(every=0.0, enabled=False) as shown, shown.during("loading"):
        shown.say("hello")
        real_time.sleep(0.3)
    assert capsys.readouterr() == ("", "")


def test_a_pipe_gets_whole_lines_at_a_distance(capsys):
    with Progress(every=0.4) as shown, shown.during("loading data"):
        shown.say("hello [bold]world[/bold] " + "x" * 200)
        real_time.sleep(1.1)
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert printed.out == "" and "\x1b" not in printed.err
    assert lines[0] == "hello [bold]world[/bold] " + "x" * 200
    assert 1 <= len(lines[1:]) <= 2 and set(lines[1:]) <= {
        f"loading data ... 0:0{second}" for second in (0, 1)
    }


def test_a_terminal_has_one_line_that_is_drawn_anew_and_gone_in_the_end(monkeypatch, capsys):
    def console(**options):
        return Console(**options, force_terminal=True, width=60, _environ={"TERM": "xterm"})

    monkeypatch.setattr(progress, "Console", console)
    with Progress() as shown, shown.during("loading data"):
        shown.say("hello")
        real_time.sleep(1.6)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "loading data ... 0:00" in printed.err and "loading data ... 0:01" in printed.err
    assert printed.err.count("hello") == 1
    assert printed.err.rstrip().endswith("\x1b[2K")  # the line is erased


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
    assert seconds == _seconds() | {"compile": 4, "train": 10}


def test_a_run_counts_its_sessions(time, tmp_path):
    file = epath.Path(tmp_path) / "time.json"
    for _ in range(2):
        shown = Progress()
        time.now += 1
        times = RunClock(file, shown.started)
        for _ in range(2):  # saved now and then
            time.now += 2
            times.save()
    assert json.loads(file.read_text()) == {"wall": 10.0, "cpu": 5.0, "sessions": 2}
