import threading

import pytest

from mixkd_jax.training import forecast, progress
from mixkd_jax.training.forecast import Smooth, Work
from mixkd_jax.training.progress import Progress, about, clock


class Time:
    """A clock that tests set."""

    now = 100.0

    def monotonic(self):
        return self.now

    perf_counter = process_time = monotonic


@pytest.fixture
def time(monkeypatch):
    made = Time()
    monkeypatch.setattr(progress, "time", made)
    return made


def _seconds(**changes):
    kinds = ("compile", "train", "evaluate", "checkpoint", "analyse")
    return dict.fromkeys(kinds, 0.0) | changes


def _started(names=("teacher",), step=0, total=100):
    shown = Progress(every=10)
    shown.start(
        "+".join(names),
        {name: _seconds() for name in names},
        step=step,
        total=total,
        per_epoch=10,
        batch_size=64,
    )
    return shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0:00"), (20.2, "0:20"), (59.96, "1:00"), (185, "3:05"), (3599.7, "1:00:00")],
)
def test_times_for_people(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1, "about 5 s"),
        (42, "about 40 s"),
        (361, "about 6 min"),
        (9000, "about 2.5 h"),
        (900_000, "about 10 days"),
    ],
)
def test_guesses_have_few_digits(seconds, text):
    assert about(seconds) == text


def test_a_line_tells_how_far_how_good_and_how_fast(time):
    shown = _started()
    time.now += 2
    shown.update(20, [{"loss": 0.51234, "validation_accuracy": 0.9}], compiled=False)
    line = shown.line()
    assert line.startswith("teacher   epoch 2.0/10   loss 0.512   val 90 %   640 images/s   ")
    assert "this model 0:08" in line
    assert shown.line(40).startswith("teacher   epoch 2.0/10") and "images/s" not in shown.line(40)


def test_the_time_of_a_compilation_says_nothing_of_the_speed(time):
    shown = _started()
    time.now += 50
    shown.update(1, [], compiled=True)
    assert "images/s" not in shown.line()
    time.now += 1
    shown.update(11, [], compiled=False)
    assert "640 images/s" in shown.line()


def test_models_side_by_side_are_told_by_their_range(time):
    shown = _started(("arms/ce/0", "arms/kd/0"))
    time.now += 1
    shown.update(10, [{"loss": 0.5}, {"loss": 1.5}], compiled=False)
    assert "loss 0.5-1.5" in shown.line() and "these 0:09" in shown.line()


def test_what_takes_long_is_told_and_what_does_not_is_not(time):
    shown = _started()
    with shown.during("saving"):
        assert "saving" not in shown.line()
        time.now += 3
        assert shown.line() == "teacher   saving ... 0:03"
    assert "saving" not in shown.line()
    with shown.during("loading data"), shown.during("decoding"):
        time.now += 1
        assert "decoding" in shown.line() and "loading" not in shown.line()


def test_the_end_sums_up_this_session(time, capsys):
    shown = _started(step=40)
    time.now += 30
    shown.finish(100, [{"loss": 0.25}])
    assert capsys.readouterr().err == "teacher   60 steps in 0:30   loss 0.25\n"


def test_a_line_comes_now_and_then(time, capsys):
    shown = _started()
    time.now += 9
    shown.tell()
    assert capsys.readouterr().err == ""
    time.now += 2
    shown.tell()
    shown.tell()
    assert capsys.readouterr().err.count("\n") == 1


def test_one_that_is_not_enabled_says_nothing_and_starts_no_thread(capsys):
    before = threading.active_count()
    with Progress(every=0.01, enabled=False) as shown:
        shown.say("hello")
        assert threading.active_count() == before
    assert capsys.readouterr() == ("", "")


def test_the_thread_ends_with_the_run(capsys):
    before = threading.active_count()
    with Progress(every=100) as shown:
        shown.say("hello")
        assert threading.active_count() == before + 1
    assert threading.active_count() == before and capsys.readouterr().err == "hello\n"


def test_models_are_counted(time):
    shown = Progress()
    works = {n: Work("student", 10, 0, _seconds(), False, True) for n in ("a", "b", "c")}
    shown.plan(works)
    shown.trained("a")
    models = {name: _seconds() for name in ("b", "c")}
    shown.start("both", models, step=0, total=10, per_epoch=5, batch_size=4)
    assert shown.line().startswith("[2-3/3] both")


# How long it will take


def _work(role="student", step=0, *, trained=False, analysed=True, total=100, **seconds):
    return Work(role, total, step, _seconds(**seconds), trained, analysed)


def test_nothing_is_guessed_before_a_step():
    assert forecast.seconds_left([_work(), _work("teacher")]) is None


def test_models_of_a_role_take_alike():
    done = _work("student", 100, trained=True, train=50.0, compile=3.0, evaluate=1.0)
    teacher = _work("teacher", 100, trained=True, train=500.0)
    half = _work("student", 40, train=20.0, compile=3.0)
    # 60 and 100 steps of half a second; what is left to be evaluated, and a compilation.
    assert forecast.seconds_left([teacher, done, half, _work()]) == pytest.approx(30 + 1 + 50 + 4)


def test_analyses_are_guessed_from_evaluations_and_then_from_analyses():
    done = _work("student", 100, trained=True, analysed=False, train=50.0, evaluate=2.0)
    assert forecast.seconds_left([done, done]) == pytest.approx(2 * 20)
    other = _work("student", 100, trained=True, train=50.0, evaluate=2.0, analyse=5.0)
    assert forecast.seconds_left([done, other]) == pytest.approx(5)


def test_a_time_left_runs_down_with_the_clock():
    smooth = Smooth(10.0)
    assert smooth.update(None, 0.0) is None
    assert smooth.update(100.0, 0.0) == 100
    assert smooth.update(90.0, 10.0) == pytest.approx(90)
    assert 80 < smooth.update(120.0, 20.0) < 120  # pyright: ignore[reportOptionalOperand]
