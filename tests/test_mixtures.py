import copy

import numpy as np
import pytest
import run_folders
from scipy import stats

from mixkd_jax.report.figures import curves, mixtures, reliability


@pytest.fixture(scope="module")
def analyses(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    runs = ["teacher", *(f"arms/{arm}/{seed}" for arm in ("ce", "mixkd") for seed in range(3))]
    found = run_folders.add_analyses(root, runs)
    by_arm = {a: [found[f"arms/{a}/{s}"] for s in range(3)] for a in ("ce", "mixkd")}
    return {"teacher": [found["teacher"]], **by_arm}


def test_band_is_over_seeds_and_stays_within_what_can_be():
    rows = np.random.default_rng(0).random((4, 7))
    found = curves.over_seeds(rows.tolist())
    half = stats.t.ppf(0.975, 3) * stats.sem(rows)
    np.testing.assert_allclose(found.mean, rows.mean(0))
    np.testing.assert_allclose(found.high - found.low, 2 * half)
    inside = curves.over_seeds([[0.01, 0.99], [0.2, 0.8]], 0, 1)
    assert inside.low[0] == 0 and inside.high[1] == 1
    one = curves.over_seeds([[1.0, None]])
    assert one.mean[0] == 1 and np.isnan(one.mean[1]) and np.isnan(one.low).all()


def test_a_single_seed_has_no_band(analyses):
    figure = mixtures.lambda_curves({"mixkd": analyses["mixkd"][:1]}, "nonlinearity")
    assert not figure.axes[0].collections
    figure = mixtures.lambda_curves({"mixkd": analyses["mixkd"]}, "nonlinearity")
    assert len(figure.axes[0].collections) == 1


def test_lambda_curves_draw_the_bins(analyses):
    figure = mixtures.lambda_curves(analyses, "kl_teacher")
    (axes,) = figure.axes
    # The teacher has no KL from itself.
    assert axes.get_legend_handles_labels()[1] == ["ce", "mixkd"]
    mixed = [seed["splits"]["test"]["mixed"]["all"] for seed in analyses["ce"]]
    bins = [found["bins"]["kl_teacher"]["mean"] for found in mixed]
    line = np.asarray(axes.lines[0].get_xydata())
    np.testing.assert_allclose(line[:, 0], (np.arange(20) + 0.5) / 20)
    np.testing.assert_allclose(line[:, 1], np.mean(bins, 0))


def test_outside_pair_draws_the_peak(analyses):
    figure = mixtures.outside_pair(analyses)
    assert figure is not None
    top, below = figure.axes
    peak = [
        [s["splits"]["test"]["mixed"]["different"]["peak"] for s in seeds]
        for seeds in analyses.values()
    ]
    heights = [bar.get_height() for bar in top.patches]  # pyright: ignore[reportAttributeAccessIssue]
    expected = [100 * np.mean([p["outside"]["mean"] for p in seeds]) for seeds in peak]
    np.testing.assert_allclose(heights, expected)
    drawn = np.asarray(below.lines[0].get_xydata())[:, 1]
    np.testing.assert_allclose(drawn, [np.mean([p["structure"]["mean"] for p in s]) for s in peak])


def test_few_classes_leave_no_empty_chart(analyses):
    few = copy.deepcopy(analyses)
    peaks = [
        seed["splits"]["test"]["mixed"]["different"]["peak"] for s in few.values() for seed in s
    ]
    unknown = {"count": 0, "mean": None, "stderr": None}
    for peak in peaks:  # three or four classes: too few to rank outside a pair
        peak |= {name: unknown for name in ("structure", "structure_other", "structure_shuffled")}
    figure = mixtures.outside_pair(few)
    assert figure is not None and len(figure.axes) == 1
    for peak in peaks:  # two classes: none is outside
        peak["outside"] = {"count": 50, "mean": 0.0, "stderr": 0.0}
    assert mixtures.outside_pair(few) is None


def test_bootstrap_limits_are_means_over_the_seeds_that_have_the_bin():
    def analysis(low, high):
        return {"calibration": {"reliability": {"low": low, "high": high}}}

    seeds = [
        analysis([None, 0.4, 0.6], [None, 0.6, 0.9]),
        analysis([None, None, 0.2], [None, None, 0.7]),
    ]
    low, high = reliability.bootstrap_limits(seeds)
    np.testing.assert_allclose(low, [np.nan, 0.4, 0.4])
    np.testing.assert_allclose(high, [np.nan, 0.6, 0.8])


def test_risk_coverage_draws_the_mean_over_seeds(analyses):
    (axes,) = reliability.risk_coverage(analyses).axes
    curves = [s["calibration"]["risk_coverage"] for s in analyses["mixkd"]]
    line = np.asarray(axes.lines[2].get_xydata())
    np.testing.assert_allclose(line[:, 0], 100 * np.array(curves[0]["coverage"]))
    np.testing.assert_allclose(line[:, 1], 100 * np.mean([c["risk"] for c in curves], 0))


def test_corruption_draws_the_mean_over_seeds(analyses):
    accuracy, over = reliability.corruption(analyses).axes
    for axes, score in ((accuracy, "accuracy"), (over, "overconfidence")):
        scores = [s["corruption"]["scores"]["mean"][score] for s in analyses["mixkd"]]
        line = np.asarray(axes.lines[2].get_xydata())
        np.testing.assert_allclose(line[:, 0], range(6))
        np.testing.assert_allclose(line[:, 1], 100 * np.mean(scores, 0))
