import pytest

from mixkd_jax.folder import TIMES
from mixkd_jax.training.forecast import Smooth, Work, seconds_left


def _work(role, step, *, total=100, trained=None, analysed=True, **seconds):
    trained = step == total if trained is None else trained
    return Work(role, total, step, dict.fromkeys(TIMES, 0.0) | seconds, trained, analysed)


def test_nothing_is_known_before_a_step():
    assert seconds_left([_work("teacher", 0), _work("student", 0)]) is None
    assert seconds_left([]) is None


def test_students_are_taken_to_be_as_fast_as_the_teacher_until_one_has_trained():
    works = [_work("teacher", 50, train=10.0), _work("student", 0, total=30)]
    assert seconds_left(works) == pytest.approx((50 + 30) * 0.2)
    works.append(_work("student", 10, total=30, train=20.0))
    assert seconds_left(works) == pytest.approx(50 * 0.2 + (30 + 20) * 2.0)


def test_what_a_model_takes_once_is_learned_from_those_that_are_trained():
    works = [
        _work("teacher", 100, train=100.0, compile=50.0),
        _work("student", 100, train=10.0, compile=9.0, evaluate=5.0, checkpoint=2.0),
        _work("student", 100, train=10.0, evaluate=1.0, checkpoint=2.0),
        _work("student", 0),
        _work("student", 50, train=5.0, evaluate=2.0),
    ]
    # The first evaluation, of 5 seconds, was compiled too.
    assert seconds_left(works) == pytest.approx((10 + 3) + (5 + 3 - 2))


def test_students_compile_once_and_not_each():
    works = [_work("teacher", 100, train=10.0, compile=7.0)]
    works += [_work("student", 0, total=10) for _ in range(60)]
    assert seconds_left(works) == pytest.approx(60 * 1.0 + 7)
    works[1].seconds["compile"] = 4.0
    assert seconds_left(works) == pytest.approx(60 * 1.0)


def test_analyses_count_as_the_first_took():
    works = [
        _work("teacher", 100, train=10.0, evaluate=4.0, analysed=False),
        _work("student", 100, train=10.0, evaluate=2.0, analysed=False),
    ]
    assert seconds_left(works) == pytest.approx(2 * 10 * 2.0)
    works[0].analysed, works[0].seconds["analyse"] = True, 7.0
    assert seconds_left(works) == pytest.approx(0.2 * 7.0)
    works[1].analysed = True
    assert seconds_left(works) == 0


def test_a_time_left_runs_down_with_the_clock_and_follows_slowly():
    smooth = Smooth(10.0)
    assert smooth.update(None, 0.0) is None
    assert smooth.update(100.0, 0.0) == 100
    assert smooth.update(99.0, 1.0) == pytest.approx(99)
    jumped = smooth.update(198.0, 2.0)
    assert 98 < jumped < 98 + 0.1 * 100
    for second in range(3, 80):
        jumped = smooth.update(200.0 - second, float(second))
    assert jumped == pytest.approx(200 - 79, abs=0.1)
    assert smooth.update(None, 90.0) == jumped
