"""C5 and C6 on arms of one run whose numbers were made to hold the rules or to break them."""

import json

import numpy as np
import pytest
import run_folders
from scipy import stats

from mixkd_jax.folder import student_name
from mixkd_jax.report import claims, sweeps
from mixkd_jax.report.records import read

TEMPERATURES = (1, 2, 8)
SCALES = (0.5, 1, 2)
GAPS = {0.5: 0.1, 1.0: 0.02, 2.0: -0.06}


def arm(base, field, value):
    """The default values are those of the plain arm."""
    default = {"temperature": 2, "teacher_temperature": 1}[field]
    return base if value == default else f"{base}:{field}={value}"


def make(root, field, values, metrics, noise=0.002, seeds=3):
    """A run of kd and mixkd over `values`; `metrics`: base -> metric -> a number for each value."""
    arms = [arm(base, field, value) for base in metrics for value in values]
    run_folders.make(root, arms=arms, seeds=seeds)
    run_folders.add_recipes(root, GAPS)
    rng = np.random.default_rng(0)
    for base, numbers in metrics.items():
        for metric, means in numbers.items():
            for value, mean in zip(values, means, strict=True):
                scattered = mean + noise * rng.standard_normal(seeds)
                run_folders.set_metric(root, arm(base, field, value), metric, scattered.tolist())
    return read(root)


def judged(records, name):
    return next(claim for claim in claims.judge(records) if claim.name == name)


def temperatures(root, mixkd, **options):
    kd = {"accuracy": (0.80, 0.82, 0.84), "ece": (0.05, 0.06, 0.07)}
    both = {"kd": kd, "mixkd": dict(zip(("accuracy", "ece"), mixkd, strict=True))}
    return make(root, "temperature", TEMPERATURES, both, **options)


@pytest.mark.parametrize(
    ("mixkd", "expected"),
    [
        (((0.80, 0.82, 0.84), (0.02, 0.05, 0.09)), "supported"),
        (((0.80, 0.82, 0.84), (0.05, 0.055, 0.06)), "not supported"),  # its ECE varies less
        (((0.80, 0.82, 0.84), (0.09, 0.05, 0.02)), "not supported"),  # no trade
    ],
)
def test_temperature(tmp_path, mixkd, expected):
    found = judged(temperatures(tmp_path, mixkd), "C6")
    assert found.verdict == expected
    assert found.numbers["mixkd"]["values"] == [1, 2, 8]
    json.dumps(found.numbers, allow_nan=False)


def test_too_much_noise_between_seeds_decides_nothing(tmp_path):
    records = temperatures(tmp_path, ((0.80, 0.82, 0.84), (0.02, 0.05, 0.09)), noise=0.1)
    assert judged(records, "C6").verdict == "not supported"


def test_two_temperatures_or_one_seed_are_too_few(tmp_path):
    mixkd = ((0.80, 0.82, 0.84), (0.02, 0.05, 0.09))
    one = temperatures(tmp_path / "one", mixkd, seeds=1)
    assert judged(one, "C6").verdict == "not testable here"
    two = make(
        tmp_path / "two",
        "temperature",
        (1, 2),
        {base: {"accuracy": (0.8, 0.9), "ece": (0.1, 0.2)} for base in ("kd", "mixkd")},
    )
    assert judged(two, "C6").verdict == "not testable here"


def test_trade_is_measured_within_each_seed(tmp_path):
    records = temperatures(tmp_path, ((0.80, 0.81, 0.82), (0.02, 0.05, 0.06)), noise=0.02)
    found = sweeps.trade(sweeps.within(records, sweeps.TEMPERATURE))
    assert found is not None
    values = {}
    for base in ("kd", "mixkd"):
        values[base] = np.array(
            [
                [
                    [
                        records.evaluations[student_name(arm(base, "temperature", t), seed)][
                            "metrics"
                        ][metric]
                        for t in TEMPERATURES
                    ]
                    for seed in range(3)
                ]
                for metric in ("accuracy", "ece")
            ]
        )
        ranks = [stats.spearmanr(*values[base][:, seed])[0] for seed in range(3)]
        assert found[base]["correlation"]["mean"] == pytest.approx(np.mean(ranks))
        means = [point["mean"] for point in found[base]["ece"]]
        np.testing.assert_allclose(means, values[base][1].mean(0))
    gaps = np.ptp(values["mixkd"][1], 1) - np.ptp(values["kd"][1], 1)
    low, high = stats.t.interval(0.95, 2, loc=gaps.mean(), scale=stats.sem(gaps))
    more = found["range_difference"]
    assert (more["low"], more["high"]) == pytest.approx((low, high))


def test_std_is_no_temperature_of_the_scale(tmp_path):
    values = (*TEMPERATURES, "std")
    numbers = {"accuracy": (0.80, 0.82, 0.84, 0.1), "ece": (0.02, 0.05, 0.09, 0.9)}
    records = make(tmp_path, "temperature", values, {"kd": numbers, "mixkd": numbers})
    sweep = sweeps.within(records, sweeps.TEMPERATURE)
    assert sweep.values() == [1, 2, 8, "std"] and sweep.numbers("kd") == [1, 2, 8]
    found = sweeps.trade(sweep)
    assert found is not None and found["kd"]["range"]["mean"] < 0.1


@pytest.mark.parametrize(
    ("slope", "expected"), [(0.8, "supported"), (0.0, "not supported"), (-1, "not supported")]
)
def test_transfer(tmp_path, slope, expected):
    gaps = [slope * GAPS[value] + 0.03 for value in SCALES]
    numbers = {base: {"overconfidence": gaps} for base in ("kd", "mixkd")}
    records = make(tmp_path, "teacher_temperature", SCALES, numbers)
    found = judged(records, "C5")
    assert found.verdict == expected
    for base in ("kd", "mixkd"):
        fits = [
            np.polyfit(
                [GAPS[value] for value in SCALES],
                [
                    records.evaluations[student_name(arm(base, "teacher_temperature", v), seed)][
                        "metrics"
                    ]["overconfidence"]
                    for v in SCALES
                ],
                1,
            )[0]
            for seed in range(3)
        ]
        assert found.numbers[base]["slope"]["mean"] == pytest.approx(np.mean(fits))
        assert found.numbers[base]["slope"]["std"] == pytest.approx(np.std(fits, ddof=1))
    assert found.numbers["mixkd"]["teacher_accuracy"] == [0.835, 0.835]
    assert "at one accuracy of 83.5 %" in found.shows


def test_kd_is_not_needed_for_transfer(tmp_path):
    numbers = {"mixkd": {"overconfidence": [GAPS[value] for value in SCALES]}}
    records = make(tmp_path, "teacher_temperature", SCALES, numbers)
    assert judged(records, "C5").verdict == "supported"


def test_arms_that_differ_in_more_are_no_sweep(tmp_path):
    arms = ["mixkd", "mixkd:temperature=4:kd_weight=0.5", "mixkd:temperature=8:alpha=0.5"]
    run_folders.make(tmp_path, arms=arms, seeds=2)
    run_folders.add_recipes(tmp_path)
    path = "arms/mixkd~temperature=8~alpha=0.5/{}/evaluation.json"
    for seed in range(2):  # alpha is of mixup, not of the loss
        file = tmp_path / path.format(seed)
        options = json.loads(file.read_text())["recipe"]["options"]
        del options["alpha"]
        run_folders.change(file, "recipe", "options", options)
        run_folders.change(file, "recipe", "mixup", {"alpha": 0.5})
    sweep = sweeps.within(read(tmp_path), sweeps.TEMPERATURE)
    assert {base: list(found) for base, found in sweep.students.items()} == {"mixkd": [2.0]}


def test_without_recipes_there_is_no_sweep(tmp_path):
    run_folders.make(tmp_path, arms=("kd", "mixkd", "mixkd:temperature=4"), seeds=2)
    assert sweeps.within(read(tmp_path), sweeps.TEMPERATURE).students == {}
